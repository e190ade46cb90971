//! The official clients and the Python package's own tests, fetched once into the target directory.
//!
//! `tests/clients/prepare.py` makes the environments; `tests/clients/NOTES.md` tells what the clients do.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;

struct Prepared {
    python: String,
    libraries: String,
    agents: String,
    recipes: String,
    s3: String,
    node: String,
    node_directory: String,
    /// The program, and where its libraries are.
    haproxy: [String; 2],
}

impl Prepared {
    /// Libraries that the package is tried with: none of its tests is to be skipped for want of one.
    fn site_packages(&self) -> String {
        let versions = Path::new(&self.libraries).join("lib").read_dir().expect("an environment");
        let version = versions.map(|entry| entry.expect("an entry").path()).next().expect("a Python");
        version.join("site-packages").to_string_lossy().into_owned()
    }

    /// The environment of the tests themselves.
    fn python_home(&self) -> String {
        let python = Path::new(&self.python);
        python.ancestors().nth(2).expect("venv/bin/python").to_string_lossy().into_owned()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `target/`, wherever it is: the test binary lies in `target/PROFILE/deps`.
fn target() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    own.ancestors().nth(3).expect("target/PROFILE/deps/it").to_owned()
}

fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let mut command = Command::new(env!("FORKPY_BUILD_PYTHON"));
        let output = command.arg(root().join("tests/clients/prepare.py")).arg(target()).output().expect("Python runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the official clients could not be prepared:\n{said}");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |key: &str| found[key].as_str().expect("a path").to_owned();
        Prepared {
            python: text("python"),
            libraries: text("libraries"),
            agents: text("agents"),
            recipes: text("recipes"),
            s3: text("s3"),
            node: text("node"),
            node_directory: text("node_dir"),
            haproxy: [text("haproxy"), text("haproxy_libraries")],
        }
    })
}

fn pytest(directory: &str, arguments: &[&str]) {
    pytest_with(directory, arguments, &prepared().python_home());
}

const CONFORMANCE: [&str; 1] = ["test_conformance.py"];

/// With sessions in that environment.
fn pytest_with(directory: &str, arguments: &[&str], environment: &str) {
    let prepared = prepared();
    let output = Command::new(&prepared.python)
        .args(["-m", "pytest", "--color=no"])
        .args(arguments)
        .current_dir(root().join(directory))
        .env("FORKPY_BIN", env!("CARGO_BIN_EXE_forkpy"))
        .env("FORKPY_AGENTS", &prepared.agents)
        .env("FORKPY_NODE", &prepared.node)
        .env("FORKPY_NODE_DIR", &prepared.node_directory)
        .env("FORKPY_TEST_VENV", environment)
        .env("FORKPY_HAPROXY", &prepared.haproxy[0])
        .env("FORKPY_HAPROXY_LIBRARIES", &prepared.haproxy[1])
        // Its fixtures are for this suite alone.
        .env("FORKPY_CONFORMANCE", if cfg!(feature = "conformance") && arguments == CONFORMANCE { "1" } else { "0" })
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", if directory == "python" { prepared.site_packages() } else { String::new() })
        .env_remove("VIRTUAL_ENV")
        .output()
        .expect("pytest runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let last = said.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    assert!(last.contains(" passed") && !last.contains("skipped"), "pytest ran no test or skipped some: {last}");
}

/// The Python of an environment with a server that speaks as S3 does, if that can be had.
pub fn with_s3() -> Option<&'static str> {
    Some(prepared().s3.as_str()).filter(|python| !python.is_empty())
}

/// What `forkpy deploy` prints; what could not be checked is said.
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
pub fn recipes() {
    let prepared = prepared();
    let output = Command::new(&prepared.recipes)
        .arg(root().join("tests/clients/recipes.py"))
        .env("FORKPY_BIN", env!("CARGO_BIN_EXE_forkpy"))
        .env("FORKPY_HAPROXY", &prepared.haproxy[0])
        .env("FORKPY_HAPROXY_LIBRARIES", &prepared.haproxy[1])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("VIRTUAL_ENV")
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    print!("{said}");
}

#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn client_several_servers() {
    if prepared().haproxy[0].is_empty() {
        println!("NOT TESTED: several servers behind HAProxy, which this machine has not got, nor Debian's packages");
        return;
    }
    pytest("tests/clients", &["test_several_servers.py"]);
}

#[test]
fn client_fastmcp_tools() {
    pytest("tests/clients", &["test_fastmcp_tools.py"]);
}

#[test]
fn client_files_and_resources() {
    pytest("tests/clients", &["test_files_and_resources.py"]);
}

#[test]
fn client_fastmcp_data() {
    pytest("tests/clients", &["test_fastmcp_data.py"]);
}

#[test]
fn client_health_and_recovery() {
    pytest("tests/clients", &["test_health_and_recovery.py"]);
}

#[test]
fn health_document_over_http() {
    pytest("tests/clients", &["test_health_document.py", "-k", "http"]);
}

#[test]
fn health_document_over_stdio() {
    pytest("tests/clients", &["test_health_document.py", "-k", "not http"]);
}

#[test]
fn client_libraries() {
    pytest_with("tests/clients", &["test_libraries.py", "test_ipython.py"], &prepared().libraries);
}

#[test]
fn client_confined_work() {
    pytest_with("tests/clients", &["test_confined.py"], &prepared().libraries);
}

#[test]
fn client_agents() {
    pytest_with("tests/clients", &["test_agents.py"], &prepared().libraries);
}

#[test]
fn client_inspector() {
    pytest("tests/clients", &["test_inspector.py"]);
}

#[test]
fn client_routing() {
    pytest("tests/clients", &["test_routing.py"]);
}

#[test]
fn client_oauth() {
    pytest("tests/clients", &["test_oauth.py"]);
}

#[test]
fn client_attach() {
    pytest("tests/clients", &["test_attach.py"]);
}

/// With FORKPY_LONG_JOB=90 the job takes longer than all libraries wait by default.
#[test]
fn client_long_calls() {
    pytest("tests/clients", &["test_long_calls.py"]);
}

#[test]
fn client_checkpoints() {
    pytest_with("tests/clients", &["test_checkpoints.py"], &prepared().libraries);
}

#[test]
fn client_python_sdk() {
    pytest("tests/clients", &["test_python_sdk.py"]);
}

#[test]
fn client_typescript_sdk() {
    pytest("tests/clients", &["test_typescript_sdk.py"]);
}

#[test]
fn client_prometheus() {
    pytest("tests/clients", &["test_metrics.py"]);
}

#[test]
fn registries_take_what_is_there() {
    pytest("tests/clients", &["test_release.py"]);
}

#[test]
fn conformance_suite() {
    pytest("tests/clients", &CONFORMANCE);
}

#[test]
fn python_package() {
    pytest_with("python", &[], &prepared().libraries);
}

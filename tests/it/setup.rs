//! What people do before they use forkpy: `install`, `doctor`, `completions`, `man`, `python`, and a bundle that cannot be
//! made.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

fn forkpy(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
    command.args(args).env("HOME", home).env("RUST_BACKTRACE", "0").env_remove("XDG_CONFIG_HOME");
    command.output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("there")).expect("JSON")
}

#[test]
fn each_client_gets_its_entry_where_it_looks() {
    let home = tempfile::tempdir().expect("a home");
    for (client, file, key) in [
        ("claude-code", ".claude.json", "mcpServers"),
        ("claude-desktop", ".config/Claude/claude_desktop_config.json", "mcpServers"),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
        ("vscode", ".config/Code/User/mcp.json", "servers"),
    ] {
        let done = forkpy(home.path(), &["install", "--client", client]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        let entry = read(&home.path().join(file))[key]["forkpy"].take();
        assert_eq!(entry["command"], env!("CARGO_BIN_EXE_forkpy"));
        assert_eq!(entry["args"], json!(["attach", "--workspace", home.path().join("forkpy")]));
        assert_eq!(
            entry["type"],
            if client == "claude-code" || client == "vscode" { json!("stdio") } else { Value::Null }
        );
    }
}

/// A client starts what stands there: the entry must be one that works.
#[test]
fn the_entry_starts_a_server() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join("mcp.json");
    let path = file.to_str().expect("UTF-8");
    let workspace = home.path().join("data");
    let options = ["--workspace", workspace.to_str().expect("UTF-8"), "--python", env!("FORKPY_BUILD_PYTHON")];
    let done = forkpy(
        home.path(),
        &[&["install", "--client", "cursor", "--direct", "--file", path, "--"][..], &options].concat(),
    );
    assert!(done.status.success(), "{}", text(&done.stderr));
    let entry = read(&file)["mcpServers"]["forkpy"].take();
    let args = entry["args"].as_array().expect("words").iter().map(|word| word.as_str().expect("a word"));
    let mut server = Command::new(entry["command"].as_str().expect("a program"));
    server.args(args).stdin(std::process::Stdio::null());
    assert!(server.status().expect("it starts").success());
    assert!(workspace.join("outputs").exists());
}

/// A Windows beside this Linux: programs that answer as its own do.
fn windows(home: &Path, profile: &str) -> String {
    let bin = home.join("windows-bin");
    fs::create_dir_all(&bin).expect("made");
    let seen = home.join("mnt/c/Users/you");
    for (name, script) in [
        ("cmd.exe", format!("#!/bin/sh\nprintf '%s\\r\\n' '{profile}'\n")),
        ("wslpath", format!("#!/bin/sh\n[ \"$2\" = 'C:\\Users\\you' ] && echo '{}'\n", seen.display())),
    ] {
        fs::write(bin.join(name), script).expect("written");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("ours");
    }
    fs::create_dir_all(seen).expect("made");
    format!("{}:{}", bin.display(), std::env::var("PATH").expect("set"))
}

#[test]
fn a_client_on_windows_starts_the_forkpy_in_wsl() {
    let home = tempfile::tempdir().expect("a home");
    let install = |args: &[&str], profile: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
        command.arg("install").args(args).env("HOME", home.path()).env("PATH", windows(home.path(), profile));
        command.env("WSL_DISTRO_NAME", "Debian").output().expect("it runs")
    };
    let profile = "C:\\Users\\you";
    for (client, file) in
        [("claude-desktop", "AppData/Roaming/Claude/claude_desktop_config.json"), ("cursor", ".cursor/mcp.json")]
    {
        let done = install(&["--client", client, "--via", "wsl"], profile);
        assert!(done.status.success(), "{}", text(&done.stderr));
        let entry = read(&home.path().join("mnt/c/Users/you").join(file))["mcpServers"]["forkpy"].take();
        let workspace = home.path().join("forkpy");
        assert_eq!(entry["command"], "wsl.exe");
        let words = json!(["-d", "Debian", "--exec", env!("CARGO_BIN_EXE_forkpy"), "attach", "--workspace", workspace]);
        assert_eq!(entry["args"], words);
    }
    // Windows gives no answer: nothing is guessed.
    let refused = install(&["--client", "cursor", "--via", "wsl"], "%USERPROFILE%");
    assert!(!refused.status.success() && text(&refused.stderr).contains("--file"), "{refused:?}");
    let elsewhere = forkpy(home.path(), &["install", "--client", "cursor", "--via", "wsl"]);
    assert!(!elsewhere.status.success() && text(&elsewhere.stderr).contains("inside WSL 2"), "{elsewhere:?}");
    assert!(!home.path().join(".cursor").exists());
}

#[test]
fn a_client_that_has_docker_runs_the_image_and_the_entry_is_taken_out_again() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join(".cursor/mcp.json");
    let done = forkpy(home.path(), &["install", "--client", "cursor", "--via", "docker", "--", "--preload", "json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let entry = read(&file)["mcpServers"]["forkpy"].take();
    let words: Vec<&str> = entry["args"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    assert_eq!((&entry["command"], &words[..3]), (&json!("docker"), &["run", "-i", "--rm"][..]));
    let image = concat!("ghcr.io/forkpy/forkpy:", env!("CARGO_PKG_VERSION"));
    assert_eq!(words[words.len() - 3..], [image, "--preload", "json"]);
    // The image has its workspace, and an option that it does not know is told before it is written.
    for options in [&["--workspace", "/elsewhere"][..], &["--no-such"]] {
        let refused =
            forkpy(home.path(), &[&["install", "--client", "cursor", "--via", "docker", "--"], options].concat());
        assert!(!refused.status.success() && text(&refused.stderr).contains("nothing was written"), "{refused:?}");
    }
    let other = forkpy(home.path(), &["install", "--client", "cursor", "--image", "x"]);
    assert!(!other.status.success() && text(&other.stderr).contains("--via docker"), "{other:?}");
    let gone = forkpy(home.path(), &["uninstall", "--client", "cursor"]);
    assert!(gone.status.success(), "{gone:?}");
    assert_eq!(read(&file)["mcpServers"], json!({}));
}

#[test]
fn what_is_there_stays_and_is_kept_beside() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join(".cursor/mcp.json");
    fs::create_dir(file.parent().expect("a folder")).expect("made");
    let before = "{\n  // mine\n  \"mcpServers\": {\"other\": {\"command\": \"x\"}}\n}\n";
    fs::write(&file, before).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");

    let shown = forkpy(home.path(), &["install", "--client", "cursor", "--dry-run"]);
    assert!(text(&shown.stdout).contains("\"forkpy\"") && text(&shown.stdout).contains("// mine"));
    assert_eq!(fs::read_to_string(&file).expect("there"), before);

    forkpy(home.path(), &["install", "--client", "cursor"]);
    let after = fs::read_to_string(&file).expect("there");
    assert!(after.contains("// mine") && after.contains("\"other\"") && after.contains("\"forkpy\""), "{after}");
    assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
    let beside = || -> Vec<_> {
        let entries = fs::read_dir(file.parent().expect("a folder")).expect("listed");
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "backup"))
            .collect()
    };
    let [backup] = &beside()[..] else { panic!("{:?}", beside()) };
    assert_eq!(fs::read_to_string(backup).expect("there"), before);

    // Twice is once.
    let again = forkpy(home.path(), &["install", "--client", "cursor"]);
    assert!(text(&again.stderr).contains("has this entry already"), "{again:?}");
    assert_eq!((beside().len(), fs::read_to_string(&file).expect("there")), (1, after));
}

#[test]
fn what_is_no_configuration_is_refused_and_left_alone() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join(".claude.json");
    for (before, words) in
        [("{\"mcpServers\": {", "it is not JSON"), ("[]", "no object"), ("{\"mcpServers\": []}", "is no object")]
    {
        fs::write(&file, before).expect("written");
        let refused = forkpy(home.path(), &["install", "--client", "claude-code"]);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused.stderr);
        assert!(said.contains("is not changed") && said.contains(words), "{said}");
        assert_eq!(fs::read_to_string(&file).expect("there"), before);
    }
}

#[test]
fn doctor_runs_a_session_and_names_a_remedy() {
    let home = tempfile::tempdir().expect("a home");
    let well = forkpy(home.path(), &["--python", env!("FORKPY_BUILD_PYTHON"), "doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_slice(&well.stdout).expect("JSON");
    let checks: Vec<&str> = findings.iter().map(|finding| finding["check"].as_str().expect("a name")).collect();
    let all = [
        "build",
        "interpreter",
        "environment",
        "fork",
        "pidfd",
        "memory files",
        "Landlock",
        "open files",
        "processes",
        "memory",
        "installer",
        "session",
        "imports",
        "plot",
        "checkpoint",
        "index",
        "sandbox",
        "clients",
    ];
    assert_eq!(checks, all);
    assert!(well.status.success(), "{findings:?}");
    assert!(findings[11]["seen"].as_str().expect("words").contains("imports work (standard library"));

    let unwell = forkpy(home.path(), &["--venv", "/nowhere", "doctor"]);
    assert_eq!(unwell.status.code(), Some(1));
    let said = text(&unwell.stdout);
    assert!(said.contains("FAILED   session") && said.contains("→ start `forkpy --log debug`"), "{said}");
}

#[test]
fn shells_and_man_know_the_commands() {
    let home = tempfile::tempdir().expect("a home");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = text(&forkpy(home.path(), &["completions", shell]).stdout);
        assert!(script.contains("doctor") && script.contains("max-sessions"), "{shell}: {script}");
    }
    let page = text(&forkpy(home.path(), &["man"]).stdout);
    assert!(page.contains(".TH forkpy 1") && page.contains("\\-\\-workspace") && !page.contains("__zygote"), "{page}");
    assert!(text(&forkpy(home.path(), &["man", "bench"]).stdout).contains("\\-\\-against"));
    let unknown = forkpy(home.path(), &["man", "nothing"]);
    assert!(text(&unknown.stderr).contains("no command \"nothing\""), "{unknown:?}");
}

#[test]
fn it_is_the_python_that_it_was_built_with() {
    let home = tempfile::tempdir().expect("a home");
    let ran = forkpy(
        home.path(),
        &["python", "-c", "import sys; print(sys.argv[1:], sys.flags.optimize); sys.exit(5)", "a b"],
    );
    assert_eq!((ran.status.code(), text(&ran.stdout).as_str()), (Some(5), "['a b'] 0\n"), "{ran:?}");
    let flags = forkpy(home.path(), &["python", "-O", "-c", "import sys; print(sys.flags.optimize)"]);
    assert_eq!(text(&flags.stdout), "1\n");
}

#[test]
fn a_python_that_no_bundle_can_be_made_of_is_named() {
    let home = tempfile::tempdir().expect("a home");
    let output = home.path().join("dist");
    let output = output.to_str().expect("UTF-8");
    let none = forkpy(home.path(), &["bundle", "--output", output, "--python", "/nowhere/python3"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("/nowhere/python3"), "{none:?}");
    let no_python = forkpy(home.path(), &["bundle", "--output", output, "--python", "/bin/echo"]);
    assert!(text(&no_python.stderr).contains("does not answer as a Python"), "{no_python:?}");
}

/// The script that has built this forkpy, as it is run where forkpy cannot be built.
#[test]
fn a_build_elsewhere_stops_with_one_sentence_and_the_way() {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).expect("target/debug/build").to_owned();
    let found = fs::read_dir(builds).expect("there").flatten().map(|entry| entry.path());
    let own = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"forkpy-"))
    };
    let scripts = found.filter(own).map(|path| path.join("build-script-build")).filter(|path| path.exists());
    let newest = scripts.max_by_key(|path| path.metadata().and_then(|found| found.modified()).ok());
    let script = newest.expect("what was built last");
    for (system, way) in [("macos", "container"), ("windows", "WSL 2"), ("freebsd", "container")] {
        let ran = Command::new(&script).env("CARGO_CFG_TARGET_OS", system).output().expect("it runs");
        let said = text(&ran.stdout);
        let errors: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("cargo::error=")).collect();
        let [sentence] = &errors[..] else { panic!("one sentence: {said}") };
        assert!(sentence.starts_with("forkpy runs on Linux only") && sentence.contains(way), "{sentence}");
        assert!(sentence.contains("src/guide/clients.md"), "{sentence}");
    }
}

/// The registry's and the wheel's files name what Cargo.toml names.
#[test]
fn versions_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let server = read(&root.join("server.json"));
    assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
    for package in server["packages"].as_array().expect("packages") {
        // An image has its version behind its name.
        let (identifier, version) = match package["registryType"].as_str() {
            Some("oci") => (concat!("ghcr.io/forkpy/forkpy:", env!("CARGO_PKG_VERSION")), Value::Null),
            _ => ("forkpy", json!(env!("CARGO_PKG_VERSION"))),
        };
        assert_eq!((&package["version"], &package["identifier"]), (&version, &json!(identifier)));
    }
    // The registry's limits.
    assert!(server["description"].as_str().expect("words").len() <= 100);
    let name = server["name"].as_str().expect("a name");
    assert!(name.split_once('/').is_some_and(|(owner, _)| owner.contains('.')), "{name}");
}

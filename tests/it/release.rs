//! What a release consists of besides the binary: the install script, and what registries read. Nothing is published.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs `install.sh` with a release that lies in a directory.
fn install(release: &Path, target: &Path) -> Output {
    Command::new("sh")
        .arg(Path::new(ROOT).join("install.sh"))
        .env("FORKPY_BASE_URL", format!("file://{}", release.display()))
        .env("FORKPY_BIN_DIR", target)
        .output()
        .expect("sh runs")
}

#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn the_script_installs_what_has_the_hash_and_keeps_what_was_there_otherwise() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("NOT TESTED: curl is not here");
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let (release, target) = (place.path().join("release"), place.path().join("bin"));
    let latest = release.join("latest/download");
    let name = format!("forkpy-linux-{}", std::env::consts::ARCH);
    fs::create_dir_all(&latest).expect("made");
    let sum = |content: &str| {
        fs::write(latest.join(&name), content).expect("written");
        let said = Command::new("sha256sum").arg(&name).current_dir(&latest).output().expect("runs");
        fs::write(latest.join("SHA256SUMS"), said.stdout).expect("written");
    };
    let words = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let installed = || fs::read_to_string(target.join("forkpy")).expect("installed");
    let whole = "#!/bin/sh\necho forkpy 1\n";
    sum(whole);
    let done = install(&release, &target);
    assert!(done.status.success() && installed() == whole, "{}", words(&done));
    // Cut short on the way.
    fs::write(latest.join(&name), &whole[..12]).expect("written");
    let refused = install(&release, &target);
    assert!(!refused.status.success() && words(&refused).contains("damaged"), "{}", words(&refused));
    // Whole, and not for this machine.
    sum("#!/bin/sh\nexit 1\n");
    let refused = install(&release, &target);
    assert!(!refused.status.success() && words(&refused).contains("does not run here"), "{}", words(&refused));
    fs::write(latest.join("SHA256SUMS"), "").expect("written");
    assert!(words(&install(&release, &target)).contains("names no SHA-256"));
    assert_eq!(installed(), whole);
    let left: Vec<_> = fs::read_dir(&target).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["forkpy"]);
}

/// The registry refuses a server whose package does not name it back.
#[test]
fn what_registries_read_fits_together() {
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).expect(name);
    let server: serde_json::Value = serde_json::from_str(&read("server.json")).expect("JSON");
    let (name, version) = (server["name"].as_str().expect("a name"), env!("CARGO_PKG_VERSION"));
    assert!(read("README.md").contains(&format!("mcp-name: {name} -->")), "PyPI's page is README");
    assert!(read("Dockerfile").contains(&format!("io.modelcontextprotocol.server.name=\"{name}\"")));
    assert_eq!(server["version"], version);
    assert!(server["description"].as_str().expect("a text").len() <= 100);
    for package in server["packages"].as_array().expect("a list") {
        let told = package["version"].as_str().or_else(|| package["identifier"].as_str()?.rsplit(':').next());
        assert_eq!(told, Some(version), "{package}");
    }
    let workflow = read(".github/workflows/release.yml");
    let (_, publish) = workflow.split_once("\n  publish:\n").expect("a job that publishes");
    assert!(publish.trim_start().starts_with("if: github.ref_type == 'tag'"), "{publish}");
    assert_eq!(workflow.matches("gh release create").count(), publish.matches("gh release create").count());
}

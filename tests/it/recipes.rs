//! What `forkpy deploy` prints, checked by the tools of those who read it.

use std::{fs, path::Path, process::Command};

use crate::clients;

const BINARY: &str = env!("CARGO_BIN_EXE_forkpy");

/// What systemd says of a unit; nothing where all is well.
fn verified(file: &Path) -> Option<String> {
    let instance = file.with_file_name("forkpy@8001.service");
    let output = Command::new("systemd-analyze").arg("verify").arg(instance).output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Of other units of this machine it speaks too.
    Some(said.lines().filter(|line| line.contains("forkpy")).collect())
}

#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn systemd_takes_its_unit() {
    for store in [&[][..], &["--store", "s3://bucket/forkpy"]] {
        let printed = Command::new(BINARY).args(["deploy", "systemd", "--servers", "2"]).args(store).output();
        let unit = String::from_utf8(printed.expect("it runs").stdout).expect("text");
        assert_eq!(unit.contains(" --store s3://bucket/forkpy --store-key %d/store-key"), !store.is_empty(), "{unit}");
        let is_verified = is_taken(&unit.replace("/usr/local/bin/forkpy", BINARY));
        if !is_verified {
            println!(
                "NOT TESTED: the unit for systemd, whose systemd-analyze is not here (Debian's package systemd has it)"
            );
        }
    }
    let refused = Command::new(BINARY).args(["deploy", "haproxy", "--store", "s3://b"]).output().expect("it runs");
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not the balancer's"), "{refused:?}");
}

/// False where the tool is not here.
fn is_taken(unit: &str) -> bool {
    assert!(unit.contains(&format!("ExecStart={BINARY} ")), "{unit}");
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("forkpy@.service");
    fs::write(&file, unit).expect("written");
    let Some(said) = verified(&file) else { return false };
    assert_eq!(said, "");
    for (right, wrong) in
        [("WatchdogSec=30", "WatchdogSec=soon"), ("KillMode=", "KilMode="), (BINARY, "/no/such/program")]
    {
        fs::write(&file, unit.replace(right, wrong)).expect("written");
        assert_ne!(verified(&file).expect("as before"), "", "{wrong} is not found");
    }
    true
}

/// Kubernetes' resources by its schemas, the balancer's configuration by HAProxy: `tests/clients/recipes.py`.
#[test]
fn client_recipes_are_what_their_readers_take() {
    clients::recipes();
}

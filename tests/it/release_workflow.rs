//! The release workflow, walked through with programs that only write down how they were called: the shell scripts in it run as
//! they stand, and what they would have forkpy do is held against forkpy's own options. Nothing is built, fetched or published.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use forkpy::testing::command_line;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Programs that the scripts call, and what each leaves behind besides a line in the record. `cargo cyclonedx` refuses a name with
/// a folder in it, as the real one does.
const RECORDED: &str = r#"#!/bin/bash
set -eu
name=$(basename "$0")
{ printf '%s' "$name"; printf '\t%s' "$@"; echo; } >>"$RECORD"
after() { local wanted=$1; shift; while [ "$1" != "$wanted" ]; do shift; done; echo "$2"; }
case "$name $*" in
"curl "*) touch "$(after --output "$@")" ;;
"cargo cyclonedx "*)
    file=$(after --override-filename "$@")
    case $file in */*) exit 1 ;; esac
    touch "$file.json" ;;
"cargo run "*)
    mkdir -p dist
    made=dist/forkpy-$FORKPY_VERSION-linux-$MACHINE
    cp "$0" "$made"
    mkdir "$made.d"
    touch "$made.tar.gz" "$made.mcpb" "dist/forkpy-$FORKPY_VERSION-$TAG.py3-none-manylinux_2_28_$MACHINE.whl" ;;
esac
"#;

struct Walk {
    place: tempfile::TempDir,
    workflow: Value,
    variables: BTreeMap<String, String>,
}

impl Walk {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let text = fs::read_to_string(Path::new(ROOT).join(".github/workflows/release.yml")).expect("readable");
        let workflow = serde_yaml_ng::from_str(&text).expect("YAML");
        let bin = place.path().join("bin");
        fs::create_dir(&bin).expect("made");
        for name in ["cargo", "curl", "docker", "gh", "apt-get"] {
            let program = bin.join(name);
            fs::write(&program, RECORDED).expect("written");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("set"));
        let record = place.path().join("record").display().to_string();
        let variables = [("PATH", path), ("RECORD", record), ("FORKPY_VERSION", VERSION.to_owned())];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { place, workflow, variables }
    }

    /// A checkout of its own.
    fn checkout(&self, name: &str) -> PathBuf {
        let folder = self.place.path().join(name);
        fs::create_dir_all(folder.join("packaging")).expect("made");
        for file in ["packaging/pythons.txt", "packaging/forkpy.rb.in", "install.sh"] {
            fs::copy(Path::new(ROOT).join(file), folder.join(file)).expect("copied");
        }
        folder
    }

    /// Runs the script of a step as GitHub does, with its expressions filled in.
    fn step(&mut self, job: &str, name: &str, place: &Path, matrix: &[(&str, &str)]) {
        let steps = self.workflow["jobs"][job]["steps"].as_array().expect("steps");
        let step = steps.iter().find(|step| step["name"] == name || (name.is_empty() && step["run"].is_string()));
        let step = step.unwrap_or_else(|| panic!("{job} has no step {name:?}"));
        let mut script = step["run"].as_str().expect("a script").to_owned();
        for (expression, value) in matrix {
            script = script.replace(&format!("${{{{ matrix.{expression} }}}}"), value);
        }
        assert!(!script.contains("${{"), "an expression is left: {script}");
        // In a container the shell is sh.
        let is_contained = self.workflow["jobs"][job]["container"].is_string();
        let shell = step["shell"].as_str().unwrap_or(if is_contained { "sh" } else { "bash" });
        let settings = place.join("settings");
        let ran = Command::new(shell)
            .args(["-e", "-c", &script])
            .current_dir(place)
            .envs(&self.variables)
            .env("GITHUB_ENV", &settings)
            .env("GITHUB_REF_NAME", format!("v{VERSION}"))
            .output()
            .expect("it runs");
        assert!(ran.status.success(), "{job}, {name}: {}", String::from_utf8_lossy(&ran.stderr));
        for line in fs::read_to_string(&settings).unwrap_or_default().lines() {
            let (name, value) = line.split_once('=').expect("a variable");
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// All calls, in words.
    fn calls(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.place.path().join("record")).unwrap_or_default();
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }
}

/// What a call gives forkpy, if it starts one.
fn of_forkpy(call: &[String]) -> Option<&[String]> {
    match call {
        [cargo, run, ..] if cargo == "cargo" && run == "run" => {
            Some(&call[call.iter().position(|word| word == "--")? + 1..])
        }
        [docker, ..] if docker == "docker" => Some(&call[call.iter().position(|word| word == "/forkpy")? + 1..]),
        [own, ..] if own.starts_with("forkpy-") => Some(&call[1..]),
        _ => None,
    }
}

#[test]
fn its_commands_are_ones_that_forkpy_takes() {
    let mut walk = Walk::new();
    for (python, is_named) in [("3.10", true), ("3.11", false), ("3.12", true), ("3.13", true), ("3.14", true)] {
        for machine in ["x86_64", "aarch64"] {
            let place = walk.checkout(&format!("made/{python}-{machine}"));
            walk.variables.insert("MACHINE".to_owned(), machine.to_owned());
            walk.variables.insert("TAG".to_owned(), format!("cp{}", python.replace('.', "")));
            walk.variables.remove("source");
            let matrix = [("python", python), ("machine.name", machine)];
            walk.step("bundles", "Sources of CPython", &place, &matrix);
            walk.step("bundles", "Bundle", &place, &matrix);
            walk.step("bundles", "It runs", &place, &matrix);
            assert_eq!(walk.variables.contains_key("source"), is_named, "{python}");
        }
    }
    let calls = walk.calls();
    let given: Vec<&[String]> = calls.iter().filter_map(|call| of_forkpy(call)).collect();
    assert_eq!(given.len(), 30, "a bundle, a doctor and a Python for each of ten: {calls:?}");
    for words in given {
        command_line(words).unwrap_or_else(|error| panic!("forkpy {}: {error}", words.join(" ")));
    }
    // And a call that forkpy does not take is found.
    assert!(command_line(&["bundle".to_owned(), "--glibc".to_owned(), "old".to_owned()]).is_err());
}

#[test]
fn old_systems_run_doctor_as_an_ordinary_user() {
    let mut walk = Walk::new();
    let place = walk.checkout("old");
    fs::create_dir(place.join("dist")).expect("made");
    fs::write(place.join(format!("dist/forkpy-{VERSION}-linux-x86_64")), "").expect("written");
    walk.step("old-systems", "", &place, &[("image", "debian:10")]);
    let [call] = &walk.calls()[..] else { panic!("one call: {:?}", walk.calls()) };
    assert!(call.windows(2).any(|words| words == ["--user", "10001"]), "{call:?}");
    let words = of_forkpy(call).expect("forkpy");
    assert_eq!(command_line(words), Ok(()), "{words:?}");
}

/// Five Pythons make five wheels, and none takes the place of another; the formula has no hole left.
#[test]
fn all_that_is_made_is_published_once() {
    let mut walk = Walk::new();
    let publish = walk.checkout("publish");
    let machines = ["x86_64", "aarch64"];
    for python in ["3.10", "3.11", "3.12", "3.13", "3.14"] {
        for machine in machines {
            let place = publish.join(format!("made/{python}-{machine}"));
            fs::create_dir_all(&place).expect("made");
            let tag = python.replace('.', "");
            for name in [
                format!("forkpy-{VERSION}-linux-{machine}"),
                format!("forkpy-{VERSION}-linux-{machine}.tar.gz"),
                format!("forkpy-{VERSION}-linux-{machine}.mcpb"),
                format!("forkpy-{machine}-sbom.cdx.json"),
                format!("forkpy-{VERSION}-cp{tag}.py3-none-manylinux_2_28_{machine}.whl"),
            ] {
                fs::write(place.join(&name), format!("{python} {name}")).expect("written");
            }
        }
    }
    walk.step("publish", "What is published", &publish, &[]);
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(publish.join(folder)).expect("made").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("wheels").len(), 10, "{:?}", names("wheels"));
    let published = names("release");
    for machine in machines {
        for end in ["", ".mcpb", ".tar.gz"] {
            assert!(published.contains(&format!("forkpy-linux-{machine}{end}")), "{published:?}");
        }
        assert!(published.contains(&format!("forkpy-{machine}-sbom.cdx.json")), "{published:?}");
    }
    let sums = fs::read_to_string(publish.join("release/SHA256SUMS")).expect("made");
    let formula = fs::read_to_string(publish.join("release/forkpy.rb")).expect("made");
    assert!(!formula.contains('@') && formula.contains(&format!("version \"{VERSION}\"")), "{formula}");
    for machine in machines {
        let line = sums.lines().find(|line| line.ends_with(&format!("  forkpy-linux-{machine}"))).expect("a sum");
        assert!(formula.contains(&line[..64]), "{formula}");
    }
}

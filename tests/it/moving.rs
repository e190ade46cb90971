//! Sessions that move to another installation: `forkpy sessions export` and `import`. What arrives is what there was; what cannot
//! arrive is refused with the reason, and nothing has changed then.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    sleeping::{CHECK, LIVE, STATE, works},
    support::{Forkpy, Setup, terminal::OnTerminal},
};

const PASSPHRASE: &str = "correct horse battery staple";

/// A workspace, and two folders for what sleeps: here, and in the other installation.
struct Places {
    folder: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("workspace")).expect("made");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn server(&self, state: &str) -> Forkpy {
        let setup = Setup::new().in_workspace(&self.path("workspace")).env("FORKPY_ERRAND_LIMIT", "40");
        setup.args(&["--state-dir", &self.text(state), "--checkpoints", "off"]).start()
    }

    fn command(&self, state: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
        command.arg("sessions").args(words).env("FORKPY_STATE_DIR", self.path(state)).env_remove("FORKPY_STATE_DISK");
        command.env_remove("FORKPY_PASSPHRASE").env_remove("FORKPY_PASSPHRASE_FILE").current_dir(self.folder.path());
        command
    }

    fn run_with(&self, passphrase: &str, state: &str, words: &[&str]) -> Output {
        self.command(state, words).env("FORKPY_PASSPHRASE", passphrase).output().expect("it runs")
    }

    fn done(&self, state: &str, words: &[&str]) -> String {
        let output = self.run_with(PASSPHRASE, state, words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn refused(&self, state: &str, words: &[&str]) -> String {
        refusal(&self.run_with(PASSPHRASE, state, words))
    }

    /// All files, with their lengths.
    fn files(&self, name: &str) -> BTreeSet<(PathBuf, u64)> {
        fn below(folder: &Path, found: &mut BTreeSet<(PathBuf, u64)>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(status) if status.is_dir() => below(&entry.path(), found),
                    Ok(status) => drop(found.insert((entry.path(), status.len()))),
                    Err(_) => {}
                }
            }
        }
        let mut found = BTreeSet::new();
        below(&self.path(name), &mut found);
        found
    }
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run(forkpy: &mut Forkpy, session: &str, code: &str) -> Value {
    forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data
}

fn sleeps(forkpy: &mut Forkpy, session: &str) {
    let reply = forkpy.call("sleep_session", json!({"session_id": session}));
    assert!(!reply.is_error, "{reply:?}");
}

#[test]
fn a_session_wakes_in_another_installation_with_all_it_has_and_stays_where_it_was() {
    let places = Places::new();
    let mut here = places.server("here");
    works(&mut here, STATE);
    drop(here);
    let told = places.done("here", &["export", "default", "moved.forkpy"]);
    assert!(told.contains("after cell 1") && told.contains("stays where it is"), "{told}");
    let file = places.path("moved.forkpy");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(fs::read(&file).expect("read").starts_with(b"age-encryption.org/v1\n-> scrypt "));
    let told = places.done("there", &["import", "moved.forkpy"]);
    assert!(told.contains("The next server has it"), "{told}");
    let mut there = places.server("there");
    let reply = there.run(&CHECK.replace('N', "0"));
    assert_eq!((&reply["status"], &reply["state"]), (&json!("ok"), &json!("kept")), "{reply}");
    works(&mut there, LIVE);
    drop(there);
    let mut here = places.server("here");
    works(&mut here, &CHECK.replace('N', "0"));
}

#[test]
fn servers_that_run_give_and_take_sessions_that_sleep() {
    let places = Places::new();
    let (mut here, mut there) = (places.server("here"), places.server("there"));
    here.call("create_session", json!({"session_id": "work", "description": "the work"}));
    run(&mut here, "work", "rows = iter('abc'); next(rows)");
    let words = places.refused("here", &["export", "work", "-"]);
    assert!(words.contains("no session \"work\" sleeps") && words.contains("sleep_session"), "{words}");
    sleeps(&mut here, "work");
    let exported = places.run_with(PASSPHRASE, "here", &["export", "work", "-"]);
    assert!(exported.status.success(), "{exported:?}");
    fs::write(places.path("secret"), format!("{PASSPHRASE}\nand more\n")).expect("written");
    let mut import = places.command("there", &["import", "-", "--passphrase-file", "secret", "--as", "moved"]);
    let mut import =
        import.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("starts");
    std::io::Write::write_all(&mut import.stdin.take().expect("piped"), &exported.stdout).expect("taken");
    let told = import.wait_with_output().expect("ended");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains(&format!("process {}", there.server_pid())) && told.contains("asked for"), "{told}");
    let listed = places.done("there", &["list"]);
    assert!(listed.contains("moved: ") && listed.contains("after cell 1"), "{listed}");
    assert_eq!(run(&mut there, "moved", "next(rows)")["results"], json!(["'b'"]));
    // The one that was copied goes on where it was.
    assert_eq!(run(&mut here, "work", "next(rows)")["results"], json!(["'b'"]));
    let listed: Value = serde_json::from_str(&places.done("there", &["list", "--json"])).expect("JSON");
    assert_eq!(listed, json!({"sessions": []}), "it is awake");
}

#[test]
fn what_does_not_arrive_as_it_was_is_refused_and_its_variables_are_offered() {
    let places = Places::new();
    let mut here = places.server("here");
    works(
        &mut here,
        "open('lines.txt', 'w').write('one\\ntwo\\n'); file = open('lines.txt'); file.readline(); kept = {'a': [1, 2]}; \
         rows = (n for n in 'abc')",
    );
    drop(here);
    places.done("here", &["export", "default", "moved.forkpy"]);
    fs::write(places.path("workspace/lines.txt"), "ONE\nTWO\n").expect("written");
    let words = places.refused("there", &["import", "moved.forkpy"]);
    for part in ["lines.txt is another than it was", "Nothing was imported", "--values", "kept", "rows ("] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(places.files("there"), BTreeSet::new());
    // In another workspace it cannot be what it was either.
    fs::create_dir(places.path("elsewhere")).expect("made");
    let words = places.refused("there", &["import", "moved.forkpy", "--workspace", &places.text("elsewhere")]);
    assert!(words.contains("by this path") && words.contains("--values"), "{words}");
    let told = places.done("there", &["import", "moved.forkpy", "--values"]);
    assert!(told.contains("By value: ") && told.contains("not there are "), "{told}");
    let mut there = places.server("there");
    let reply = there.run("kept");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["{'a': [1, 2]}"]), &json!("restored")), "{reply}");
    let notice = reply["notice"].as_str().expect("told");
    assert!(notice.contains("by value, ") && notice.contains("rows ("), "{notice}");
}

#[test]
fn a_file_that_is_not_right_changes_nothing() {
    let places = Places::new();
    let mut here = places.server("here");
    works(&mut here, "kept = 1");
    drop(here);
    places.done("here", &["export", "default", "moved.forkpy"]);
    let words = places.refused("here", &["export", "default", "moved.forkpy"]);
    assert!(words.contains("is there already") && words.contains("--force"), "{words}");
    let words = places.refused("here", &["import", "moved.forkpy"]);
    assert!(words.contains("sleeps in") && words.contains("already") && words.contains("--as"), "{words}");
    let words = refusal(&places.run_with("another", "there", &["import", "moved.forkpy"]));
    assert!(words.contains("the passphrase is wrong"), "{words}");
    let whole = fs::read(places.path("moved.forkpy")).expect("read");
    fs::write(places.path("cut.forkpy"), &whole[..whole.len() - 100]).expect("written");
    let words = places.refused("there", &["import", "cut.forkpy"]);
    assert!(words.contains("changed or cut short") && words.contains("Nothing was imported"), "{words}");
    let words = places.refused("there", &["import", "workspace"]);
    assert!(words.contains("cannot be read"), "{words}");
    fs::write(places.path("other"), "no such file\n").expect("written");
    let words = places.refused("there", &["import", "other"]);
    assert!(words.contains("no file of `forkpy sessions export`"), "{words}");
    let words = places.refused("there", &["import", "moved.forkpy", "--state-disk", "0"]);
    assert!(words.contains("--state-disk"), "{words}");
    let left: Vec<_> = places.files("there").into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [places.path("there/key")], "of the last try, which had come far");
}

#[test]
fn where_the_file_cannot_be_written_nothing_is_left() {
    let places = Places::new();
    let mut here = places.server("here");
    works(&mut here, "kept = 1");
    drop(here);
    let before = places.files(".");
    let full = fs::File::options().write(true).open("/dev/full").expect("a device");
    let mut command = places.command("here", &["export", "default", "-"]);
    let output = command.env("FORKPY_PASSPHRASE", PASSPHRASE).stdout(full).output().expect("it runs");
    let words = refusal(&output);
    assert!(words.contains("could not be written") && words.contains("No file was written"), "{words}");
    let words = places.refused("here", &["export", "default", "nowhere/moved.forkpy"]);
    assert!(words.contains("nowhere/moved.forkpy could not be written"), "{words}");
    assert_eq!(places.files("."), before);
}

#[test]
fn the_passphrase_comes_from_where_the_session_cannot_read_it() {
    let places = Places::new();
    let mut here = places.server("here");
    works(&mut here, "kept = 1");
    drop(here);
    // There is no terminal.
    let mut alone = places.command("here", &["export", "default", "moved.forkpy"]);
    let alone = alone.stdin(std::process::Stdio::null());
    // SAFETY: one system call between fork and exec.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(alone, || {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let words = refusal(&alone.output().expect("it runs"));
    assert!(words.contains("no terminal") && words.contains("--passphrase-file"), "{words}");
    fs::write(places.path("workspace/secret"), PASSPHRASE).expect("written");
    let secret = places.text("workspace/secret");
    let words = places.refused("here", &["export", "default", "moved.forkpy", "--passphrase-file", &secret]);
    assert!(words.contains("its code can read it"), "{words}");
    assert!(!places.path("moved.forkpy").exists());
    let mut asked = OnTerminal::start(places.command("here", &["export", "default", "moved.forkpy"]), 100);
    asked.until("New passphrase: ");
    asked.press("typed\n");
    asked.until("Passphrase again: ");
    asked.press("typed\n");
    let (status, shown) = asked.end();
    assert!(status.success() && !shown.contains("typed"), "{shown}");
    assert!(places.path("moved.forkpy").exists());
}

#[test]
fn files_that_are_no_images_any_more_are_shown_and_can_be_deleted() {
    let places = Places::new();
    let mut here = places.server("here");
    works(&mut here, "kept = 1");
    drop(here);
    let (path, _) = places
        .files("here")
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|end| end == "image"))
        .expect("one");
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..70]).expect("written");
    let mut here = places.server("here");
    let listed = places.done("here", &["list"]);
    let name = path.file_name().expect("a name").to_str().expect("UTF-8");
    assert!(listed.contains(name) && listed.contains("damaged"), "{listed}");
    sleeps(&mut here, "default");
    let words = places.refused("here", &["delete", "default"]);
    assert!(words.contains(&format!("process {}", here.server_pid())), "{words}");
    let told = places.done("here", &["delete", name]);
    assert!(told.contains("is deleted"), "{told}");
    drop(here);
    places.done("here", &["delete", "default"]);
    let left: Vec<_> = places.files("here").into_iter().map(|(path, _)| path).collect();
    assert_eq!(left, [places.path("here/key")]);
}

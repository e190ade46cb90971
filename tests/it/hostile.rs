//! Every way out of the workspace that a path can try, and every thing in it that is no file: refused by name, whether the
//! server is root's or an ordinary user's, also while links are swapped under its hands, and on a disk that is full.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    sys::stat::{Mode, SFlag, makedev, mknod},
    unistd,
};
use serde_json::{Value, json};

use crate::support::{Forkpy, Reply, Setup, http::HttpForkpy, who::Who};

fn done(reply: Reply) -> Value {
    assert!(!reply.is_error, "{}", reply.text);
    reply.data
}

/// A secret beside the workspace that the server's user could read and change, and everything in the workspace that leads
/// to it or is no file.
fn with_traps(who: Who) -> (Forkpy, PathBuf) {
    let mut forkpy = Setup::new().run_by(who).start();
    assert_eq!(forkpy.eval("import os; os.getuid() == 0"), if who.is_ordinary() { "False" } else { "True" });
    let outside = forkpy.workspace.parent().expect("a parent").join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("secret"), "secret").expect("written");
    let link = |to: &Path, name: &str| symlink(to, forkpy.file(name)).expect("a link");
    link(&outside.join("secret"), "link-file");
    link(&outside, "link-dir");
    link("../outside".as_ref(), "link-relative");
    link("/dev/zero".as_ref(), "link-dev");
    link("/dev/fd/0".as_ref(), "link-fd");
    link("/proc/self/environ".as_ref(), "link-proc");
    link("/proc/self/root".as_ref(), "link-magic");
    link("/proc/self/cwd".as_ref(), "link-cwd");
    link("/proc/thread-self/fd".as_ref(), "link-fds");
    link("/".as_ref(), "link-root");
    link("loop-b".as_ref(), "loop-a");
    link("loop-a".as_ref(), "loop-b");
    unistd::mkfifo(&forkpy.file("fifo"), Mode::S_IRWXU).expect("a pipe");
    fs::create_dir(forkpy.file("dir")).expect("made");
    who.own(&outside);
    who.own(&forkpy.workspace);
    (forkpy, outside)
}

#[test]
fn no_path_leads_out_of_the_workspace() {
    for who in Who::every() {
        let (mut forkpy, outside) = with_traps(who);
        let absolute = outside.join("secret").to_str().expect("UTF-8").to_owned();
        let ways = [
            "../outside/secret",
            "dir/../../outside/secret",
            "link-file",
            "link-dir/secret",
            "link-relative/secret",
            "link-dev",
            "link-fd",
            "link-proc",
            "link-magic/etc/passwd",
            "link-cwd/Cargo.toml",
            "link-fds/0",
            "link-root/etc/passwd",
            "/etc/passwd",
            "/proc/self/root/etc/passwd",
            &absolute,
        ];
        for path in ways {
            for (tool, arguments) in [
                ("read_file", json!({"path": path})),
                ("write_file", json!({"path": path, "content": "x"})),
                ("list_files", json!({"path": path})),
            ] {
                let words = forkpy.refused(tool, arguments);
                assert!(
                    words.contains("out of the workspace") && words.contains(path),
                    "{who:?} {tool} {path}: {words}"
                );
            }
        }
        for path in ["../outside/secret", "link-dir/secret", "link-relative/secret", &absolute, "../outside"] {
            let words = forkpy.refused("delete_file", json!({"path": path, "recursive": true}));
            assert!(words.contains("out of the workspace"), "delete {path}: {words}");
        }
        let elsewhere = format!("/tmp/forkpy-new-{}", std::process::id());
        let in_it = format!("{elsewhere}/x");
        for path in ["../new", "link-dir/new", "link-dir/a/b/new", "../../new", &in_it] {
            let words = forkpy.refused("write_file", json!({"path": path, "content": "x"}));
            assert!(words.contains("out of the workspace"), "write {path}: {words}");
        }
        for name in ["../x", "a/../../x", &in_it, "../../outside/x"] {
            let words = forkpy.refused("save_script", json!({"name": name, "content": "x"}));
            assert!(words.contains("out of"), "script {name}: {words}");
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).expect("there"), "secret");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
        assert!(!forkpy.file("x.py").exists() && !Path::new(&elsewhere).exists());
    }
}

#[test]
fn what_is_no_file_is_refused_at_once_and_by_name() {
    for who in Who::every() {
        let (mut forkpy, _) = with_traps(who);
        let _socket = std::os::unix::net::UnixListener::bind(forkpy.file("socket")).expect("a socket");
        // Not every root may make devices.
        let device =
            mknod(&forkpy.file("device"), SFlag::S_IFCHR, Mode::from_bits_retain(0o666), makedev(1, 5)).is_ok();
        let began = Instant::now();
        let long = "n".repeat(300);
        let endless = "p/".repeat(5000);
        let mut cases = vec![
            ("fifo", "named pipe"),
            ("socket", "a socket"),
            ("dir", "a directory"),
            ("loop-a", "symbolic links"),
            ("", "empty"),
            ("a\0b", "NUL"),
            (&long, "too long"),
            (&endless, ""),
            (".", "a directory"),
        ];
        cases.extend(device.then_some(("device", "a device")));
        for (path, reason) in cases {
            for (tool, arguments) in
                [("read_file", json!({"path": path})), ("write_file", json!({"path": path, "content": "x"}))]
            {
                let words = forkpy.refused(tool, arguments);
                let expected = if (tool, path) == ("write_file", ".") { "names no file" } else { reason };
                assert!(words.contains(expected) && words.len() < 500, "{who:?} {tool} {path:?}: {words}");
            }
        }
        assert!(forkpy.refused("read_file", json!({"path": "nowhere"})).contains("\"nowhere\": No such file"));
        assert!(forkpy.refused("list_files", json!({"path": "fifo"})).contains("not a directory"));
        assert!(forkpy.refused("list_files", json!({"path": "loop-a"})).contains("symbolic links"));
        assert!(forkpy.refused("write_file", json!({"path": "dir/", "content": "x"})).contains("directory"));
        assert!(forkpy.refused("write_file", json!({"path": "fifo/x", "content": "x"})).contains("fifo/x"));
        assert!(began.elapsed() < Duration::from_secs(40), "something waited");
    }
}

#[test]
fn what_the_user_may_not_touch_stays_untouched() {
    for who in Who::every().into_iter().filter(|who| who.is_ordinary()) {
        let (mut forkpy, _) = with_traps(who);
        fs::create_dir(forkpy.file("locked")).expect("made");
        for path in ["closed", "readable", "locked/x"] {
            fs::write(forkpy.file(path), "x").expect("written");
        }
        who.own(&forkpy.workspace);
        for (path, mode) in [("closed", 0o000), ("readable", 0o444), ("locked", 0o000)] {
            fs::set_permissions(forkpy.file(path), fs::Permissions::from_mode(mode)).expect("ours");
        }
        for (tool, arguments) in [
            ("read_file", json!({"path": "closed"})),
            ("read_file", json!({"path": "locked/x"})),
            ("write_file", json!({"path": "closed", "content": "y"})),
            // A rename would replace it all the same; the user could not have written to it.
            ("write_file", json!({"path": "readable", "content": "y"})),
            ("write_file", json!({"path": "locked/new", "content": "y"})),
            ("list_files", json!({"path": "locked"})),
            ("delete_file", json!({"path": "locked/x"})),
            ("delete_file", json!({"path": "locked", "recursive": true})),
        ] {
            let words = forkpy.refused(tool, arguments.clone());
            assert!(words.contains("Permission denied"), "{tool} {arguments}: {words}");
        }
        let listed = done(forkpy.call("list_files", json!({"recursive": true})));
        assert_eq!(listed["unreadable"], 1, "{listed}");
        fs::set_permissions(forkpy.file("locked"), fs::Permissions::from_mode(0o755)).expect("ours");
        assert_eq!(fs::read_to_string(forkpy.file("locked/x")).expect("there"), "x");
        assert_eq!(fs::read_to_string(forkpy.file("readable")).expect("there"), "x");
    }
}

#[test]
fn deleting_stops_at_links_directories_and_the_workspace() {
    for who in Who::every() {
        let (mut forkpy, outside) = with_traps(who);
        fs::write(forkpy.file("dir/inner"), "x").expect("written");
        symlink(&outside, forkpy.file("dir/out")).expect("a link");
        assert!(forkpy.refused("delete_file", json!({"path": "dir"})).contains("recursive: true"));
        done(forkpy.call("delete_file", json!({"path": "dir", "recursive": true})));
        for link in ["link-dir", "link-file", "loop-a", "link-dev", "link-magic", "fifo"] {
            assert_eq!(done(forkpy.call("delete_file", json!({"path": link, "recursive": true})))["path"], link);
            assert!(forkpy.file(link).symlink_metadata().is_err());
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).expect("there"), "secret");
        for root in [".", "./", "scripts/..", "..", "/", "", "./."] {
            let words = forkpy.refused("delete_file", json!({"path": root, "recursive": true}));
            assert!(words.contains("never deleted") || words.contains("missing"), "{root:?}: {words}");
        }
        assert!(forkpy.workspace.is_dir() && forkpy.file("scripts").is_dir());
        assert!(forkpy.refused("delete_file", json!({})).contains("`path` is missing"));
        assert!(forkpy.refused("delete_file", json!({"path": "a", "filename": "b"})).contains("give one"));
    }
}

/// Ends the swapping, also when an assertion has failed meanwhile.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Exchanges two names again and again until it is told to stop.
fn swap(one: &Path, other: &Path, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).expect("both are there");
        // Two of these and a server share the processors of a small machine.
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// A name is now the way out and now not, thousands of times a second, while tools go through it. What they do happens
/// inside or not at all.
#[test]
fn links_swapped_during_the_call_lead_nowhere() {
    for who in Who::every() {
        let (mut forkpy, outside) = with_traps(who);
        fs::write(outside.join("marker"), "secret").expect("written");
        let (swapped, spare) = (forkpy.file("swapped"), forkpy.file("spare"));
        let (file, spare_file) = (forkpy.file("swapped-file"), forkpy.file("spare-file"));
        fs::create_dir(&swapped).expect("made");
        fs::write(swapped.join("secret"), "mine").expect("written");
        fs::write(&file, "mine").expect("written");
        symlink(&outside, &spare).expect("a link");
        symlink(outside.join("secret"), &spare_file).expect("a link");
        who.own(&forkpy.workspace);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let guard = Stop(&stop);
            scope.spawn(|| swap(&swapped, &spare, &stop));
            scope.spawn(|| swap(&file, &spare_file, &stop));
            let (mut inside, mut refused, mut rounds) = (0, 0, 0);
            let deadline = Instant::now() + Duration::from_secs(60);
            while rounds < 40 || inside < 20 || refused < 20 {
                assert!(Instant::now() < deadline, "{inside} inside, {refused} refused in {rounds} rounds");
                rounds += 1;
                for (tool, arguments) in [
                    ("read_file", json!({"path": "swapped/secret"})),
                    ("read_file", json!({"path": "swapped-file"})),
                    ("write_file", json!({"path": "swapped/secret", "content": "mine"})),
                    ("write_file", json!({"path": "swapped/new/deep", "content": "mine"})),
                    ("write_file", json!({"path": "swapped-file", "content": "mine"})),
                    ("list_files", json!({"path": "swapped"})),
                    ("delete_file", json!({"path": "swapped/new", "recursive": true})),
                ] {
                    let reply = forkpy.call(tool, arguments);
                    if reply.is_error {
                        refused += 1
                    } else {
                        inside += 1
                    }
                    let text = reply.data["text"].as_str().unwrap_or_default();
                    assert_ne!(text, "secret", "{who:?}: read outside");
                    let listed = reply.data["files"].to_string();
                    assert!(!listed.contains("marker"), "{who:?}: listed outside");
                }
                assert_eq!(fs::read_to_string(outside.join("secret")).expect("there"), "secret", "{who:?}: written");
                assert_eq!(fs::read_dir(&outside).expect("there").count(), 2, "{who:?}: made or deleted outside");
            }
            drop(guard);
        });
    }
}

/// The same below a directory that is being deleted with everything in it.
#[test]
fn a_tree_that_changes_while_it_is_deleted_takes_nothing_else_along() {
    for who in Who::every() {
        let (mut forkpy, outside) = with_traps(who);
        fs::create_dir(outside.join("precious")).expect("made");
        fs::write(outside.join("precious/x"), "x").expect("written");
        who.own(&outside);
        let (tree, link) = (forkpy.file("tree"), forkpy.file("spare"));
        symlink(&outside, &link).expect("a link");
        who.own(&forkpy.workspace);
        let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let guard = Stop(&stop);
            scope.spawn(|| {
                // One of the directories to be deleted becomes the link, as often as there is one.
                while !stop.load(Ordering::Relaxed) {
                    match renameat2(AT_FDCWD, &tree.join("b"), AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE) {
                        Ok(()) => _ = swaps.fetch_add(1, Ordering::Relaxed),
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
            let (mut rounds, deadline) = (0, Instant::now() + Duration::from_secs(60));
            while rounds < 30 || swaps.load(Ordering::Relaxed) < 30 {
                assert!(Instant::now() < deadline, "{} swaps in {rounds} rounds", swaps.load(Ordering::Relaxed));
                rounds += 1;
                for directory in ["a", "b", "c"] {
                    let directory = forkpy.file("tree").join(directory);
                    // What the round before left there may be the link, and is not written through.
                    let _ = fs::create_dir(forkpy.file("tree"));
                    if fs::create_dir(&directory).is_ok() {
                        (0..20).for_each(|index| _ = fs::create_dir(directory.join(format!("precious{index}"))));
                    }
                }
                // Of the server's user, while the link may be among them: it is given away, not what it points to.
                who.own(&forkpy.file("tree"));
                let _ = forkpy.call("delete_file", json!({"path": "tree", "recursive": true}));
                assert_eq!(fs::read_to_string(outside.join("precious/x")).expect("there"), "x");
                assert_eq!(fs::read_to_string(outside.join("secret")).expect("there"), "secret");
            }
            drop(guard);
        });
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_the_old_content_stays() {
    for who in Who::every() {
        let Some(setup) = Setup::new().run_by(who).on_disk_of(2) else { return };
        let mut forkpy = setup.start();
        done(forkpy.call("write_file", json!({"path": "kept", "content": "old"})));
        let large = "x".repeat(4 << 20);
        for path in ["kept", "new", "new-dir/new"] {
            let words = forkpy.refused("write_file", json!({"path": path, "content": large}));
            assert!(words.contains("No space left on device") && words.contains(path), "{who:?}: {words}");
        }
        assert_eq!(done(forkpy.call("read_file", json!({"path": "kept"})))["text"], "old");
        let left = done(forkpy.call("list_files", json!({"include_dirs": false, "recursive": true})));
        assert_eq!(left["files"], json!(["kept"]), "no temporary files");
        // What was taken is given back, and the session never noticed.
        done(forkpy.call("write_file", json!({"path": "kept", "content": "x".repeat(1 << 20)})));
        assert_eq!(forkpy.eval("len(open('kept').read())"), (1 << 20).to_string());
    }
}

#[test]
fn an_upload_onto_a_full_disk_is_507_and_the_old_content_stays() {
    let Some(setup) = Setup::new().on_disk_of(2) else { return };
    let server = HttpForkpy::start(setup);
    let send = |content: &[u8]| {
        let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        let body = [&head[..], content, b"\r\n--b--\r\n"].concat();
        server.exchange("POST", "/files/upload", &[("Content-Type", "multipart/form-data; boundary=b")], &body)
    };
    assert_eq!(send(b"old").status, 200);
    let answer = send(&vec![b'x'; 4 << 20]);
    assert_eq!(answer.status, 507, "{answer:?}");
    assert!(answer.body.contains("No space left on device"), "{answer:?}");
    assert_eq!(server.get("/files/download/uploads/f").body, "old");
    assert_eq!(send(b"new").json()["replaced"], true);
}

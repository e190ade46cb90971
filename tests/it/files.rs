//! Files of the workspace through tools, and every way out of it that a path can try.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
};

use serde_json::{Value, json};

use crate::support::{Forkpy, Reply, wait_for};

fn write(forkpy: &mut Forkpy, path: &str, content: &str) -> Value {
    done(forkpy.call("write_file", json!({"path": path, "content": content})))
}

fn read(forkpy: &mut Forkpy, arguments: Value) -> Value {
    done(forkpy.call("read_file", arguments))
}

fn list(forkpy: &mut Forkpy, arguments: Value) -> Value {
    done(forkpy.call("list_files", arguments))
}

fn done(reply: Reply) -> Value {
    assert!(!reply.is_error, "{}", reply.text);
    reply.data
}

#[test]
fn what_is_written_is_read_listed_and_deleted() {
    let mut forkpy = Forkpy::start();
    let written = write(&mut forkpy, "./a/b/c.txt", "hällo\n");
    assert_eq!(written["path"], "a/b/c.txt");
    assert_eq!(written["size"], 7);
    assert_eq!(written["full_path"], forkpy.file("a/b/c.txt").canonicalize().expect("there").to_str().expect("UTF-8"));
    let got = read(&mut forkpy, json!({"path": "a/b/c.txt"}));
    assert_eq!(got["text"], "hällo\n");
    assert_eq!((&got["binary"], &got["encoding"], &got["size"]), (&json!(false), &json!("utf-8"), &json!(7)));
    assert_eq!((&got["truncated"], &got["next_offset"]), (&json!(false), &Value::Null));
    assert_eq!(forkpy.eval("open('a/b/c.txt', encoding='utf-8').read()"), "'hällo\\n'");
    let listed = list(&mut forkpy, json!({"recursive": true}));
    assert_eq!(listed["root"], ".");
    assert_eq!(listed["files"], json!(["a/", "a/b/", "a/b/c.txt", "outputs/", "scripts/", "uploads/"]));
    let deleted = done(forkpy.call("delete_file", json!({"filename": "a/b/../b/c.txt"})));
    assert_eq!(deleted, json!({"deleted": true, "success": true, "path": "a/b/c.txt"}));
    assert!(!forkpy.file("a/b/c.txt").exists());
    assert!(forkpy.refused("delete_file", json!({"path": "a/b/c.txt"})).contains("No such file"));
}

#[test]
fn content_that_cannot_be_written_leaves_what_was_there() {
    let mut forkpy = Forkpy::start();
    write(&mut forkpy, "kept", "old");
    for (arguments, reason) in [
        (json!({"path": "kept", "content": "not base64!", "binary_base64": true}), "not base64"),
        (json!({"path": "kept", "content": "AAAAA", "binary_base64": true}), "not base64"),
        (json!({"path": "kept", "content": "x", "encoding": "klingon"}), "unknown encoding \"klingon\""),
        (json!({"path": "kept", "content": "a€", "encoding": "latin-1"}), "'€'"),
        (json!({"path": "new/dir/file", "content": "?", "binary_base64": true}), "not base64"),
    ] {
        let words = forkpy.refused("write_file", arguments);
        assert!(words.contains(reason) && (words.contains("kept") || words.contains("new/dir/file")), "{words}");
    }
    assert_eq!(fs::read_to_string(forkpy.file("kept")).expect("there"), "old");
    assert!(!forkpy.file("new").exists(), "nothing was made");
    assert!(forkpy.refused("write_file", json!({"path": "outputs", "content": "x"})).contains("a directory"));
    let names = list(&mut forkpy, json!({}));
    assert_eq!(names["files"], json!(["kept", "outputs/", "scripts/", "uploads/"]), "no temporary files");
}

#[test]
fn encodings_and_bytes_arrive_as_python_would_write_them() {
    let mut forkpy = Forkpy::start();
    for encoding in ["utf-8", "latin-1", "utf-16"] {
        let size = forkpy.call("write_file", json!({"path": "t", "content": "é\n", "encoding": encoding})).data["size"]
            .as_u64()
            .expect("a size");
        assert_eq!(forkpy.eval(&format!("open('t', encoding='{encoding}').read()")), "'é\\n'");
        assert_eq!(size, fs::metadata(forkpy.file("t")).expect("there").len());
    }
    done(forkpy.call("write_file", json!({"path": "b", "content": "/wD+\nAQ==", "binary_base64": true})));
    assert_eq!(forkpy.eval("open('b', 'rb').read()"), "b'\\xff\\x00\\xfe\\x01'");
    let got = read(&mut forkpy, json!({"path": "b"}));
    assert_eq!(
        (&got["base64"], &got["binary"], &got["encoding"]),
        (&json!("/wD+AQ=="), &json!(true), &json!("base64"))
    );
    assert!(got.get("text").is_none(), "{got}");
}

#[test]
fn a_mode_stays_and_a_link_within_stays_a_link() {
    let mut forkpy = Forkpy::start();
    write(&mut forkpy, "tool.sh", "one");
    fs::set_permissions(forkpy.file("tool.sh"), fs::Permissions::from_mode(0o750)).expect("ours");
    symlink("tool.sh", forkpy.file("link")).expect("a link");
    symlink("nowhere", forkpy.file("dangling")).expect("a link");
    write(&mut forkpy, "link", "two");
    assert!(forkpy.file("link").is_symlink());
    assert_eq!(fs::read_to_string(forkpy.file("tool.sh")).expect("there"), "two");
    assert_eq!(fs::metadata(forkpy.file("tool.sh")).expect("there").permissions().mode() & 0o7777, 0o750);
    assert!(forkpy.refused("write_file", json!({"path": "dangling", "content": "x"})).contains("does not exist"));
}

/// A limit on file sizes is a full disk that needs no root. Its signal ended the server.
#[test]
fn a_full_disk_leaves_the_old_content() {
    let mut forkpy = Forkpy::start();
    write(&mut forkpy, "kept", "old");
    let limit = nix::libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: prlimit reads one rlimit and writes none.
    let set = unsafe {
        nix::libc::prlimit(forkpy.server_pid(), nix::libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(set, 0);
    let words = forkpy.refused("write_file", json!({"path": "kept", "content": "x".repeat(3 << 20)}));
    assert!(words.contains("too large"), "{words}");
    assert_eq!(fs::read_to_string(forkpy.file("kept")).expect("there"), "old");
}

#[test]
fn ten_thousand_entries_come_in_pages_that_are_stable() {
    let mut forkpy = Forkpy::start();
    fs::create_dir(forkpy.file("many")).expect("made");
    for index in 0..10_000 {
        fs::write(forkpy.file(format!("many/{index:05}")), "").expect("written");
    }
    let (mut all, mut offset) = (Vec::new(), json!(0));
    while offset.is_u64() {
        let page = list(&mut forkpy, json!({"path": "many", "offset": offset, "limit": 3000}));
        assert_eq!(page["total"], 10_000);
        assert_eq!(page["truncated"], page["next_offset"].is_u64());
        all.extend(page["files"].as_array().expect("a list").clone());
        offset = page["next_offset"].clone();
    }
    let expected: Vec<Value> = (0..10_000).map(|index| json!(format!("many/{index:05}"))).collect();
    assert_eq!(all, expected);
    let first = list(&mut forkpy, json!({"path": "many"}));
    assert_eq!((first["files"].as_array().expect("a list").len(), &first["next_offset"]), (1000, &json!(1000)));
    let huge = forkpy.call("list_files", json!({"path": "many", "limit": 1_000_000, "tree": true}));
    let drawn = huge.data["tree"].as_str().expect("a drawing").lines().count();
    assert!(huge.text.len() < 450_000 && drawn == 10_001, "{drawn} lines, {}", huge.text.len());
}

#[test]
fn trees_depth_and_filters() {
    let mut forkpy = Forkpy::start();
    fs::create_dir(forkpy.file("dir")).expect("made");
    fs::create_dir(forkpy.workspace.join("../outside")).expect("made");
    fs::write(forkpy.workspace.join("../outside/secret"), "secret").expect("written");
    symlink("../outside", forkpy.file("link-dir")).expect("a link");
    for path in ["p/q/r/s/deep", "p/file", "p.txt"] {
        write(&mut forkpy, path, "");
    }
    let below = list(&mut forkpy, json!({"path": "p", "recursive": true}));
    assert_eq!((&below["root"], &below["too_deep"]), (&json!("p"), &json!(1)));
    assert_eq!(below["files"], json!(["p/file", "p/q/", "p/q/r/", "p/q/r/s/"]));
    let files = list(&mut forkpy, json!({"path": "p", "recursive": true, "max_depth": 9, "include_dirs": false}));
    assert_eq!(files["files"], json!(["p/file", "p/q/r/s/deep"]));
    let tree = list(&mut forkpy, json!({"path": "p/q/r", "tree": true}));
    assert!(tree.get("files").is_none());
    assert_eq!(tree["tree"], "r/\n└── s/\n    └── deep");
    let drawn = list(&mut forkpy, json!({"path": "p", "tree": true, "max_depth": 2}));
    assert_eq!(drawn["tree"], "p/\n├── q/\n│   └── r/\n└── file");
    let workspace = list(&mut forkpy, json!({"tree": true, "max_depth": 1}));
    let name = forkpy.workspace.file_name().expect("a name").to_string_lossy().into_owned();
    let lines = ["├── dir/", "├── outputs/", "├── p/", "├── scripts/", "├── uploads/", "├── link-dir", "└── p.txt"];
    assert_eq!(workspace["tree"], format!("{name}/\n{}", lines.join("\n")));
    let second = list(&mut forkpy, json!({"path": "p", "tree": true, "max_depth": 9, "offset": 3, "limit": 1}));
    assert_eq!(second["tree"], "p/\n└── q/\n    └── r/\n        └── s/\n            └── deep");
    let whole = list(&mut forkpy, json!({"recursive": true, "include_files": false}));
    assert_eq!(whole["files"], json!(["dir/", "outputs/", "p/", "p/q/", "p/q/r/", "scripts/", "uploads/"]));
    let links = list(&mut forkpy, json!({"recursive": true})).to_string();
    assert!(links.contains("\"link-dir\"") && !links.contains("secret"), "{links}");
    for bad in [json!({"max_depth": 0}), json!({"max_depth": 51}), json!({"limit": 0}), json!({"offset": -1})] {
        let name = bad.as_object().expect("an object").keys().next().expect("one").clone();
        assert!(forkpy.refused("list_files", bad).contains(&name));
    }
}

#[test]
fn a_file_of_five_gigabytes_is_read_by_parts() {
    let mut forkpy = Forkpy::start();
    let file = fs::File::create(forkpy.file("big")).expect("made");
    file.set_len(5 << 30).expect("sparse");
    let place = (5_u64 << 30) - 1000;
    file.write_all_at(b"needle", place).expect("written");
    let got = read(&mut forkpy, json!({"path": "big", "offset": place, "max_bytes": 6}));
    assert_eq!((&got["text"], &got["size"]), (&json!("needle"), &json!(5_u64 << 30)));
    assert_eq!((&got["truncated"], &got["next_offset"]), (&json!(true), &json!(place + 6)));
    let most = forkpy.call("read_file", json!({"path": "big", "max_bytes": 5_u64 << 30}));
    assert!(!most.is_error && most.text.len() + most.data.to_string().len() < 900_000, "{}", most.text.len());
    let beyond = read(&mut forkpy, json!({"path": "big", "offset": u64::MAX}));
    assert_eq!((&beyond["bytes_read"], &beyond["truncated"]), (&json!(0), &json!(false)));
    let memory = crate::support::processes::memory(forkpy.server_pid());
    assert!(memory < 100 << 20, "the server holds {memory} bytes");
}

#[test]
fn pages_of_text_cut_no_character_and_join_to_the_whole() {
    let mut forkpy = Forkpy::start();
    let whole = "aé漢😀\n\"\\".repeat(40);
    write(&mut forkpy, "t", &whole);
    for max_bytes in [4, 5, 7, 100] {
        let (mut joined, mut offset) = (String::new(), json!(0));
        while offset.is_u64() {
            let got = read(&mut forkpy, json!({"path": "t", "max_bytes": max_bytes, "offset": offset}));
            assert!(got["bytes_read"].as_u64().expect("a number") <= max_bytes, "{got}");
            joined.push_str(got["text"].as_str().unwrap_or_else(|| panic!("bytes: {got}")));
            offset = got["next_offset"].clone();
        }
        assert_eq!(joined, whole, "{max_bytes}");
    }
    // Fewer bytes than a character has: they come as they are.
    let two = read(&mut forkpy, json!({"path": "t", "max_bytes": 2}));
    assert_eq!((&two["text"], &two["bytes_read"], &two["next_offset"]), (&json!("a"), &json!(1), &json!(1)));
    let half = read(&mut forkpy, json!({"path": "t", "max_bytes": 2, "offset": 3}));
    assert_eq!((&half["base64"], &half["bytes_read"], &half["next_offset"]), (&json!("5rw="), &json!(2), &json!(5)));
    let mut bytes = whole.into_bytes();
    bytes.pop();
    bytes.extend("é".as_bytes().split_at(1).0);
    fs::write(forkpy.file("broken"), bytes).expect("written");
    assert_eq!(read(&mut forkpy, json!({"path": "broken"}))["binary"], true);
}

#[test]
fn lines_are_found_and_counted() {
    let mut forkpy = Forkpy::start();
    let whole: String = (1..=50_000).map(|line| format!("line {line}\n")).collect();
    write(&mut forkpy, "t", &whole);
    let got = read(&mut forkpy, json!({"path": "t", "start_line": 40_000, "end_line": 40_002}));
    assert_eq!(got["text"], "line 40000\nline 40001\nline 40002\n");
    assert_eq!((&got["start_line"], &got["end_line"]), (&json!(40_000), &json!(40_002)));
    assert_eq!((&got["truncated"], &got["next_offset"]), (&json!(false), &Value::Null));
    assert_eq!(read(&mut forkpy, json!({"path": "t", "end_line": 1}))["text"], "line 1\n");
    assert_eq!(read(&mut forkpy, json!({"path": "t", "start_line": 50_000}))["text"], "line 50000\n");
    let cut = read(&mut forkpy, json!({"path": "t", "start_line": 2, "max_bytes": 10}));
    assert_eq!(
        (&cut["text"], &cut["truncated"], &cut["next_offset"]),
        (&json!("line 2\nlin"), &json!(true), &json!(17))
    );
    let words = forkpy.refused("read_file", json!({"path": "t", "start_line": 50_001}));
    assert!(words.contains("50000 lines") && words.contains("50001"), "{words}");
    write(&mut forkpy, "open", "one\ntwo");
    assert_eq!(read(&mut forkpy, json!({"path": "open", "start_line": 2, "end_line": 9}))["text"], "two");
    assert!(forkpy.refused("read_file", json!({"path": "open", "start_line": 3})).contains("2 lines"));
    write(&mut forkpy, "void", "");
    assert_eq!(read(&mut forkpy, json!({"path": "void", "start_line": 1}))["text"], "");
    for bad in [
        json!({"path": "t", "start_line": 0}),
        json!({"path": "t", "start_line": 3, "end_line": 2}),
        json!({"path": "t", "start_line": 3, "offset": 2}),
    ] {
        assert!(forkpy.refused("read_file", bad).contains("_line`"));
    }
}

#[test]
fn replies_stay_below_a_megabyte_whatever_the_bytes() {
    let mut forkpy = Forkpy::start();
    for (name, byte) in [("plain", b'x'), ("control", 1), ("newlines", b'\n'), ("quotes", b'"'), ("binary", 0xff)] {
        fs::write(forkpy.file(name), vec![byte; 2_000_000]).expect("written");
        let id = forkpy.begin_call("read_file", json!({"path": name, "max_bytes": 2_000_000}));
        let answer = forkpy.answer(id);
        let (size, got) = (answer.to_string().len(), &answer["result"]["structuredContent"]);
        assert!((500_000..900_000).contains(&size), "{name}: {size}");
        assert_eq!((&got["truncated"], &got["next_offset"]), (&json!(true), &got["bytes_read"]));
    }
}

#[test]
fn pictures_come_as_images_too() {
    let mut forkpy = Forkpy::start();
    let picture = |size: usize| [&b"\x89PNG\r\n\x1a\n"[..], &vec![7; size - 8]].concat();
    for (size, shown) in [(100, true), (500_000, true), (600_000, false)] {
        fs::write(forkpy.file("p.bin"), picture(size)).expect("written");
        let id = forkpy.begin_call("read_file", json!({"path": "p.bin"}));
        let answer = forkpy.answer(id);
        let (blocks, got) = (&answer["result"]["content"], &answer["result"]["structuredContent"]);
        assert!(answer.to_string().len() < 900_000);
        assert_eq!(got["binary"], true);
        assert_eq!(got["bytes_read"], size.min(30_000));
        assert_eq!(blocks.as_array().expect("blocks").len(), if shown { 2 } else { 1 });
        if shown {
            assert_eq!((&blocks[1]["type"], &blocks[1]["mimeType"]), (&json!("image"), &json!("image/png")));
            assert_eq!(blocks[1]["data"].as_str().expect("base64").len(), size.div_ceil(3) * 4);
        }
    }
}

#[test]
fn writers_at_the_same_time_leave_one_content_whole() {
    let mut forkpy = Forkpy::start();
    let contents: Vec<String> = (0..20).map(|index| format!("{index:02}").repeat(100_000)).collect();
    let calls: Vec<u64> = contents
        .iter()
        .map(|content| forkpy.begin_call("write_file", json!({"path": "shared", "content": content})))
        .collect();
    for _ in 0..20 {
        if let Ok(seen) = fs::read_to_string(forkpy.file("shared")) {
            assert!(contents.contains(&seen), "torn: {} bytes", seen.len());
        }
    }
    for id in calls {
        done(forkpy.reply(id));
    }
    let left = fs::read_to_string(forkpy.file("shared")).expect("there");
    assert!(contents.contains(&left), "torn: {} bytes", left.len());
    let names = list(&mut forkpy, json!({}));
    assert_eq!(names["total"], 4, "temporary files were left: {names}");
}

#[test]
fn scripts_are_saved_under_scripts() {
    let mut forkpy = Forkpy::start();
    let saved = done(forkpy.call("save_script", json!({"name": "tool", "content": "print(1)"})));
    assert_eq!(saved["script"], "scripts/tool.py");
    assert_eq!(
        saved["full_path"],
        forkpy.file("scripts/tool.py").canonicalize().expect("there").to_str().expect("UTF-8")
    );
    let saved = done(forkpy.call("save_script", json!({"name": "a/b.py", "content": "print(2)"})));
    assert_eq!(saved["script"], "scripts/a/b.py");
    assert_eq!(fs::read_to_string(forkpy.file("scripts/a/b.py")).expect("there"), "print(2)");
    for (name, reason) in [("", "empty"), ("a\0b", "NUL"), (&*"n".repeat(300), "too long")] {
        let words = forkpy.refused("save_script", json!({"name": name, "content": "x"}));
        assert!(words.contains(reason), "{words}");
    }
}

#[test]
fn files_wait_for_no_cell_and_leave_it_no_temporary_names() {
    let mut forkpy = Forkpy::start();
    forkpy.run("1");
    let waits = "import os, time; open('began', 'w').close()\nwhile os.path.exists('scripts'): time.sleep(0.01)";
    let cell = forkpy.begin_run(waits);
    wait_for("the cell", || forkpy.file("began").exists());
    fs::remove_file(forkpy.file("began")).expect("there");
    write(&mut forkpy, "t", "x");
    assert_eq!(read(&mut forkpy, json!({"path": "t"}))["text"], "x");
    assert!(!forkpy.has_answer(cell), "it waited");
    fs::remove_dir_all(forkpy.file("scripts")).expect("there");
    let ended = forkpy.reply(cell).data;
    assert_eq!(ended["status"], "ok");
    assert_eq!(ended["new_files"], json!(["t"]), "the temporary name is none of the cell's");
}

//! Upload and download over HTTP: what arrives, what is refused, and that neither is held in memory.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::symlink,
};

use nix::{sys::stat::Mode, unistd};
use serde_json::json;

use crate::support::{
    Setup,
    http::{Answer, HttpForkpy},
    processes, wait_for,
};

const BOUNDARY: &str = "forkpy-boundary";
const KIND: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=forkpy-boundary");
const MIB: u64 = 1 << 20;

fn start() -> HttpForkpy {
    HttpForkpy::start(Setup::new())
}

/// One part of a form.
fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), format!("--{BOUNDARY}--\r\n").into_bytes()].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    form(&[part(&format!("name=\"file\"; filename=\"{name}\""), content)])
}

fn upload(server: &HttpForkpy, body: &[u8]) -> Answer {
    server.exchange("POST", "/files/upload", &[KIND], body)
}

fn download(server: &HttpForkpy, path: &str, headers: &[(&str, &str)]) -> Answer {
    server.exchange("GET", &format!("/files/download/{path}"), headers, b"")
}

fn uploads(server: &HttpForkpy) -> Vec<String> {
    let entries = fs::read_dir(server.workspace().join("uploads")).expect("there").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_uploaded_is_downloaded_and_seen_by_cells() {
    let server = start();
    let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let answer = upload(&server, &file("a b.bin", &content));
    assert_eq!(answer.status, 200, "{answer:?}");
    let reply = answer.json();
    assert_eq!((&reply["filename"], &reply["path"]), (&json!("a b.bin"), &json!("uploads/a b.bin")));
    assert_eq!((&reply["size"], &reply["replaced"]), (&json!(300_000), &json!(false)));
    assert!(reply["uri"].as_str().expect("a URI").ends_with("/uploads/a%20b.bin"));
    let answer = download(&server, "uploads/a%20b.bin", &[]);
    assert_eq!((answer.status, answer.bytes == content), (200, true), "{}", answer.head);
    assert_eq!(answer.header("content-length"), "300000");
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"a b.bin\"; filename*=UTF-8''a%20b%2Ebin");
    assert!(answer.header("content-security-policy").contains("sandbox"));
    assert_eq!(server.run("len(open('uploads/a b.bin', 'rb').read())")["results"], json!(["300000"]));
    // Again: replaced, and it says so.
    assert_eq!(upload(&server, &file("a b.bin", b"new")).json()["replaced"], true);
    assert_eq!(download(&server, "uploads/a%20b.bin", &[]).body, "new");
    for (name, kind) in [("p.png", "image/png"), ("t.csv", "text/csv; charset=utf-8"), ("j.json", "application/json")] {
        upload(&server, &file(name, b"x"));
        assert_eq!(download(&server, &format!("uploads/{name}"), &[]).header("content-type"), kind);
    }
    let head = server.exchange("HEAD", "/files/download/uploads/p.png", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.body.as_str()), (200, "1", ""));
}

#[test]
fn ranges_and_conditions_are_served_as_http_says() {
    let server = start();
    fs::write(server.workspace().join("digits"), "0123456789").expect("written");
    let whole = download(&server, "digits", &[]);
    let (tag, date) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    assert_eq!((whole.header("accept-ranges"), whole.body.as_str()), ("bytes", "0123456789"));
    for (range, body, content) in
        [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=7-", "789", "bytes 7-9/10"), ("bytes=-2", "89", "bytes 8-9/10")]
    {
        for condition in [&[][..], &[("If-Range", &*tag)], &[("If-Range", &*date)]] {
            let answer = download(&server, "digits", &[&[("Range", range)], condition].concat());
            assert_eq!((answer.status, answer.body.as_str()), (206, body), "{range}");
            assert_eq!(answer.header("content-range"), content);
            assert_eq!(answer.header("content-length"), body.len().to_string());
        }
    }
    for headers in [
        &[("Range", "bytes=2-4"), ("If-Range", "\"other\"")][..],
        &[("Range", "bytes=0-1,4-5")],
        &[("Range", "pages=1")],
        &[("Range", "bytes=4-2")],
    ] {
        let answer = download(&server, "digits", headers);
        assert_eq!((answer.status, answer.body.as_str()), (200, "0123456789"), "{headers:?}");
    }
    let beyond = download(&server, "digits", &[("Range", "bytes=10-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
    for known in [("If-None-Match", &*tag), ("If-Modified-Since", &*date)] {
        let answer = download(&server, "digits", &[known]);
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{known:?}");
    }
    fs::write(server.workspace().join("digits"), "changed").expect("written");
    assert_eq!(download(&server, "digits", &[("If-None-Match", &tag)]).status, 200);
    let stale = download(&server, "digits", &[("Range", "bytes=0-1"), ("If-Range", &tag)]);
    assert_eq!((stale.status, stale.body.as_str()), (200, "changed"));
}

#[test]
fn what_is_not_there_is_404_and_what_leads_out_400() {
    let server = start();
    let workspace = server.workspace().to_owned();
    let outside = workspace.parent().expect("a parent").join("secret");
    fs::write(&outside, "secret").expect("written");
    symlink(&outside, workspace.join("link")).expect("a link");
    symlink("loop", workspace.join("loop")).expect("a link");
    symlink("/proc/self/root", workspace.join("magic")).expect("a link");
    unistd::mkfifo(&workspace.join("fifo"), Mode::S_IRWXU).expect("a pipe");
    let long = "n".repeat(300);
    for (path, status) in [
        ("nowhere", 404),
        ("scripts/nowhere/x", 404),
        ("link", 400),
        ("../secret", 400),
        ("%2e%2e/secret", 400),
        ("scripts%2f..%2f..%2fsecret", 400),
        ("/etc/passwd", 400),
        ("%2Fetc%2Fpasswd", 400),
        ("magic/etc/passwd", 400),
        ("loop", 400),
        ("scripts", 400),
        ("fifo", 400),
        ("a%00b", 400),
        ("%ff", 400),
        (&long, 400),
        ("", 404),
    ] {
        let answer = download(&server, path, &[]);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(!answer.body.contains("secret\n") && answer.body != "secret", "{answer:?}");
    }
    let words = download(&server, "../secret", &[]).json()["error"].as_str().expect("words").to_owned();
    assert!(words.contains("out of the workspace"), "{words}");
    assert_eq!(server.exchange("GET", "/files/upload", &[], b"").status, 405);
    assert_eq!(server.exchange("POST", "/files/download/x", &[], b"").status, 405);
}

#[test]
fn an_upload_lands_in_uploads_under_a_clean_name_or_nowhere() {
    let server = start();
    let workspace = server.workspace().to_owned();
    fs::write(workspace.join("scripts/kept.py"), "kept").expect("written");
    for (given, kept) in
        [("../scripts/kept.py", "kept.py"), ("C:\\\\x\\\\y.txt", "y.txt"), ("..", "upload"), (".x", "x")]
    {
        let answer = upload(&server, &file(given, b"new"));
        assert_eq!(answer.json()["filename"], kept, "{given}: {answer:?}");
    }
    assert_eq!(fs::read_to_string(workspace.join("scripts/kept.py")).expect("there"), "kept");
    assert_eq!(uploads(&server), ["kept.py", "upload", "x", "y.txt"]);
    // A link of that name could lead anywhere, a directory is none; `uploads` itself as well.
    symlink("../scripts/kept.py", workspace.join("uploads/link")).expect("a link");
    fs::create_dir(workspace.join("uploads/dir")).expect("made");
    for name in ["link", "dir"] {
        let answer = upload(&server, &file(name, b"new"));
        assert_eq!(answer.status, 409, "{answer:?}");
    }
    fs::remove_dir_all(workspace.join("uploads")).expect("removed");
    symlink("scripts", workspace.join("uploads")).expect("a link");
    let answer = upload(&server, &file("kept.py", b"new"));
    assert!(answer.status >= 400, "{answer:?}");
    assert_eq!(fs::read_to_string(workspace.join("scripts/kept.py")).expect("there"), "kept");
    fs::remove_file(workspace.join("uploads")).expect("removed");
    assert_eq!(upload(&server, &file("again", b"x")).status, 200, "the directory is made again");
}

#[test]
fn forms_that_are_wrong_are_refused_in_words_and_save_nothing() {
    let server = HttpForkpy::start(Setup::new().args(&["--max-upload", "1000"]));
    let two = [part("name=\"file\"; filename=\"a\"", b"1"), part("name=\"file\"; filename=\"b\"", b"2")];
    let cases = [
        (form(&[part("name=\"other\"; filename=\"a\"", b"1")]), 400, "no field `file`"),
        (form(&[part("name=\"file\"", b"text")]), 400, "no filename"),
        (form(&two), 400, "one file at a time"),
        (file("large", &[b'x'; 1001]), 413, "--max-upload"),
        (file("larger", &vec![b'x'; 200_000]), 413, "--max-upload"),
        (part("name=\"file\"; filename=\"a\"", b"no end"), 400, "failed to read the form"),
        (b"garbage".to_vec(), 400, ""),
    ];
    for (body, status, words) in cases {
        let answer = upload(&server, &body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["error"].as_str().expect("words").contains(words), "{answer:?}");
    }
    let plain = server.exchange("POST", "/files/upload", &[("Content-Type", "text/plain")], b"x");
    assert_eq!(plain.status, 400, "{plain:?}");
    assert!(plain.body.contains("multipart/form-data"), "{plain:?}");
    // One that does not say how long it is.
    let mut chunked = format!("{:x}\r\n", 200_000).into_bytes();
    chunked.extend(&file("chunked", &vec![b'x'; 200_000])[..200_000]);
    chunked.extend(b"\r\n0\r\n\r\n");
    let answer = server.exchange("POST", "/files/upload", &[KIND, ("Transfer-Encoding", "chunked")], &chunked);
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(upload(&server, &file("fits", &[b'x'; 1000])).status, 200);
    assert_eq!(uploads(&server), ["fits"]);
}

#[test]
fn a_sender_that_goes_away_leaves_nothing_and_the_old_file() {
    let server = start();
    upload(&server, &file("kept", b"old"));
    let inside = fs::canonicalize(server.workspace()).expect("it is there");
    let writes = || {
        let open = fs::read_dir(format!("/proc/{}/fd", server.server_pid())).expect("it lives").flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|path| path.starts_with(&inside) && path != inside)
    };
    let mut stream = server.connect();
    let body = file("kept", &vec![b'x'; 5_000_000]);
    let head = format!(
        "POST /files/upload HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{}: {}\r\n\r\n",
        server.address,
        body.len(),
        KIND.0,
        KIND.1
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(&body[..2_000_000]).expect("it reads");
    wait_for("the writer to begin", &writes);
    drop(stream);
    wait_for("the writer to give up", || !writes());
    assert_eq!(uploads(&server), ["kept"]);
    assert_eq!(download(&server, "uploads/kept", &[]).body, "old");
}

#[test]
fn files_are_behind_the_same_door_as_mcp() {
    let server =
        HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "open-sesame").args(&["--allow-host", "py.example:1"]));
    fs::write(server.workspace().join("x"), "x").expect("written");
    let token = ("Authorization", "Bearer open-sesame");
    for headers in [
        &[][..],
        &[("Authorization", "Bearer wrong")],
        &[token],
        &[token, ("Host", "evil.example")],
        &[token, ("Host", "py.example:1")],
        &[token, ("Host", "py.example:2")],
        &[token, ("Host", "LOCALHOST:9")],
        &[token, ("Host", "[::1]")],
        &[token, ("Origin", "null")],
        &[token, ("Origin", "nonsense")],
        &[token, ("Origin", "http://evil.example")],
        &[token, ("Origin", "http://localhost:5173")],
        &[token, ("Origin", "https://127.0.0.1")],
    ] {
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
        let expected = server.post(headers, ping).status;
        let got = download(&server, "x", headers);
        assert_eq!(got.status, expected, "{headers:?}: {got:?}");
        let sent = server.exchange("POST", "/files/upload", &[&[KIND], headers].concat(), &file("f", b"x"));
        assert_eq!(sent.status, expected, "{headers:?}: {sent:?}");
        assert_eq!(uploads(&server).is_empty(), expected != 200, "{headers:?}");
        let _ = fs::remove_file(server.workspace().join("uploads/f"));
    }
}

#[test]
fn a_large_file_goes_through_in_little_memory_both_ways() {
    const SIZE: u64 = 160 * MIB;
    let server = start();
    let large = fs::File::create(server.workspace().join("large")).expect("made");
    large.set_len(5 << 30).expect("sparse");
    drop(large);
    let last = download(&server, "large", &[("Range", "bytes=5368709110-")]);
    assert_eq!((last.status, last.bytes.len()), (206, 10), "{}", last.head);
    download(&server, "large", &[("Range", "bytes=0-9")]);
    let before = processes::memory(server.server_pid());
    let mut stream = server.connect();
    let request = format!(
        "GET /files/download/large HTTP/1.1\r\nHost: {}\r\nRange: bytes=0-{}\r\nConnection: close\r\n\r\n",
        server.address,
        SIZE - 1
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let (mut buffer, mut count, mut most) = (vec![0; 1 << 20], 0, 0);
    loop {
        let read = stream.read(&mut buffer).expect("it sends");
        if read == 0 {
            break;
        }
        count += read as u64;
        most = most.max(processes::memory(server.server_pid()));
    }
    assert!(count > SIZE && count < SIZE + 2000, "{count}");
    let mut stream = server.connect();
    let (start, end) = (part("name=\"file\"; filename=\"up\"", b""), format!("\r\n--{BOUNDARY}--\r\n"));
    let start = &start[..start.len() - 2];
    let head = format!(
        "POST /files/upload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{}: {}\r\n\r\n",
        server.address,
        start.len() as u64 + SIZE + end.len() as u64,
        KIND.0,
        KIND.1
    );
    stream.write_all(&[head.as_bytes(), start].concat()).expect("it reads");
    for _ in 0..SIZE / MIB {
        stream.write_all(&buffer).expect("it reads");
        most = most.max(processes::memory(server.server_pid()));
    }
    stream.write_all(end.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let answer = Answer::read(&answer);
    assert_eq!(answer.json()["size"], SIZE, "{answer:?}");
    assert!(most < before + 32 * MIB, "from {} to {} MiB", before / MIB, most / MIB);
}

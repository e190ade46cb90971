//! The network of confined sessions (`--allow-net`): what reaches its host by the proxy, what does not, and how the proxy bears
//! those who want it to do more.

mod packages;
mod secrets;

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, http::HttpForkpy};

/// Servers outside of every sandbox: `origin.py`.
struct Origin {
    process: Child,
    open: u16,
    secure: u16,
    closed: u16,
    place: tempfile::TempDir,
}

impl Origin {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name);
        std::fs::write(at("origin.pem"), include_str!("origin.pem")).expect("written");
        std::fs::write(at("authority.pem"), include_str!("authority.pem")).expect("written");
        std::fs::write(at("origin.py"), include_str!("origin.py")).expect("written");
        std::fs::write(at("log"), "").expect("written");
        std::fs::create_dir(at("files")).expect("made");
        let mut process = Command::new(env!("FORKPY_BUILD_PYTHON"))
            .arg(at("origin.py"))
            .args(["origin.pem", "log", "files"].map(at))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("its ports");
        let ports: Value = serde_json::from_str(&line).expect("JSON");
        let port = |name: &str| u16::try_from(ports[name].as_u64().expect("a port")).expect("a port");
        let (open, secure, closed) = (port("open"), port("secure"), port("closed"));
        Self { process, open, secure, closed, place }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Requests that arrived, by the server's name.
    fn heard(&self, server: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.file("log")).expect("there");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["server"] == server).collect()
    }

    /// A server whose sessions reach the open ports by names and by the address, and of the closed one know a name.
    fn forkpy(&self) -> Setup {
        let Self { open, secure, closed, .. } = self;
        let list =
            format!("open.test:{open},127.0.0.1:{open},localhost:{secure},*.below.test:{open},rebound.test:{closed}");
        let told = "open.test=127.0.0.1;a.below.test=127.0.0.1;rebound.test=127.0.0.1";
        let setup = Setup::new().env("FORKPY_ADDRESSES", told);
        setup.args(&["--sandbox", "workspace", "--allow-net", &list, "--allow-read", path(self.place.path())])
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn stderr(outcome: &Value) -> &str {
    outcome["stderr"].as_str().unwrap_or_default()
}

/// The libraries of Python's own and pip's, which has requests and urllib3 in it.
#[test]
fn what_is_listed_is_reached_by_the_libraries_that_people_use() {
    let origin = Origin::start();
    let mut forkpy = origin.forkpy().start();
    let (open, secure, pem) = (origin.open, origin.secure, origin.file("origin.pem"));
    forkpy.run(&format!(
        "import os, ssl, sys, subprocess, urllib.request, http.client\n\
         trust = ssl.create_default_context(cafile={pem:?})\n\
         get = lambda url, **more: urllib.request.urlopen(url, timeout=60, **more).read().decode()"
    ));
    for url in [
        format!("http://open.test:{open}/a"),
        format!("http://OPEN.test.:{open}/a"),
        format!("http://127.0.0.1:{open}/a"),
        format!("http://a.below.test:{open}/a"),
    ] {
        assert_eq!(forkpy.eval(&format!("get({url:?})")), "'treasure of open'", "{url}");
    }
    assert_eq!(forkpy.eval(&format!("get('https://localhost:{secure}/a', context=trust)")), "'treasure of secure'");
    let requests = format!(
        "from pip._vendor import requests\n\
         one = requests.post('http://open.test:{open}/b', data='x' * 100000, timeout=60).text\n\
         (one, requests.get('https://localhost:{secure}/b', verify={pem:?}, timeout=60).text)"
    );
    assert_eq!(forkpy.eval(&requests), "('treasure of open', 'treasure of secure')");
    assert_eq!(origin.heard("open").last().map(|seen| seen["body"].as_str().map(str::len)), Some(Some(100_000)));
    let child = format!(
        "code = \"import urllib.request; print(urllib.request.urlopen('http://open.test:{open}/c').read())\"\n\
         subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout"
    );
    assert_eq!(forkpy.eval(&child), r#""b'treasure of open'\n""#);
    let told = forkpy.eval(
        "[os.environ.get(name) == os.environ['HTTP_PROXY'] for name in ('http_proxy', 'HTTPS_PROXY', 'https_proxy')] + \
         [os.environ.get(name) for name in ('NO_PROXY', 'no_proxy')]",
    );
    assert_eq!(told, "[True, True, True, '', '']");
    forkpy.call("checkpoint_session", json!({"name": "one"}));
    forkpy.call("restore_checkpoint", json!({"name": "one"}));
    assert_eq!(forkpy.eval(&format!("get('http://open.test:{open}/d')")), "'treasure of open'", "after a restore");
    let script = format!("import urllib.request\nprint(urllib.request.urlopen('http://open.test:{open}/e').read())");
    std::fs::write(forkpy.file("get.py"), script).expect("written");
    assert_eq!(forkpy.call("run_script", json!({"path": "get.py"})).data["stdout"], "b'treasure of open'\n");
    let sandbox = forkpy.call("get_workspace_info", json!({})).data["sandbox"].clone();
    assert_eq!(sandbox["network"], "proxy", "{sandbox}");
    assert_eq!(sandbox["hosts"][0], format!("open.test:{open}"), "{sandbox}");
    assert_eq!(origin.heard("closed").len(), 0);
}

#[test]
fn what_is_not_listed_is_refused_with_the_option_that_would_allow_it() {
    let origin = Origin::start();
    let mut forkpy = origin.forkpy().start();
    let closed = origin.closed;
    let get = |url: String| format!("import urllib.request\nurllib.request.urlopen({url:?}, timeout=60)");
    for (url, flag) in [
        (format!("http://127.0.0.1:{closed}/"), format!("--allow-net 127.0.0.1:{closed} would allow it")),
        (format!("https://127.0.0.1:{closed}/"), format!("--allow-net 127.0.0.1:{closed} would allow it")),
        ("https://elsewhere.test/".to_owned(), "--allow-net elsewhere.test:443 would allow it".to_owned()),
        (
            format!("http://rebound.test:{closed}/"),
            format!("--allow-net rebound.test:{closed},127.0.0.1:{closed} would allow it"),
        ),
        (
            format!("http://open.test:{}/to/127.0.0.1:{closed}/", origin.open),
            format!("--allow-net 127.0.0.1:{closed} would allow it"),
        ),
    ] {
        let refused = forkpy.run(&get(url.clone()));
        assert!(stderr(&refused).contains(&flag), "{url}: {refused}");
    }
    for (code, hint) in [
        (
            format!("import socket\nsocket.create_connection(('127.0.0.1', {})).send(b'x')", origin.open),
            "has no network but by the proxy http://127.0.0.1:",
        ),
        (
            "import socket\nsocket.getaddrinfo('open.test', 80)".to_owned(),
            "only the server's proxy looks up host names",
        ),
        ("import socket\nsocket.create_server(('127.0.0.1', 0))".to_owned(), "has no network but by the proxy"),
    ] {
        let refused = forkpy.run(&code);
        assert!(stderr(&refused).contains(hint), "{code}: {refused}");
    }
    assert!(!forkpy.call("create_session", json!({"session_id": "strict", "sandbox": "strict"})).is_error);
    let tight = "import os, socket\nprint(os.environ.get('HTTP_PROXY'))\nsocket.socket(socket.AF_INET)";
    let tight = forkpy.call("run_python_code", json!({"session_id": "strict", "code": tight})).data;
    assert!(tight["stdout"] == "None\n" && stderr(&tight).contains("PermissionError"), "{tight}");
    assert_eq!(origin.heard("closed").len(), 0);
}

/// An index of one package, below `files/simple/`.
fn index(forkpy: &mut Forkpy, origin: &Origin) {
    let folder = origin.file("files/simple/tiny-thing");
    std::fs::create_dir_all(&folder).expect("made");
    let wheel = "tiny_thing-1.0-py3-none-any.whl";
    let made = forkpy.run(&format!(
        "import zipfile\ninfo = 'tiny_thing-1.0.dist-info/'\n\
         with zipfile.ZipFile('{wheel}', 'w') as file:\n\
         \x20   file.writestr('tiny_thing.py', 'answer = 42')\n\
         \x20   file.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny-thing\\nVersion: 1.0\\n')\n\
         \x20   file.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         \x20   file.writestr(info + 'RECORD', '')"
    ));
    assert_eq!(made["status"], "ok", "{made}");
    std::fs::rename(forkpy.file(wheel), folder.join(wheel)).expect("moved");
    std::fs::write(folder.join("index.html"), format!("<a href=\"{wheel}\">{wheel}</a>")).expect("written");
}

#[test]
fn pip_installs_through_the_proxy() {
    let origin = Origin::start();
    let mut forkpy = origin.forkpy().start();
    index(&mut forkpy, &origin);
    let code = |port: u16| {
        format!(
            "import subprocess, sys\ndone = subprocess.run([sys.executable, '-m', 'pip', '--isolated', 'install', '--no-input', \
             '--disable-pip-version-check', '--retries=0', '--target=packages', '--index-url=http://127.0.0.1:{port}/files/simple/', \
             'tiny-thing'], capture_output=True, text=True)\nprint(done.returncode, done.stdout, done.stderr)"
        )
    };
    let refused = forkpy.run(&code(origin.closed));
    let words = refused["stdout"].as_str().unwrap_or_default();
    assert!(words.starts_with("1 "), "{refused}");
    let done = forkpy.run(&code(origin.open));
    assert!(done["stdout"].as_str().is_some_and(|words| words.starts_with("0 ")), "{done}");
    assert_eq!(forkpy.eval("sys.path.append('packages')\nimport tiny_thing\ntiny_thing.answer"), "42");
    assert_eq!(origin.heard("closed").len(), 0);
}

/// Each with the status that it gets; `O` and `C` are the ports of the open and the closed server, `P` is the proxy's own.
const ATTACKS: &[(&str, &str)] = &[
    // addresses of the closed server
    ("CONNECT 127.0.0.1:C", "403"),
    ("CONNECT localhost:C", "403"),
    ("CONNECT LocalHost.:C", "403"),
    ("CONNECT rebound.test:C", "403"),
    ("CONNECT rebound.test.:C", "403"),
    ("CONNECT open.test:C", "403"),
    ("CONNECT 0.0.0.0:C", "403"),
    ("CONNECT 127.0.0.2:C", "403"),
    ("CONNECT [::1]:C", "403"),
    ("CONNECT [::]:C", "403"),
    ("CONNECT [::ffff:127.0.0.1]:C", "403"),
    ("CONNECT [::ffff:7f00:1]:C", "403"),
    ("CONNECT [0:0:0:0:0:ffff:7f00:0001]:C", "403"),
    ("CONNECT [64:ff9b::7f00:1]:C", "403"),
    ("CONNECT 2130706433:C", "400"),
    ("CONNECT 0x7f000001:C", "400"),
    ("CONNECT 0x7f.0.0.1:C", "400"),
    ("CONNECT 0177.0.0.1:C", "400"),
    ("CONNECT 017700000001:C", "400"),
    ("CONNECT 127.1:C", "400"),
    ("CONNECT 127.0.1:C", "400"),
    ("CONNECT 127.0.0.1.:C", "400"),
    ("CONNECT 127.0.0.1:P", "403"),
    ("CONNECT 169.254.169.254:80", "403"),
    // what is no address
    ("CONNECT open.test:O@127.0.0.1:C", "400"),
    ("CONNECT user:word@open.test:O", "400"),
    ("CONNECT open.test", "400"),
    ("CONNECT open.test:", "400"),
    ("CONNECT open.test:0", "400"),
    ("CONNECT open.test:00", "400"),
    ("CONNECT open.test:65536", "400"),
    ("CONNECT open.test:-1", "400"),
    ("CONNECT :C", "400"),
    ("CONNECT /", "400"),
    ("CONNECT *", "400"),
    ("CONNECT http://open.test:O/", "400"),
    ("CONNECT open.test:O/../127.0.0.1:C", "400"),
    ("CONNECT open.test%00.evil.test:O", "400"),
    ("CONNECT below.test:O", "403"),
    ("CONNECT evil-below.test:O", "403"),
    ("CONNECT open.test.evil.test:O", "403"),
    // plain requests
    ("GET http://127.0.0.1:C/", "403"),
    ("GET http://open.test:O@127.0.0.1:C/", "400"),
    ("GET http://127.0.0.1:C@open.test:O/", "400"),
    ("GET http://127.0.0.1:C#@open.test:O/", "403"),
    ("GET http://127.0.0.1:C?@open.test:O/", "403"),
    ("GET http://127.0.0.1:C\\@open.test:O/", "400"),
    ("GET http://open.test:O\\@127.0.0.1:C/", "400"),
    ("GET http:///", "400"),
    ("GET http:127.0.0.1:C/", "400"),
    ("GET //127.0.0.1:C/", "400"),
    ("GET /", "400"),
    ("GET http://127.0.0.1:P/", "400"),
    ("GET http://open.test:0/", "400"),
    ("GET https://open.test:O/", "400"),
    ("GET ftp://open.test:O/", "400"),
    ("GET file:///etc/passwd", "400"),
    ("OPTIONS *", "400"),
    ("GET http://2130706433:C/", "400"),
    ("GET http://[::ffff:127.0.0.1]:C/", "403"),
];

#[test]
fn the_proxy_is_not_led_astray_by_what_a_request_asks_for() {
    let origin = Origin::start();
    let mut forkpy = origin.forkpy().start();
    std::fs::write(forkpy.file("ask.py"), include_str!("ask.py")).expect("written");
    assert_eq!(forkpy.run("from ask import *")["status"], "ok");
    let proxy = forkpy.eval("int(proxy[1])");
    let (open, closed) = (origin.open.to_string(), origin.closed.to_string());
    let mut wrong = String::new();
    for (attack, expected) in ATTACKS {
        let ported = |text: &str| {
            [("C", &closed), ("O", &open), ("P", &proxy)]
                .iter()
                .fold(text.to_owned(), |text, (sign, port)| text.replace(&format!(":{sign}"), &format!(":{port}")))
        };
        let line = ported(attack);
        let raw = format!("{line} HTTP/1.1\r\nHost: open.test:{open}\r\nConnection: close\r\n\r\n");
        let got = forkpy.eval(&format!("first_line({}.encode())", json!(raw)));
        if !got.contains(&format!(" {expected} ")) {
            let _ = writeln!(wrong, "{line}: {got}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(origin.heard("closed"), Vec::<Value>::new());
    assert_eq!(origin.heard("open"), Vec::<Value>::new());
}

#[test]
fn a_request_inside_another_reaches_no_other_host() {
    let origin = Origin::start();
    let mut forkpy = origin.forkpy().start();
    std::fs::write(forkpy.file("ask.py"), include_str!("ask.py")).expect("written");
    assert_eq!(forkpy.run("from ask import *")["status"], "ok");
    let (open, closed) = (origin.open, origin.closed);
    let to = format!("POST http://open.test:{open}/ HTTP/1.1\r\nHost: 127.0.0.1:{closed}\r\n");
    let inner = format!("GET http://127.0.0.1:{closed}/ HTTP/1.1\r\nHost: open.test\r\nConnection: close\r\n\r\n");
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
        "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "Content-Length: +0\r\n\r\n",
        "Content-Length: 0\r\nConnection: content-length, host\r\n\r\n",
        "Content-Length: 0\r\nX: y\r\n z: folded\r\n\r\n",
        "Content-Length: 0\nX: y\n\n",
        "Content-Length: 0\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n",
        "Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
        "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0\r\nHost: 127.0.0.1\r\n\r\n",
    ] {
        let all = forkpy.eval(&format!("whole({}.encode())", json!(format!("{to}{head}{inner}"))));
        assert!(!all.contains("treasure of closed"), "{head:?}: {all}");
        // What follows is a request of its own and refused, or the connection is over.
        let refused = all.contains("is not allowed") || all.contains(" 400 ");
        assert!(refused || all.matches("HTTP/1.1 ").count() <= 1, "{head:?}: {all}");
    }
    let long = format!("{to}X: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = forkpy.eval(&format!("first_line({long:?}.encode())"));
    assert!(answer.contains(" 431 ") || answer == "'closed'", "{answer}");
    assert_eq!(origin.heard("closed"), Vec::<Value>::new());
    for seen in origin.heard("open") {
        let headers = seen["headers"].as_array().expect("a list");
        let named = |name: &str| {
            headers.iter().filter(|pair| pair[0].as_str().is_some_and(|found| found.eq_ignore_ascii_case(name))).count()
        };
        let host = headers.iter().find(|pair| pair[0].as_str().is_some_and(|found| found.eq_ignore_ascii_case("host")));
        assert_eq!(host.map(|pair| pair[1].clone()), Some(json!(format!("open.test:{open}"))), "{seen}");
        assert!(named("host") == 1 && named("upgrade") == 0 && named("proxy-connection") == 0, "{seen}");
        assert!(named("content-length") + named("transfer-encoding") <= 1, "{seen}");
        assert!(seen["line"].as_str().is_some_and(|line| line.starts_with("POST / HTTP")), "{seen}");
    }
}

/// Other processes of this machine, of this user too, get nothing from it.
#[test]
fn the_proxy_serves_sessions_alone() {
    let origin = Origin::start();
    let mut forkpy = origin.forkpy().start();
    let address = forkpy.eval("import os; os.environ['HTTP_PROXY'].removeprefix('http://')");
    let mut stranger = TcpStream::connect(address.trim_matches('\'')).expect("it listens");
    let request = format!("GET http://open.test:{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.open);
    let _ = stranger.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert_eq!(origin.heard("open"), Vec::<Value>::new());
}

/// Whoever lists this machine does not list the server on it.
#[test]
fn a_server_is_not_reached_by_its_own_sessions() {
    let setup = Setup::new().args(&["--sandbox", "workspace", "--allow-net", "localhost,127.0.0.0/8,all"]);
    let server = HttpForkpy::start(setup);
    let code = format!(
        "import urllib.request, urllib.error\ntry:\n    urllib.request.urlopen('http://{}/healthz')\n\
         except urllib.error.HTTPError as error:\n    print(error)",
        server.address.replace("127.0.0.1", "localhost")
    );
    let reply = server.call("run_python_code", json!({"code": code}));
    assert!(
        reply["stdout"].as_str().is_some_and(|words| words.contains("403") && words.contains("this server itself")),
        "{reply}"
    );
}

#[test]
fn a_list_that_means_nothing_is_refused_at_the_start() {
    let refused = |options: &[&str]| {
        let (code, log) = Setup::new().args(options).run_to_end();
        assert!(matches!(code, Some(1 | 2)), "{options:?}: {code:?} {log}");
        log
    };
    for (list, expected) in [
        ("https://pypi.org", "write the host alone"),
        ("pypi.org:http", "is no port"),
        ("pypi.org:0", "is no port"),
        ("pypi.org:70000", "is no port"),
        ("127.1", "write an address in full"),
        ("*", "is written \"all\""),
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("pypi.org,,", "is no host name"),
        ("none,pypi.org", "\"none\" stands alone"),
    ] {
        let log = refused(&["--sandbox", "workspace", "--allow-net", list]);
        assert!(log.contains(expected) && log.contains("--allow-net"), "{list}: {log}");
    }
    let log = refused(&["--allow-net", "pypi.org"]);
    assert!(log.contains("--allow-net is for confined sessions"), "{log}");
    // That one keeps them, and has no proxy.
    let mut forkpy = Setup::new().args(&["--sandbox", "workspace", "--allow-net", "none"]).start();
    assert_eq!(forkpy.call("get_workspace_info", json!({})).data["sandbox"]["network"], "none");
    assert_eq!(forkpy.eval("import os; str(os.environ.get('HTTP_PROXY'))"), "'None'");
}

//! Ways out of the sandbox (`attempts/`): each gets out where there is none, and none where there is one. As root and as an
//! ordinary user; the list runs once a server.

use std::{
    collections::BTreeMap,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    path::Path,
};

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, who::Who};

/// What another session has done before.
const VICTIM: &str = "\
import os, tempfile
scratch = tempfile.mkdtemp()
with open(os.path.join(scratch, 'own'), 'w') as file: file.write('treasure') and None
print(scratch)
os.getpid()";

/// The attempts, by subject.
const ATTEMPTS: [(&str, &str); 8] = [
    ("__init__.py", include_str!("attempts/__init__.py")),
    ("base.py", include_str!("attempts/base.py")),
    ("files.py", include_str!("attempts/files.py")),
    ("marks.py", include_str!("attempts/marks.py")),
    ("network.py", include_str!("attempts/network.py")),
    ("others.py", include_str!("attempts/others.py")),
    ("roots.py", include_str!("attempts/roots.py")),
    ("shared.py", include_str!("attempts/shared.py")),
];

/// The world outside of a session, with what is there to be reached.
struct World {
    facts: Value,
    _open: (TcpListener, Option<TcpListener>, UdpSocket, UnixListener, UnixListener, UnixDatagram),
}

impl World {
    /// Around a server that runs.
    fn around(forkpy: &mut Forkpy, who: Who) -> Self {
        let home = forkpy.workspace.parent().expect("a directory above").to_owned();
        let outside = home.join("outside");
        std::fs::create_dir_all(outside.join("empty")).expect("made");
        for (name, text) in [
            ("secret", "treasure"),
            ("to-fetch", "treasure"),
            ("victim", ""),
            ("full", "x"),
            ("to-remove", ""),
            ("marked", ""),
            ("marked", ""),
        ] {
            std::fs::write(outside.join(name), text).expect("written");
        }
        let (service, datagrams) = (outside.join("service"), outside.join("datagrams"));
        let abstract_name = format!("forkpy-test-{}", home.display());
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        let open = (
            TcpListener::bind("127.0.0.1:0").expect("a port"),
            TcpListener::bind("[::1]:0").ok(),
            UdpSocket::bind("127.0.0.1:0").expect("a port"),
            UnixListener::bind(&service).expect("a socket"),
            UnixListener::bind_addr(&address).expect("a socket"),
            UnixDatagram::bind(&datagrams).expect("a socket"),
        );
        for socket in [&service, &datagrams] {
            std::fs::set_permissions(socket, PermissionsExt::from_mode(0o777)).expect("ours");
        }
        who.own(&outside);
        forkpy.call("create_session", json!({"session_id": "victim"}));
        let victim = forkpy.call("run_python_code", json!({"session_id": "victim", "code": VICTIM}));
        let scratch = victim.data["stdout"].as_str().expect("a path").trim().to_owned();
        let facts = json!({
            "outside": outside, "home": home, "service": service, "datagrams": datagrams, "abstract": abstract_name,
            "tcp": open.0.local_addr().expect("bound").port(),
            "tcp6": open.1.as_ref().map_or(0, |listener| listener.local_addr().expect("bound").port()),
            "udp": open.2.local_addr().expect("bound").port(),
            "scratch": scratch, "server": forkpy.server_pid(), "zygote": forkpy.zygote_pid(),
            "victim": victim.data["results"][0].as_str().and_then(|text| text.parse::<i32>().ok()).expect("a pid"),
        });
        Self { facts, _open: open }
    }
}

/// Where a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Usual,
    WithoutNamespaces,
    AnotherRoot,
}

impl Place {
    fn of(self, setup: Setup) -> Setup {
        match self {
            Self::Usual => setup,
            Self::WithoutNamespaces => setup.without_namespaces(),
            Self::AnotherRoot => setup.in_another_root().expect("looked at before"),
        }
    }
}

/// What came of each attempt, and what it needs.
fn tried(
    (mode, network): (&str, &str),
    session: Value,
    (who, place): (Who, Place),
) -> BTreeMap<String, (String, Vec<String>)> {
    let options = ["--sandbox", mode, "--allow-net", network, "--checkpoints", "off", "--max-spares", "0"];
    let mut forkpy = place.of(Setup::new().args(&options).run_by(who)).start();
    forkpy.run("1");
    let world = World::around(&mut forkpy, who);
    std::fs::create_dir(forkpy.file("attempts")).expect("made");
    for (name, text) in ATTEMPTS {
        std::fs::write(forkpy.file("attempts").join(name), text).expect("written");
    }
    let id = session["session_id"].as_str().unwrap_or("default").to_owned();
    if id != "default" {
        assert!(!forkpy.call("create_session", session).is_error);
    }
    let code = format!(
        "import attempts\nfound = attempts.run({:?})\nopen('found.json', 'w').write(found)",
        world.facts.to_string()
    );
    let mut reply = forkpy.call("run_python_code", json!({"session_id": id, "code": code, "timeout": 100}));
    // A busy machine takes longer than a client waits.
    while reply.data["status"] == "running" {
        let cell = reply.data["cell"].clone();
        reply = forkpy.call("wait_for_cell", json!({"session_id": id, "cell": cell}));
    }
    let text = std::fs::read_to_string(forkpy.file("found.json")).unwrap_or_default();
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
    let found = found.as_object().expect("an object");
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    found
        .iter()
        .map(|(name, what)| {
            let marks = what["marks"].as_array().expect("a list").iter().map(words).collect();
            (name.clone(), (words(&what["words"]), marks))
        })
        .collect()
}

fn nothing_gets_out(who: Who, least: usize) {
    let open = tried(("off", "none"), json!({}), (who, Place::Usual));
    let mut proven = 0;
    let mut unproven = Vec::new();
    for (name, (words, marks)) in &open {
        let is_bound = marks.iter().any(|mark| mark == "maybe" || (mark == "root" && who.is_ordinary()));
        proven += usize::from(words == "out");
        if words != "out" && !is_bound {
            unproven.push(format!("{name}: {words}"));
        }
    }
    assert!(unproven.is_empty(), "with --sandbox off these should get out ({who:?}): {unproven:#?}");
    assert!(proven >= least, "{proven} attempts get out with --sandbox off ({who:?})");
    let narrower = json!({"session_id": "narrower", "sandbox": "strict"});
    for (mode, network, session) in [
        ("workspace", "none", json!({})),
        // The proxy is there, and what it reaches is not this machine.
        ("workspace", "all", json!({})),
        ("strict", "all", json!({})),
        ("off", "all", narrower),
    ] {
        assert_eq!(all_kept((mode, network), session, (who, Place::Usual)), open.len());
    }
}

/// Tries all, of which none may get out. How many there are.
fn all_kept(options: (&str, &str), session: Value, place: (Who, Place)) -> usize {
    let tried = tried(options, session, place);
    let out: Vec<_> = tried.iter().filter(|(_, (words, _))| !words.starts_with("kept: ")).collect();
    assert!(out.is_empty(), "with {options:?} these get out ({place:?}): {out:#?}");
    let died: Vec<_> = tried.iter().filter(|(_, (words, _))| words.contains("its process ended")).collect();
    assert!(died.is_empty(), "a refusal is an error and no death: {died:#?}");
    tried.len()
}

fn nothing_gets_out_of(place: Place) {
    for who in Who::every() {
        assert!(all_kept(("workspace", "none"), json!({}), (who, place)) >= 100, "the whole list");
    }
    assert!(all_kept(("strict", "all"), json!({}), (Who::Tester, place)) >= 100, "the whole list");
}

/// Neither layer that needs a namespace counts: those are beside the two that do without.
#[test]
fn nothing_gets_out_where_namespaces_are_forbidden() {
    nothing_gets_out_of(Place::WithoutNamespaces);
}

/// A system makes no user namespace for a process with a root of its own.
#[test]
fn nothing_gets_out_in_another_root_directory() {
    if Setup::new().in_another_root().is_some() {
        nothing_gets_out_of(Place::AnotherRoot);
    }
}

#[test]
fn nothing_gets_out_as_root_or_whoever_runs_the_tests() {
    let is_root = nix::unistd::geteuid().is_root();
    nothing_gets_out(Who::Tester, if is_root { 75 } else { 60 });
}

#[test]
fn nothing_gets_out_as_an_ordinary_user() {
    if Who::every().contains(&Who::Ordinary) {
        nothing_gets_out(Who::Ordinary, 60);
    }
}

/// What sessions leave outside is nothing.
#[test]
fn what_is_outside_is_as_it_was() {
    let mut forkpy = Setup::new().args(&["--sandbox", "workspace"]).start();
    let outside = forkpy.workspace.parent().expect("a directory above").join("outside");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("secret"), "treasure").expect("written");
    let look = |path: &Path| std::fs::read_dir(path).expect("there").count();
    forkpy.run(
        "import os, shutil\ntry:\n    shutil.rmtree('../outside')\nexcept OSError: pass\nos.path.exists('../outside')",
    );
    assert_eq!(
        (look(&outside), std::fs::read_to_string(outside.join("secret")).ok().as_deref()),
        (1, Some("treasure"))
    );
}

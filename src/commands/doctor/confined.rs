//! `--sandbox workspace` on this machine, for real: a server, a session, and what it tries.
//!
//! Runs in: a process of its own. Owns the attempts; those of the tests are many more.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpListener,
    thread,
};

use super::finding::Finding;
use crate::{bench::client::Client, settings::options::ServeOptions};

/// What each layer keeps, tried from inside of a session; an attempt that succeeds is named.
const CONFINED: &str = "\
import os, socket, subprocess, sys, urllib.request
def passes(what):
    try:
        what()
        return True
    except (OSError, subprocess.SubprocessError):
        return False
server = int(open(f'/proc/{os.getppid()}/stat').read().rsplit(')', 1)[1].split()[1])
kept = {
    'files': lambda: open(PROBE).close(),
    'signals': lambda: os.kill(server, 0),
    'other processes': lambda: open(f'/proc/{server}/environ').close(),
    'network': lambda: socket.create_connection(('127.0.0.1', PORT), 5).close(),
}
work = {'the workspace': lambda: open('probe', 'w').close(), 'programs': lambda: subprocess.run([sys.executable, '-c', ''], check=True), 'the proxy of --allow-net': lambda: urllib.request.urlopen('http://127.0.0.1:PORT/', timeout=20).read()}
out = [name for name, what in kept.items() if passes(what)]
lost = [name for name, what in work.items() if not passes(what)]
'open: ' + ', '.join(out) if out else 'broken: ' + ', '.join(lost) if lost else 'kept'";

/// A server of this machine that answers requests until this process ends. Its port.
fn answer_requests() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
        }
    });
    Ok(port)
}

/// `--sandbox workspace`, for real: a server, a session, and what it tries.
pub(super) fn sandbox(options: &ServeOptions) -> Finding {
    let tried = tempfile::tempdir().map_err(|error| error.to_string()).and_then(|place| {
        let probe = place.path().join("outside");
        fs::write(&probe, "").map_err(|error| error.to_string())?;
        let port = answer_requests().map_err(|error| error.to_string())?;
        let allowed = format!("127.0.0.1:{port}");
        let mut args = options.for_same_python();
        args.extend(["--sandbox", "workspace", "--sandbox-best-effort", "--allow-net", &allowed].map(str::to_owned));
        let mut client = Client::forkpy(&place.path().join("w"), &args).map_err(|error| error.to_string())?;
        let code = CONFINED.replace("PROBE", &format!("{probe:?}")).replace("PORT", &port.to_string());
        client.run(&code, "default").map_err(|error| error.to_string())?;
        let reply = client.reply();
        let found = reply["results"][0].as_str().map(|found| found.trim_matches('\'').to_owned());
        found.ok_or_else(|| reply["stderr"].as_str().unwrap_or("no answer").trim().to_owned())
    });
    match tried {
        Ok(found) if found == "kept" => Finding::ok("sandbox", "--sandbox workspace keeps what it promises"),
        Ok(found) | Err(found) => Finding::warning(
            "sandbox",
            found,
            "--sandbox needs Linux 6.12 with Landlock (lsm=landlock,...) and seccomp; without it, a container or a virtual machine",
        ),
    }
}

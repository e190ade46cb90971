//! The whole way, once: a server of this very binary, and what its sessions can do.
//!
//! Runs in: a process of its own. The server has a workspace of its own, which is removed.

use std::time::Instant;

use serde_json::{Value, json};

use super::finding::Finding;
use crate::{bench::client::Client, progress::Progress, settings::options::ServeOptions};

/// Imports what of the standard library is compiled.
const TRIAL: &str = "\
import importlib.util, math, _struct, select, zlib, hashlib, sqlite3, ssl, ctypes, sys
'imports work (standard library)'";

/// Imports each top-level module of the environment that has compiled parts: these are what fits one interpreter and not
/// another. Each in a process of its own, so that one that crashes costs nothing else.
const IMPORTS: &str = "\
import importlib.metadata, os, signal
found, failed = [], []
for dist in importlib.metadata.distributions():
    parts = {str(file).split('/')[0].split('.')[0] for file in dist.files or () if str(file).endswith('.so')}
    parts |= {name for name in (dist.read_text('top_level.txt') or '').split() if parts}
    names = [name for name in parts if name.isidentifier() and importlib.util.find_spec(name)]
    found += [name for name in sorted(names) if name not in found and not name.startswith('_')]
del dist
shown = found[:40]
for name in shown:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        words = b''
        try:
            signal.alarm(30)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1); os.dup2(1, 2)
            __import__(name)
        except BaseException as error:
            words = f'{type(error).__name__}: {error}'.split(chr(10))[0][:200].encode()
        os.write(write, words)
        os._exit(bool(words))
    os.close(write)
    words = os.read(read, 400).decode(errors='replace')
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    if status:
        failed.append(f'{name} ({words or \"signal \" + str(status & 127)})')
print(len(shown), '; '.join(failed), sep=chr(10))";

const PLOT: &str = "\
import importlib.util
if importlib.util.find_spec('matplotlib'):
    import matplotlib.pyplot as plt
    plt.plot([1, 3, 2]); plt.show()
else:
    print('none')";

/// Asks the index that pip asks, as pip would find it; credentials in its address are not told.
const INDEX: &str = "\
import base64, os, ssl, subprocess, sys, urllib.parse, urllib.request
done = subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', 'config', 'list'], capture_output=True, text=True)
known = dict(line.partition('=')[::2] for line in done.stdout.splitlines())
def configured(name):
    for section in ('install.', 'global.'):
        if section + name in known:
            return known[section + name].strip(chr(39)) or None
url = (os.environ.get('UV_DEFAULT_INDEX') or os.environ.get('UV_INDEX_URL') or os.environ.get('PIP_INDEX_URL')
       or configured('index-url') or 'https://pypi.org/simple')
parts = urllib.parse.urlsplit(url)
plain = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')
request = urllib.request.Request(plain + '/pip/', headers={'Accept': 'text/html', 'User-Agent': 'forkpy doctor'})
if parts.username:
    pair = urllib.parse.unquote(parts.username) + ':' + urllib.parse.unquote(parts.password or '')
    request.add_header('Authorization', 'Basic ' + base64.b64encode(pair.encode()).decode())
bundle = os.environ.get('PIP_CERT') or os.environ.get('REQUESTS_CA_BUNDLE') or configured('cert')
try:
    context = ssl.create_default_context(cafile=bundle) if bundle else None
    urllib.request.urlopen(request, timeout=10, context=context).close()
    print(plain, 'answers')
except Exception as error:
    print(plain, 'does not answer:', getattr(error, 'reason', None) or error, file=sys.stderr)";

/// A server, as long as it answers.
struct Trial {
    client: Client,
    _workspace: tempfile::TempDir,
}

/// All that needs a session.
pub(super) fn examine(options: &ServeOptions, shown: &Progress, tell: &mut dyn FnMut(Finding)) {
    let began = Instant::now();
    shown.say("starting a session; the first start makes an environment");
    let started = Trial::start(options).and_then(|mut trial| {
        let words = trial.value(TRIAL)?;
        Ok((trial, words))
    });
    let mut trial = match started {
        Ok((trial, words)) => {
            let took = began.elapsed().as_millis();
            let seen = format!("runs code {took} ms after the server's start; {}", words.trim_matches('\''));
            tell(Finding::ok("session", seen));
            trial
        }
        Err(words) => {
            let remedy =
                "start `forkpy --log debug` and see what it says; if it is an import, another --venv or none may do";
            return tell(Finding::failed("session", words, remedy));
        }
    };
    for (words, check) in [
        ("importing the environment's packages", imports as fn(&mut Trial) -> Finding),
        ("drawing a plot", plot),
        ("going back to a checkpoint", checkpoint),
        ("asking the index of packages", index),
    ] {
        shown.say(words);
        tell(check(&mut trial));
    }
    shown.say("ending the session");
}

impl Trial {
    fn start(options: &ServeOptions) -> Result<Self, String> {
        let workspace = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let mut args = options.for_same_python();
        if let Some(place) = &options.env_dir {
            args.extend(["--env-dir".to_owned(), place.to_string_lossy().into_owned()]);
        }
        let client = Client::forkpy(&workspace.path().join("w"), &args).map_err(|error| error.to_string())?;
        Ok(Self { client, _workspace: workspace })
    }

    /// The reply to a cell that ended well.
    fn run(&mut self, code: &str) -> Result<Value, String> {
        self.client.run(code, "default").map_err(|error| error.to_string())?;
        let reply = self.client.reply();
        if reply["status"] == "ok" {
            return Ok(reply);
        }
        let stderr = reply["stderr"].as_str().unwrap_or_default().trim();
        Err(match stderr.lines().last() {
            Some(line) => line.to_owned(),
            None => reply.to_string(),
        })
    }

    fn value(&mut self, code: &str) -> Result<String, String> {
        let reply = self.run(code)?;
        reply["results"][0].as_str().map(str::to_owned).ok_or_else(|| reply.to_string())
    }

    fn printed(&mut self, code: &str) -> Result<(String, String), String> {
        let reply = self.run(code)?;
        let text = |key: &str| reply[key].as_str().unwrap_or_default().trim().to_owned();
        Ok((text("stdout"), text("stderr")))
    }
}

fn imports(trial: &mut Trial) -> Finding {
    let remedy =
        "install them anew for this Python (install_dependencies with --force-reinstall), or start with another --venv";
    match trial.printed(IMPORTS) {
        Ok((seen, _)) => {
            let (count, failed) = seen.split_once('\n').unwrap_or((&seen, ""));
            match (count, failed) {
                ("0", _) => Finding::ok("imports", "the environment has no compiled packages"),
                (_, "") => Finding::ok("imports", format!("{count} packages with compiled parts can be imported")),
                _ => Finding::warning(
                    "imports",
                    format!("of {count} packages these cannot be imported: {failed}"),
                    remedy,
                ),
            }
        }
        Err(words) => Finding::warning("imports", words, remedy),
    }
}

fn plot(trial: &mut Trial) -> Finding {
    let remedy = "install matplotlib anew: install_dependencies([\"--force-reinstall\", \"matplotlib\"])";
    match trial.run(PLOT) {
        Ok(reply) if reply["stdout"].as_str().is_some_and(|text| text.trim() == "none") => {
            Finding::ok("plot", "matplotlib is not there; install_dependencies([\"matplotlib\"]) brings it")
        }
        Ok(reply) if reply["outputs"].to_string().contains(".png") => {
            Finding::ok("plot", "matplotlib draws, and the reply has the picture")
        }
        Ok(reply) => Finding::warning("plot", format!("no picture came: {reply}"), remedy),
        Err(words) => Finding::warning("plot", words, remedy),
    }
}

fn checkpoint(trial: &mut Trial) -> Finding {
    let remedy = "sessions run without; `get_kernel_health` says why under checkpoints";
    let mut back = || {
        trial.run("forkpy_doctor = 41")?;
        let name = json!({ "name": "doctor", "session_id": "default" });
        trial.client.call("checkpoint_session", &name).map_err(|error| error.to_string())?;
        trial.run("forkpy_doctor = 0")?;
        trial.client.call("restore_checkpoint", &name).map_err(|error| error.to_string())?;
        trial.value("forkpy_doctor + 1")
    };
    match back() {
        Ok(value) if value == "42" => Finding::ok("checkpoint", "a session is frozen, changed, and taken back"),
        Ok(value) => Finding::warning("checkpoint", format!("a session came back with {value}"), remedy),
        Err(words) => Finding::warning("checkpoint", words, remedy),
    }
}

fn index(trial: &mut Trial) -> Finding {
    let remedy =
        "packages cannot be installed: check the network, PIP_INDEX_URL or UV_DEFAULT_INDEX, HTTPS_PROXY and PIP_CERT";
    match trial.printed(INDEX) {
        Ok((answers, _)) if !answers.is_empty() => Finding::ok("index", answers),
        Ok((_, words)) | Err(words) => Finding::warning("index", words, remedy),
    }
}

//! What sessions import that takes long: seen in this run and in earlier ones, and what of it is worth having in the zygote.
//!
//! Runs in: server. Owns the file beside the environments, which several servers may share: each adds what it has seen.
//! Imports nothing and starts nothing; `watch/generations.rs` acts on it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{protocol::Imported, sys::private};

const FORMAT: u32 = 1;
/// An import that is waited for less is not worth it, seconds.
const LEAST: f64 = 0.05;
/// Most modules that are warmed.
const MOST: usize = 16;
/// Most that are remembered.
const MOST_KNOWN: usize = 500;
const LONGEST_NAME: usize = 200;
const DAY: u64 = 24 * 60 * 60;
/// What no session has imported for so long is not wanted any more.
const FORGOTTEN: u64 = 30 * DAY;
/// A module that could not be warmed is tried again after this: it may be another version by then.
const TRIED_AGAIN: u64 = 7 * DAY;
/// Sessions in this run that have imported a module, from which on the next ones shall not wait for it.
const SEEN_HERE: u32 = 2;
/// Their code sets variables before it imports them, and they look at these then: they are the session's to import.
const LOOK_AROUND: [&str; 8] =
    ["keras", "tensorflow", "jax", "torch_xla", "transformers", "huggingface_hub", "datasets", "diffusers"];

/// Whether it is done, and else why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auto {
    On,
    /// By `--preload none` or a list of modules.
    NotAsked,
    /// What a confined session has installed is not run outside of its sandbox.
    Confined,
}

#[derive(Debug, Clone)]
pub(crate) struct Imports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    auto: Auto,
    state: Mutex<State>,
    /// Told when something new is worth a look.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    file: Option<PathBuf>,
    known: BTreeMap<String, Known>,
    /// Since the file was written last.
    unsaved: BTreeMap<String, Known>,
    /// How many sessions of this run have imported it.
    here: BTreeMap<String, u32>,
    /// What was known when this run began.
    before: Vec<String>,
    /// What new sessions have.
    added: Vec<String>,
    left_out: Vec<(String, String)>,
}

/// What is known of one module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    /// How long its import took.
    seconds: f64,
    /// How many sessions have imported it.
    sessions: u64,
    /// How many of them had set variables of the environment before.
    #[serde(default)]
    altered: u64,
    /// When, in seconds since 1970.
    last: u64,
    /// Why it could not be warmed, and when that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<(String, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Book {
    format: u32,
    modules: BTreeMap<String, Known>,
}

impl Known {
    fn add(&mut self, more: &Self) {
        self.seconds = match (self.sessions, more.sessions) {
            (_, 0) => self.seconds,
            (0, _) => more.seconds,
            _ => f64::midpoint(self.seconds, more.seconds),
        };
        self.sessions += more.sessions;
        self.altered += more.altered;
        self.last = self.last.max(more.last);
        if more.left_out.is_some() {
            self.left_out.clone_from(&more.left_out);
        }
    }

    /// How much waiting it is worth; nothing where it is not wanted in the zygote.
    fn worth(&self, now: u64) -> Option<f64> {
        let refused = self.left_out.as_ref().is_some_and(|(_, when)| now.saturating_sub(*when) < TRIED_AGAIN);
        let wanted = self.seconds >= LEAST
            && now.saturating_sub(self.last) < FORGOTTEN
            && self.altered * 4 <= self.sessions
            && !refused;
        #[expect(clippy::cast_precision_loss, reason = "a number of sessions")]
        wanted.then_some(self.seconds * self.sessions as f64)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_secs())
}

/// A name that may stand behind `import`, and that is not left to sessions.
fn may_be_warmed(module: &str) -> bool {
    let is_word = |part: &str| {
        let mut letters = part.chars();
        letters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    let top = module.split('.').next().unwrap_or_default();
    module.len() <= LONGEST_NAME && module.split('.').all(is_word) && !LOOK_AROUND.contains(&top)
}

impl Imports {
    #[must_use]
    pub(crate) fn new(auto: Auto) -> Self {
        Self(Arc::new(Inner { auto, state: Mutex::default(), changed: Notify::new() }))
    }

    #[must_use]
    pub(crate) fn auto(&self) -> Auto {
        self.0.auto
    }

    /// Reads what earlier runs have seen in the environment of this interpreter. The file is in the first of these directories
    /// that can be used.
    pub(crate) fn open(&self, directories: &[PathBuf], python: &Path) {
        if self.0.auto != Auto::On {
            return;
        }
        let usable = |directory: &&PathBuf| private::check(directory).is_ok();
        // Where there is none yet, the first that can be made, when there is something to write.
        let directory = directories.iter().find(usable).or_else(|| directories.first());
        let Some(directory) = directory else { return };
        let file = directory.join(format!("imports-{:016x}.json", hash(python.as_os_str().as_encoded_bytes())));
        let mut state = self.0.state.lock();
        state.known = if private::check(directory).is_ok() { read(&file) } else { BTreeMap::new() };
        state.before = state.known.keys().cloned().collect();
        state.file = Some(file);
        if !state.known.is_empty() {
            self.0.changed.notify_one();
        }
    }

    /// A session's cell has imported these.
    pub(crate) fn note(&self, imported: Vec<Imported>) {
        if self.0.auto != Auto::On {
            return;
        }
        let mut state = self.0.state.lock();
        for Imported { module, seconds, plain } in imported {
            if !may_be_warmed(&module) || !seconds.is_finite() {
                continue;
            }
            let seen = Known { seconds, sessions: 1, altered: u64::from(!plain), last: now(), left_out: None };
            *state.here.entry(module.clone()).or_default() += 1;
            state.known.entry(module.clone()).or_default().add(&seen);
            state.unsaved.entry(module).or_default().add(&seen);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// What was warmed is so no longer.
    pub(crate) fn look_again(&self) {
        self.0.changed.notify_one();
    }

    /// Waits until there may be something new. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Modules that sessions shall find warm, the most important first: known from earlier runs, or to several sessions of this.
    #[must_use]
    pub(crate) fn wanted(&self) -> Vec<String> {
        let (state, now) = (self.0.state.lock(), now());
        let is_wanted = |module: &String| {
            state.before.contains(module) || state.here.get(module).is_some_and(|count| *count >= SEEN_HERE)
        };
        let worth = |(module, known): (&String, &Known)| Some((known.worth(now)?, module.clone()));
        let known = state.known.iter().filter(|(module, _)| is_wanted(module) && may_be_warmed(module));
        let mut wanted: Vec<(f64, String)> = known.filter_map(worth).collect();
        wanted.sort_by(|one, other| other.0.total_cmp(&one.0));
        wanted.into_iter().take(MOST).map(|(_, module)| module).collect()
    }

    /// These could not be warmed: they are not tried again soon.
    pub(crate) fn leave_out(&self, modules: &[(String, String)]) {
        let mut state = self.0.state.lock();
        for (module, why) in modules {
            let refused = Known { left_out: Some((why.clone(), now())), ..Known::default() };
            let known = state.known.entry(module.clone()).or_default();
            known.left_out.clone_from(&refused.left_out);
            let unsaved = state.unsaved.entry(module.clone()).or_default();
            unsaved.left_out.clone_from(&refused.left_out);
            state.left_out.retain(|(earlier, _)| earlier != module);
            state.left_out.push((module.clone(), why.clone()));
        }
    }

    /// New sessions have these from now on.
    pub(crate) fn add(&self, modules: Vec<String>) {
        self.0.state.lock().added = modules;
    }

    /// What new sessions have, as far as the zygote has it still.
    #[must_use]
    pub(crate) fn added(&self, zygote: &[String]) -> Vec<String> {
        self.0.state.lock().added.iter().filter(|module| zygote.contains(module)).cloned().collect()
    }

    /// What could not be warmed in this run, with reasons.
    #[must_use]
    pub(crate) fn left_out(&self) -> Vec<(String, String)> {
        self.0.state.lock().left_out.clone()
    }

    /// Seconds that each of these modules has taken.
    #[must_use]
    pub(crate) fn seconds(&self, module: &str) -> Option<f64> {
        self.0.state.lock().known.get(module).map(|known| known.seconds)
    }

    /// Whether there is something to write down.
    #[must_use]
    pub(crate) fn has_unsaved(&self) -> bool {
        !self.0.state.lock().unsaved.is_empty()
    }

    /// Adds what was seen to the file; on a thread that may block.
    pub(crate) fn save(&self) {
        let (file, unsaved) = {
            let mut state = self.0.state.lock();
            let Some(file) = state.file.clone() else { return };
            (file, std::mem::take(&mut state.unsaved))
        };
        if unsaved.is_empty() {
            return;
        }
        if let Err(error) = add_to(&file, &unsaved) {
            tracing::debug!("what sessions import is not remembered: {}: {error}", file.display());
        }
    }
}

fn read(file: &Path) -> BTreeMap<String, Known> {
    let read = fs::read(file).ok().and_then(|text| serde_json::from_slice::<Book>(&text).ok());
    read.filter(|book| book.format == FORMAT).map(|book| book.modules).unwrap_or_default()
}

fn add_to(file: &Path, seen: &BTreeMap<String, Known>) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    private::make(directory).map_err(io::Error::other)?;
    let mut modules = read(file);
    for (module, more) in seen {
        modules.entry(module.clone()).or_default().add(more);
    }
    while modules.len() > MOST_KNOWN {
        let Some(oldest) = modules.iter().min_by_key(|(_, known)| known.last).map(|(module, _)| module.clone()) else {
            break;
        };
        modules.remove(&oldest);
    }
    let text = serde_json::to_vec_pretty(&Book { format: FORMAT, modules })?;
    let mut draft = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut draft, &text)?;
    draft.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// FNV-1a: the same in every build, which `std`'s hashers do not promise.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(module: &str, seconds: f64) -> Vec<Imported> {
        vec![Imported { module: module.to_owned(), seconds, plain: true }]
    }

    fn open(place: &Path) -> Imports {
        let imports = Imports::new(Auto::On);
        imports.open(&[place.join("envs")], Path::new("/venv/bin/python"));
        imports
    }

    #[test]
    fn what_a_run_has_seen_the_next_one_wants() {
        let place = tempfile::tempdir().expect("a folder");
        let first = open(place.path());
        first.note(imported("pandas", 0.4));
        first.note(imported("quick", 0.02));
        first.note(imported("numpy", 0.1));
        assert!(first.wanted().is_empty(), "one session alone");
        first.note(imported("numpy", 0.1));
        assert_eq!(first.wanted(), ["numpy"]);
        first.save();
        let second = open(place.path());
        assert_eq!(second.wanted(), ["pandas", "numpy"]);
        second.leave_out(&[("pandas".to_owned(), "threads".to_owned())]);
        assert_eq!((second.wanted(), second.left_out().len()), (vec!["numpy".to_owned()], 1));
        second.save();
        assert_eq!(open(place.path()).wanted(), ["numpy"]);
        // Another environment knows nothing of it.
        let other = Imports::new(Auto::On);
        other.open(&[place.path().join("envs")], Path::new("/other/bin/python"));
        assert!(other.wanted().is_empty());
    }

    #[test]
    fn servers_side_by_side_add_to_one_file() {
        let place = tempfile::tempdir().expect("a folder");
        let (one, two) = (open(place.path()), open(place.path()));
        one.note(imported("a", 0.2));
        two.note(imported("b", 0.3));
        one.save();
        two.save();
        assert_eq!(open(place.path()).wanted(), ["b", "a"]);
    }

    #[test]
    fn what_code_prepares_for_by_variables_is_left_to_it() {
        let place = tempfile::tempdir().expect("a folder");
        let first = open(place.path());
        let altered = |module: &str| vec![Imported { module: module.to_owned(), seconds: 1.0, plain: false }];
        first.note(altered("numpy"));
        first.note(imported("keras", 2.0));
        first.note(imported("keras.layers", 2.0));
        first.note(imported("os; evil()", 2.0));
        first.save();
        assert!(open(place.path()).wanted().is_empty());
    }

    #[test]
    fn a_damaged_file_and_a_place_that_is_none_are_as_none() {
        let place = tempfile::tempdir().expect("a folder");
        let imports = open(place.path());
        imports.note(imported("a", 1.0));
        imports.save();
        let file = fs::read_dir(place.path().join("envs")).expect("made").next().expect("a file").expect("read");
        fs::write(file.path(), "{").expect("written");
        assert!(open(place.path()).wanted().is_empty());
        let nowhere = Imports::new(Auto::On);
        nowhere.open(&[PathBuf::from("/proc/no/envs")], Path::new("/python"));
        nowhere.note(imported("a", 1.0));
        nowhere.save();
        let off = Imports::new(Auto::NotAsked);
        off.open(&[place.path().join("envs")], Path::new("/venv/bin/python"));
        off.note(imported("a", 1.0));
        assert!(off.wanted().is_empty());
    }
}

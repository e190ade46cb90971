//! What a client wants installed, item by item, and what of it is refused.
//!
//! Runs in: server, on its blocking threads. Decides what *kind* of thing an item is, not whether it is well formed: that is
//! the installer's, whose words the client gets. A second reading of version specifiers and markers here could only
//! disagree with it.
//!
//! Without `--allow-install-options` everything goes to the configured index or to a wheel in the workspace: no option, no
//! URL, no source tree, whose build would run its code now, gets through.

use std::{borrow::Cow, path::Path};

use crate::server::{
    environment::error::PackageError,
    workspace::{handle::Files, uri},
};

/// Most items in a call, and in all files it names.
const MAX_ITEMS: usize = 2000;
const MAX_ITEM: usize = 4000;
const MAX_FILE: u64 = 1 << 20;
/// Files that name files.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Requirements and wheels, for the command line.
    pub items: Vec<String>,
    /// Lines of requirements from files of the workspace.
    pub lines: Vec<String>,
    pub constraints: Vec<String>,
    pub flags: Vec<Flag>,
    /// Other options, when they are allowed.
    pub options: Vec<String>,
    /// Names of packages that were asked for, in their normal form.
    pub names: Vec<String>,
}

/// An option that only changes which version is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    /// Newer ones than those that are there.
    Upgrade,
    Pre,
    /// Without what they need.
    NoDependencies,
    /// Again, though it is there.
    Reinstall,
}

/// Reads items.
pub(crate) struct Reader<'a> {
    pub files: &'a Files,
    pub free: bool,
    pub wanted: Wanted,
}

/// Where an item stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    Call,
    Requirements { file: &'a str, line: usize, depth: usize },
    Constraints { file: &'a str, line: usize, depth: usize },
}

impl Flag {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "-U" | "--upgrade" => Self::Upgrade,
            "--pre" => Self::Pre,
            "--no-deps" => Self::NoDependencies,
            "--force-reinstall" => Self::Reinstall,
            _ => return None,
        })
    }
}

impl Reader<'_> {
    /// Reads the items of a call.
    ///
    /// # Errors
    /// [`PackageError`], which names the item.
    pub(crate) fn read(mut self, items: &[String]) -> Result<Wanted, PackageError> {
        let mut items = items.iter();
        while let Some(item) = items.next() {
            let item = item.trim();
            // As on a command line: the option, then its file.
            if matches!(item, "-r" | "--requirement" | "-c" | "--constraint") {
                let file = items.next().ok_or_else(|| refuse(Place::Call, item, "it is not followed by a file"))?;
                self.item(&format!("{item} {file}"), Place::Call)?;
            } else {
                let below = self.below(item);
                // A source tree by its path must not become the name of a package.
                self.item(if kind(&below).is_wheel() { &below } else { item }, Place::Call)?;
            }
        }
        let Wanted { items, lines, .. } = &self.wanted;
        if items.is_empty() && lines.is_empty() && self.wanted.options.is_empty() {
            return Err(PackageError::Nothing);
        }
        Ok(self.wanted)
    }

    /// A path of the call, relative to the workspace if it lies there.
    fn below<'a>(&self, path: &'a str) -> Cow<'a, str> {
        uri::inside(self.files.root(), path).unwrap_or(Cow::Borrowed(path))
    }

    fn item(&mut self, item: &str, place: Place<'_>) -> Result<(), PackageError> {
        let Wanted { items, lines, constraints, .. } = &self.wanted;
        if items.len() + lines.len() + constraints.len() >= MAX_ITEMS {
            return Err(PackageError::TooMany(MAX_ITEMS));
        }
        if item.is_empty() {
            return Err(refuse(place, item, "it is empty"));
        }
        if item.len() > MAX_ITEM || item.chars().any(char::is_control) {
            return Err(refuse(place, item, "it is too long, or holds control characters"));
        }
        if item.starts_with('-') {
            return self.option(item, place);
        }
        match kind(item) {
            Kind::Name(name) => self.add(item.to_owned(), Some(name), place),
            Kind::Wheel { path, extras } => {
                let real = self.files.locate(&beside(place, path))?;
                let name = path.rsplit('/').next().and_then(|file| file.split('-').next()).map(normal);
                self.add(format!("{}{extras}", real.display()), name, place)
            }
            Kind::Foreign(_) if self.free => self.add(item.to_owned(), None, place),
            Kind::Foreign(what) => Err(refuse(place, item, what)),
            Kind::Unclear(what) => Err(refuse(place, item, what)),
        }
    }

    fn add(&mut self, item: String, name: Option<String>, place: Place<'_>) -> Result<(), PackageError> {
        match place {
            Place::Constraints { .. } => {
                self.wanted.constraints.push(item);
                return Ok(());
            }
            Place::Requirements { .. } => self.wanted.lines.push(item),
            Place::Call => self.wanted.items.push(item),
        }
        self.wanted.names.extend(name);
        Ok(())
    }

    fn option(&mut self, item: &str, place: Place<'_>) -> Result<(), PackageError> {
        let long = [("--requirement", "-r"), ("--constraint", "-c")];
        for (long, short) in long {
            let rest = item.strip_prefix(long).or_else(|| item.strip_prefix(short));
            if let Some(rest) = rest {
                let file = rest.trim_start_matches([' ', '=', '\t']).trim();
                return self.file(file, short == "-c", place);
            }
        }
        if let (Some(flag), Place::Call) = (Flag::of(item), place) {
            self.wanted.flags.push(flag);
            return Ok(());
        }
        if !self.free {
            return Err(refuse(place, item, "options are not taken from clients (forkpy --allow-install-options)"));
        }
        match place {
            Place::Call => self.wanted.options.extend(item.split_whitespace().map(str::to_owned)),
            Place::Requirements { .. } => self.wanted.lines.push(item.to_owned()),
            Place::Constraints { .. } => self.wanted.constraints.push(item.to_owned()),
        }
        Ok(())
    }

    /// Takes over the lines of a file, each checked as if it stood in the call.
    fn file(&mut self, file: &str, constraints: bool, place: Place<'_>) -> Result<(), PackageError> {
        let depth = match place {
            Place::Call => 0,
            Place::Requirements { depth, .. } | Place::Constraints { depth, .. } => depth + 1,
        };
        if depth > MAX_DEPTH {
            return Err(refuse(place, file, "files name one another too deeply"));
        }
        let path = match place {
            Place::Call => self.below(file).into_owned(),
            _ => beside(place, file),
        };
        let text = self.files.text(&path, MAX_FILE)?;
        for (line, item) in logical_lines(&text) {
            let place = if constraints || matches!(place, Place::Constraints { .. }) {
                Place::Constraints { file: &path, line, depth }
            } else {
                Place::Requirements { file: &path, line, depth }
            };
            match item.split_once(" --hash=") {
                // Hashes only narrow down what is taken.
                Some((bare, hashes)) if !bare.starts_with('-') && hashes.bytes().all(is_of_hashes) => {
                    self.item(bare.trim(), place)?;
                    let lines = match place {
                        Place::Constraints { .. } => &mut self.wanted.constraints,
                        _ => &mut self.wanted.lines,
                    };
                    if let Some(last) = lines.last_mut() {
                        *last += &format!(" --hash={hashes}");
                    }
                }
                _ => self.item(&item, place)?,
            }
        }
        Ok(())
    }
}

/// What an item is.
#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// A package of the index.
    Name(String),
    /// A wheel in the workspace.
    Wheel {
        path: &'a str,
        extras: &'a str,
    },
    Foreign(&'static str),
    /// Nothing that can be told.
    Unclear(&'static str),
}

impl Kind<'_> {
    fn is_wheel(&self) -> bool {
        matches!(self, Self::Wheel { .. })
    }
}

fn kind(item: &str) -> Kind<'_> {
    let (before, _marker) = item.split_once(';').unwrap_or((item, ""));
    if before.contains("://") || before.contains('@') || before.starts_with("git+") {
        return Kind::Foreign("URLs are not taken from clients (forkpy --allow-install-options)");
    }
    let (path, extras) = match item.split_once('[') {
        Some((path, _)) if item.ends_with(']') => (path, &item[path.len()..]),
        _ => (item, ""),
    };
    if has_ending(path, "whl") {
        return Kind::Wheel { path, extras };
    }
    let is_archive = [".tar.gz", ".tgz", ".tar.bz2", ".zip"].iter().any(|ending| before.ends_with(ending));
    if before.contains('/') || before.starts_with('.') || is_archive {
        return Kind::Foreign(
            "source trees and archives run code when they are built, and are not taken from clients \
             (forkpy --allow-install-options); build a wheel in the workspace and install that",
        );
    }
    let end = before.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter));
    let (name, rest) = before.split_at(end.unwrap_or(before.len()));
    let sound = |letter: char| letter.is_ascii_alphanumeric();
    if !(name.starts_with(sound) && name.ends_with(sound)) {
        return Kind::Unclear("it does not begin with the name of a package");
    }
    if rest.trim_start().starts_with(|letter: char| !"[<>=!~(".contains(letter)) {
        return Kind::Unclear(
            "after the name only extras, versions and a marker can follow; give each package as an item",
        );
    }
    Kind::Name(normal(name))
}

fn has_ending(path: &str, ending: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

fn is_of_hashes(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" :=-".contains(&byte)
}

/// A file named in a file lies beside it.
fn beside(place: Place<'_>, file: &str) -> String {
    match place {
        Place::Call => file.to_owned(),
        Place::Requirements { file: by, .. } | Place::Constraints { file: by, .. } => match by.rsplit_once('/') {
            Some((directory, _)) => format!("{directory}/{file}"),
            None => file.to_owned(),
        },
    }
}

/// Lines with their numbers: continued ones joined, comments and empty ones left out.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending = String::new();
    let mut begin = 1;
    for (index, line) in text.lines().enumerate() {
        if pending.is_empty() {
            begin = index + 1;
        }
        let line = if line.trim_start().starts_with('#') { "" } else { line };
        if let Some(front) = line.strip_suffix('\\') {
            pending += front;
            continue;
        }
        pending += line;
        let whole = std::mem::take(&mut pending);
        let whole = whole.split(" #").next().unwrap_or_default().trim();
        if !whole.is_empty() {
            lines.push((begin, whole.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    let rest = pending.trim();
    if !rest.is_empty() {
        lines.push((begin, rest.to_owned()));
    }
    lines
}

/// The form of a name under which all its spellings are one.
#[must_use]
pub(crate) fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

fn refuse(place: Place<'_>, item: &str, reason: &'static str) -> PackageError {
    let mut shown: String = item.chars().take(200).collect();
    if shown.len() < item.len() {
        shown.push('…');
    }
    let place = match place {
        Place::Call => String::new(),
        Place::Requirements { file, line, .. } | Place::Constraints { file, line, .. } => {
            format!(" (line {line} of {file})")
        }
    };
    PackageError::Item { item: shown, place, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let name = |name: &str| Kind::Name(name.to_owned());
        for (item, expected) in [
            ("numpy", "numpy"),
            ("Foo.Bar_baz", "foo-bar-baz"),
            ("requests[socks, security] >=2.0,<3; python_version < '4'", "requests"),
            ("torch==2.1+cpu", "torch"),
            ("a~=1.0", "a"),
            ("a (>=1)", "a"),
            ("a; platform_version == 'x/y@z'", "a"),
        ] {
            assert_eq!(kind(item), name(expected), "{item}");
        }
        for foreign in [
            "git+ssh://host/x",
            "x @ git+file:///tmp/x",
            "x@/tmp/x",
            "http://host/x.whl",
            "file:///tmp/x.whl",
            "./x",
            "dir/x",
            "/etc/x",
            "..",
            "x.tar.gz",
            "x.zip",
        ] {
            assert!(matches!(kind(foreign), Kind::Foreign(_)), "{foreign}: {:?}", kind(foreign));
        }
        for unclear in ["numpy pandas", "=1.0", "_x", "x-", "a b==1", "é", "$X", "a,b", "`ls`", "a|b"] {
            assert!(matches!(kind(unclear), Kind::Unclear(_)), "{unclear}: {:?}", kind(unclear));
        }
        assert_eq!(kind("dist/x-1.whl[a,b]"), Kind::Wheel { path: "dist/x-1.whl", extras: "[a,b]" });
    }

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let text = "# head\na==1 # why\n\nb \\\n  >=2 \\\n  --hash=sha256:0f\r\n   # indented\nhttp#x\n";
        let expected = [(2, "a==1"), (4, "b >=2 --hash=sha256:0f"), (8, "http#x")];
        assert_eq!(logical_lines(text), expected.map(|(line, text)| (line, text.to_owned())));
    }
}

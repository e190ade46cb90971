//! The licences of all that is in a bundle, in one text: forkpy's, CPython's, those of the crates, of the libraries, and of the
//! packages. Each text stands there once, with what it is for.
//!
//! Runs in: `forkpy bundle`, which collects; `forkpy licences`, which shows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use super::{BundleError, manifest, sources::Workshop, steps::list};

const NAME: &str = "lib/LICENCES";
/// Where forkpy's sources are.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
/// How files with licences begin, in capitals.
const BEGINNINGS: [&str; 7] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE", "AUTHORS"];
const APACHE: &str = include_str!("../../LICENSE-APACHE");
const MIT: &str = include_str!("../../LICENSE-MIT");
const LINE: &str =
    "----------------------------------------------------------------------------------------------------";

/// Licences of what is inside this program: of a bundle in `root` all of them, else what is known without one.
///
/// # Errors
/// When the bundle's list cannot be read.
pub(crate) fn inside(root: Option<&Path>) -> Result<String, BundleError> {
    if let Some(root) = root {
        let path = root.join(NAME);
        return fs::read_to_string(&path).map_err(BundleError::file("cannot read", &path));
    }
    let mut texts = Texts::default();
    texts.add(concat!("forkpy ", env!("CARGO_PKG_VERSION")), env!("CARGO_PKG_LICENSE"), [MIT, APACHE]);
    let more = format!(
        "This is no bundle: Python is that of {}, with a licence of its own. The crates that are linked in are named in \
         Cargo.lock of forkpy's sources, and the wheels of the session environment carry their licences. A bundle shows \
         all texts.\n",
        env!("FORKPY_BUILD_PYTHON")
    );
    Ok(texts.text + &more)
}

/// The text that grows.
#[derive(Default)]
struct Texts {
    text: String,
    /// Texts that stand there, and the first thing that each is for.
    known: HashMap<String, String>,
}

impl Texts {
    fn add<T: AsRef<str>>(&mut self, name: &str, expression: &str, licences: impl IntoIterator<Item = T>) {
        let expression = if expression.is_empty() { String::new() } else { format!(" ({expression})") };
        let _ = writeln!(self.text, "{LINE}\n{name}{expression}\n{LINE}");
        for licence in licences {
            let licence = licence.as_ref().trim();
            if licence.is_empty() {
                continue;
            }
            // Lines are broken here and there.
            let key = licence.split_whitespace().collect::<Vec<_>>().join(" ");
            match self.known.get(&key) {
                Some(first) => {
                    let title = licence.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
                    let _ = writeln!(self.text, "[{title} …: the same text as of {first}]\n");
                }
                None => {
                    let _ = writeln!(self.text, "{licence}\n");
                    self.known.insert(key, name.to_owned());
                }
            }
        }
    }

    /// What the package says of itself stands for a text that it does not have.
    fn add_or_say(&mut self, name: &str, expression: &str, licences: Vec<String>) {
        if licences.is_empty() {
            let words = format!(
                "Its package has no text of the licence{}.",
                if expression.is_empty() { "" } else { " that it names" }
            );
            return self.add(name, expression, [words]);
        }
        self.add(name, expression, licences);
    }
}

/// Writes the list into a bundle's directory. Without a workshop the bundle was made from another one: its list grows.
pub(super) fn collect(
    root: &Path,
    library: &Path,
    workshop: Option<&Workshop>,
    say: &mut dyn FnMut(&str),
) -> Result<(), BundleError> {
    let path = root.join(NAME);
    let mut texts = Texts::default();
    let before = match workshop {
        None => fs::read_to_string(&path).unwrap_or_default(),
        Some(workshop) => {
            say("collecting licences");
            texts.add(concat!("forkpy ", env!("CARGO_PKG_VERSION")), env!("CARGO_PKG_LICENSE"), [MIT, APACHE]);
            let python = &workshop.licences.python;
            let python = fs::read_to_string(python).map_err(BundleError::file("cannot read", python))?;
            texts.add("CPython", "PSF-2.0", [python]);
            for (library, document) in &workshop.licences.libraries {
                texts.add_or_say(library, "", fs::read_to_string(document).into_iter().collect());
            }
            texts.add("Rust's standard library", "MIT OR Apache-2.0", [APACHE]);
            of_crates(&workshop.machine().triple(), &mut texts)?;
            String::new()
        }
    };
    of_packages(library, &before, &mut texts)?;
    fs::write(&path, before + &texts.text).map_err(BundleError::file("cannot write", &path))
}

/// What `cargo metadata` tells, as far as it is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Crate {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
    root: String,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None for what is linked in.
    kind: Option<String>,
}

/// The crates that are linked in.
fn of_crates(triple: &str, texts: &mut Texts) -> Result<(), BundleError> {
    let program = || "cargo metadata".to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform"]);
    cargo.arg(triple).current_dir(SOURCES);
    let output = cargo.output().map_err(|error| BundleError::Program { program: program(), how: error.to_string() })?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|error| BundleError::Program {
        program: program(),
        how: format!("gave {error}: {}", String::from_utf8_lossy(&output.stderr)),
    })?;
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut linked = BTreeSet::new();
    let mut left = vec![metadata.resolve.root.as_str()];
    while let Some(id) = left.pop() {
        let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
        let are_linked = dependencies.iter().filter(|found| found.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        left.extend(are_linked.map(|found| found.pkg.as_str()).filter(|id| linked.insert(*id)));
    }
    for found in metadata.packages.iter().filter(|found| linked.contains(found.id.as_str())) {
        let folder = found.manifest_path.parent().unwrap_or(Path::new("/"));
        let name = format!("{} {}", found.name, found.version);
        texts.add_or_say(&name, found.license.as_deref().unwrap_or_default(), beside(folder)?);
    }
    Ok(())
}

/// Texts in a folder whose names say that they are licences.
fn beside(folder: &Path) -> Result<Vec<String>, BundleError> {
    let is_licence = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
        path.is_file() && BEGINNINGS.iter().any(|begin| name.starts_with(begin))
    };
    let files = list(folder)?.into_iter().filter(is_licence);
    Ok(files.filter_map(|path| fs::read(path).ok()).map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
}

/// Packages that are installed in a bundle's library and not named yet.
fn of_packages(library: &Path, before: &str, texts: &mut Texts) -> Result<(), BundleError> {
    for information in list(&library.join("site-packages"))? {
        let Some(name) = information.file_name().and_then(|name| name.to_str()?.strip_suffix(".dist-info")) else {
            continue;
        };
        let name = name.replacen('-', " ", 1);
        if before.contains(&format!("\n{name}")) {
            continue;
        }
        let metadata = fs::read_to_string(information.join("METADATA")).unwrap_or_default();
        let told = |field: &str| metadata.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
        let expression = told("License-Expression:").or_else(|| told("License:")).unwrap_or_default();
        let mut found = beside(&information)?;
        let deeper = information.join("licenses");
        if deeper.is_dir() {
            let files = manifest::files(&deeper).map_err(BundleError::file("cannot list", &deeper))?;
            found.extend(files.iter().filter_map(|path| fs::read_to_string(path).ok()));
        }
        texts.add_or_say(&name, expression, found);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::floor::machine::Machine;

    #[test]
    fn a_text_stands_there_once() {
        let mut texts = Texts::default();
        texts.add("one 1.0", "MIT", ["Terms of\n  use", "Notice"]);
        texts.add("two 2.0", "", ["Terms  of\nuse"]);
        texts.add_or_say("three 3.0", "MIT", Vec::new());
        assert_eq!(texts.text.matches("use").count(), 1, "{}", texts.text);
        assert!(texts.text.contains("one 1.0 (MIT)") && texts.text.contains("the same text as of one 1.0"));
        assert!(texts.text.contains("no text of the licence that it names"), "{}", texts.text);
    }

    /// Every crate that is linked in is named, and none that tests alone need.
    #[test]
    fn crates_are_named() {
        let mut texts = Texts::default();
        of_crates(&Machine::OWN.triple(), &mut texts).expect("cargo knows them");
        for name in ["\ntokio 1.", "\npyo3-ffi 0.", "\nzstd-sys ", "\nlibc 0."] {
            assert!(texts.text.contains(name), "{name}");
        }
        assert!(!texts.text.contains("\ncriterion ") && !texts.text.contains("\npyo3-build-config "));
    }
}

//! The rules of the house, read from the source: which room may import which, no circles, which crate belongs to which room.
//! ARCHITECTURE.md explains them.
//!
//! Runs in: the test binary. Reads `src/` as text and runs nothing.
//!
//! A rule that is broken fails with the import, the rule, and what to do. `EXCEPTIONS` is a ratchet: it holds what is not
//! mended yet, nothing may be added, and an entry that is no longer needed fails too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Rooms and their heights. A file belongs to the longest prefix that fits; rooms of one height do not see each other.
const ROOMS: [(&str, u32); 36] = [
    ("sys", 0),
    ("progress", 0),
    ("protocol", 1),
    ("settings", 2),
    ("bundle", 2),
    ("guide", 2),
    ("front", 3),
    ("launcher", 3),
    ("worker", 3),
    ("zygote", 4),
    ("server/owner", 4),
    ("server/scope", 4),
    ("server/tls", 4),
    ("server/counters", 5),
    ("server/events", 5),
    ("server/traces", 5),
    ("server/workspace", 6),
    ("server/egress", 7),
    ("server/health", 7),
    ("server/oauth", 7),
    ("server/output", 7),
    ("server/turns", 7),
    ("server/store", 8),
    ("server/workers", 8),
    ("server/sessions", 9),
    ("server/moves", 10),
    ("server/scripts", 10),
    ("server/environment", 11),
    ("server/restart", 12),
    ("server/watch", 12),
    ("server/tools", 13),
    ("server/mcp", 14),
    ("server", 15),
    ("bench", 16),
    ("commands", 17),
    ("testing", 18),
];

/// Rooms that do not know each other although their heights would allow it: they share `protocol`, or nothing.
const WALLS: [(&str, &str); 5] = [
    ("server", "worker"),
    ("server", "zygote"),
    ("zygote", "bundle"),
    ("bench", "server"),
    ("commands", "server/sessions"),
];

/// Crates that only these rooms name.
const CRATES: [(&str, &[&str]); 9] = [
    ("pyo3", &["worker", "zygote", "bundle"]),
    ("tokio", &["protocol", "server", "bench"]),
    ("rmcp", &["server/tools", "server/mcp"]),
    ("axum", &["server/mcp"]),
    ("object_store", &["server/store"]),
    ("opentelemetry", &["server/traces"]),
    ("opentelemetry_sdk", &["server/traces"]),
    ("opentelemetry_otlp", &["server/traces"]),
    ("clap", &["settings", "commands", "bench", "bundle"]),
];

/// Files that still form a circle with others. Empty is the aim.
const EXCEPTIONS: &[&str] = &[];

/// A module, by the parts of its path: `["server", "tools"]`; the crate's root is empty.
type Module = Vec<String>;

struct House {
    /// Code of each module, without comments, strings and unit tests.
    code: BTreeMap<Module, String>,
    /// Where a name leads that a module hands on (`pub use`).
    handed_on: BTreeMap<(Module, String), Module>,
}

/// One import: who, from whom, what.
type Arrow = (Module, Module, String);

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut code = BTreeMap::new();
        for file in files_below(&root) {
            if let Some(module) = module_of(&root, &file) {
                code.insert(module, code_of(&fs::read_to_string(&file).expect("a source file can be read")));
            }
        }
        let mut house = Self { code, handed_on: BTreeMap::new() };
        house.handed_on = house.handed_on();
        house
    }

    fn handed_on(&self) -> BTreeMap<(Module, String), Module> {
        let mut found = BTreeMap::new();
        for (module, code) in &self.code {
            for (path, public) in uses(code) {
                if let (true, Some((to, rest))) = (public, self.lead(&path, module))
                    && let Some(name) = rest.last().filter(|_| to != *module)
                {
                    found.insert((module.clone(), name.clone()), to);
                }
            }
        }
        found
    }

    /// Follows a path that stands in `from`: the module it leads to, and the names that are left.
    fn lead(&self, path: &[String], from: &[String]) -> Option<(Module, Module)> {
        let mut rest = path;
        let mut at: Module = match path.first()?.as_str() {
            "crate" => {
                rest = &path[1..];
                Module::new()
            }
            "self" | "super" => {
                let mut at = from.to_vec();
                while let Some(word) = rest.first().filter(|word| ["self", "super"].contains(&word.as_str())) {
                    if word == "super" {
                        at.pop();
                    }
                    rest = &rest[1..];
                }
                at
            }
            first if self.code.contains_key(&below(from, first)) => from.to_vec(),
            _ => return None,
        };
        while let Some(next) = rest.first().map(|name| below(&at, name)).filter(|next| self.code.contains_key(next)) {
            at = next;
            rest = &rest[1..];
        }
        Some((at, rest.to_vec()))
    }

    fn arrows(&self) -> BTreeSet<Arrow> {
        let mut arrows = BTreeSet::new();
        for (module, code) in &self.code {
            for path in uses(code).into_iter().map(|(path, _)| path).chain(paths_in(code)) {
                let Some((mut to, rest)) = self.lead(&path, module) else { continue };
                let name = rest.first().cloned().unwrap_or_default();
                while let Some(behind) = self.handed_on.get(&(to.clone(), name.clone())) {
                    to.clone_from(behind);
                }
                // A path to a module itself, `pub(in crate::server)` say, takes nothing from it.
                if to != *module && !(name.is_empty() && module.starts_with(&to)) {
                    arrows.insert((module.clone(), to, name));
                }
            }
        }
        arrows
    }
}

fn below(module: &[String], name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder can be read").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect()
}

/// The module that a file is; none for programs and for tests in a file of their own.
fn module_of(root: &Path, file: &Path) -> Option<Module> {
    let path = file.strip_prefix(root).ok()?.with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    match parts.last()?.as_str() {
        "main" | "build" | "tests" => return None,
        "mod" | "lib" => drop(parts.pop()),
        _ => {}
    }
    Some(parts)
}

/// The text without its unit tests, comments, strings and characters.
fn code_of(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {").or_else(|| text.find("#[cfg(test)]\npub(crate) mod tests {"));
    let mut rest = &text[..tests.unwrap_or(text.len())];
    let mut code = String::new();
    while let Some(at) = rest.find(['"', '/', '\'']) {
        code.push_str(&rest[..at]);
        rest = &rest[at..];
        let bytes = rest.as_bytes();
        let skipped = match bytes {
            [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
            [b'"', ..] => end_of_string(bytes),
            [b'\'', b'\\', _, b'\'', ..] => 4,
            [b'\'', _, b'\'', ..] => 3,
            _ => {
                code.push_str(&rest[..1]);
                1
            }
        };
        rest = &rest[skipped..];
    }
    code + rest
}

/// Length of the string that begins here, both quotes included.
fn end_of_string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// All that is imported by `use`, and whether it is handed on.
fn uses(code: &str) -> Vec<(Module, bool)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        if !before.is_empty() && !before.starts_with("pub") {
            continue;
        }
        let tree = code[at + 4..].split(';').next().unwrap_or_default();
        let mut paths = Vec::new();
        branches(tree, &Module::new(), &mut paths);
        found.extend(paths.into_iter().map(|path| (path, !before.is_empty())));
    }
    found
}

/// The paths of a tree of imports: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn branches(tree: &str, trunk: &[String], found: &mut Vec<Module>) {
    let tree = tree.trim();
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (path, group.trim_end().strip_suffix('}')),
        None => (tree.split(" as ").next().unwrap_or_default(), None),
    };
    let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let here: Module = trunk.iter().cloned().chain(parts).collect();
    let Some(group) = group else {
        found.push(here);
        return;
    };
    let (mut depth, mut from) = (0_i32, 0);
    for (at, letter) in group.char_indices().chain([(group.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !group[from..at].trim().is_empty() {
                    branches(&group[from..at], &here, found);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths that stand in the code itself: `crate::sys::threads::of(…)`.
fn paths_in(code: &str) -> Vec<Module> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    code.split(|letter: char| !is_part(letter))
        .filter(|word| ["crate::", "super::", "self::"].iter().any(|start| word.starts_with(start)))
        .filter(|word| !word.ends_with("::"))
        .map(|word| word.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect())
        .collect()
}

fn stands_in(module: &[String], room: &str) -> bool {
    let path = module.join("/");
    path == room || path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
}

fn room_of(module: &[String]) -> Option<(&'static str, u32)> {
    ROOMS.into_iter().filter(|(room, _)| stands_in(module, room)).max_by_key(|(room, _)| room.len())
}

/// Every module that can be reached from each.
fn reach(arrows: &BTreeSet<Arrow>) -> BTreeMap<&Module, BTreeSet<&Module>> {
    let mut next: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (from, to, _) in arrows {
        next.entry(from).or_default().insert(to);
    }
    let mut reached = BTreeMap::new();
    for start in next.keys() {
        let (mut seen, mut open) = (BTreeSet::new(), vec![*start]);
        while let Some(module) = open.pop() {
            for to in next.get(module).into_iter().flatten() {
                if seen.insert(*to) {
                    open.push(to);
                }
            }
        }
        reached.insert(*start, seen);
    }
    reached
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let mut wrong = String::new();
    for (from, to, name) in House::read().arrows() {
        let (Some((upper, high)), Some((lower, low))) = (room_of(&from), room_of(&to)) else { continue };
        let walled = WALLS.iter().any(|(one, other)| stands_in(&from, one) && stands_in(&to, other));
        if upper != lower && (low >= high || walled) {
            let _ = writeln!(wrong, "{} takes {name} from {}", from.join("/"), to.join("/"));
        }
    }
    assert!(
        wrong.is_empty(),
        "a room imports rooms below it only (ARCHITECTURE.md, rules 1 and 2). Move the type down, or hand in what is needed:\n{wrong}"
    );
}

#[test]
fn no_files_form_a_circle() {
    let arrows = House::read().arrows();
    let reached = reach(&arrows);
    let meets = |one: &Module, other: &Module| reached.get(one).is_some_and(|seen| seen.contains(other));
    let circle: BTreeSet<String> = reached.keys().filter(|one| meets(one, one)).map(|one| one.join("/")).collect();
    let mut wrong = String::new();
    for (from, to, name) in arrows.iter().filter(|(from, to, _)| meets(to, from)) {
        if !EXCEPTIONS.contains(&from.join("/").as_str()) {
            let _ = writeln!(wrong, "{} takes {name} from {}", from.join("/"), to.join("/"));
        }
    }
    assert!(
        wrong.is_empty(),
        "files import each other in a circle (rule 1). Put what both need into a file of its own:\n{wrong}"
    );
    let mended: Vec<_> = EXCEPTIONS.iter().filter(|file| !circle.contains(**file)).collect();
    assert!(mended.is_empty(), "these are in no circle any more: take them out of EXCEPTIONS: {mended:?}");
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut wrong = String::new();
    for (module, code) in &House::read().code {
        for (name, rooms) in CRATES {
            let named = code.contains(&format!("{name}::")) && !rooms.iter().any(|room| stands_in(module, room));
            if named && !module.is_empty() {
                let _ = writeln!(wrong, "{} names {name}, which belongs to {}", module.join("/"), rooms.join(", "));
            }
        }
    }
    assert!(wrong.is_empty(), "a crate is named outside of its rooms (rules 2 and 3):\n{wrong}");
}

/// Longest file, its unit tests not counted. Functions are counted by clippy (`too-many-lines-threshold`).
const MOST_LINES: usize = 500;

#[test]
fn a_file_that_is_long_says_why() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = String::new();
    for file in files_below(&root).into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let head = text.lines().take_while(|line| line.starts_with("//!"));
        let says_why = head.into_iter().any(|line| line.contains("in one piece"));
        let lines = code.lines().count();
        if lines > MOST_LINES && !says_why {
            let _ = writeln!(wrong, "{} has {lines} lines", file.display());
        }
    }
    assert!(
        wrong.is_empty(),
        "a file has at most {MOST_LINES} lines (rule 7). Split it where its subjects part, or say in its head why it reads best \
         in one piece:\n{wrong}"
    );
}

#[test]
fn every_file_stands_in_a_room() {
    let house = House::read();
    let homeless: Vec<String> = house
        .code
        .keys()
        .filter(|module| !module.is_empty() && room_of(module).is_none())
        .map(|module| module.join("/"))
        .collect();
    assert!(homeless.is_empty(), "no room of `ROOMS` has these files; give each a room: {homeless:?}");
    assert!(house.arrows().len() > 300, "this test does not find the imports any more");
}

#[test]
fn the_reader_understands_imports() {
    let code =
        code_of("// use crate::a::B;\nuse crate::{c::{self, D}, e};\npub use super::F;\nlet x = \"use g::H;\";\n");
    let found: Vec<String> = uses(&code).iter().map(|(path, public)| format!("{} {public}", path.join("::"))).collect();
    assert_eq!(found, ["crate::c::self false", "crate::c::D false", "crate::e false", "super::F true"]);
    assert_eq!(paths_in("crate::x::y(super::z)").len(), 2);
}

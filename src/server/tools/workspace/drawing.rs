//! A directory as text, with lines from each entry to the directory it lies in, as the program `tree` draws it.
//!
//! Owns what a line looks like and what it takes in a reply. Knows nothing of files: it gets paths in the order of a walk.
//!
//! Runs in: server. Pure.

use std::path::Path;

use crate::server::workspace::read::json_cost;

/// Bytes of a reply that one level of indentation, or the newline and the like of a line, may take.
const LEVEL_FRAME: usize = 20;

/// A drawing that grows entry by entry.
#[derive(Debug)]
pub(super) struct Drawing {
    root: String,
    /// What all paths begin with, and the drawing leaves out.
    prefix: String,
    /// Names with their depth; the root has none.
    lines: Vec<(usize, String)>,
    /// How many lines there are after each entry.
    ends: Vec<usize>,
    /// Directories from the root to the last entry.
    open: Vec<String>,
}

impl Drawing {
    /// Begins the drawing of a directory of the workspace.
    pub(super) fn new(workspace: &Path, directory: &str) -> Self {
        let (named, prefix) = match directory {
            "." => (workspace, String::new()),
            _ => (Path::new(directory), format!("{directory}/")),
        };
        let root = named.file_name().unwrap_or_default().to_string_lossy();
        let root = format!("{}/", one_line(&root));
        Self { root, prefix, lines: Vec::new(), ends: Vec::new(), open: Vec::new() }
    }

    /// Adds an entry, and the directories on the way to it that are not there yet; gives what they take in a reply.
    pub(super) fn add(&mut self, path: &str) -> usize {
        let below = path.strip_prefix(&self.prefix).unwrap_or(path);
        let names: Vec<&str> = below.split_inclusive('/').collect();
        let common = self.open.iter().zip(&names).take_while(|(open, name)| open.as_str() == **name).count();
        self.open.truncate(common);
        let mut cost = 0;
        for (index, name) in names.iter().enumerate().skip(common) {
            let name_shown = one_line(name);
            cost += json_cost(&name_shown) + (index + 2) * LEVEL_FRAME;
            self.lines.push((index, name_shown));
            self.open.push((*name).to_owned());
        }
        self.ends.push(self.lines.len());
        cost
    }

    /// The drawing of the first `entries` entries.
    pub(super) fn finish(mut self, entries: usize) -> String {
        self.lines.truncate(entries.checked_sub(1).map_or(0, |last| self.ends[last]));
        let mut drawn = Vec::with_capacity(self.lines.len() + 1);
        // From the last line up: whether a line is the last of its directory is known then.
        let mut goes_on: Vec<bool> = Vec::new();
        for (depth, name) in self.lines.iter().rev() {
            goes_on.resize(depth + 1, false);
            let bars = goes_on[..*depth].iter().map(|more| if *more { "│   " } else { "    " });
            let turn = if goes_on[*depth] { "├── " } else { "└── " };
            drawn.push(bars.chain([turn, name.as_str()]).collect());
            goes_on[*depth] = true;
        }
        drawn.push(self.root);
        drawn.reverse();
        drawn.join("\n")
    }
}

/// A name that stays on its line, whatever is in it.
fn one_line(name: &str) -> String {
    let escaped = |character: char| match character {
        control if control.is_control() => control.escape_default().to_string(),
        other => other.to_string(),
    };
    name.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_from_each_entry_to_its_directory() {
        let mut drawing = Drawing::new(Path::new("/home/work"), ".");
        let cost: usize = ["a/", "a/b/", "a/b/c", "a/d", "e/f/g", "h\ni"].map(|path| drawing.add(path)).iter().sum();
        let expected = "work/
├── a/
│   ├── b/
│   │   └── c
│   └── d
├── e/
│   └── f/
│       └── g
└── h\\ni";
        let drawn = drawing.finish(6);
        assert_eq!(drawn, expected);
        assert!(json_cost(&drawn) <= cost + json_cost("work/"), "a reply has room for what was counted");
    }

    #[test]
    fn what_does_not_fit_is_not_drawn_and_a_directory_below_has_its_own_name() {
        let mut drawing = Drawing::new(Path::new("/home/work"), "p/q");
        for path in ["p/q/r/s", "p/q/t"] {
            assert!(drawing.add(path) > 0);
        }
        assert_eq!(drawing.finish(1), "q/\n└── r/\n    └── s");
        assert_eq!(Drawing::new(Path::new("/home/work"), "p/q").finish(0), "q/");
    }
}

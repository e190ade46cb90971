//! What is installed, as a fork of the zygote sees it, and what has changed between two looks.
//!
//! Runs in: server; the lines that look run in a fork of the zygote, which is not confined and runs nothing of a package.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{errand::errand, error::PackageError, wanted::normal};
use crate::server::{scripts::Scripts, sessions::context::Surroundings};

/// Looks at the environment; the file is where the answer goes.
const SURVEY: &str = "import sys\nfrom forkpy_worker.session.packages import survey\n\
                      survey(sys.argv[1], sys.argv[2] == 'modules', sys.argv[3])\n";

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    /// As it calls itself.
    pub name: String,
    pub version: String,
    /// Top-level modules, when they were asked for.
    modules: Vec<String>,
}

/// One package that is not as it was.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// As it calls itself.
    pub name: String,
    /// Version before; none when it was not there.
    pub before: Option<String>,
    /// Version now; none when it is gone.
    pub after: Option<String>,
}

/// What there is to be imported.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Survey {
    pub(super) packages: Vec<Package>,
    pub(super) preloaded: Vec<String>,
}

/// What the common environment has, and before it one of an owner's own, if there is one.
///
/// # Errors
/// [`PackageError`] when it cannot be seen.
pub(super) async fn survey(
    around: (&Surroundings, &Scripts),
    own: Option<&Path>,
    modules: bool,
) -> Result<Survey, PackageError> {
    let own = own.map(|root| root.to_string_lossy().into_owned()).unwrap_or_default();
    errand(around, SURVEY, &[if modules { "modules" } else { "names" }, &own]).await
}

pub(super) fn find<'a>(packages: &'a [Package], name: &str) -> Option<&'a Package> {
    packages.iter().find(|package| normal(&package.name) == name)
}

/// Modules that a package had or has.
pub(super) fn modules_of(name: &str, surveys: [&Survey; 2]) -> Vec<String> {
    let name = normal(name);
    let found = surveys.into_iter().filter_map(|survey| find(&survey.packages, &name));
    let mut modules: Vec<String> = found.flat_map(|package| package.modules.clone()).collect();
    modules.sort_unstable();
    modules.dedup();
    modules
}

pub(super) fn compare(before: &[Package], after: &[Package]) -> Vec<Change> {
    let mut both: BTreeMap<String, [Option<&Package>; 2]> = BTreeMap::new();
    for (place, packages) in [before, after].into_iter().enumerate() {
        for package in packages {
            both.entry(normal(&package.name)).or_default()[place] = Some(package);
        }
    }
    let changed = both.into_values().filter_map(|[before, after]| {
        let version = |package: Option<&Package>| package.map(|package| package.version.clone());
        let name = after.or(before)?.name.clone();
        let change = Change { name, before: version(before), after: version(after) };
        (change.before != change.after).then_some(change)
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_new_gone_and_other_versions() {
        let package = |name: &str, version: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            modules: Vec::new(),
        };
        let before = [package("Same", "1"), package("gone", "1"), package("up_dated", "1")];
        let after = [package("same", "1"), package("up-dated", "2"), package("new", "1")];
        let words: Vec<String> = compare(&before, &after)
            .into_iter()
            .map(|change| format!("{} {:?} {:?}", change.name, change.before, change.after))
            .collect();
        assert_eq!(words, [r#"gone Some("1") None"#, r#"new None Some("1")"#, r#"up-dated Some("1") Some("2")"#]);
    }
}

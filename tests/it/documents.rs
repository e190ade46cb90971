//! What README claims, asked of the binary: names of tools and their arguments, options, their variables and defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::LazyLock,
};

use serde_json::{Value, json};

use crate::support::Setup;

/// README, read when the tests run: a word changed in it compiles nothing.
static README: LazyLock<String> = LazyLock::new(|| {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md is part of the sources")
});

/// Options in README that are pip's and uv's.
const OF_OTHERS: [&str; 4] = ["--force-reinstall", "--no-deps", "--pre", "--upgrade"];

/// Arguments with a second name that README does not tell: tool, name, other name. Neither is required by the schema.
const OTHER_NAMES: [(&str, &str, &str); 1] = [("delete_file", "path", "filename")];

/// Options whose default is told in words that this test cannot compare.
const IN_WORDS: [&str; 4] = ["--allow-host", "--allow-origin", "--venv", "--python"];

/// An option as `--help` tells it.
#[derive(Debug, Default)]
struct Told {
    variable: Option<String>,
    default: Option<String>,
}

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_forkpy")).args(command).arg("--help").output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The options of the server.
fn options() -> BTreeMap<String, Told> {
    let mut found: BTreeMap<String, Told> = BTreeMap::new();
    let mut current = String::new();
    for line in help(&[]).lines().map(str::trim) {
        if let Some(name) = line.split([' ', ',']).map(str::trim).find(|word| word.starts_with("--"))
            && line.starts_with('-')
        {
            name.clone_into(&mut current);
            found.insert(current.clone(), Told::default());
        }
        let Some(told) = found.get_mut(&current) else { continue };
        if let Some(rest) = line.strip_prefix("[env: ") {
            told.variable = rest.split('=').next().map(str::to_owned);
        } else if let Some(rest) = line.strip_prefix("[default: ") {
            told.default = rest.strip_suffix(']').map(str::to_owned);
        }
    }
    found
}

/// Rows of README's tables as trimmed cells; an escaped bar is none.
fn rows() -> impl Iterator<Item = Vec<String>> {
    README.lines().filter(|line| line.starts_with('|')).map(|line| {
        let line = line.replace("\\|", "\u{0}");
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    })
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Long options in a text: `--name`.
fn long_options(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 2 && word.as_bytes()[2].is_ascii_lowercase())
}

/// Code blocks and pieces of code that show how forkpy is started or which options it has.
fn about_forkpy() -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut fenced = false;
    for line in README.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            // Of a shell line, what forkpy itself is given.
            let begin = line.find("forkpy ").filter(|_| !line.contains("cargo ") && !line.contains("pip "));
            found.extend(begin.map(|begin| &line[begin..]).into_iter().flat_map(long_options));
        } else {
            found.extend(code(line).filter(|piece| piece.starts_with("--")).flat_map(long_options));
        }
    }
    found
}

#[test]
fn readme_names_the_tools_that_there_are_with_their_arguments() {
    let mut forkpy = Setup::new().args(&["--tools", "all,get_health_report"]).start();
    let listed = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
    let tools: BTreeMap<&str, &Value> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|tool| (tool["name"].as_str().expect("a name"), &tool["inputSchema"]))
        .collect();
    let mut named = BTreeSet::new();
    for row in rows() {
        let Some((name, given)) = row[0].trim_matches('`').strip_suffix(')').and_then(|call| call.split_once('('))
        else {
            continue;
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') || !row[0].starts_with('`') {
            continue;
        }
        // A row of the table of notebooks' habits.
        let Some(schema) = tools.get(name) else {
            assert!(name == "clear_output", "README names the tool {name:?}, which there is not");
            continue;
        };
        named.insert(name.to_owned());
        let given: Vec<&str> = given.split(',').map(str::trim).filter(|argument| !argument.is_empty()).collect();
        compare(name, &given, schema);
    }
    let missing: Vec<&&str> = tools.keys().filter(|tool| !named.contains(**tool)).collect();
    assert!(missing.is_empty(), "README's tables of tools lack {missing:?}");
}

/// `name?` can be left out, `…` stands for more than is named.
fn compare(tool: &str, given: &[&str], schema: &Value) {
    let none = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let mut required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut told = BTreeSet::new();
    for (_, name, other) in OTHER_NAMES.iter().filter(|(of, ..)| *of == tool) {
        required.insert(name);
        told.insert(*other);
    }
    for argument in given.iter().filter(|argument| **argument != "…") {
        let name = argument.trim_end_matches('?');
        assert!(properties.contains_key(name), "README gives {tool} the argument {name:?}, which it has not");
        assert_eq!(
            required.contains(name),
            !argument.ends_with('?'),
            "README says otherwise than the schema whether {tool} needs {name:?}"
        );
        told.insert(name);
    }
    let more = properties.keys().filter(|name| !told.contains(name.as_str())).collect::<Vec<_>>();
    assert!(more.is_empty() || given.contains(&"…"), "README's row of {tool} lacks {more:?}");
}

#[test]
fn readme_names_options_that_there_are() {
    let mut known: BTreeSet<String> = options().into_keys().collect();
    for command in ["attach", "status", "stop", "bench", "bundle", "doctor", "install", "completions", "man"] {
        known.extend(long_options(&help(&[command])).map(str::to_owned));
    }
    let named = about_forkpy();
    assert!(named.len() > 30, "options are no longer found: {named:?}");
    let unknown: Vec<&&str> =
        named.iter().filter(|name| !known.contains(**name) && !OF_OTHERS.contains(name)).collect();
    assert!(unknown.is_empty(), "README names options that no command has: {unknown:?}");
}

#[test]
fn readme_tells_variables_and_defaults_as_they_are() {
    let options = options();
    let mut compared = 0;
    for row in rows().skip_while(|row| row[0] != "option").skip(2).take_while(|row| row[0].contains("--")) {
        let names: Vec<&str> = long_options(&row[0]).collect();
        for variable in code(&row[0]).filter(|piece| piece.chars().all(|c| c.is_ascii_uppercase() || c == '_')) {
            // FORKPY_TOKEN holds the token itself and is no option's.
            let theirs = names.iter().any(|name| options[*name].variable.as_deref() == Some(variable));
            assert!(theirs || variable == "FORKPY_TOKEN", "{variable} is not the variable of {names:?}");
        }
        let defaults: Vec<&str> = row[1].split(", ").map(|cell| cell.trim_matches('`')).collect();
        if defaults.len() != names.len() {
            assert!(names.iter().all(|name| IN_WORDS.contains(name)) || defaults == ["none"], "{row:?}");
        }
        for (place, name) in names.iter().enumerate().filter(|(_, name)| !IN_WORDS.contains(name)) {
            let claimed = defaults.get(place).copied().unwrap_or(defaults[0]);
            let default = options[*name].default.as_deref();
            assert_eq!(plain(claimed), default.map(str::to_owned), "README's default of {name}");
            compared += 1;
        }
    }
    assert!(compared > 12, "the table of options is no longer found: {compared}");
}

/// `none` is no default; seconds and sizes lose their units.
fn plain(claimed: &str) -> Option<String> {
    if claimed == "none" {
        return None;
    }
    let gibibytes = claimed.strip_suffix(" GiB").and_then(|number| number.parse::<u64>().ok());
    Some(gibibytes.map_or_else(|| claimed.trim_end_matches(" s").to_owned(), |number| (number << 30).to_string()))
}

#[test]
fn readme_tells_thresholds_of_alerts_as_they_are() {
    let options = options();
    let mut compared = 0;
    for row in rows().filter(|row| row.len() == 3 && row[2].starts_with("`--") && long_options(&row[2]).count() == 1) {
        let name = row[2].trim_matches('`');
        let Some(default) = options.get(name).and_then(|told| told.default.as_deref()) else { continue };
        let told: Vec<&str> = row[1].split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
        assert!(told.contains(&default), "README tells {told:?} of {name}, whose default is {default}");
        compared += 1;
    }
    assert!(compared >= 4, "the table of alerts is no longer found: {compared}");
}

/// A name in backticks that looks like a file or folder of the source is one.
#[test]
fn the_map_names_files_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is part of the sources");
    let is_path =
        |name: &&str| name.contains('/') && !name.starts_with('/') && !name.contains(|c: char| c.is_whitespace());
    let named: Vec<&str> = map.lines().flat_map(code).filter(is_path).collect();
    assert!(named.len() > 30, "{named:?}");
    let is_there = |name: &&str| {
        [root.join(name), root.join("src").join(name), root.join("src").join(format!("{name}.rs"))]
            .iter()
            .any(|place| place.exists())
    };
    let gone: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names what is not there: {gone:?}");
}

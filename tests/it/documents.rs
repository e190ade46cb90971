//! What README and the guide claim, asked of the binary: names of tools and their arguments, options, their variables and
//! defaults. Also their form: short sentences, links that lead somewhere, README on one screen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::LazyLock,
};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use serde_json::{Value, json};

use crate::support::Setup;

/// README and the chapters of the guide, by their names, read when the tests run: a word changed in them compiles nothing.
static TEXTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapters = fs::read_dir(root.join("src/guide")).expect("the guide is part of the sources");
    let chapters =
        chapters.map(|entry| entry.expect("readable").path()).filter(|path| path.extension() == Some("md".as_ref()));
    chapters
        .chain([root.join("README.md")])
        .map(|path| {
            let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("part of the sources"))
        })
        .collect()
});

fn lines() -> impl Iterator<Item = &'static str> {
    TEXTS.values().flat_map(|text| text.lines())
}

/// Options in README that are pip's and uv's.
const OF_OTHERS: [&str; 4] = ["--force-reinstall", "--no-deps", "--pre", "--upgrade"];

/// Arguments with a second name that README does not tell: tool, name, other name. Neither is required by the schema.
const OTHER_NAMES: [(&str, &str, &str); 1] = [("delete_file", "path", "filename")];

/// Options whose default is told in words that this test cannot compare.
const IN_WORDS: [&str; 5] = ["--preload", "--allow-host", "--allow-origin", "--venv", "--python"];

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
    lines().filter(|line| line.starts_with('|')).map(|line| {
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
    for line in lines() {
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
    let mut forkpy = Setup::new().args(&["--tools", "all,get_health_report,dump_stacks"]).start();
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
    for command in [
        "attach",
        "status",
        "stop",
        "bench",
        "bundle",
        "deploy",
        "doctor",
        "guide",
        "install",
        "uninstall",
        "completions",
        "man",
    ] {
        known.extend(long_options(&help(&[command])).map(str::to_owned));
    }
    for command in ["list", "export", "import", "delete"] {
        known.extend(long_options(&help(&["sessions", command])).map(str::to_owned));
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

/// The text of a document as a reader sees it: sentences of its paragraphs, items and cells; no code blocks.
fn blocks(text: &str) -> Vec<String> {
    let (mut blocks, mut current, mut code) = (Vec::new(), String::new(), false);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => code = true,
            Event::End(TagEnd::CodeBlock) => code = false,
            Event::Text(text) if !code => current += &text,
            // However long, a piece of code is one word.
            Event::Code(_) => current += "code",
            Event::SoftBreak | Event::HardBreak => current.push(' '),
            Event::Start(Tag::Item)
            | Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::TableCell | TagEnd::Heading(_)) => {
                blocks.push(std::mem::take(&mut current));
            }
            _ => {}
        }
    }
    blocks
}

/// What ends with a full stop, a question mark or an exclamation mark and a space.
fn sentences(block: &str) -> Vec<&str> {
    let mut ends: Vec<usize> =
        block.match_indices(". ").chain(block.match_indices("? ")).map(|(at, _)| at + 1).collect();
    ends.extend(block.match_indices("! ").map(|(at, _)| at + 1));
    ends.push(block.len());
    ends.sort_unstable();
    let begins = std::iter::once(0).chain(ends.clone());
    begins.zip(ends.clone()).map(|(begin, end)| block[begin..end].trim()).collect()
}

#[test]
fn no_sentence_is_long() {
    let mut long = Vec::new();
    for (name, text) in &*TEXTS {
        for block in blocks(text) {
            for sentence in sentences(&block) {
                let words = sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
                if words > 30 {
                    long.push(format!("{name}: {words} words: {sentence}"));
                }
            }
        }
    }
    assert!(long.is_empty(), "sentences of more than 30 words:\n{}", long.join("\n"));
}

#[test]
fn readme_fits_on_a_screen_and_every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(TEXTS["README.md"].lines().count() <= 200, "README has more than 200 lines");
    let mut found = 0;
    for (name, text) in &*TEXTS {
        let folder = root.join(name).parent().expect("a folder").to_owned();
        let mut lost = Vec::new();
        let mut lose = |link: pulldown_cmark::BrokenLink<'_>| {
            lost.push(link.reference.to_string());
            None
        };
        let parser = Parser::new_with_broken_link_callback(text, Options::ENABLE_TABLES, Some(&mut lose));
        let targets: Vec<String> = parser
            .filter_map(|event| match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
                _ => None,
            })
            .collect();
        // In words like `[1]` no link is meant; a chapter's name is one.
        lost.retain(|reference| !reference.contains(|c: char| !c.is_ascii_lowercase() && c != '-'));
        assert!(lost.is_empty(), "{name} has links that lead nowhere: {lost:?}");
        for target in targets.iter().filter(|target| !target.contains("://")) {
            found += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root.join(name) } else { folder.join(file) };
            assert!(file.exists(), "{name} links to {target}, which is not there");
            if !heading.is_empty() {
                let there = fs::read_to_string(&file).expect("text");
                assert!(there.lines().any(|line| line.starts_with('#') && anchor(line) == heading), "{name}: {target}");
            }
        }
    }
    assert!(found > 30, "links are no longer found: {found}");
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn the_guide_and_readme_name_all_chapters() {
    let listed = Command::new(env!("CARGO_BIN_EXE_forkpy")).arg("guide").output().expect("it runs");
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    let chapters: Vec<&str> =
        TEXTS.keys().filter_map(|name| name.strip_prefix("src/guide/")?.strip_suffix(".md")).collect();
    for chapter in &chapters {
        assert!(listed.contains(&format!("| `{chapter}` |")), "`forkpy guide` does not list {chapter}");
        let link = format!("(src/guide/{chapter}.md)");
        assert!(TEXTS["README.md"].contains(&link), "README does not lead to {chapter}");
        let shown = Command::new(env!("CARGO_BIN_EXE_forkpy")).args(["guide", chapter]).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&shown.stdout), TEXTS[&format!("src/guide/{chapter}.md")]);
    }
    assert_eq!(listed.matches("\n| `").count(), chapters.len(), "{listed}");
}

/// Words that leave a reader to guess who is meant.
const VAGUE: [&str; 4] = ["nobody", "somebody", "anybody", "whoever"];

#[test]
fn comments_and_messages_name_who_is_meant() {
    let mut found = Vec::new();
    for folder in ["src", "python/forkpy_worker"] {
        for path in files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for (number, line) in text.lines().enumerate() {
                let words =
                    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').map(str::to_lowercase);
                if words.into_iter().any(|word| VAGUE.contains(&word.as_str())) {
                    found.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "say which client, call, process or user is meant:\n{}", found.join("\n"));
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it is read").path()) {
        match entry.is_dir() {
            true if entry.ends_with("__pycache__") => {}
            true => files.extend(files_below(&entry)),
            false => files.push(entry),
        }
    }
    files
}

/// The words of a picture, without where they stand.
fn words_of(svg: &str) -> Vec<String> {
    let lines = svg.lines().filter(|line| line.starts_with("<text"));
    lines
        .map(|line| {
            let inside = line.split('<').map(|part| part.split_once('>').map_or("", |(_, text)| text));
            inside.collect::<String>()
        })
        .collect()
}

/// The picture in README is of a real run: drawn again, it says the same.
#[test]
fn the_picture_is_what_happens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let drawn = tempfile::NamedTempFile::new().expect("a file");
    let mut script = Command::new(env!("FORKPY_BUILD_PYTHON"));
    script.arg(root.join("tests/clients/picture.py")).arg(env!("CARGO_BIN_EXE_forkpy")).arg(drawn.path());
    let output = script.output().expect("python");
    assert!(output.status.success(), "{output:?}");
    let read = |path: &Path| words_of(&fs::read_to_string(path).expect("a picture"));
    let (kept, now) = (read(&root.join("src/guide/run.svg")), read(drawn.path()));
    assert!(kept.len() > 8, "{kept:?}");
    assert_eq!(kept, now, "draw it anew: tests/clients/picture.py target/debug/forkpy src/guide/run.svg");
}

/// The table, the page and the chart are of one run.
#[test]
fn results_are_shown_as_they_were_measured() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let page = tempfile::tempdir().expect("a folder");
    for name in ["results.html", "results.svg"] {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_forkpy"));
        bench.args(["bench", "--from"]).arg(benches.join("results.json")).arg("--html").arg(page.path().join(name));
        let output = bench.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let read = |path: &Path| fs::read_to_string(path).expect("there");
        assert_eq!(
            read(&benches.join(name)),
            read(&page.path().join(name)),
            "make {name} anew: `forkpy bench --from … --html …`"
        );
        let told = fs::read_to_string(benches.join("RESULTS.md")).expect("there");
        let rows = String::from_utf8(output.stdout).expect("UTF-8");
        for row in rows.lines().filter(|line| line.starts_with('|') && !line.starts_with("|-")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert!(told.contains(&format!("| {} |", cells.join(" | "))), "RESULTS.md lacks {row}");
        }
    }
    let html = fs::read_to_string(benches.join("results.html")).expect("there");
    assert!(
        !html.contains("src=") && !html.contains("href=") && !html.contains("@import"),
        "something is loaded from outside"
    );
    assert!(html.contains("prefers-color-scheme: dark"));
}

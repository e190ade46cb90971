//! Every example of README and the guide, run against the binary: calls of tools, commands, configurations.
//!
//! A block's language says what it is. `python`: calls of tools, in order, on one server for each text; behind `# →` stands
//! what the reply must hold. `console`: commands; the lines below one are what it prints. `json`, `toml`, `ini`, `yaml`:
//! configurations. `text`: no example.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
};

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use serde_json::{Map, Value, json};

use crate::support::{Setup, http::HttpForkpy};

/// Calls and their arguments, with the words behind the arrow, of the line on which the call ends.
const CALLS: &str = "\
import ast, json, sys
source = sys.stdin.read()
lines = source.splitlines()
calls = []
for node in ast.parse(source).body:
    call = node.value
    words = lines[node.end_lineno - 1].partition('# → ')[2].strip()
    calls.append([call.func.id, [ast.literal_eval(a) for a in call.args], {k.arg: ast.literal_eval(k.value) for k in call.keywords}, words])
print(json.dumps(calls))";

/// Programs of others. Of such a line what forkpy is given is parsed; the rest needs what no test has.
const OF_OTHERS: [&str; 7] = ["cargo", "claude", "docker", "pip", "uvx", "wsl", "chmod"];

/// A text's blocks of code: their language and what they hold.
fn blocks(text: &str) -> Vec<(String, String)> {
    let (mut blocks, mut inside) = (Vec::new(), None);
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                inside = Some((language.to_string(), String::new()))
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => inside = Some((String::new(), String::new())),
            Event::Text(text) if let Some((_, code)) = &mut inside => *code += &text,
            Event::End(TagEnd::CodeBlock) => blocks.extend(inside.take()),
            _ => {}
        }
    }
    blocks
}

static TEXTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapters = fs::read_dir(root.join("src/guide")).expect("the guide is part of the sources");
    let chapters = chapters.map(|entry| entry.expect("readable").path());
    let texts = chapters.filter(|path| path.extension() == Some("md".as_ref())).chain([root.join("README.md")]);
    texts
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("part of the sources"))
        })
        .collect()
});

fn of(language: &'static str) -> impl Iterator<Item = (&'static String, String)> {
    TEXTS.iter().flat_map(move |(name, text)| {
        blocks(text).into_iter().filter(move |(of, _)| of == language).map(move |(_, code)| (name, code))
    })
}

#[test]
fn every_block_has_a_language_that_is_tested() {
    for (name, text) in &*TEXTS {
        for (language, code) in blocks(text) {
            let known = ["console", "ini", "json", "python", "text", "toml", "yaml"].contains(&language.as_str());
            assert!(known, "{name}: a block in {language:?}: {code}");
        }
    }
    assert!(of("python").count() > 10 && of("console").count() > 8, "examples are no longer found");
}

/// Names of arguments in the order in which the list of tools has them.
fn argument_names() -> BTreeMap<String, Vec<String>> {
    let rows = TEXTS["tools"].lines().filter_map(|line| line.strip_prefix("| `")?.split_once(")`"));
    rows.filter_map(|(call, _)| call.split_once('('))
        .map(|(name, arguments)| {
            let names = arguments.split(',').map(|argument| argument.trim().trim_end_matches('?').to_owned());
            (name.to_owned(), names.collect())
        })
        .collect()
}

/// A tool, its arguments by place and by name, and what the reply must hold.
type Call = (String, Vec<Value>, Map<String, Value>, String);

fn calls(code: &str) -> Vec<Call> {
    let mut python = Command::new(env!("FORKPY_BUILD_PYTHON"))
        .args(["-X", "utf8", "-c", CALLS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    std::io::Write::write_all(&mut python.stdin.take().expect("piped"), code.as_bytes()).expect("written");
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "these are no calls: {code}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn calls_answer_as_the_texts_say() {
    let names = argument_names();
    for text in TEXTS.keys() {
        let blocks: Vec<String> = of("python").filter(|(of, _)| *of == text).map(|(_, code)| code).collect();
        if blocks.is_empty() {
            continue;
        }
        let mut forkpy = Setup::new().start();
        for (tool, positional, mut arguments, words) in blocks.iter().flat_map(|code| calls(code)) {
            for (name, value) in names.get(&tool).unwrap_or_else(|| panic!("{text}: {tool}")).iter().zip(positional) {
                arguments.insert(name.clone(), value);
            }
            assert!(!words.is_empty(), "{text}: {tool} {arguments:?} does not say what comes back");
            let id = forkpy.begin("tools/call", json!({"name": tool, "arguments": arguments}));
            let answer = forkpy.answer(id)["result"].to_string();
            // Inside JSON inside JSON a quote has its backslash.
            let answer = answer.replace('\\', "");
            // A cell may meet the copy that is made of its session at rest, and wait for it a moment.
            let waits = words.contains("running") && answer.contains("queued");
            assert!(
                waits || answer.contains(&words),
                "{text}: {tool} {arguments:?} answers not {words:?} but {answer}"
            );
        }
    }
}

/// The words of a line, as a shell takes them apart.
fn words(line: &str) -> Vec<String> {
    let script = "import json, shlex, sys; print(json.dumps(shlex.split(sys.argv[1], comments=True)))";
    let output = Command::new(env!("FORKPY_BUILD_PYTHON")).args(["-c", script, line]).output().expect("python");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no shell line: {line}"))
}

fn forkpy(home: &Path, words: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
    command
        .args(words)
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .env("FORKPY_PYTHON", env!("FORKPY_BUILD_PYTHON"));
    command.env("FORKPY_IDLE_EXIT", "60").env_remove("XDG_CONFIG_HOME").current_dir(home).stdin(Stdio::null());
    command
}

/// forkpy takes these words; nothing is started.
fn is_parsed(home: &Path, words: &[String]) -> bool {
    let asked = [words, &["--help".to_owned()]].concat();
    forkpy(home, &asked).output().is_ok_and(|output| output.status.success())
}

#[test]
fn commands_do_as_the_texts_say() {
    let home = tempfile::tempdir().expect("a home");
    let mut seen = BTreeSet::new();
    for (text, code) in of("console") {
        for shown in code.split("\n$ ").map(|part| part.trim_start_matches("$ ")) {
            let (line, printed) = shown.split_once('\n').unwrap_or((shown, ""));
            // Two texts may show the same.
            if !seen.insert(shown.trim().to_owned()) {
                continue;
            }
            let words = words(line);
            let [program, rest @ ..] = &words[..] else { continue };
            match program.as_str() {
                // A server, what asks for another system, or for sessions that an earlier server has kept.
                "forkpy"
                    if rest.first().is_some_and(|word| word == "--transport" || word == "sessions")
                        || rest.contains(&"--via".to_owned()) =>
                {
                    assert!(is_parsed(home.path(), rest), "{text}: {line}");
                }
                "forkpy" => {
                    let ended = forkpy(home.path(), rest).output().expect("it runs");
                    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
                    assert!(ended.status.success(), "{text}: {line}: {ended:?}");
                    for expected in printed.lines().filter(|line| !line.is_empty()) {
                        assert!(said.contains(expected), "{text}: {line} prints not {expected:?} but {said}");
                    }
                }
                "curl" => files_travel(rest),
                other => {
                    assert!(OF_OTHERS.contains(&other), "{text}: {line:?} is run by no test");
                    let own =
                        words.iter().rposition(|word| word == "forkpy" || word == "--").map(|at| &words[at + 1..]);
                    let own = own.filter(|own| other != "cargo" || own.first().is_some_and(|word| word == "bundle"));
                    assert!(is_parsed(home.path(), own.unwrap_or_default()), "{text}: {line}");
                }
            }
        }
    }
    let stopped = forkpy(home.path(), &["stop".to_owned(), "--all".to_owned()]).status();
    assert!(stopped.expect("it runs").success());
}

/// The addresses of the examples are there, with what curl sends and gets.
fn files_travel(words: &[String]) {
    let server = HttpForkpy::start(Setup::new());
    let address = words.iter().find(|word| word.starts_with("http://")).expect("an address");
    let path = address.splitn(4, '/').nth(3).map(|path| format!("/{path}")).expect("a path");
    if words.contains(&"-F".to_owned()) {
        let body =
            b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"data.csv\"\r\n\r\na,b\r\n--x--\r\n";
        let answer = server.exchange("POST", &path, &[("Content-Type", "multipart/form-data; boundary=x")], body);
        assert_eq!(answer.json()["path"], "uploads/data.csv");
    } else {
        let file = path.strip_prefix("/files/download/").expect("a download");
        fs::write(server.workspace().join(file), "picture").expect("written");
        assert_eq!(server.get(&path).status, 200);
    }
}

#[test]
fn configurations_are_followed() {
    let home = tempfile::tempdir().expect("a home");
    for (text, code) in of("json") {
        let found: Value = serde_json::from_str(&code).unwrap_or_else(|error| panic!("{text}: {error}: {code}"));
        let servers =
            found.get("mcpServers").or_else(|| found.get("servers")).expect("servers").as_object().expect("an object");
        for server in servers.values() {
            let words: Vec<String> = serde_json::from_value(server["args"].clone()).expect("words");
            let words: Vec<String> = words.iter().map(|word| word.replace("${workspaceFolder}", "/tmp")).collect();
            let starts = |word: &String| {
                word == "forkpy" || word.ends_with("/bin/forkpy") || word.ends_with("/forkpy") && !word.starts_with('/')
            };
            let own = match server["command"].as_str().expect("a program") {
                program if program.ends_with("forkpy") => &words[..],
                // A container, or WSL: what comes behind its name.
                _ => &words[words.iter().position(starts).expect("it starts forkpy") + 1..],
            };
            assert!(is_parsed(home.path(), own), "{code}");
        }
    }
    for (text, code) in of("toml") {
        let file = home.path().join("forkpy.toml");
        let workspace = home.path().join("w");
        fs::write(&file, code.replace("/home/you/forkpy", workspace.to_str().expect("UTF-8"))).expect("written");
        let words = ["--config".to_owned(), file.to_string_lossy().into_owned()];
        let ended = forkpy(home.path(), &words).output().expect("it runs");
        assert!(ended.status.success() && workspace.join("outputs").is_dir(), "{text}: {ended:?}");
    }
    for (text, code) in of("ini") {
        let start = code.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
        assert!(is_parsed(home.path(), &words(start)[1..]), "{text}: {start}");
    }
    for (text, code) in of("yaml") {
        let found: Value = serde_yaml_ng::from_str(&code).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(found["scrape_configs"][0]["static_configs"].is_array(), "{found}");
    }
}

//! Completion and inspection: beside a running cell, and without running anything of the session's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, processes, wait_up_to};

/// An object that notes every look at it.
const SLY: &str = "\
looks = []
class Sly:
    def __init__(self): self.plain = {'inner key': 1}
    @property
    def computed(self): looks.append('property')
    def __getattr__(self, name): looks.append(name); raise AttributeError(name)
    def __getattribute__(self, name): looks.append(name); return object.__getattribute__(self, name)
    def __dir__(self): looks.append('dir'); return []
    def __repr__(self): looks.append('repr'); return 'sly'
    def __len__(self): looks.append('len'); return 1
    def __bool__(self): looks.append('bool'); return True
    def __iter__(self): looks.append('iter'); return iter(())
    def __getitem__(self, key): looks.append('getitem')
    def method(self, a: int, b='x') -> str:
        'Does things.'
        return ''
sly = Sly()
looks.clear()";

fn complete(forkpy: &mut Forkpy, code: &str) -> Value {
    let cursor = code.chars().count();
    forkpy.call("code_completion", json!({"code": code, "cursor_pos": cursor})).data
}

fn matches(forkpy: &mut Forkpy, code: &str) -> Vec<String> {
    let data = complete(forkpy, code);
    assert_eq!(data["status"], "ok", "{data}");
    data["matches"].as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

fn inspect(forkpy: &mut Forkpy, code: &str, detail: u8) -> Value {
    let cursor = code.chars().count();
    forkpy.call("inspect_object", json!({"code": code, "cursor_pos": cursor, "detail_level": detail})).data
}

#[test]
fn nothing_of_the_sessions_runs() {
    let mut forkpy = Forkpy::start();
    forkpy.run(SLY);
    let found = matches(&mut forkpy, "sly.");
    assert_eq!(found[..3], ["computed", "method", "plain"]);
    assert_eq!(matches(&mut forkpy, "sly.plain['in"), ["inner key'"]);
    assert_eq!(matches(&mut forkpy, "sly.computed."), [""; 0]);
    matches(&mut forkpy, "sl");
    matches(&mut forkpy, "for x in sly: x.");
    let told = inspect(&mut forkpy, "sly.method(1, ", 1);
    let text = told["data"]["text/plain"].as_str().expect("text");
    for part in ["method(a: int, b='x') -> str", "Does things.", "return ''"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    for code in ["sly", "sly.computed", "sly.nothing", "len(sly"] {
        inspect(&mut forkpy, code, 1);
    }
    assert_eq!(forkpy.eval("looks"), "[]");
}

#[test]
fn cursors_are_counted_in_characters() {
    let mut forkpy = Forkpy::start();
    forkpy.run("größe = {'漢字': 1}");
    let data = complete(&mut forkpy, "'😀😀'; größe['漢");
    assert_eq!(
        (&data["matches"], &data["cursor_start"], &data["cursor_end"]),
        (&json!(["漢字'"]), &json!(13), &json!(14))
    );
    let data = complete(&mut forkpy, "'😀'; grö");
    assert_eq!((&data["matches"], &data["cursor_start"]), (&json!(["größe"]), &json!(5)));
    let reply = forkpy.call("code_completion", json!({"code": "😀", "cursor_pos": 2}));
    assert!(reply.is_error && reply.text.contains("1 characters"), "{reply:?}");
}

#[test]
fn both_answer_while_a_cell_runs() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os, time; values = {'key': 1}; go = True");
    let cell = forkpy.begin_run("while not os.path.exists('stop'): pass");
    forkpy.until_state("busy");
    assert_eq!(matches(&mut forkpy, "values['"), ["key'"]);
    assert_eq!(inspect(&mut forkpy, "values", 0)["found"], true);
    std::fs::write(forkpy.file("stop"), "").expect("written");
    assert_eq!(forkpy.reply(cell).data["status"], "ok");
}

/// `PyDLL` calls keep the GIL.
#[test]
fn an_interpreter_that_native_code_holds_is_busy() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import ctypes; ready = True");
    let cell = forkpy.begin_run("open('holding', 'w').close(); ctypes.PyDLL(None).sleep(9)");
    let holding = forkpy.file("holding");
    forkpy.until("native code", |_| holding.exists());
    let data = complete(&mut forkpy, "rea");
    assert_eq!((&data["status"], &data["matches"]), (&json!("busy"), &json!([])));
    assert!(data["notice"].as_str().expect("a notice").contains("cell 2 runs native code"), "{data}");
    forkpy.reply(cell);
}

#[test]
fn a_session_without_a_worker_gets_one() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os; os._exit(3)");
    assert!(matches(&mut forkpy, "prin").contains(&"print".to_owned()));
}

#[test]
fn variables_come_in_parts_too() {
    let mut forkpy = Forkpy::start();
    let code = "\
calls = []
class Slow:
    def __repr__(self):
        calls.append(1)
        while True: pass
class Rude:
    def __repr__(self): calls.append(2); raise ValueError
slow, slower, rude, ruder = Slow(), Slow(), Rude(), Rude()
numbers = list(range(1000))
text = 'abc'";
    forkpy.run(code);
    forkpy.call("list_variables", json!({}));
    let data = forkpy.call("list_variables", json!({})).data;
    let numbers = &data["details"]["numbers"];
    assert_eq!((&numbers["type"], &numbers["length"]), (&json!("list"), &json!(1000)));
    assert!(numbers["bytes"].as_u64().expect("a number") >= 8000, "{numbers}");
    assert_eq!(data["details"]["text"]["value"], "'abc'");
    assert_eq!(data["variables"]["slower"], "Slow: <__repr__ is too slow>");
    assert_eq!(data["variables"]["ruder"], "Rude: <__repr__ raised ValueError>");
    assert_eq!(forkpy.eval("calls"), "[1, 2]", "each class was asked once");
}

/// Nothing that forkpy asks for takes long by itself, so its function is replaced by one that does.
#[test]
fn an_answer_that_takes_too_long_is_broken_off() {
    let mut forkpy = Forkpy::start();
    // The first has more time.
    assert_eq!(matches(&mut forkpy, "sorte"), ["sorted"]);
    let code = "\
import forkpy_worker.lookup.completion as room
real = room.complete
def slow(code, cursor):
    while True: pass
room.complete = slow";
    forkpy.run(code);
    let data = complete(&mut forkpy, "rea");
    assert_eq!((&data["status"], &data["matches"]), (&json!("error"), &json!([])));
    assert!(data["notice"].as_str().expect("a notice").contains("longer than 4 s"), "{data}");
    forkpy.run("room.complete = real");
    assert_eq!(matches(&mut forkpy, "rea"), ["real"]);
}

/// The first answer imports jedi, which took more than an answer's time where the machine had other work.
#[test]
fn the_first_answer_has_more_time() {
    let mut forkpy = Forkpy::start();
    let code = "\
import time
import forkpy_worker.lookup.completion as room
real = room.complete
def slow(code, cursor):
    time.sleep(7)
    return real(code, cursor)
room.complete = slow";
    forkpy.run(code);
    assert_eq!(matches(&mut forkpy, "sorte"), ["sorted"]);
}

/// jedi keeps files in the user's cache, and failed where that cannot be written: completion fell back to plain names.
#[test]
fn a_cache_that_cannot_be_written_does_not_stop_jedi() {
    let mut forkpy = Setup::new().env("XDG_CACHE_HOME", "/proc/no-cache-here").start();
    let data = complete(&mut forkpy, "import json; json.dum");
    assert_eq!((&data["metadata"]["engine"], &data["matches"][0]), (&json!("jedi"), &json!("dump")), "{data}");
}

/// jedi parses Python's stubs when it is first used on a machine, for seconds: the zygote has a child do that, before
/// anybody asks, and ends.
#[test]
fn what_the_first_answer_needs_is_read_before_it_is_asked() {
    let cache = tempfile::tempdir().expect("a directory");
    let mut forkpy = Setup::new().env("XDG_CACHE_HOME", cache.path().to_str().expect("text")).start();
    let folders = || std::fs::read_dir(cache.path().join("jedi")).into_iter().flatten().flatten();
    let trees = || folders().flat_map(|folder| std::fs::read_dir(folder.path())).flatten().count();
    assert_eq!(forkpy.eval("1"), "1");
    let zygote = forkpy.zygote_pid();
    let readers = || {
        let children = processes::children(zygote).into_iter();
        children.filter(|pid| processes::name(*pid).contains("reader")).collect::<Vec<_>>()
    };
    // It runs where the processor has no other work; beside other tests that is never.
    let limit = Duration::from_secs(600);
    wait_up_to(limit, "the builtins' stubs to be read", || {
        readers().into_iter().for_each(processes::hurry);
        trees() > 5
    });
    wait_up_to(limit, "the reader to end", || readers().is_empty());
    let read = trees();
    assert_eq!(matches(&mut forkpy, "import os\nos.pa")[..2], ["pardir", "path"]);
    let more = trees() - read;
    assert!(more < read / 2, "the first answer had to parse {more} more than {read}");
}

/// What was written and the rest of another name made one that exists nowhere: `greet(lo` gave `lookupError`.
#[test]
fn only_names_that_exist_are_offered() {
    let mut forkpy = Forkpy::start();
    forkpy.run("def greet(name, *, loud=False):\n    return name");
    assert_eq!(matches(&mut forkpy, "greet(lo"), ["loud=", "locals"]);
    assert_eq!(matches(&mut forkpy, "lambda: imp"), ["import"]);
    assert_eq!(matches(&mut forkpy, "try:\n    pass\nexc"), ["except"]);
    // Type checkers know it, Python does not.
    assert!(!matches(&mut forkpy, "ell").contains(&"ellipsis".to_owned()));
    assert_eq!(matches(&mut forkpy, "greet(name='lo"), [""; 0]);
    assert_eq!(matches(&mut forkpy, "raise Val"), ["ValueError"]);
}

#[test]
fn keys_and_keywords_of_what_lives_are_offered() {
    let mut forkpy = Forkpy::start();
    let code = "\
import collections, functools
d = {b'by': 1, 'k2': {'deep': [0, {'er': 2}]}, ('a', 'b'): 1, ('a', 'c'): 2, 3: 4}
counts = collections.defaultdict(int, {'q1': 1})
class Tool:
    def __init__(self, zeta=1): self.parts = {'in': 1}
    def use(self, alpha, *, gamma=1): pass
    def __call__(self, called): pass
tool = Tool()
part = functools.partial(tool.use, 1)";
    forkpy.run(code);
    for (begun, offered) in [
        ("d[b'", "by'"),
        ("d[\"k", "k2\""),
        ("d['k2']['", "deep'"),
        ("d['k2']['deep'][1]['", "er'"),
        ("counts['", "q1'"),
        ("tool.parts['", "in'"),
        ("tool.use(ga", "gamma="),
        ("print(tool.use(1, ga", "gamma="),
        ("Tool(ze", "zeta="),
        ("part(ga", "gamma="),
        ("tool(cal", "called="),
    ] {
        let found = matches(&mut forkpy, begun);
        assert_eq!(found[0], offered, "{begun}: {found:?}");
    }
    assert_eq!(matches(&mut forkpy, "d['a', '"), ["b'", "c'"]);
    assert_eq!(matches(&mut forkpy, "d[('a', '"), ["b'", "c'"]);
    let whole = ["('a', 'b')", "('a', 'c')", "'k2'", "3", "b'by'"];
    let mut offered = matches(&mut forkpy, "d[");
    offered.sort_unstable();
    let mut all = whole.to_vec();
    all.sort_unstable();
    assert_eq!(offered, all, "as code writes them");
    assert_eq!(matches(&mut forkpy, "d[("), ["'a'"], "only tuples begin so");
    assert_eq!(matches(&mut forkpy, "d[('a', "), ["'b'", "'c'"]);
    assert_eq!(matches(&mut forkpy, "d['a', "), ["'b'", "'c'"]);
    assert_eq!(matches(&mut forkpy, "counts["), ["'q1'"]);
    assert!(!matches(&mut forkpy, "tool.use(gamma=1, ").contains(&"gamma=".to_owned()), "it is there already");
}

#[test]
fn signatures_of_what_can_be_called_and_items() {
    let mut forkpy = Forkpy::start();
    let code = "\
import functools
class Tool:
    def __call__(self, called): pass
tool = Tool()
def greet(name, *, loud=False): pass
part = functools.partial(greet, 'x')
cached = functools.lru_cache(greet)
d = {'k': [1], 'tool': tool}";
    forkpy.run(code);
    for (code, words) in [
        ("tool(", "Signature: tool(called)"),
        ("part(", "Signature: part(*, loud=False)"),
        ("cached", "Signature: cached(name, *, loud=False)"),
        ("d[\"k\"]", "Type: list"),
        ("print(d['tool']", "Signature: d['tool'](called)"),
    ] {
        let told = inspect(&mut forkpy, code, 0);
        let text = told["data"]["text/plain"].as_str().unwrap_or_else(|| panic!("{code}: {told}"));
        assert!(text.contains(words), "{code}: {text}");
    }
    assert_eq!(inspect(&mut forkpy, "d['nothing']", 0)["found"], false);
}

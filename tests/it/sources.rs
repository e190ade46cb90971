//! Where code of cells stands: `inspect` finds it, also after it went to another worker; processes that cells start know it.

use serde_json::json;

use crate::support::Forkpy;

const CLASSES: &str = "\
import dataclasses, enum
@dataclasses.dataclass
class Point:
    x: int
    more: list = dataclasses.field(default_factory=list)
class Color(enum.Enum):
    RED = 1
class Outer:
    class Inner:
        deep = 2
class Plain:
    marker = 1
    def method(self):
        return 'original'";

/// Functions know their file, and classes do not: before, `inspect` found none of a cell's.
#[test]
fn classes_of_cells_have_their_source() {
    let mut forkpy = Forkpy::start();
    forkpy.run(CLASSES);
    forkpy.run("import inspect");
    let source = |name: &str| format!("inspect.getsource({name})");
    let point = forkpy.eval(&source("Point"));
    assert!(point.starts_with("'@dataclasses.dataclass\\nclass Point:") && point.contains("more: list"), "{point}");
    assert_eq!(forkpy.eval(&source("Color")), "'class Color(enum.Enum):\\n    RED = 1\\n'");
    assert_eq!(forkpy.eval(&source("Outer.Inner")), "'    class Inner:\\n        deep = 2\\n'");
    assert_eq!(forkpy.eval("inspect.getsourcelines(Color)[1], inspect.getfile(Color)"), "(6, '<cell 1>')");
    // The newest of a name, unless the class has functions, which know better.
    forkpy.run("old = Plain\nclass Plain:\n    marker = 2");
    assert_eq!(forkpy.eval(&source("Plain")), "'class Plain:\\n    marker = 2\\n'");
    assert!(forkpy.eval(&source("old")).contains("marker = 1"));
    let told = forkpy.call("inspect_object", json!({"code": "Plain", "cursor_pos": 5, "detail_level": 1})).data;
    assert!(told["data"]["text/plain"].as_str().expect("text").contains("marker = 2"), "{told}");
    // What was not written in a cell has none, as in a script.
    let reply = forkpy.run("inspect.getsource(type('Made', (), {}))");
    assert_eq!(reply["error"]["type"], "OSError", "{reply}");
}

/// The other worker has cells of its own, of the same numbers.
#[test]
fn sources_go_along_with_a_saved_session() {
    let mut forkpy = Forkpy::start();
    let pickler = forkpy.eval("import importlib.util; importlib.util.find_spec('cloudpickle') is not None");
    forkpy.run(CLASSES);
    forkpy.run("def function():\n    return 1 / 0");
    forkpy.call("save_session", json!({"path": "kept.state"}));
    forkpy.call("restart_kernel", json!({"preserve_state": false}));
    for _ in 0..3 {
        forkpy.run("other = 'cell'");
    }
    let loaded = forkpy.call("load_session", json!({"path": "kept.state"})).data;
    if pickler == "False" {
        assert!(loaded["skipped"].to_string().contains("defined in a cell"), "{loaded}");
        return;
    }
    forkpy.run("import inspect");
    assert!(forkpy.eval("inspect.getsource(function)").contains("return 1 / 0"));
    assert!(forkpy.eval("inspect.getsource(Plain)").contains("marker = 1"));
    assert!(forkpy.eval("inspect.getsource(Color)").contains("RED = 1"));
    let failed = forkpy.run("function()");
    assert!(failed["stderr"].as_str().expect("text").contains("    return 1 / 0"), "{failed}");
}

/// A pool of processes that did not know the function started new ones for ever.
#[test]
fn processes_that_are_spawned_know_what_cells_define_or_say_what_to_do() {
    let mut forkpy = Forkpy::start();
    let pickler = forkpy.eval("import importlib.util; importlib.util.find_spec('cloudpickle') is not None");
    let code = "\
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
OFFSET = 10
def helper(x): return x + OFFSET
def square(x): return helper(x * x)
class Made:
    def __init__(self, x): self.x = x
def make(x): return Made(x)";
    forkpy.run(code);
    if pickler == "False" {
        for method in ["spawn", "forkserver"] {
            let pool = format!("with mp.get_context('{method}').Pool(1) as pool:\n    pool.map(square, [1])");
            let reply = forkpy.run(&pool);
            assert!(reply["error"]["message"].as_str().expect("words").contains("cloudpickle"), "{reply}");
        }
        return;
    }
    for method in ["spawn", "forkserver"] {
        forkpy.run(&format!("context = mp.get_context('{method}')"));
        let pool = "with context.Pool(1) as pool:\n    found = pool.map(square, [1, 2]), pool.map(make, [1])\n\
                    found[0], type(found[1][0]) is Made";
        assert_eq!(forkpy.eval(pool), "([11, 14], True)", "{method}");
        let executor = "with ProcessPoolExecutor(1, mp_context=context) as pool:\n    found = list(pool.map(square, [3]))\n\
                        found";
        assert_eq!(forkpy.eval(executor), "[19]", "{method}");
    }
    // Defined, or defined anew, when the processes were there already.
    forkpy.run("pool = mp.get_context('spawn').Pool(1)");
    forkpy.run("def later(x): return -x\ndef square(x): return 'new'");
    assert_eq!(forkpy.eval("pool.map(later, [1]), pool.map(square, [1])"), "([-1], ['new'])");
    forkpy.run("pool.terminate(); pool.join()\npool = mp.get_context('fork').Pool(1)\ndef latest(x): return x");
    assert_eq!(forkpy.eval("pool.map(latest, [5])"), "[5]");
    forkpy.run("pool.terminate(); pool.join()");
}

//! What people are used to from notebooks and what needs no library: tasks, loops, and a word on IPython's syntax.

use serde_json::{Value, json};

use crate::support::Forkpy;

#[test]
fn tasks_stand_still_between_cells_and_the_reply_says_so() {
    let mut forkpy = Forkpy::start();
    let code = "\
import asyncio
ticks = 0
async def tick():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0.001)
task = asyncio.create_task(tick(), name='ticker')
await asyncio.sleep(0.05)";
    let notice = forkpy.run(code)["notice"].as_str().expect("a notice").to_owned();
    assert!(notice.starts_with("1 asyncio task is paused (ticker)"), "{notice}");
    let before = forkpy.run("before = ticks; before > 1");
    assert_eq!((&before["results"], &before["notice"]), (&json!(["True"]), &json!(null)), "it is said once");
    assert_eq!(forkpy.eval("import time; time.sleep(0.05); ticks == before"), "True");
    assert_eq!(forkpy.eval("await asyncio.sleep(0.05); ticks > before"), "True");
    assert_eq!(forkpy.eval("task.cancel(); await asyncio.sleep(0); task.cancelled()"), "True");
}

#[test]
fn a_task_can_be_made_without_await_and_awaited_later() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import asyncio\nasync def double(n):\n    await asyncio.sleep(0)\n    return 2 * n");
    forkpy.run("task = asyncio.create_task(double(21))");
    assert_eq!(forkpy.eval("await task"), "42");
}

#[test]
fn asyncio_run_works_as_in_a_script_between_awaits() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import asyncio\nasync def double(n):\n    await asyncio.sleep(0)\n    return 2 * n");
    assert_eq!(forkpy.eval("await double(1)"), "2");
    assert_eq!(forkpy.eval("asyncio.run(double(2))"), "4");
    assert_eq!(forkpy.eval("def nested():\n    return asyncio.run(double(3))\nnested()"), "6");
    let code =
        "async def main():\n    task = asyncio.create_task(double(4))\n    return await task\nasyncio.run(main())";
    assert_eq!(forkpy.eval(code), "8");
    assert_eq!(forkpy.eval("await asyncio.gather(double(1), double(5))"), "[2, 10]");
    let reply = forkpy.run("async def inside():\n    return asyncio.run(double(1))\nawait inside()");
    assert!(reply["error"]["message"].as_str().expect("refused").contains("running event loop"), "{reply}");
}

const LOOPS: &str = "\
import asyncio
async def job(n=3):
    await asyncio.sleep(0)
    return n
def start():
    return asyncio.create_task(job())
def nested():
    return asyncio.run(job(6))
class Client:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
class Tracker:
    def create_task(self):
        return asyncio.run(job(4))
    def ensure_future(self):
        return asyncio.new_event_loop().run_until_complete(job(5))";

#[test]
fn a_function_that_wants_a_running_loop_has_one_in_every_cell() {
    let mut forkpy = Forkpy::start();
    forkpy.run(LOOPS);
    forkpy.run("task = start()");
    assert_eq!(forkpy.eval("await task"), "3");
    forkpy.run("tasks = [start() for _ in range(3)]\nmore = list(map(lambda _: start(), range(2)))");
    assert_eq!(forkpy.eval("await asyncio.gather(*tasks, *more)"), "[3, 3, 3, 3, 3]");
    forkpy.run("client = Client(); future = asyncio.Future(); late = asyncio.ensure_future(job(7))");
    forkpy.run("client.loop.call_later(0.01, future.set_result, 8)\nboth = asyncio.gather(late, future)");
    assert_eq!(forkpy.eval("await both"), "[7, 8]");
    let reply = forkpy.run("asyncio.get_running_loop().call_soon(print, 'soon')");
    assert_eq!(reply["stdout"], "soon\n", "what is ready runs at the cell's end: {reply}");
    assert_eq!(forkpy.eval("asyncio.get_event_loop() is client.loop, client.loop.is_running()"), "(True, False)");
    assert_eq!(forkpy.eval("hasattr(asyncio, 'timeout') and asyncio.timeout(5) is None"), "False");
}

#[test]
fn plain_code_runs_its_own_loop_whatever_its_names() {
    let mut forkpy = Forkpy::start();
    forkpy.run(LOOPS);
    assert_eq!(forkpy.eval("create_task = get_running_loop = True\nnested()"), "6");
    assert_eq!(forkpy.eval("Tracker().create_task(), Tracker().ensure_future()"), "(4, 5)");
    assert_eq!(
        forkpy.eval("task = start(); asyncio.run(job(1)), asyncio.get_event_loop().run_until_complete(task)"),
        "(1, 3)"
    );
    assert_eq!(forkpy.eval("with asyncio.Runner() as runner:\n    found = runner.run(job(2))\nfound"), "2");
    assert_eq!(
        forkpy.eval("loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop); loop.run_until_complete(job(9))"),
        "9"
    );
    // As scripts do it, again and again.
    for _ in 0..2 {
        let code = "loop = asyncio.get_event_loop()\ntry:\n    found = loop.run_until_complete(job(5))\nfinally:\n    loop.close()\nfound";
        assert_eq!(forkpy.eval(code), "5");
    }
    assert_eq!(forkpy.eval("await job(1)"), "1");
}

#[test]
fn other_threads_and_processes_have_no_loop() {
    let mut forkpy = Forkpy::start();
    forkpy.run(LOOPS);
    let code = "\
import concurrent.futures, os
def look():
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        return str(error), asyncio.run(job())
with concurrent.futures.ThreadPoolExecutor() as pool:
    found = pool.submit(look).result()
if (child := os.fork()) == 0:
    os._exit(7 if look() == found else 1)
found, os.waitpid(child, 0)[1] >> 8";
    assert_eq!(forkpy.eval(code), "(('no running event loop', 3), 7)");
}

#[test]
fn what_a_cell_that_awaits_sets_in_the_context_is_there_in_the_next() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import asyncio, contextvars, decimal\nvar = contextvars.ContextVar('var', default='unset')");
    forkpy.run("token = var.set('first')");
    forkpy.run("before = var.get()\nawait asyncio.sleep(0)\nvar.set('second'); decimal.getcontext().prec = 5");
    assert_eq!(forkpy.eval("before, var.get(), decimal.Decimal(1) / 3"), "('first', 'second', Decimal('0.33333'))");
    forkpy.run("await asyncio.sleep(0)\ndecimal.setcontext(decimal.Context(prec=3))");
    assert_eq!(forkpy.eval("decimal.Decimal(1) / 3"), "Decimal('0.333')");
    // A token of one cell is good in another, and a task has a context of its own.
    forkpy.run("async def alone():\n    var.set('its own')\nawait asyncio.create_task(alone())\nvar.reset(token)");
    assert_eq!(forkpy.eval("var.get()"), "'unset'");
    forkpy.run("try:\n    await asyncio.sleep(0)\n    var.set('third')\n    1 / 0\nfinally:\n    pass");
    assert_eq!(forkpy.eval("var.get()"), "'third'", "also where the cell failed");
}

#[test]
fn pasted_code_runs_as_in_a_notebook() {
    let mut forkpy = Forkpy::start();
    for (code, printed) in [
        ("\u{feff}print(1)", "1\n"),
        ("    x = 1\n    print(x)", "1\n"),
        ("\n\n  # a comment\n  for i in range(2):\n      print(i)\n", "0\n1\n"),
        ("\tif True:\n\t\tprint('tabs')", "tabs\n"),
        (">>> for i in range(2):\n...     print(i)\n...\n>>> print('done')", "0\n1\ndone\n"),
        ("    >>> print('both')", "both\n"),
        ("In [1]: x = 2\nIn [2]: print(x)", "2\n"),
        ("In [1]: for i in range(2):\n   ...:     print(i)\n", "0\n1\n"),
        ("\u{feff}    print('all of it')\r\n    print(2)", "all of it\n2\n"),
    ] {
        let reply = forkpy.run(code);
        assert_eq!((&reply["status"], &reply["stdout"]), (&json!("ok"), &json!(printed)), "{code:?}: {reply}");
    }
    // What is no Python either way keeps its own error, and lines keep their numbers.
    let reply = forkpy.run("\n    x = 1\n    y = (");
    assert_eq!((&reply["error"]["type"], &reply["error"]["line"]), (&json!("SyntaxError"), &json!(3)), "{reply}");
    let reply = forkpy.run("    a = 1\n    a / 0");
    assert_eq!(
        (&reply["error"]["line"], reply["stderr"].as_str().expect("text").contains("\n    a / 0\n")),
        (&json!(2), true)
    );
    assert_eq!(forkpy.eval("text = '''\n    >>> kept\n    '''\ntext"), "'\\n    >>> kept\\n    '");
}

#[test]
fn carets_stand_where_they_do_in_a_file() {
    let mut forkpy = Forkpy::start();
    let marked = |reply: &Value| {
        let lines: Vec<&str> = reply["stderr"].as_str().expect("text").lines().collect();
        let mark = lines.iter().position(|line| line.trim_start().starts_with(['^', '~'])).expect("carets");
        let from = lines[mark].find(['^', '~']).expect("a caret");
        lines[mark - 1][from..from + lines[mark].trim().len()].to_owned()
    };
    for code in ["x = {}\n1 + x['a']", "x = {}\n1 + x['a']\n"] {
        assert_eq!(marked(&forkpy.run(code)), "x['a']", "{code:?}");
    }
    for code in ["f(1, (2 *", "f(1, (2 *\n"] {
        assert_eq!(marked(&forkpy.run(code)), "(", "{code:?}");
    }
}

#[test]
fn broken_builtins_do_not_end_a_session_and_the_reply_says_how_to_leave() {
    let mut forkpy = Forkpy::start();
    forkpy.run("keep = 1");
    for name in [
        "eval",
        "compile",
        "__import__",
        "repr",
        "len",
        "isinstance",
        "print",
        "open",
        "BaseException",
        "__build_class__",
    ] {
        forkpy.run(&format!("import builtins\nwhole = builtins.{name}\nbuiltins.{name} = None"));
        assert_eq!(forkpy.eval("keep"), "1", "{name}");
        let reply = forkpy.run("1 / 0");
        assert_eq!(reply["error"]["type"], "ZeroDivisionError", "{name}: {reply}");
        assert!(forkpy.call("list_variables", json!({})).data["variables"]["keep"].is_string(), "{name}");
        forkpy.run(&format!("builtins.{name} = whole; del whole"));
    }
    forkpy.run("builtins.len = None");
    let hint = forkpy.run("len([])")["error"]["hint"].as_str().expect("a hint").to_owned();
    assert!(hint.contains("(len)") && hint.contains("restart_kernel with preserve_state: true"), "{hint}");
    forkpy.run("builtins.__import__ = None");
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert!(restarted["restored_vars"].as_array().expect("names").contains(&json!("keep")), "{restarted}");
    assert_eq!(forkpy.eval("len([keep])"), "1");
    for code in [
        "import builtins; builtins.__dict__.clear()",
        "import sys; sys.modules.clear()",
        "globals().clear()",
        "__builtins__ = {}",
    ] {
        forkpy.run("keep = 1");
        forkpy.run(code);
        assert_eq!(forkpy.eval("2"), "2", "{code}");
        // What this needs is put back, at the latest now.
        assert_eq!(forkpy.run("1 / 0")["error"]["type"], "ZeroDivisionError", "{code}");
        assert!(forkpy.call("list_variables", json!({})).data["variables"].is_object(), "{code}");
        assert_eq!(forkpy.eval("import json; json.dumps([1])"), "'[1]'", "{code}");
    }
}

#[test]
fn ipythons_syntax_without_ipython_says_what_to_do() {
    let mut forkpy = Forkpy::start();
    // The Python that builds may have it.
    forkpy.run("import sys; sys.modules['IPython'] = None");
    for code in ["!ls", "x = 1\n%timeit x", "%%bash\nls", "x?", "files = !ls"] {
        let reply = forkpy.run(code);
        assert_eq!(reply["error"]["type"], "SyntaxError", "{code}");
        assert!(reply["error"]["hint"].as_str().expect("a hint").contains("packages ['ipython']"), "{reply}");
    }
    assert_eq!(forkpy.run("x = (1,\n")["error"]["hint"], json!(null));
    assert_eq!(forkpy.eval("17 \\\n% 5"), "2");
}

/// A mistyped name was told to be installed: anybody can publish a package under it.
#[test]
fn no_hint_names_a_package_that_was_not_checked() {
    let mut forkpy = Forkpy::start();
    let mut hint = |code: &str| forkpy.run(code)["error"]["hint"].as_str().unwrap_or_default().to_owned();
    let meant = hint("import sklearnn");
    assert!(meant.contains("'sklearn'") && !meant.contains("packages ['sklearnn']"), "{meant}");
    let there = hint("import jsn");
    assert!(there.contains("'json' is there"), "{there}");
    let unknown = hint("import an_unknown_module_of_mine");
    assert!(unknown.contains("does not know which package") && !unknown.contains("packages ["), "{unknown}");
    assert!(hint("import cv2").contains("packages ['opencv-python-headless']"));
    // One that is a file of the workspace is not to be installed at all.
    let code = "import os\nos.makedirs('lib')\nopen('lib/requests_cache_of_mine.py', 'w').close()\n\
                import requests_cache_of_mine";
    let file = hint(code);
    assert!(file.contains("is a file of the workspace, in 'lib'") && !file.contains("packages ["), "{file}");
}

#[test]
fn what_only_ipython_does_is_hinted_at_without_it() {
    let mut forkpy = Forkpy::start();
    // The Python that builds may have it.
    forkpy.run("import sys; sys.modules['IPython'] = None");
    let mut hint = |code: &str| forkpy.run(code)["error"]["hint"].as_str().unwrap_or_default().to_owned();
    for code in ["%pip install x", "!pip install -q x", "pip install x", "!uv pip install x", "%conda install -c y x"] {
        let words = hint(code);
        assert!(words.contains("install_dependencies") && words.contains("packages ['x']"), "{code}: {words}");
    }
    assert!(hint("%pip install -r requirements.txt").contains("takes no file of requirements"));
    assert!(hint("ls").contains("os.listdir()"));
    assert!(hint("cd somewhere").contains("os.chdir(path)"));
    assert!(hint("get_ipython()").contains("packages ['ipython']"));
    assert_eq!(hint("x = 1\nhist"), "", "an unknown variable is no magic");
    assert_eq!(forkpy.eval("'get_ipython' in globals()"), "False");
}

//! What people are used to from notebooks and what needs no library: tasks, loops, and a word on IPython's syntax.

use serde_json::json;

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

//! `sys.stdout`, `sys.stderr`, `sys.stdin` and descriptors 0, 1, 2 survive what code does to them: the next cell prints.

use serde_json::json;

use crate::support::Forkpy;

/// What agents and scripts do, each run twice, with what the second run prints itself, if that is certain.
const DONE_TO_STREAMS: &[&str] = &[
    "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('own')",
    "import sys, io\nio.TextIOWrapper(sys.stdout.buffer).write('t')",
    "import sys, io\nsys.stderr = io.TextIOWrapper(sys.stderr.buffer, encoding='utf-8')",
    "import sys, io, codecs\nsys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())\nprint('own')",
    "import sys\nsys.stdout.detach(); sys.stderr.detach(); sys.stdin.detach()",
    "import sys\nsys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
    "import sys\nsys.stdout.buffer.close(); sys.stderr.buffer.close(); sys.stdin.buffer.close()",
    "import sys\nwith sys.stdout as out:\n    out.write('own\\n')",
    "import sys, io, csv\nwriter = csv.writer(io.TextIOWrapper(sys.stdout.buffer, newline=''))\nwriter.writerow([1, 2])\ndel writer",
    "open(1, 'w').write('own\\n')",
    "with open(2, 'w') as err:\n    err.write('own\\n')",
    "import os, sys\nsys.stdout = os.fdopen(sys.stdout.fileno(), 'w', 1)\nprint('own')",
    "import os\nos.close(1); os.close(2); os.close(0)",
    "import os\nos.closerange(0, 3)",
    "import sys\nsys.stdout = sys.stderr = None",
    "import sys\ndel sys.stdout, sys.stderr",
    "import sys\nsys.stdout = sys.stderr = object()",
    "import sys\nsys.stdout = open('log', 'w')\nsys.stdout.close()",
    "import sys, io\nio.TextIOWrapper(sys.stdin.buffer)",
];

#[test]
fn whatever_is_done_to_them_later_cells_print() {
    for code in DONE_TO_STREAMS {
        let mut forkpy = Forkpy::start();
        for _ in 0..2 {
            let reply = forkpy.run(code);
            assert_eq!(reply["status"], "ok", "{code}: {reply}");
            let reply = forkpy.run("print('later')\nimport sys, warnings\nprint('err', file=sys.stderr)");
            assert_eq!((&reply["stdout"], &reply["stderr"]), (&json!("later\n"), &json!("err\n")), "{code}: {reply}");
            let reply = forkpy.run("import os; os.system('echo child; echo err >&2')");
            assert_eq!((&reply["stdout"], &reply["stderr"]), (&json!("child\n"), &json!("err\n")), "{code}: {reply}");
        }
    }
}

#[test]
fn a_script_for_another_system_does_not_change_what_arrives() {
    let mut forkpy = Forkpy::start();
    for code in [
        "import sys; sys.stdout.reconfigure(encoding='latin-1', errors='replace')\nprint('Maß 😀 \\udc80')",
        "sys.stdout.reconfigure(encoding='utf-8')\nprint('Maß 😀 \\udc80')",
        "sys.stdout.reconfigure(line_buffering=False, write_through=False)\nprint('Maß 😀 \\udc80')",
        "print('Maß 😀 \\udc80')",
    ] {
        let reply = forkpy.run(code);
        let printed = reply["stdout"].as_str().expect("text");
        assert!(reply["status"] == "ok" && printed.starts_with("Maß 😀"), "{code}: {reply}");
    }
    assert_eq!(forkpy.eval("sys.stdout.encoding"), "'utf-8'");
    assert_eq!(forkpy.run("sys.stdout.reconfigure(encoding='no-such')")["error"]["type"], "LookupError");
}

#[test]
fn a_stream_that_can_be_written_to_stays() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import io, sys\nsys.stdout = io.StringIO()");
    assert_eq!(forkpy.run("print('caught')")["stdout"], "");
    assert_eq!(forkpy.eval("caught = sys.stdout.getvalue(); sys.stdout = sys.__stdout__; caught"), "'caught\\n'");
    assert_eq!(forkpy.run("print('later')")["stdout"], "later\n");
}

#[test]
fn a_descriptor_that_code_has_redirected_stays_so() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os\nsaved = os.dup(1)\nlog = os.open('log', os.O_WRONLY | os.O_CREAT)\nos.dup2(log, 1);");
    assert_eq!(forkpy.run("print('into the log')")["stdout"], "");
    assert_eq!(forkpy.run("os.dup2(saved, 1)\nprint('back')")["stdout"], "back\n");
    assert_eq!(forkpy.eval("open('log').read()"), "'into the log\\n'");
}

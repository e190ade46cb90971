//! Notebooks: a session written as one, and existing ones run. Whether Jupyter's own tools agree is asked in tests/clients.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup};

fn code(source: &str) -> Value {
    json!({"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": null})
}

fn tagged(source: &str, tag: &str) -> Value {
    let mut cell = code(source);
    cell["metadata"] = json!({"tags": [tag], "mine": 1});
    cell
}

fn write(forkpy: &Forkpy, name: &str, cells: &[Value]) {
    let notebook = json!({"nbformat": 4, "nbformat_minor": 4, "metadata": {"mine": true}, "cells": cells});
    fs::write(forkpy.file(name), notebook.to_string()).expect("written");
}

fn load(forkpy: &Forkpy, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(forkpy.file(name)).expect("there")).expect("JSON")
}

fn run(forkpy: &mut Forkpy, arguments: Value) -> Value {
    let reply = forkpy.call("run_notebook", arguments);
    assert!(!reply.is_error, "{}", reply.text);
    reply.data
}

#[test]
fn a_session_becomes_a_notebook_with_outputs_results_and_errors() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 20\nprint('ä')\nimport sys\nprint('err', file=sys.stderr)\nx + 1");
    forkpy.run("def f():\n    1/0\nf()");
    forkpy.call("restart_kernel", json!({}));
    forkpy.run("print('after')");
    forkpy.call("create_session", json!({"session_id": "other"}));
    let reply = forkpy.call("export_notebook", json!({}));
    let done = reply.data;
    assert_eq!((&done["path"], &done["format"]), (&json!("outputs/default.ipynb"), &json!("ipynb")), "{}", reply.text);
    assert_eq!(
        (&done["cells"], &done["cells_left_out"], &done["session_id"]),
        (&json!(3), &json!(0), &json!("default"))
    );
    let notebook = load(&forkpy, "outputs/default.ipynb");
    assert_eq!((&notebook["nbformat"], &notebook["nbformat_minor"]), (&json!(4), &json!(5)));
    let cells = &notebook["cells"];
    assert_eq!(cells[0]["source"][0], "x = 20\n");
    assert_eq!(cells[0]["outputs"][0], json!({"output_type": "stream", "name": "stdout", "text": ["ä\n"]}));
    assert_eq!(cells[0]["outputs"][1]["text"], json!(["err\n"]));
    let value =
        json!({"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": ["21"]}});
    assert_eq!(cells[0]["outputs"][2], value);
    let error = &cells[1]["outputs"];
    assert_eq!(error.as_array().expect("a list").len(), 1, "the traceback is there once: {error}");
    assert_eq!((&error[0]["ename"], &error[0]["evalue"]), (&json!("ZeroDivisionError"), &json!("division by zero")));
    let size = fs::metadata(forkpy.file("outputs/default.ipynb")).expect("there").len();
    assert_eq!(done["size"], size);
    let empty = forkpy.call("export_notebook", json!({"session_id": "other", "path": "a/b/c.ipynb"})).data;
    assert_eq!((&empty["cells"], &load(&forkpy, "a/b/c.ipynb")["cells"]), (&json!(0), &json!([])));
}

#[test]
fn displays_are_in_the_notebook_and_on_the_page_and_no_script_is() {
    let mut forkpy = Forkpy::start();
    let pixel = "import base64, sys\npng = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')\n\
        class Picture:\n    def _repr_png_(self): return png\n\
        class Page:\n    def _repr_html_(self): return '<script>alert(1)</script><b>bold</b>'\n\
        display(Picture())\nprint('<script>alert(2)</script>')\nPage()";
    let shown = forkpy.run(pixel);
    assert_eq!(shown["status"], "ok", "{shown}");
    forkpy.run("handle = display('first', display_id='d')");
    forkpy.run("handle.update('second')");
    forkpy.call("export_notebook", json!({"path": "n.ipynb"}));
    let notebook = load(&forkpy, "n.ipynb");
    let outputs = notebook["cells"][0]["outputs"].as_array().expect("a list").clone();
    let with =
        |mime: &str| outputs.iter().find(|output| output["data"].get(mime).is_some()).cloned().unwrap_or_default();
    assert!(with("image/png")["data"]["image/png"].as_str().expect("base64").starts_with("iVBOR"), "{outputs:?}");
    assert_eq!(with("text/html")["output_type"], "execute_result");
    let text = notebook.to_string();
    assert!(text.contains("'second'") && !text.contains("'first'\""), "an update takes the place: {text}");
    assert_eq!(notebook["cells"][2]["outputs"], json!([]));
    let done = forkpy.call("export_notebook", json!({"path": "n.html"})).data;
    assert_eq!(done["format"], "html");
    let page = fs::read_to_string(forkpy.file("n.html")).expect("there");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("data:image/png;base64,iVBOR"), "{page}");
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(2)") && page.contains("needs scripts"));
    assert!(!page.contains("http:") && !page.contains("https:"), "it needs nothing else");
}

#[test]
fn a_notebook_is_run_in_the_session_and_written_back() {
    let mut forkpy = Forkpy::start();
    forkpy.run("before = 5");
    let cells = [
        json!({"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text"], "attachments": {}}),
        code("a = before + 1\nprint(a)"),
        code(""),
        tagged("raise SystemError('not run')", "skip-execution"),
        tagged("1/0", "raises-exception"),
        json!({"cell_type": "raw", "metadata": {}, "source": "raw"}),
        code("a * 2"),
    ];
    write(&forkpy, "n.ipynb", &cells);
    let done = run(&mut forkpy, json!({"path": "n.ipynb"}));
    assert_eq!((&done["status"], &done["executed"], &done["total"]), (&json!("ok"), &json!(3), &json!(3)), "{done}");
    assert_eq!((&done["output_path"], &done["failures"]), (&json!("n.ipynb"), &Value::Null));
    let notebook = load(&forkpy, "n.ipynb");
    assert_eq!((&notebook["metadata"]["mine"], &notebook["nbformat_minor"]), (&json!(true), &json!(5)));
    let run_cells = &notebook["cells"];
    assert_eq!(run_cells[0]["source"], cells[0]["source"]);
    assert_eq!(run_cells[1]["outputs"][0]["text"], json!(["6\n"]));
    assert_eq!(run_cells[1]["execution_count"], 2);
    assert_eq!((&run_cells[3]["outputs"], &run_cells[3]["execution_count"]), (&json!([]), &Value::Null));
    assert_eq!(run_cells[3]["metadata"]["mine"], 1);
    assert_eq!(run_cells[4]["outputs"][0]["ename"], "ZeroDivisionError");
    assert_eq!(run_cells[6]["outputs"][0]["data"]["text/plain"], json!(["12"]));
    assert_eq!(forkpy.eval("a"), "6", "its variables are the session's");
}

#[test]
fn it_stops_at_the_first_error_unless_told_otherwise() {
    let mut forkpy = Forkpy::start();
    write(&forkpy, "n.ipynb", &[code("print('one')"), code("1/0"), code("print('three')"), code("x ="), code("'end'")]);
    let source = fs::read_to_string(forkpy.file("n.ipynb")).expect("there");
    let stopped = run(&mut forkpy, json!({"path": "n.ipynb", "output_path": "out/stopped.ipynb"}));
    assert_eq!((&stopped["status"], &stopped["executed"], &stopped["total"]), (&json!("error"), &json!(2), &json!(5)));
    assert_eq!(stopped["failures"][0]["index"], 1);
    assert_eq!(stopped["failures"][0]["error"]["type"], "ZeroDivisionError", "{stopped}");
    let notebook = load(&forkpy, "out/stopped.ipynb");
    assert_eq!(notebook["cells"][1]["outputs"][0]["output_type"], "error");
    assert_eq!(notebook["cells"][2]["outputs"], json!([]));
    assert_eq!(fs::read_to_string(forkpy.file("n.ipynb")).expect("there"), source, "the original stays");
    let on = run(&mut forkpy, json!({"path": "n.ipynb", "on_error": "continue", "output_path": "on.ipynb"}));
    assert_eq!((&on["status"], &on["executed"]), (&json!("error"), &json!(5)), "{on}");
    let failed: Vec<&Value> =
        on["failures"].as_array().expect("a list").iter().map(|failure| &failure["index"]).collect();
    assert_eq!(failed, [&json!(1), &json!(3)]);
    assert_eq!(load(&forkpy, "on.ipynb")["cells"][2]["outputs"][0]["text"], json!(["three\n"]));
}

#[test]
fn parameters_replace_those_of_the_run_before() {
    let mut forkpy = Forkpy::start();
    write(&forkpy, "n.ipynb", &[tagged("n = 1\nname = 'default'", "parameters"), code("print(n, name, flag)")]);
    for (n, expected) in [(5, "5 it's None\n"), (7, "7 it's None\n")] {
        let parameters = json!({"n": n, "name": "it's", "flag": null});
        let done = run(&mut forkpy, json!({"path": "n.ipynb", "parameters": parameters}));
        assert_eq!(done["status"], "ok", "{done}");
        let cells = load(&forkpy, "n.ipynb")["cells"].clone();
        assert_eq!(cells.as_array().expect("a list").len(), 3);
        assert_eq!(cells[1]["metadata"]["tags"], json!(["injected-parameters"]));
        assert_eq!(cells[2]["outputs"][0]["text"], json!([expected]));
    }
}

#[test]
fn a_cell_that_is_too_long_or_kills_its_worker_ends_the_run() {
    let mut forkpy = Forkpy::start();
    write(&forkpy, "n.ipynb", &[code("print('begun')"), code("while True: pass"), code("1")]);
    let reply = forkpy.call("run_notebook", json!({"path": "n.ipynb", "timeout": 2}));
    assert!(reply.is_error && reply.data["status"] == "timeout", "{reply:?}");
    assert_eq!(load(&forkpy, "n.ipynb")["cells"][1]["outputs"][0]["ename"], "KeyboardInterrupt");
    write(&forkpy, "n.ipynb", &[code("import os; os._exit(3)"), code("1")]);
    let reply = forkpy.call("run_notebook", json!({"path": "n.ipynb", "on_error": "continue"}));
    assert!(reply.is_error && reply.data["status"] == "died", "{reply:?}");
    assert_eq!(reply.data["executed"], 1);
    assert_eq!(load(&forkpy, "n.ipynb")["cells"][0]["outputs"][0]["ename"], "DeadKernelError");
}

#[test]
fn a_run_that_goes_on_after_errors_does_so_after_an_interrupt_that_the_code_raised() {
    let mut forkpy = Forkpy::start();
    let swallows = "import time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    pass";
    write(&forkpy, "n.ipynb", &[code("raise KeyboardInterrupt"), code(swallows), code("print('still there')")]);
    let stopped = forkpy.call("run_notebook", json!({"path": "n.ipynb", "output_path": "out.ipynb"}));
    assert_eq!((&stopped.data["status"], &stopped.data["executed"]), (&json!("interrupted"), &json!(1)));
    let arguments = json!({"path": "n.ipynb", "output_path": "out.ipynb", "on_error": "continue", "timeout": 2});
    let done = forkpy.call("run_notebook", arguments).data;
    assert_eq!((&done["status"], &done["executed"]), (&json!("interrupted"), &json!(3)), "{done}");
    assert_eq!(done["failures"][1]["status"], "timeout", "the second swallowed its time-out: {done}");
    assert_eq!(load(&forkpy, "out.ipynb")["cells"][2]["outputs"][0]["text"], json!(["still there\n"]));
    write(&forkpy, "n.ipynb", &[code(swallows), code("print('never')")]);
    let stopped = forkpy.call("run_notebook", json!({"path": "n.ipynb", "timeout": 2}));
    assert!(stopped.is_error && stopped.data["executed"] == 1, "{stopped:?}");
}

#[test]
fn progress_names_the_cell_and_brings_its_output() {
    let mut forkpy = Forkpy::start();
    write(&forkpy, "n.ipynb", &[code("print('from the notebook')\nimport time; time.sleep(0.3)")]);
    let call = json!({"name": "run_notebook", "arguments": {"path": "n.ipynb"}, "_meta": {"progressToken": "p"}});
    let id = forkpy.begin("tools/call", call);
    assert_eq!(forkpy.reply(id).data["status"], "ok");
    let told: String = forkpy.notifications.iter().filter_map(|note| note["params"]["message"].as_str()).collect();
    assert!(told.contains("from the notebook"), "{told}");
}

#[test]
fn what_is_no_notebook_is_refused_in_words() {
    let mut forkpy = Setup::new().start();
    let files = [
        ("text.ipynb", "no JSON", "not JSON"),
        ("list.ipynb", "[]", "not a JSON object"),
        ("old.ipynb", "{\"nbformat\": 3, \"worksheets\": []}", "nbformat 3"),
        ("bare.ipynb", "{\"cells\": []}", "`nbformat` is missing"),
        ("keys.ipynb", "{\"nbformat\": 4}", "`cells` is missing"),
        ("cell.ipynb", "{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"code\"}]}", "cell 0: `source` is missing"),
        ("r.ipynb", "{\"nbformat\": 4, \"cells\": [], \"metadata\": {\"kernelspec\": {\"language\": \"R\"}}}", "\"R\""),
    ];
    for (name, text, words) in files {
        fs::write(forkpy.file(name), text).expect("written");
        let said = forkpy.refused("run_notebook", json!({"path": name}));
        assert!(said.contains(words) && said.contains(name), "{name}: {said}");
        assert_eq!(fs::read_to_string(forkpy.file(name)).expect("there"), text);
    }
    fs::write(forkpy.file("latin.ipynb"), b"\xe9").expect("written");
    write(&forkpy, "n.ipynb", &[code("1")]);
    for (tool, arguments, words) in [
        ("run_notebook", json!({"path": "latin.ipynb"}), "not UTF-8"),
        ("run_notebook", json!({"path": "nowhere.ipynb"}), "No such file"),
        ("run_notebook", json!({"path": "scripts"}), "a directory"),
        ("run_notebook", json!({"path": "../n.ipynb"}), "out of the workspace"),
        ("run_notebook", json!({"path": "n.ipynb", "output_path": "../n.ipynb"}), "out of the workspace"),
        ("run_notebook", json!({"path": "n.ipynb", "parameters": {"a b": 1}}), "\"a b\""),
        ("run_notebook", json!({"path": "n.ipynb", "on_error": "ignore"}), "`on_error`"),
        ("run_notebook", json!({"path": "n.ipynb", "session_id": "nowhere"}), "nowhere"),
        ("run_notebook", json!({}), "missing field `path`"),
        ("export_notebook", json!({"path": "../x.ipynb"}), "out of the workspace"),
        ("export_notebook", json!({"path": "scripts"}), "directory"),
        ("export_notebook", json!({"format": "pdf"}), "`format`"),
    ] {
        let said = forkpy.refused(tool, arguments);
        assert!(said.contains(words) && said.len() < 800, "{words}: {said}");
    }
}

/// Kinds of outputs with their text, in order.
fn outputs(cell: &Value) -> Vec<String> {
    let outputs = cell["outputs"].as_array().expect("a list").iter();
    let words = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<String>();
    outputs
        .map(|output| match output["output_type"].as_str() {
            Some("stream") => format!("{}: {}", output["name"].as_str().expect("a name"), words(&output["text"])),
            Some("error") => format!("error: {}", output["ename"].as_str().expect("a name")),
            other => format!("{}: {}", other.expect("a type"), words(&output["data"]["text/plain"])),
        })
        .collect()
}

#[test]
fn outputs_stay_in_the_order_in_which_they_came() {
    let mut forkpy = Forkpy::start();
    let cells = [
        code(
            "import os, sys\nprint('one')\ndisplay(1)\nos.system('echo two')\nprint('err', file=sys.stderr)\ndisplay(2)\nprint('three', end='')\n'end'",
        ),
        code("print('before')\ndisplay(1)\n1/0"),
        code(
            "from IPython.display import clear_output\nfor n in range(3):\n    clear_output(wait=True)\n    print(n)\n    display(n)",
        ),
        code("print('gone')\ndisplay('gone')\nclear_output()\nprint('stays')"),
        code("print('stays')\nclear_output(wait=True)"),
        // A descriptor of the cell's own gets no mark of ours.
        code(
            "saved = os.dup(1)\nwith open('own.txt', 'wb') as file:\n    os.dup2(file.fileno(), 1)\ndisplay(3)\nos.dup2(saved, 1)\nopen('own.txt', 'rb').read()",
        ),
    ];
    write(&forkpy, "n.ipynb", &cells);
    run(&mut forkpy, json!({"path": "n.ipynb", "on_error": "continue"}));
    let notebook = load(&forkpy, "n.ipynb");
    let expected: [&[&str]; 6] = [
        &[
            "stdout: one\n",
            "display_data: 1",
            "stdout: two\n",
            "stderr: err\n",
            "display_data: 2",
            "stdout: three",
            "execute_result: 'end'",
        ],
        &["stdout: before\n", "display_data: 1", "error: ZeroDivisionError"],
        &["stdout: 2\n", "display_data: 2"],
        &["stdout: stays\n"],
        &["stdout: stays\n"],
        &["display_data: 3", "execute_result: b''"],
    ];
    for (cell, expected) in notebook["cells"].as_array().expect("a list").iter().zip(expected) {
        assert_eq!(outputs(cell), expected, "{}", cell["source"]);
    }
    let reply = forkpy.run("print('a')\ndisplay(1)\nprint('b')");
    assert_eq!((&reply["stdout"], &reply["results"]), (&json!("a\nb\n"), &json!(["1"])), "no mark is to be seen");
}

#[test]
fn a_notebook_runs_in_its_own_directory() {
    let mut forkpy = Forkpy::start();
    fs::create_dir_all(forkpy.file("deep/er")).expect("made");
    fs::write(forkpy.file("deep/beside.py"), "def value(): return open('data.txt').read()").expect("written");
    fs::write(forkpy.file("deep/data.txt"), "found").expect("written");
    let cells =
        [code("import os, beside\nbeside.value()"), code("os.chdir('er')"), code("os.path.basename(os.getcwd())")];
    write(&forkpy, "deep/n.ipynb", &cells);
    for _ in 0..2 {
        let done = run(&mut forkpy, json!({"path": "deep/n.ipynb"}));
        assert_eq!(done["status"], "ok", "{done}");
        let notebook = load(&forkpy, "deep/n.ipynb");
        assert_eq!(outputs(&notebook["cells"][0]), ["execute_result: 'found'"]);
        assert_eq!(outputs(&notebook["cells"][2]), ["execute_result: 'er'"], "a cell goes on where the one before was");
    }
    assert_eq!(forkpy.eval("os.path.exists('deep/data.txt')"), "True", "the session's own cells are where they were");
}

#[test]
fn numbers_are_the_same_at_the_other_end() {
    let mut forkpy = Forkpy::start();
    write(&forkpy, "n.ipynb", &[code("display({'application/json': given}, raw=True)\nrepr(given)")]);
    let text = fs::read_to_string(forkpy.file("n.ipynb")).expect("there");
    let odd = "{\"float\": 1.10, \"large\": 123456789012345678901234567890, \"none\": NaN, \"far\": -Infinity}";
    fs::write(forkpy.file("n.ipynb"), text.replace("{\"mine\":true}", odd)).expect("written");
    let numbers = ["3.6040260791778564", "0.1", "5e-324", "1.7976931348623157e308", "-0.0", "18446744073709551615"];
    let given: Value = serde_json::from_str(&format!("[{}]", numbers.join(","))).expect("JSON");
    let done = run(&mut forkpy, json!({"path": "n.ipynb", "parameters": {"given": given}}));
    assert_eq!(done["status"], "ok", "{done}");
    let notebook = fs::read_to_string(forkpy.file("n.ipynb")).expect("there");
    for kept in
        ["1.10", "123456789012345678901234567890", "NaN", "-Infinity", "3.6040260791778564", "1.7976931348623157e+308"]
    {
        assert!(notebook.contains(kept) && !notebook.contains(&format!("\"{kept}\"")), "{kept} in {notebook}");
    }
    let same = format!("given == [{}]", numbers.join(", "));
    assert_eq!(forkpy.eval(&same), "True");
    // Integers beyond 64 bits, and what Python's json writes for floats that are no numbers.
    let id = forkpy.expect_id();
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"run_notebook\",\"arguments\":\
         {{\"path\":\"n.ipynb\",\"parameters\":{{\"given\":[1180591620717411303424,NaN,-Infinity]}}}}}}}}\n"
    );
    forkpy.send_bytes(line.as_bytes());
    let reply = forkpy.reply(id);
    assert_eq!(reply.data["status"], "ok", "{reply:?}");
    assert_eq!(forkpy.eval("given[0] == 2**70 and given[1] != given[1] and given[2] < -1e308"), "True");
}

#[test]
fn whole_outputs_are_in_the_file_up_to_a_bound() {
    let mut forkpy = Setup::new().args(&["--max-notebook-output", "1000000"]).start();
    let cells = [code("print('x' * 500_000)"), code("'y' * 500_000"), code("print('z' * 3_000_000)")];
    write(&forkpy, "n.ipynb", &cells);
    let done = run(&mut forkpy, json!({"path": "n.ipynb"}));
    assert_eq!(done["status"], "ok", "{done}");
    let notebook = load(&forkpy, "n.ipynb");
    let lengths: Vec<usize> =
        notebook["cells"].as_array().expect("a list").iter().map(|cell| outputs(cell).concat().len()).collect();
    assert!(lengths[0] == 500_009 && lengths[1] == 500_018, "{lengths:?}");
    assert!(lengths[2] < 1_001_000 && outputs(&notebook["cells"][2])[0].contains("bytes left out"), "{lengths:?}");
}

#[test]
fn an_empty_language_is_no_other_language_and_what_is_not_run_stays() {
    let mut forkpy = Forkpy::start();
    let metadata = json!({"kernelspec": {"name": "x", "language": ""}, "language_info": {"name": "python"}});
    let mut empty = code(" ");
    empty["execution_count"] = json!(7);
    let notebook = json!({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [empty, code("1")]});
    fs::write(forkpy.file("n.ipynb"), notebook.to_string()).expect("written");
    assert_eq!(run(&mut forkpy, json!({"path": "n.ipynb"}))["status"], "ok");
    assert_eq!(load(&forkpy, "n.ipynb")["cells"][0]["execution_count"], 7);
}

/// An exported notebook had no more of a long output than the reply had had room for, and with it the order of what a cell
/// showed was lost.
#[test]
fn an_exported_notebook_has_whole_outputs_in_their_order() {
    let mut forkpy = Setup::new().args(&["--max-output", "1000", "--max-notebook-output", "100000"]).start();
    forkpy.run(
        "import sys\nprint('a' * 5000)\ndisplay(1)\nprint('b' * 5000)\nprint('e' * 3000, file=sys.stderr)\ndisplay(2)\n\
         print('c' * 5000)\n1/0",
    );
    forkpy.run("print('short')");
    let reply = forkpy.run("print('x' * 300_000)");
    assert!(reply["stdout"].as_str().expect("text").len() < 1300, "the reply stays short");
    forkpy.run("'v' * 60_000");
    forkpy.call("export_notebook", json!({"path": "n.ipynb"}));
    let notebook = load(&forkpy, "n.ipynb");
    let long = |letter: &str, count| format!("{}\n", letter.repeat(count));
    let expected = [
        format!("stdout: {}", long("a", 5000)),
        "display_data: 1".to_owned(),
        format!("stdout: {}", long("b", 5000)),
        format!("stderr: {}", long("e", 3000)),
        "display_data: 2".to_owned(),
        format!("stdout: {}", long("c", 5000)),
        "error: ZeroDivisionError".to_owned(),
    ];
    assert_eq!(outputs(&notebook["cells"][0]), expected);
    assert_eq!(outputs(&notebook["cells"][1]), ["stdout: short\n"]);
    assert_eq!(outputs(&notebook["cells"][3]), [format!("execute_result: '{}'", "v".repeat(60_000))]);
    let bounded = outputs(&notebook["cells"][2]).concat();
    assert!(bounded.len() < 100_200 && bounded.contains("200001 of 300001 bytes left out; the whole is in outputs/"));
    // What the files held is gone: the text of the replies is there.
    fs::remove_dir_all(forkpy.file("outputs")).expect("removed");
    forkpy.call("export_notebook", json!({"path": "n.ipynb"}));
    let notebook = load(&forkpy, "n.ipynb");
    let shown = outputs(&notebook["cells"][0]);
    assert!(shown[0].starts_with("stdout: aaa") && shown.concat().contains("bytes left out"), "{shown:?}");
    assert_eq!(shown.last().map(String::as_str), Some("error: ZeroDivisionError"));
}

/// What bokeh shows: a script, and under a mime type of its own an empty text whose metadata name the document.
#[test]
fn display_data_that_only_have_metadata_arrive() {
    let mut forkpy = Forkpy::start();
    let shows = "from IPython.display import publish_display_data\n\
         kind = 'application/vnd.bokehjs_exec.v0+json'\n\
         publish_display_data({'text/html': '<div id=\"p1\"></div>'})\nprint('between')\n\
         publish_display_data({'application/javascript': 'embed()', kind: ''}, metadata={kind: {'id': 'p1'}})";
    write(&forkpy, "n.ipynb", &[code(shows)]);
    run(&mut forkpy, json!({"path": "n.ipynb"}));
    let outputs = load(&forkpy, "n.ipynb")["cells"][0]["outputs"].clone();
    assert_eq!(outputs[0]["data"]["text/html"], json!(["<div id=\"p1\"></div>"]));
    assert_eq!(outputs[1]["text"], json!(["between\n"]));
    let kind = "application/vnd.bokehjs_exec.v0+json";
    assert_eq!(outputs[2]["data"]["application/javascript"], json!(["embed()"]), "{outputs}");
    assert_eq!((&outputs[2]["data"][kind], &outputs[2]["metadata"][kind]), (&json!(""), &json!({"id": "p1"})));
}

/// A client that shows its model the text and the pictures sees no plot that is in the file alone.
#[test]
fn a_run_shows_its_last_pictures() {
    let mut forkpy = Forkpy::start();
    let dot = "import base64\nclass Dot:\n    def __init__(self, n): self.n = n\n    def __repr__(self): return f'dot {self.n}'\n    \
               def _repr_png_(self):\n        return base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')";
    write(&forkpy, "few.ipynb", &[code(dot), code("display(Dot(1))\nDot(2)"), code("3")]);
    let shown = |forkpy: &mut Forkpy, path: &str| {
        forkpy.request("tools/call", json!({"name": "run_notebook", "arguments": {"path": path}}))["result"].clone()
    };
    let result = shown(&mut forkpy, "few.ipynb");
    let kinds: Vec<_> =
        result["content"].as_array().expect("content").iter().map(|block| block["type"].clone()).collect();
    assert_eq!(kinds, ["text", "image", "image"], "{result}");
    assert!(result["content"][1]["data"].as_str().expect("base64").starts_with("iVBOR"));
    let text = result["content"][0]["text"].as_str().expect("text");
    let lines =
        "--- pictures ---\n1: cell 1: dot 1, image/png, 1 x 1 pixels\n2: cell 1: dot 2, image/png, 1 x 1 pixels";
    assert!(text.ends_with(lines), "{text}");
    assert!(!result["structuredContent"].to_string().contains("iVBOR"), "once: {result}");

    // An update takes the place of what it replaces; the last six of more are shown.
    let first = "handle = display(Dot(0), display_id=True)";
    let many = "for n in range(1, 9): display(Dot(n))\nhandle.update(Dot(99))";
    write(&forkpy, "many.ipynb", &[code(dot), code(first), code(many)]);
    let result = shown(&mut forkpy, "many.ipynb");
    let text = result["content"][0]["text"].as_str().expect("text");
    assert_eq!(result["content"].as_array().expect("content").len(), 7, "{text}");
    assert!(text.contains("6: cell 2: dot 99,") && text.ends_with("and 3 before these, in the notebook"), "{text}");
    let notebook = load(&forkpy, "many.ipynb");
    assert_eq!(notebook["cells"][2]["outputs"].as_array().expect("outputs").len(), 8, "all of them are in it");
}

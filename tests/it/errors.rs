//! What a cell that raises says: its own lines, nothing of forkpy's, and what can be done about it.

use std::fs;

use serde_json::{Value, json};

use crate::support::Forkpy;

fn stderr(reply: &Value) -> &str {
    reply["stderr"].as_str().expect("text")
}

fn assert_says(reply: &Value, parts: &[&str]) {
    let mut rest = stderr(reply);
    for part in parts {
        let place = rest.find(part).unwrap_or_else(|| panic!("{part:?} is not (in this order) in {}", stderr(reply)));
        rest = &rest[place + part.len()..];
    }
    assert!(!stderr(reply).contains("forkpy"), "our own frames are left out: {}", stderr(reply));
}

#[test]
fn a_function_of_an_earlier_cell_that_raises_shows_its_own_line() {
    let mut forkpy = Forkpy::start();
    forkpy.run("\n\ndef inner(values):\n    return values['missing']  # here");
    forkpy.run("def outer():\n    return inner({})");
    let reply = forkpy.run("x = 1\n\nouter()");
    assert_says(
        &reply,
        &["<cell 3>\", line 3", "<cell 2>\", line 2, in outer", "<cell 1>\", line 4, in inner", "# here"],
    );
    let error = &reply["error"];
    assert_eq!((&error["type"], &error["message"]), (&json!("KeyError"), &json!("'missing'")));
    assert_eq!((&error["line"], &reply["cell"], &error["hint"]), (&json!(3), &json!(3), &json!(null)));
    assert_eq!(error["traceback"], "", "it stands in stderr: {error}");
}

#[test]
fn chains_notes_and_groups_are_told_whole() {
    let mut forkpy = Forkpy::start();
    let reply =
        forkpy.run("try:\n    1 / 0\nexcept ZeroDivisionError as cause:\n    raise ValueError('outer') from cause");
    assert_says(&reply, &["line 2", "ZeroDivisionError", "direct cause", "line 4", "ValueError: outer"]);
    let reply = forkpy.run("try:\n    {}['a']\nexcept KeyError:\n    nowhere");
    assert_says(&reply, &["KeyError: 'a'", "During handling", "NameError: name 'nowhere'"]);
    if forkpy.eval("import sys; sys.version_info >= (3, 11)") == "False" {
        return;
    }
    let reply = forkpy.run("error = ValueError('noted')\nerror.add_note('look in the cellar')\nraise error");
    assert_says(&reply, &["ValueError: noted", "look in the cellar"]);
    let reply =
        forkpy.run("raise ExceptionGroup('two', [ValueError('one'), ExceptionGroup('in', [TypeError('deep')])])");
    assert_says(&reply, &["ExceptionGroup: two", "ValueError: one", "TypeError: deep"]);
    assert_eq!(reply["error"]["type"], "ExceptionGroup");
}

#[test]
fn a_syntax_error_has_its_line_and_a_caret() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("x = 1\ny = (2,\nz = 3");
    assert_says(&reply, &["<cell 1>\", line 2", "y = (2,", "    ^", "SyntaxError: '(' was never closed"]);
    assert!(!stderr(&reply).contains("Traceback"), "{}", stderr(&reply));
    assert_eq!((&reply["error"]["line"], &reply["error"]["type"]), (&json!(2), &json!("SyntaxError")));
    let reply = forkpy.run("def f():\nreturn 1");
    assert_eq!((&reply["error"]["line"], &reply["error"]["type"]), (&json!(2), &json!("IndentationError")));
    let reply = forkpy.run("return 5");
    assert_says(&reply, &["return 5", "^", "'return' outside function"]);
}

#[test]
fn endless_recursion_is_an_error_and_short() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("def down(n):\n    return down(n + 1)\ndown(0)");
    assert_says(&reply, &["line 3", "return down(n + 1)", "Previous line repeated", "RecursionError"]);
    assert!(stderr(&reply).len() < 2000, "{}", stderr(&reply));
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

#[test]
fn exceptions_that_cannot_say_anything_are_told_all_the_same() {
    let mut forkpy = Forkpy::start();
    let code = "\
class Mute(Exception):
    def __str__(self): raise RuntimeError
    __repr__ = __str__
raise Mute";
    let reply = forkpy.run(code);
    // In 3.10's words, and in those of all after it.
    let words = ["<unprintable Mute object>", "<exception str() failed>"];
    let said = words.into_iter().find(|words| stderr(&reply).contains(words)).unwrap_or_else(|| panic!("{reply}"));
    assert_says(&reply, &["line 4", &format!("Mute: {said}")]);
    assert_eq!(reply["error"]["message"], "<exception str() failed>");
    let reply = forkpy.run("class Odd(Exception):\n    def __str__(self): return 5\nraise Odd");
    assert_eq!((&reply["status"], &reply["error"]["type"]), (&json!("error"), &json!("Odd")));
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

/// A module that the user has written was said to be installable when it lay in a folder whose name begins with `_`, was
/// compiled, or when a cell had put another folder in front of `sys.path`; anybody can publish a package of that name.
#[test]
fn a_missing_module_that_is_a_file_of_the_workspace_is_never_to_be_installed() {
    let mut forkpy = Forkpy::start();
    for file in [
        "sub/helper.py",
        "sub/airflow.py",
        "_private/hidden.py",
        "ext/native.abi3.so",
        "src/mylib/core/deep.py",
        "lib/ns/extra.py",
        "ns/part.py",
        "pack/__init__.py",
        "pack/inner.py",
        "env/pyvenv.cfg",
        "env/lib/python3/faker/__init__.py",
    ] {
        let file = forkpy.file(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, "").expect("written");
    }
    fs::write(forkpy.file("calc.ipynb"), "{}").expect("written");
    fs::write(forkpy.file("broken.py"), "import helper").expect("written");
    forkpy.run("import sys, ns.part; sys.path.insert(0, '/nowhere')");
    for (code, words) in [
        ("import helper", "helper.py is a file of the workspace, in 'sub'"),
        ("import helper.deeper", "helper.py is a file of the workspace, in 'sub'"),
        ("import broken", "helper.py is a file of the workspace, in 'sub'"),
        ("import airflow", "airflow.py is a file of the workspace, in 'sub'"),
        ("from hidden import x", "hidden.py is a file of the workspace, in '_private'"),
        ("import native", "native.abi3.so is a file of the workspace, in 'ext'"),
        ("import mylib.core", "mylib/ is a file of the workspace, in 'src'"),
        ("import ns.extra", "ns/extra.py is a file of the workspace, in 'lib', but the 'ns' that is loaded is another"),
        ("import inner", "in the package pack: from pack import inner"),
        ("import calc", "calc.ipynb of the workspace is a notebook"),
    ] {
        let reply = forkpy.run(code);
        let hint = reply["error"]["hint"].as_str().unwrap_or_else(|| panic!("{code}: no hint: {reply}"));
        assert!(hint.contains(words) && !hint.contains("install"), "{code}: {hint}");
    }
    let hint = forkpy.run("import faker")["error"]["hint"].to_string();
    assert!(hint.contains("install_dependencies"), "what lies in an environment is not the user's own: {hint}");
    // A notebook has its own folder in front, and what lies elsewhere is found all the same.
    let cell =
        json!({"cell_type": "code", "metadata": {}, "source": "import hidden", "outputs": [], "execution_count": null});
    let notebook = json!({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell]});
    fs::write(forkpy.file("sub/n.ipynb"), notebook.to_string()).expect("written");
    let failed = forkpy.call("run_notebook", json!({"path": "sub/n.ipynb"})).data;
    let hint = failed["failures"][0]["error"]["hint"].to_string();
    assert!(hint.contains("in '_private'"), "{failed}");
}

#[test]
fn a_missing_module_names_what_installs_it() {
    let mut forkpy = Forkpy::start();
    for (code, package) in
        [("import numpyy", "numpyy"), ("from sklearn_.x import y", "sklearn_"), ("import cv2.x", "cv2")]
    {
        let reply = forkpy.run(code);
        let package = if package == "cv2" { "opencv-python-headless" } else { package };
        let hint = reply["error"]["hint"].as_str().unwrap_or_else(|| panic!("no hint: {reply}"));
        assert!(hint.contains("install_dependencies") && hint.contains(&format!("'{package}'")), "{hint}");
        assert!(stderr(&reply).ends_with(&format!("Hint: {hint}\n")), "{}", stderr(&reply));
    }
    for code in ["import json.nothing", "raise ModuleNotFoundError", "from json import nothing"] {
        assert_eq!(forkpy.run(code)["error"]["hint"], json!(null), "{code}");
    }
}

//! Arguments in another form than the schema has: what is plain is taken for what it means, what is ambiguous is refused.
//!
//! Runs in: the test binary. Models write `"5"` for 5 and an absolute path for a relative one; a refusal costs them a turn.

use serde_json::{Value, json};

use crate::support::Forkpy;

#[test]
fn numbers_truth_values_and_nothing_as_text() {
    let mut forkpy = Forkpy::start();
    let arguments = json!({
        "code": "x = 6 * 7; x", "timeout": "20", "wait": "", "background": "False", "session_id": "", "on_error": "Keep"
    });
    assert_eq!(forkpy.call("run_python_code", arguments).data["results"][0], "42");
    let page = forkpy.call("list_variables", json!({"limit": "1", "offset": 0.0, "filter": ""})).data;
    assert_eq!(page["total"], 1, "{page}");
    assert_eq!(forkpy.call("list_variables", json!({"limit": "3.0"})).data["total"], 1);
    let found = forkpy.call("code_completion", json!({"code": "import o", "cursor_pos": "8"})).data;
    assert!(found["matches"].to_string().contains("\"os\""), "{found}");
    assert!(forkpy.call("get_kernel_health", json!({"history": ""})).data["pid"].is_number());
    assert!(
        forkpy.call("list_sessions", json!({"detail": "true"})).data["sessions"]["default"]["health"]["pid"]
            .is_number()
    );
    assert_eq!(forkpy.call("check_kernel_responsiveness", json!({"timeout": "5"})).data["timeout"], 5.0);
    assert_eq!(forkpy.call("restart_kernel", json!({"preserve_state": "TRUE"})).data["restored_vars"], json!(["x"]));
}

#[test]
fn one_text_for_a_list_and_json_for_a_list_or_an_object() {
    let mut forkpy = Forkpy::start();
    let lines = |reply: &Value| reply["branches"].as_array().expect("branches").len();
    assert_eq!(lines(&forkpy.call("run_branches", json!({"codes": "1+1"})).data), 1);
    let both = forkpy.call("run_branches", json!({"codes": "[\"1\", \"2\"]", "keep": "1", "max_parallel": "2"})).data;
    assert_eq!((lines(&both), &both["kept"]), (2, &json!(1)));
    let made = json!({"session_id": "a", "limits": "{\"cell_seconds\": \"30\"}", "health": {"cpu_alert": "50"}});
    assert_eq!(forkpy.call("create_session", made).data["limits"]["cell_seconds"], 30.0);
    forkpy.call("save_script", json!({"name": "argv", "content": "import sys; print(sys.argv[1:])"}));
    let said = forkpy.call("run_script", json!({"path": "argv", "args": "--all"})).data;
    assert_eq!(said["stdout"], "['--all']\n");
    let said = forkpy.call("run_script", json!({"path": "argv", "args": "[\"-n\", \"5\"]", "timeout": "60"})).data;
    assert_eq!(said["stdout"], "['-n', '5']\n");
}

#[test]
fn files_by_every_address_that_lies_in_the_workspace() {
    let mut forkpy = Forkpy::start();
    let root = forkpy.workspace.to_string_lossy().into_owned();
    forkpy.call("write_file", json!({"path": format!("{root}/sub/a b.txt"), "content": "hello"}));
    for address in [
        "sub/a b.txt",
        &format!("{root}/sub/a b.txt"),
        &format!("file://{root}/sub/a%20b.txt"),
        &format!("file:{root}/sub/a%20b.txt"),
    ] {
        let read = forkpy.call("read_file", json!({"path": address, "max_bytes": "3"})).data;
        assert_eq!((&read["text"], &read["path"]), (&json!("hel"), &json!("sub/a b.txt")), "{address}");
    }
    assert_eq!(forkpy.call("list_files", json!({"path": root, "recursive": "true"})).data["root"], ".");
    for outside in
        ["/etc/passwd", "file:///etc/passwd", &format!("{root}/../x"), "file://elsewhere/x", &format!("{root}x")]
    {
        let words = forkpy.refused("read_file", json!({"path": outside}));
        assert!(words.contains("workspace") || words.contains("another machine"), "{outside}: {words}");
    }
    // A source tree by its path is none, and does not become the package of that name.
    let words = forkpy.refused("install_dependencies", json!({"packages": format!("{root}/sub")}));
    assert!(words.contains("source trees"), "{words}");
    let words = forkpy.refused("install_dependencies", json!({"packages": ["-r", format!("{root}/none.txt")]}));
    assert!(words.contains("\"none.txt\""), "{words}");
}

#[test]
fn a_path_below_the_home_directory_is_one_of_the_workspace_when_that_lies_there() {
    // Its home is the directory in which the workspace lies.
    let mut forkpy = Forkpy::start();
    forkpy.call("write_file", json!({"path": "~/workspace/a.txt", "content": "at home"}));
    assert_eq!(forkpy.call("read_file", json!({"path": "a.txt"})).data["text"], "at home");
    assert_eq!(forkpy.call("list_files", json!({"path": "~/workspace"})).data["root"], ".");
    for outside in ["~", "~/a.txt", "~/workspace/../a.txt"] {
        assert!(forkpy.refused("read_file", json!({"path": outside})).contains("workspace"), "{outside}");
    }
}

#[test]
fn what_is_ambiguous_is_refused_with_what_was_expected() {
    let mut forkpy = Forkpy::start();
    for (tool, arguments, words) in [
        ("run_python_code", json!({"code": 5}), "`code` is 5, expected a string"),
        ("run_python_code", json!({"code": "1", "timeout": "5s"}), "`timeout` is \"5s\", expected a number"),
        (
            "run_python_code",
            json!({"code": "1", "background": "yes"}),
            "`background` is \"yes\", expected true or false",
        ),
        ("run_python_code", json!({"code": "1", "background": 1}), "`background` is 1, expected true or false"),
        ("run_python_code", json!({"code": "1", "on_error": "stop"}), "expected one of keep, rollback"),
        ("list_variables", json!({"limit": "1,000"}), "`limit` is \"1,000\", expected a whole number"),
        (
            "list_variables",
            json!({"limit": -1}),
            "wrong argument `limit`: invalid value: integer `-1`, expected a whole number, 0 or",
        ),
        ("inspect_object", json!({"code": "a", "cursor_pos": 1, "detail_level": 300}), "a whole number, 0 to 255"),
        ("list_variables", json!({"limit": 2.5}), "`limit` is 2.5, expected a whole number"),
        ("run_branches", json!({"codes": ""}), "`codes` is \"\", expected a list of strings"),
        ("run_branches", json!({"codes": ["1"], "keep": "best"}), "a whole number, or one of none, first, max, min"),
        ("run_script", json!({"path": "a.py", "args": {"a": 1}}), "`args` is {\"a\":1}, expected a list of strings"),
        ("run_script", json!({"path": "argv", "args": ["-n", 5]}), "args[1]"),
        ("create_session", json!({"health": "cpu=5"}), "`health` is \"cpu=5\", expected an object"),
        ("create_session", json!({"health": {"cpu_alert": "much"}}), "health.cpu_alert"),
        ("read_file", json!({"path": "x".repeat(5000), "offset": "x".repeat(5000)}), "expected a whole number"),
        ("install_dependencies", json!({"packages": "numpy pandas"}), "give each package as an item"),
    ] {
        let said = forkpy.refused(tool, arguments.clone());
        assert!(said.contains(words) && said.len() < 1000, "{tool} {arguments}: {said}");
    }
    assert_eq!(forkpy.eval("1"), "1");
}

//! `--audit`: each call leaves a line, which says who did what, and no code.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};

use crate::support::Setup;

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("there");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn each_call_leaves_a_line_without_its_code() {
    let setup = Setup::new();
    let file = setup.workspace.parent().expect("a parent").join("audit.jsonl");
    let mut forkpy = setup.args(&["--audit", file.to_str().expect("UTF-8")]).start();
    forkpy.run("treasure = 1");
    forkpy.run("1 / 0");
    forkpy.call("delete_session", json!({"session_id": "no-such"}));
    let seen = lines(&file);
    let told: Vec<_> = seen.iter().map(|line| (line["tool"].clone(), line["outcome"].clone())).collect();
    assert_eq!(
        told,
        [
            (json!("run_python_code"), json!("ok")),
            (json!("run_python_code"), json!("error")),
            (json!("delete_session"), json!("error")),
        ]
    );
    let first = &seen[0];
    assert_eq!((&first["owner"], &first["session"], &first["cell"]), (&json!("user"), &json!("default"), &json!(1)));
    assert_eq!(seen[2]["session"], "no-such");
    assert!(first["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{first}");
    assert!(
        ["bytes_in", "bytes_out"].iter().all(|name| first[name].as_u64().is_some_and(|bytes| bytes > 0)),
        "{first}"
    );
    assert!(!fs::read_to_string(&file).expect("there").contains("treasure"));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    // A program that rotates logs renames it.
    let old = file.with_extension("1");
    fs::rename(&file, &old).expect("renamed");
    forkpy.run("2");
    assert_eq!((lines(&old).len(), lines(&file).len()), (3, 1));
}

#[test]
fn code_is_there_where_it_is_asked_for_and_a_file_that_cannot_be_is_an_error() {
    let setup = Setup::new();
    let file = setup.workspace.parent().expect("a parent").join("audit.jsonl");
    let mut forkpy = setup.args(&["--audit", file.to_str().expect("UTF-8"), "--audit-code"]).start();
    forkpy.run("treasure = 1");
    assert_eq!(lines(&file)[0]["code"], "treasure = 1");
    drop(forkpy);
    let (code, log) = Setup::new().args(&["--audit", "/no/such/directory/audit"]).run_to_end();
    assert!(code == Some(1) && log.contains("No such file"), "{log}");
}

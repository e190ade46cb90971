//! `forkpy install` and `uninstall`: an entry in the shape that each client documents, in configurations as people have them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

const FORKPY: &str = env!("CARGO_BIN_EXE_forkpy");

fn forkpy(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(FORKPY);
    command.args(args).env("HOME", home).current_dir(home);
    command.env_remove("XDG_CONFIG_HOME").env_remove("CODEX_HOME").output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("there")
}

/// A client, where its file lies, how it looks before, and what then stands in it under the key.
struct Case {
    client: &'static str,
    file: &'static str,
    before: &'static str,
    pointer: &'static str,
    entry: fn(&str) -> Value,
}

/// Shapes of real configurations, after each client's documentation.
const CASES: &[Case] = &[
    Case {
        client: "claude-code",
        file: ".claude.json",
        before: "{\n  \"numStartups\": 12,\n  \"mcpServers\": {\n    \"github\": {\"type\": \"http\", \"url\": \"https://x/mcp\"}\n  },\n  \"projects\": {\"/p\": {\"allowedTools\": []}}\n}\n",
        pointer: "/mcpServers/forkpy",
        entry: |workspace| json!({"type": "stdio", "command": FORKPY, "args": ["attach", "--workspace", workspace]}),
    },
    Case {
        client: "claude-desktop",
        file: ".config/Claude/claude_desktop_config.json",
        before: "{\"globalShortcut\": \"Ctrl+Space\", \"mcpServers\": {}}",
        pointer: "/mcpServers/forkpy",
        entry: plain,
    },
    Case {
        client: "cursor",
        file: ".cursor/mcp.json",
        before: "{\n\t\"mcpServers\": {\n\t\t\"other\": {\n\t\t\t\"command\": \"npx\",\n\t\t\t\"args\": [\"-y\", \"x\"],\n\t\t}\n\t}\n}\n",
        pointer: "/mcpServers/forkpy",
        entry: plain,
    },
    Case {
        client: "gemini",
        file: ".gemini/settings.json",
        before: "{\n  \"theme\": \"Dracula\",\n  \"selectedAuthType\": \"gemini-api-key\"\n}\n",
        pointer: "/mcpServers/forkpy",
        entry: plain,
    },
    Case {
        client: "jetbrains",
        file: ".junie/mcp/mcp.json",
        before: "{\"mcpServers\": {\"fetch\": {\"command\": \"uvx\", \"args\": [\"mcp-server-fetch\"]}}}\n",
        pointer: "/mcpServers/forkpy",
        entry: plain,
    },
    Case {
        client: "lm-studio",
        file: ".lmstudio/mcp.json",
        before: "{\n  \"mcpServers\": {}\n}",
        pointer: "/mcpServers/forkpy",
        entry: plain,
    },
    Case {
        client: "opencode",
        file: ".config/opencode/opencode.json",
        before: "{\n  \"$schema\": \"https://opencode.ai/config.json\",\n  \"mcp\": {\n    \"jira\": {\"type\": \"remote\", \"url\": \"https://x\", \"enabled\": true}\n  }\n}\n",
        pointer: "/mcp/forkpy",
        entry: |workspace| json!({"type": "local", "command": [FORKPY, "attach", "--workspace", workspace], "enabled": true}),
    },
    Case {
        client: "vscode",
        file: ".config/Code/User/mcp.json",
        before: "{\n\t\"inputs\": [],\n\t// mine\n\t\"servers\": {}\n}\n",
        pointer: "/servers/forkpy",
        entry: |workspace| json!({"type": "stdio", "command": FORKPY, "args": ["attach", "--workspace", workspace]}),
    },
    Case {
        client: "windsurf",
        file: ".codeium/windsurf/mcp_config.json",
        before: "",
        pointer: "/mcpServers/forkpy",
        entry: plain,
    },
    Case {
        client: "zed",
        file: ".config/zed/settings.json",
        before: "// Zed settings\n{\n  \"vim_mode\": true,\n  /* servers */\n  \"context_servers\": {\n    \"mine\": {\"source\": \"custom\", \"command\": \"x\", \"args\": [], \"env\": {}},\n  },\n}\n",
        pointer: "/context_servers/forkpy",
        entry: |workspace| json!({"source": "custom", "command": FORKPY, "args": ["attach", "--workspace", workspace], "env": {}}),
    },
];

fn plain(workspace: &str) -> Value {
    json!({"command": FORKPY, "args": ["attach", "--workspace", workspace]})
}

/// JSON as these clients read it.
fn lenient(text: &str) -> Value {
    let text = text.trim_start_matches('\u{feff}');
    jsonc_parser::cst::CstRootNode::parse(text, &jsonc_parser::ParseOptions::default())
        .expect("JSON")
        .to_serde_value()
        .expect("a value")
}

#[test]
fn each_client_gets_its_shape_and_loses_it_again() {
    for case in CASES {
        let home = tempfile::tempdir().expect("a home");
        let file = home.path().join(case.file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(&file, case.before).expect("written");
        done(&forkpy(home.path(), &["install", "--client", case.client]));
        let after = read(&file);
        let workspace = home.path().join("forkpy");
        let entry = (case.entry)(workspace.to_str().expect("UTF-8"));
        assert_eq!(lenient(&after).pointer(case.pointer), Some(&entry), "{}: {after}", case.client);
        // All else is letter by letter as it was: comments, tabs, commas.
        for line in
            case.before.lines().filter(|line| line.contains("//") || line.contains("/*") || line.contains("\"other\""))
        {
            assert!(after.contains(line), "{}: {line:?} is gone: {after}", case.client);
        }
        let again = forkpy(home.path(), &["install", "--client", case.client]);
        assert!(text(&again.stderr).contains("has this entry already"), "{again:?}");

        done(&forkpy(home.path(), &["uninstall", "--client", case.client]));
        let left = lenient(&read(&file));
        assert_eq!(left.pointer(case.pointer), None, "{}: {left}", case.client);
        if !case.before.is_empty() {
            let (mut left, mut before) = (left, lenient(case.before));
            // An object that was made for the entry stays, empty.
            let key = case.pointer.split('/').nth(1).expect("a key");
            for value in [&mut left, &mut before] {
                value.as_object_mut().expect("an object").entry(key).or_insert_with(|| json!({}));
            }
            assert_eq!(left, before, "{}", case.client);
        }
        let none = forkpy(home.path(), &["uninstall", "--client", case.client]);
        assert!(none.status.success() && text(&none.stderr).contains("no such entry"), "{none:?}");
    }
}

#[test]
fn codex_gets_a_table_and_keeps_the_rest() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join(".codex/config.toml");
    fs::create_dir(file.parent().expect("a folder")).expect("made");
    let before = "model = \"gpt-5\"  # mine\n\n[mcp_servers.forkpy]\ncommand = \"/old/forkpy\"\nstartup_timeout_sec = 20\n\n\
                  [mcp_servers.docs]\nurl = \"https://x/mcp\"\n";
    fs::write(&file, before).expect("written");
    done(&forkpy(home.path(), &["install", "--client", "codex", "--", "--workspace", "~/w"]));
    let after = read(&file);
    assert!(after.contains("model = \"gpt-5\"  # mine") && after.contains("startup_timeout_sec = 20"), "{after}");
    let found: toml::Table = after.parse().expect("TOML");
    let server = &found["mcp_servers"]["forkpy"];
    assert_eq!(server["command"].as_str(), Some(FORKPY));
    assert_eq!(server["args"].as_array().map(Vec::len), Some(3));
    assert_eq!(found["mcp_servers"]["docs"]["url"].as_str(), Some("https://x/mcp"));
    done(&forkpy(home.path(), &["uninstall", "--client", "codex"]));
    let left = read(&file);
    assert!(!left.contains("forkpy") && left.contains("[mcp_servers.docs]") && left.contains("# mine"), "{left}");
    // One that is not there yet is made, where CODEX_HOME says.
    let elsewhere = home.path().join("elsewhere");
    let mut command = Command::new(FORKPY);
    command.args(["install", "--client", "codex"]).env("HOME", home.path()).env("CODEX_HOME", &elsewhere);
    assert!(command.status().expect("it runs").success());
    assert!(read(&elsewhere.join("config.toml")).starts_with("[mcp_servers.forkpy]\n"));
}

#[test]
fn goose_gets_an_extension_and_keeps_the_rest() {
    for before in [
        "# mine\nGOOSE_PROVIDER: anthropic\nextensions:\n  developer:\n    enabled: true\n    type: builtin   # inside\n    name: developer\nGOOSE_MODE: auto\n",
        "GOOSE_PROVIDER: anthropic  # mine\n",
        "extensions: {}\n# mine\n",
        "# mine\n",
        "",
    ] {
        let home = tempfile::tempdir().expect("a home");
        let file = home.path().join(".config/goose/config.yaml");
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(&file, before).expect("written");
        done(&forkpy(home.path(), &["install", "--client", "goose", "--name", "py", "--", "--workspace", "~/a: b"]));
        let after = read(&file);
        let found = yaml(&after);
        let extension = &found["extensions"]["py"];
        assert_eq!(extension["cmd"], FORKPY, "{after}");
        assert_eq!(extension["args"], json!(["attach", "--workspace", "~/a: b"]));
        assert_eq!(
            (&extension["type"], &extension["enabled"], &extension["name"]),
            (&json!("stdio"), &json!(true), &json!("py"))
        );
        for line in before.lines().filter(|line| !line.starts_with("extensions:")) {
            assert!(after.contains(line), "{line:?} is gone: {after}");
        }
        assert_eq!(text(&forkpy(home.path(), &["uninstall", "--client", "goose", "--name", "py"]).stdout), "");
        let (left, mut was) = (yaml(&read(&file)), yaml(before));
        if was["extensions"].is_null() {
            assert!(left["extensions"].is_null() || left["extensions"] == json!({}), "{left}");
        } else {
            assert_eq!(left["extensions"], was["extensions"].take());
        }
    }
}

/// A client that takes the one of two, or none, would not show what was entered.
#[test]
fn yaml_with_two_of_a_name_or_with_tabs_is_refused_and_left_alone() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join(".config/goose/config.yaml");
    fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    for (before, words) in [
        ("extensions:\n  forkpy: {}\n  forkpy: {}\n", "\"forkpy\" 2 times"),
        ("extensions:\n  forkpy: {}\n  a: {}\n  'forkpy': {}\n", "\"forkpy\" 2 times"),
        ("extensions:\n  a: {}\nextensions:\n  b: {}\n", "\"extensions\" 2 times"),
        ("extensions:\n\ta: 1\n", "line 2 is indented with a tab"),
    ] {
        fs::write(&file, before).expect("written");
        for command in ["install", "uninstall"] {
            let refused = forkpy(home.path(), &[command, "--client", "goose"]);
            let said = text(&refused.stderr);
            assert!(!refused.status.success() && said.contains(words), "{command} {before}: {said}");
            assert_eq!(read(&file), before);
        }
    }
}

/// As another reader sees it.
fn yaml(text: &str) -> Value {
    let found: Option<Value> = serde_yaml_ng::from_str(text).expect("YAML");
    found.unwrap_or_else(|| json!({}))
}

#[test]
fn what_people_do_to_configurations_is_borne() {
    let home = tempfile::tempdir().expect("a home");
    let file = home.path().join(".cursor/mcp.json");
    fs::create_dir(file.parent().expect("a folder")).expect("made");
    let install = || forkpy(home.path(), &["install", "--client", "cursor"]);
    // A byte order mark and lines that end as on Windows stay.
    fs::write(&file, "\u{feff}{\r\n\t\"mcpServers\": {\r\n\t\t// mine\r\n\t},\r\n}\r\n").expect("written");
    done(&install());
    let after = read(&file);
    assert!(after.starts_with("\u{feff}{\r\n\t\"mcpServers\"") && after.contains("\t\t// mine\r\n"), "{after:?}");
    assert_eq!(lenient(&after)["mcpServers"]["forkpy"]["command"], FORKPY);
    // A link stays one, also to a file that is still to be made.
    let target = home.path().join("dotfiles.json");
    for exists in [true, false] {
        let _ = (fs::remove_file(&file), fs::remove_file(&target));
        if exists {
            fs::write(&target, "{}").expect("written");
        }
        symlink(&target, &file).expect("linked");
        done(&install());
        assert!(file.is_symlink() && read(&target).contains("forkpy"));
    }
    // Read-only, a directory, another encoding, twice the same name, another server of that name: refused, and left alone.
    let _ = (fs::remove_file(&file), fs::remove_file(&target));
    for (before, words) in [
        (&b"\xff\xfe{\0}\0"[..], "not UTF-8"),
        (
            b"{\"mcpServers\": {\"forkpy\": {\"command\": \"a\"}, \"forkpy\": {\"command\": \"b\"}}}",
            "\"forkpy\" 2 times",
        ),
        (b"{\"mcpServers\": {}, \"mcpServers\": {}}", "\"mcpServers\" 2 times"),
        (b"{\"mcpServers\": ", "not JSON"),
        (b"{\"mcpServers\": []}", "is no object"),
    ] {
        fs::write(&file, before).expect("written");
        let refused = install();
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(words) && said.contains("is not changed"), "{said}");
        assert_eq!(fs::read(&file).expect("there"), before);
    }
    fs::write(&file, "{}").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("set");
    let refused = install();
    assert!(text(&refused.stderr).contains("read-only") && text(&refused.stderr).contains("--print"), "{refused:?}");
    assert_eq!(read(&file), "{}");
    fs::remove_file(&file).expect("removed");
    fs::write(&file, "{\"mcpServers\": {\"forkpy\": {\"command\": \"other\", \"args\": []}}}").expect("written");
    let refused = forkpy(home.path(), &["uninstall", "--client", "cursor"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("is not forkpy's"), "{refused:?}");
}

#[test]
fn an_entry_is_printed_and_one_of_a_project_goes_into_the_project() {
    let home = tempfile::tempdir().expect("a home");
    let project = home.path().join("project");
    fs::create_dir(&project).expect("made");
    let project = project.canonicalize().expect("there");
    let path = project.to_str().expect("UTF-8");
    let printed =
        done(&forkpy(home.path(), &["install", "--client", "zed", "--print", "--direct", "--", "--timeout", "9"]));
    assert_eq!(lenient(&printed)["context_servers"]["forkpy"]["args"], json!(["--timeout", "9"]));
    assert!(!home.path().join(".config").exists());
    for (client, file, pointer, workspace) in [
        ("claude-code", ".mcp.json", "/mcpServers/forkpy/args/2", path),
        ("vscode", ".vscode/mcp.json", "/servers/forkpy/args/2", "${workspaceFolder}"),
        ("opencode", "opencode.json", "/mcp/forkpy/command/3", path),
    ] {
        done(&forkpy(home.path(), &["install", "--client", client, "--project", path]));
        let found = lenient(&read(&project.join(file)));
        assert_eq!(found.pointer(pointer), Some(&json!(workspace)), "{found}");
    }
    let without = forkpy(home.path(), &["install", "--client", "lm-studio", "--project", path]);
    assert!(
        !without.status.success() && text(&without.stderr).contains("no configuration for a project"),
        "{without:?}"
    );
}

#[test]
fn options_are_parsed_before_they_are_written_and_unknown_clients_get_something_to_paste() {
    let home = tempfile::tempdir().expect("a home");
    for (options, words) in
        [(&["--no-such"][..], "--no-such"), (&["--timeout", "soon"], "--timeout"), (&["stop"], "stop")]
    {
        let refused = forkpy(home.path(), &[&["install", "--client", "cursor", "--"][..], options].concat());
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains("nothing was written") && said.contains(words), "{said}");
    }
    assert!(!home.path().join(".cursor").exists());
    let unknown = forkpy(home.path(), &["install", "--client", "emacs"]);
    assert!(!unknown.status.success() && text(&unknown.stderr).contains("it knows claude-code, "), "{unknown:?}");
    let paste: Value = serde_json::from_slice(&unknown.stdout).expect("JSON");
    assert_eq!(paste["mcpServers"]["forkpy"]["command"], FORKPY);
    let printed = forkpy(home.path(), &["install", "--client", "emacs", "--print"]);
    assert!(printed.status.success() && printed.stderr.is_empty(), "{printed:?}");
}

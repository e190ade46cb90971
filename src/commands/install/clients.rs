//! The clients that forkpy can be entered into: where each keeps its configuration, and how an entry looks in it.
//!
//! Runs in: a process of its own. Pure, but for HOME and the like. Each format is as the client's documentation has it; the
//! address stands beside it.

use std::{
    env,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{commands::error::SetupError, settings::paths};

/// What some clients put the folder of the project in place of.
pub(super) const FOLDER: &str = "${workspaceFolder}";

/// How a configuration is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Syntax {
    /// With comments and trailing commas, where there are any.
    Json,
    Toml,
    Yaml,
}

/// How an entry looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `{"command": …, "args": […]}`
    Plain,
    /// The same with `"type": "stdio"`.
    Typed,
    /// The same with `"source": "custom"`.
    Zed,
    /// `{"type": "local", "command": […], "enabled": true}`
    Opencode,
    /// `{name, type: stdio, cmd, args, enabled, timeout}`
    Goose,
}

/// Where the configuration of a user lies.
#[derive(Debug, Clone, Copy)]
enum Below {
    /// Below the home directory.
    Home(&'static str),
    /// Below `XDG_CONFIG_HOME`, or `~/.config`.
    Config(&'static str),
    /// Below the directory that a variable names, else below the home directory.
    Named(&'static str, &'static str, &'static str),
}

/// A program that speaks MCP to forkpy.
#[derive(Debug)]
pub(in crate::commands) struct Client {
    pub name: &'static str,
    home: Below,
    /// The configuration of a project, from the project's directory on.
    project: Option<&'static str>,
    pub syntax: Syntax,
    /// Under what the servers stand.
    pub key: &'static str,
    shape: Shape,
    /// It puts the project's folder in place of [`FOLDER`].
    pub puts_folder: bool,
}

/// What the client is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) struct Entry {
    pub command: String,
    pub args: Vec<String>,
}

const fn json(
    name: &'static str,
    home: Below,
    project: Option<&'static str>,
    key: &'static str,
    shape: Shape,
) -> Client {
    Client { name, home, project, syntax: Syntax::Json, key, shape, puts_folder: false }
}

/// All of them, by their names.
pub(in crate::commands) const CLIENTS: &[Client] = &[
    // https://code.claude.com/docs/en/mcp: user scope in ~/.claude.json, project scope in .mcp.json
    json("claude-code", Below::Home(".claude.json"), Some(".mcp.json"), "mcpServers", Shape::Typed),
    // https://modelcontextprotocol.io/docs/develop/connect-local-servers
    json("claude-desktop", Below::Config("Claude/claude_desktop_config.json"), None, "mcpServers", Shape::Plain),
    // https://developers.openai.com/codex/mcp: ~/.codex/config.toml, and .codex/config.toml of trusted projects
    Client {
        name: "codex",
        home: Below::Named("CODEX_HOME", "config.toml", ".codex/config.toml"),
        project: Some(".codex/config.toml"),
        syntax: Syntax::Toml,
        key: "mcp_servers",
        shape: Shape::Plain,
        puts_folder: false,
    },
    // https://cursor.com/docs/context/mcp
    json("cursor", Below::Home(".cursor/mcp.json"), Some(".cursor/mcp.json"), "mcpServers", Shape::Plain),
    // https://geminicli.com/docs/tools/mcp-server/
    json("gemini", Below::Home(".gemini/settings.json"), Some(".gemini/settings.json"), "mcpServers", Shape::Plain),
    // https://block.github.io/goose/docs/guides/config-files
    Client {
        name: "goose",
        home: Below::Config("goose/config.yaml"),
        project: None,
        syntax: Syntax::Yaml,
        key: "extensions",
        shape: Shape::Goose,
        puts_folder: false,
    },
    // https://www.jetbrains.com/help/junie/model-context-protocol-mcp.html: Junie's files, of the IDEs and of the command line
    json("jetbrains", Below::Home(".junie/mcp/mcp.json"), Some(".junie/mcp/mcp.json"), "mcpServers", Shape::Plain),
    // https://lmstudio.ai/docs/app/mcp: Cursor's notation
    json("lm-studio", Below::Home(".lmstudio/mcp.json"), None, "mcpServers", Shape::Plain),
    // https://opencode.ai/docs/mcp-servers/
    json("opencode", Below::Config("opencode/opencode.json"), Some("opencode.json"), "mcp", Shape::Opencode),
    // https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
    Client {
        puts_folder: true,
        ..json("vscode", Below::Config("Code/User/mcp.json"), Some(".vscode/mcp.json"), "servers", Shape::Typed)
    },
    // https://docs.windsurf.com/windsurf/cascade/mcp
    json("windsurf", Below::Home(".codeium/windsurf/mcp_config.json"), None, "mcpServers", Shape::Plain),
    // https://zed.dev/docs/ai/mcp
    json("zed", Below::Config("zed/settings.json"), Some(".zed/settings.json"), "context_servers", Shape::Zed),
];

/// What is shown for a client that is not among them.
pub(super) const PASTED: Client = json("", Below::Home(""), None, "mcpServers", Shape::Plain);

/// The client of this name.
pub(super) fn find(name: &str) -> Option<&'static Client> {
    CLIENTS.iter().find(|client| client.name == name)
}

impl Client {
    /// Where it looks for servers of this user.
    pub(in crate::commands) fn of_user(&self) -> Result<PathBuf, SetupError> {
        let home = || paths::home().ok_or(SetupError::NoHome);
        let directory = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(match self.home {
            Below::Home(file) => home()?.join(file),
            Below::Named(variable, file, usual) => match directory(variable) {
                Some(named) => named.join(file),
                None => home()?.join(usual),
            },
            Below::Config(file) => {
                let config = match directory("XDG_CONFIG_HOME") {
                    Some(config) => config,
                    None => home()?.join(".config"),
                };
                with_comments(config.join(file))
            }
        })
    }

    /// Where it looks for servers of this user on Windows, below the user's folder there.
    pub(super) fn of_windows_user(&self, home: &Path) -> PathBuf {
        match self.home {
            Below::Home(file) | Below::Named(_, _, file) => home.join(file),
            // https://block.github.io/goose/docs/guides/config-files; opencode keeps the folder that it has elsewhere
            Below::Config(file) => match self.name {
                "goose" => home.join("AppData/Roaming/Block/goose/config/config.yaml"),
                "opencode" => with_comments(home.join(".config").join(file)),
                _ => with_comments(home.join("AppData/Roaming").join(file)),
            },
        }
    }

    /// Where it looks for servers of a project.
    pub(super) fn of_project(&self, project: &Path) -> Result<PathBuf, SetupError> {
        match self.project {
            Some(file) => Ok(with_comments(project.join(file))),
            None => Err(SetupError::NoProject { client: self.name }),
        }
    }

    /// An entry, in this client's words.
    pub(super) fn value(&self, name: &str, entry: &Entry) -> Value {
        let Entry { command, args } = entry;
        match self.shape {
            Shape::Plain => json!({ "command": command, "args": args }),
            Shape::Typed => json!({ "type": "stdio", "command": command, "args": args }),
            Shape::Zed => json!({ "source": "custom", "command": command, "args": args, "env": {} }),
            Shape::Opencode => {
                let words: Vec<&String> = std::iter::once(command).chain(args).collect();
                json!({ "type": "local", "command": words, "enabled": true })
            }
            Shape::Goose => json!({
                "name": name, "type": "stdio", "cmd": command, "args": args, "enabled": true, "timeout": 300,
            }),
        }
    }

    /// What an entry of the configuration runs; none where it is no command.
    pub(in crate::commands) fn command(&self, value: &Value) -> Option<Entry> {
        let words = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect()
        };
        let (command, args) = match self.shape {
            Shape::Opencode => {
                let mut words = words(&value["command"])?.into_iter();
                (words.next()?, words.collect())
            }
            Shape::Goose => (value["cmd"].as_str()?.to_owned(), words(&value["args"]).unwrap_or_default()),
            _ => (value["command"].as_str()?.to_owned(), words(&value["args"]).unwrap_or_default()),
        };
        Some(Entry { command, args })
    }
}

impl Entry {
    /// Whether this starts forkpy, however it was installed.
    pub(in crate::commands) fn is_forkpy(&self) -> bool {
        let file = Path::new(&self.command).file_name().unwrap_or_default().to_string_lossy();
        file.starts_with("forkpy")
            || self.args.iter().any(|word| word == "forkpy")
            || runs_image_or_wsl(&self.command, &self.args)
    }
}

/// Whether these words have `docker` or `wsl.exe` start forkpy.
fn runs_image_or_wsl(command: &str, args: &[String]) -> bool {
    let named = |word: &str| {
        let file = word.rsplit('/').next().unwrap_or_default();
        file == "forkpy" || file.starts_with("forkpy:") || file.starts_with("forkpy@")
    };
    match command.rsplit(['/', '\\']).next().unwrap_or_default() {
        // The image is no option's value: those are pairs of paths, and of numbers.
        "docker" | "podman" | "docker.exe" => args.iter().any(|word| named(word) && !word.starts_with('/')),
        "wsl" | "wsl.exe" => {
            let program = args.iter().position(|word| word == "--exec" || word == "-e" || word == "--");
            program.and_then(|at| args.get(at + 1)).is_some_and(|word| named(word))
        }
        _ => false,
    }
}

/// The fields of an entry in the order in which documentation has them.
pub(super) fn in_order(value: &Value) -> Vec<(&String, &Value)> {
    const ORDER: [&str; 4] = ["name", "type", "source", "command"];
    let mut fields: Vec<_> = value.as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    fields
}

/// Some clients read `NAME.jsonc` too: the one that is there.
fn with_comments(file: PathBuf) -> PathBuf {
    let other = file.with_extension("jsonc");
    if file.extension().is_some_and(|end| end == "json") && !file.exists() && other.exists() { other } else { file }
}

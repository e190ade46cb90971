//! `forkpy install`: an entry for forkpy in a client's configuration. What else is in that file stays as it is, comments and
//! all; the file before the change stays beside it.
//!
//! Runs in: a process of its own.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstRootNode},
};

use crate::commands::error::SetupError;

/// A program that speaks MCP to forkpy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientName {
    /// Claude Code, for all of this user's projects: ~/.claude.json
    ClaudeCode,
    /// Claude Desktop: `claude_desktop_config.json`
    ClaudeDesktop,
    /// Cursor, for all projects: ~/.cursor/mcp.json
    Cursor,
    /// VS Code, for all folders: mcp.json of the user's profile
    Vscode,
}

/// What `forkpy install` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallArgs {
    /// Client to write the configuration of
    #[arg(long, value_enum)]
    pub client: ClientName,

    /// Name of the entry
    #[arg(long, default_value = "forkpy")]
    pub name: String,

    /// Have the client start a server of its own, which ends with it, and its sessions too. Else the client connects to one
    /// that outlives it (`forkpy attach`)
    #[arg(long)]
    pub direct: bool,

    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// The configuration, where it is not in its usual place
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Options of the server, after `--`; without any, `--workspace ~/forkpy`
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    /// The configuration.
    pub file: PathBuf,
    /// Its text now, or as it would be.
    pub text: String,
    /// Where the text before is; none when there was no file, or nothing was written.
    pub backup: Option<PathBuf>,
    /// The entry was there already, as it is.
    pub unchanged: bool,
}

impl ClientName {
    /// Where it looks for servers.
    fn file(self) -> Result<PathBuf, SetupError> {
        let home =
            || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).ok_or(SetupError::NoHome);
        let config = || match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(config) => Ok(config),
            None => home().map(|home| home.join(".config")),
        };
        Ok(match self {
            Self::ClaudeCode => home()?.join(".claude.json"),
            Self::ClaudeDesktop => config()?.join("Claude/claude_desktop_config.json"),
            Self::Cursor => home()?.join(".cursor/mcp.json"),
            Self::Vscode => config()?.join("Code/User/mcp.json"),
        })
    }

    /// Under what the servers stand in it.
    fn key(self) -> &'static str {
        if self == Self::Vscode { "servers" } else { "mcpServers" }
    }

    /// Whether an entry says how the server is reached.
    fn names_transport(self) -> bool {
        matches!(self, Self::ClaudeCode | Self::Vscode)
    }
}

/// Writes the entry, or says what would be written.
///
/// # Errors
/// [`SetupError`]; the file is then as it was.
pub(crate) fn install(args: &InstallArgs) -> Result<Installed, SetupError> {
    let named = match &args.file {
        Some(file) => file.clone(),
        None => args.client.file()?,
    };
    // Some keep their configurations elsewhere, and a link in its place.
    let file = named.canonicalize().unwrap_or(named);
    let before = match fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(SetupError::File { what: "failed to read", path: file, source }),
    };
    let fail = |reason: String| SetupError::Configuration { path: file.clone(), reason };
    let text = with_entry(before.as_deref().unwrap_or_default(), args).map_err(fail)?;
    let unchanged = before.as_ref() == Some(&text);
    let backup = if args.dry_run || unchanged { None } else { write(&file, before.as_deref(), &text)? };
    Ok(Installed { file, text, backup, unchanged })
}

fn with_entry(text: &str, args: &InstallArgs) -> Result<String, String> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        ..ParseOptions::default()
    };
    let root = CstRootNode::parse(text, &options).map_err(|error| format!("it is not JSON: {error}"))?;
    let object = root.object_value().ok_or("it is JSON, but no object")?;
    let key = args.client.key();
    let servers = object.object_value_or_create(key).ok_or_else(|| format!("its {key:?} is no object"))?;
    let entry = entry(args);
    match servers.get(&args.name) {
        Some(known) if known.to_serde_value() == Some(as_json(&entry)) => {}
        Some(known) => known.set_value(entry),
        None => {
            servers.append(&args.name, entry);
        }
    }
    Ok(root.to_string())
}

fn entry(args: &InstallArgs) -> CstInputValue {
    let options = if args.args.is_empty() { default_args() } else { args.args.clone() };
    let attach = (!args.direct).then(|| "attach".to_owned());
    let words: Vec<String> = attach.into_iter().chain(options).collect();
    let text = |text: &str| CstInputValue::String(text.to_owned());
    let mut entry = Vec::new();
    if args.client.names_transport() {
        entry.push(("type".to_owned(), text("stdio")));
    }
    entry.push(("command".to_owned(), text(&own_path().to_string_lossy())));
    entry.push(("args".to_owned(), CstInputValue::Array(words.iter().map(|word| text(word)).collect())));
    CstInputValue::Object(entry)
}

fn as_json(value: &CstInputValue) -> serde_json::Value {
    match value {
        CstInputValue::String(text) => text.as_str().into(),
        CstInputValue::Array(items) => items.iter().map(as_json).collect(),
        CstInputValue::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), as_json(value))).collect(),
        // An entry has nothing else.
        _ => serde_json::Value::Null,
    }
}

/// Clients start servers from folders of their own.
fn default_args() -> Vec<String> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    vec!["--workspace".to_owned(), home.join("forkpy").to_string_lossy().into_owned()]
}

/// This program, as it was started: a bundle's single file, not what it unpacked.
fn own_path() -> PathBuf {
    crate::bundle::single_file().or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "forkpy".into())
}

/// The text before goes to a file of its own first; the new one takes the place of the old in one step.
fn write(file: &Path, before: Option<&str>, text: &str) -> Result<Option<PathBuf>, SetupError> {
    let fail = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| SetupError::File { what, path, source }
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(fail("failed to make", folder))?;
    let mut backup = None;
    if let Some(before) = before {
        let path = beside(file);
        fs::write(&path, before).map_err(fail("failed to write", &path))?;
        if let Ok(found) = file.metadata() {
            let _ = fs::set_permissions(&path, found.permissions());
        }
        backup = Some(path);
    }
    let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(fail("failed to write beside", file))?;
    draft.write_all(text.as_bytes()).map_err(fail("failed to write beside", file))?;
    if let Ok(found) = file.metadata() {
        let _ = draft.as_file().set_permissions(found.permissions());
    }
    draft.persist(file).map_err(|error| fail("failed to replace", file)(error.error))?;
    Ok(backup)
}

fn beside(file: &Path) -> PathBuf {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |more: String| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{now}{more}.backup"));
        PathBuf::from(name)
    };
    let names = std::iter::once(name(String::new())).chain((2..).map(|number| name(format!("-{number}"))));
    names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| name(String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(client: ClientName) -> InstallArgs {
        let args = vec!["--preload".to_owned(), "numpy".to_owned()];
        InstallArgs { client, name: "python".to_owned(), direct: false, dry_run: true, file: None, args }
    }

    #[test]
    fn what_is_there_stays_with_its_comments() {
        let before = "{\n  // mine\n  \"theme\": \"dark\",\n  \"servers\": {\"other\": {\"command\": \"x\"}},\n}\n";
        let after = with_entry(before, &asked(ClientName::Vscode)).expect("JSON with comments");
        assert!(
            after.contains("// mine") && after.contains("\"theme\": \"dark\"") && after.contains("\"other\""),
            "{after}"
        );
        assert!(after.contains("\"stdio\"") && after.contains("\"--preload\""), "{after}");
        assert_eq!(with_entry(&after, &asked(ClientName::Vscode)).as_deref(), Ok(after.as_str()));
    }

    #[test]
    fn an_entry_of_the_name_is_replaced_and_no_other() {
        let before = r#"{"mcpServers": {"python": {"command": "old"}, "b": {"command": "old"}}}"#;
        let after = with_entry(before, &asked(ClientName::Cursor)).expect("JSON");
        let found: serde_json::Value = serde_json::from_str(&after).expect("still JSON");
        assert_eq!(found["mcpServers"]["b"]["command"], "old");
        assert_eq!(found["mcpServers"]["python"]["args"], serde_json::json!(["attach", "--preload", "numpy"]));
        assert_eq!(found["mcpServers"]["python"]["type"], serde_json::Value::Null);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for (text, words) in [
            ("{\"mcpServers\": ", "it is not JSON"),
            ("[1]", "no object"),
            ("{\"mcpServers\": 7}", "its \"mcpServers\" is no object"),
        ] {
            let refused = with_entry(text, &asked(ClientName::ClaudeDesktop)).expect_err("refused");
            assert!(refused.contains(words), "{refused}");
        }
        assert!(
            with_entry(" \n", &asked(ClientName::ClaudeCode)).expect("nothing is an empty object").contains("python")
        );
    }
}

//! Which tools are listed: a set by its name, or tools by theirs.
//!
//! Runs in: server. Whether a tool is listed decides what a model pays for; it can be called all the same.

use super::{
    TOOLS,
    call::tool::{Set, Tool},
};

/// Names of the tools that `tools/list` has.
pub(crate) type Listed = Vec<&'static str>;

/// What was asked for is no tool.
#[derive(Debug, thiserror::Error)]
#[error("--tools: there is no tool {name:?}; there are the sets core, standard and all, and the tools {known}")]
pub(crate) struct UnknownTool {
    name: String,
    known: String,
}

/// The tools of a wish like `standard` or `run_python_code,list_variables`, in the order of the table.
///
/// # Errors
/// When a name is that of no set and no tool.
pub(crate) fn of(wish: &str) -> Result<Listed, UnknownTool> {
    let mut chosen = vec![false; TOOLS.len()];
    for name in wish.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let set = match name {
            "core" => Some(Set::Core),
            "standard" => Some(Set::Standard),
            "all" => Some(Set::All),
            _ => None,
        };
        let wanted = |tool: &Tool| set.map_or_else(|| tool.name == name, |set| tool.set <= set);
        if !TOOLS.iter().any(wanted) {
            let known: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
            return Err(UnknownTool { name: name.to_owned(), known: known.join(", ") });
        }
        for (chosen, tool) in chosen.iter_mut().zip(TOOLS.iter()) {
            *chosen |= wanted(tool);
        }
    }
    if !chosen.contains(&true) {
        return of("standard");
    }
    Ok(TOOLS.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(tool, _)| tool.name).collect())
}

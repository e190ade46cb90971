//! `list_variables`.
//!
//! Runs in: server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lookup;
use crate::{
    protocol::{Question, Variable},
    server::{
        health::evidence::Phase,
        sessions::handle::Session,
        tools::call::{
            error::{ToolError, refuse},
            patience::in_turn,
            reply::Reply,
            request::Call,
            server::Server,
        },
    },
};

/// Variables in one reply, unless asked for more.
const DEFAULT_LIMIT: u64 = 200;

/// `list_variables`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ListVariables {
    /// Default: the active session.
    pub(crate) session_id: Option<String>,
    /// Most variables. Default 200.
    pub(crate) limit: Option<u64>,
    /// Variables to leave out at the beginning. Default 0.
    pub(crate) offset: Option<u64>,
    /// Only variables with this in their name.
    pub(crate) filter: Option<String>,
}

/// `list_variables`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Variables {
    /// Name to `type: summary`; no modules, no names that begin with `_`.
    pub(crate) variables: BTreeMap<String, String>,
    /// The same in parts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) details: BTreeMap<String, VariableDetails>,
    /// The session.
    pub(crate) session_id: String,
    /// How many there are, on all pages.
    pub(crate) total: u64,
    /// Where the next page begins, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_offset: Option<u64>,
    /// `lost` or `restored` when something has happened to the variables that no cell's reply has told this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
}

/// A variable, in parts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct VariableDetails {
    /// Its class, with the module unless that is `builtins` or the session's own.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its value in short.
    pub(crate) value: String,
    /// Of arrays and tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Vec<u64>>,
    /// Type of the elements; of tables, of the columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dtype: Option<String>,
    /// `len()`, of what has it at no cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) length: Option<u64>,
    /// Memory it takes, bytes; what a container holds is not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
}

pub(crate) async fn list(server: &Server, call: &Call, asked: ListVariables) -> Result<Reply<Variables>, ToolError> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 {
        return refuse("`limit` is 0 and must be at least 1");
    }
    let session = server.session(call, asked.session_id.as_deref())?;
    let running = match session.shared.get().phase {
        Phase::Busy { cell, .. } => Some(cell),
        _ => None,
    };
    let found = match running {
        Some(_) => beside(call, &session).await?,
        None => in_turn(server, call, &session, |caller| session.variables(caller)).await?,
    };
    let (all, filter) = (found.len(), asked.filter.unwrap_or_default().to_lowercase());
    let mut found: Vec<Variable> =
        found.into_iter().filter(|variable| variable.name.to_lowercase().contains(&filter)).collect();
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let (total, offset) = (found.len() as u64, asked.offset.unwrap_or(0));
    let next = offset.saturating_add(limit);
    let page = found.into_iter().skip(offset.try_into().unwrap_or(usize::MAX));
    let (mut variables, mut details) = (BTreeMap::new(), BTreeMap::new());
    for Variable { name, kind, value, shape, dtype, length, bytes } in page.take(limit.try_into().unwrap_or(usize::MAX))
    {
        let short = kind.rsplit('.').next().unwrap_or_default();
        variables.insert(name.clone(), format!("{short}: {value}"));
        details.insert(name, VariableDetails { kind, value, shape, dtype, length, bytes });
    }
    let next_offset = (next < total).then_some(next);
    let (state, news) = call.news_of(&session);
    let moment = running.map(|cell| format!("Cell {cell} runs meanwhile: these are the variables of this moment."));
    let notice = news.into_iter().chain(moment).reduce(|news, moment| format!("{news} {moment}"));
    let mut text = serde_json::to_string(&variables)?;
    if let Some(next) = next_offset {
        text = format!("{text}\n(variables {offset} to {} of {total}; pass offset {next} for more)", next - 1);
    } else if offset > 0 && offset >= total {
        text = format!("{text}\n(there is no variable {offset}: there are {total}, counted from 0)");
    } else if total == 0 && all > 0 {
        text = format!("{text}\n(none of {all} variables has {filter:?} in its name)");
    }
    if let Some(notice) = &notice {
        text = format!("{text}\n{notice}");
    }
    let session_id = session.id.to_string();
    Ok(Reply::of(Variables { variables, details, session_id, total, next_offset, state, notice }).text(text))
}

/// A variable as the worker's answer has it: name, type, value in short, shape, element type, length, bytes.
type Told = (String, String, String, Option<Vec<u64>>, Option<String>, Option<u64>, Option<u64>);

/// While a cell runs, and without waiting for it.
async fn beside(call: &Call, session: &Session) -> Result<Vec<Variable>, ToolError> {
    let answer: lookup::Answer<Vec<Told>> = lookup::ask(call, session, Question::Variables).await?;
    let Some(found) = answer.told else { return refuse(answer.notice.unwrap_or_default()) };
    let variable =
        |(name, kind, value, shape, dtype, length, bytes)| Variable { name, kind, value, shape, dtype, length, bytes };
    Ok(found.into_iter().map(variable).collect())
}

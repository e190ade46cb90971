//! `list_variables`.
//!
//! Runs in: server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::lookup;
use crate::{
    protocol::{Question, Variable},
    server::{
        health::evidence::Phase,
        sessions::handle::Session,
        tools::call::{
            arguments::OfSession,
            error::{ToolError, refuse},
            progress,
            reply::Reply,
            request::Call,
            server::Server,
        },
    },
};

/// `list_variables`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Variables {
    /// Name to `type: summary`; no modules, no names that begin with `_`.
    pub(crate) variables: BTreeMap<String, String>,
    /// The same in parts.
    pub(crate) details: BTreeMap<String, VariableDetails>,
    /// The session.
    pub(crate) session_id: String,
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
    pub(crate) shape: Option<Vec<u64>>,
    /// Type of the elements; of tables, of the columns.
    pub(crate) dtype: Option<String>,
    /// `len()`, of what has it at no cost.
    pub(crate) length: Option<u64>,
    /// Memory it takes, bytes; what a container holds is not counted.
    pub(crate) bytes: Option<u64>,
}

pub(crate) async fn list(server: &Server, call: &Call, asked: OfSession) -> Result<Reply<Variables>, ToolError> {
    let session = server.session(&call.client, asked.session_id.as_deref())?;
    let running = match session.shared.get().phase {
        Phase::Busy { cell, .. } => Some(cell),
        _ => None,
    };
    let found = match running {
        Some(_) => beside(call, &session).await?,
        None => progress::of_session(&call.context, &session, None, session.variables(call.caller())).await?,
    };
    let (mut variables, mut details) = (BTreeMap::new(), BTreeMap::new());
    for Variable { name, kind, value, shape, dtype, length, bytes } in found {
        let short = kind.rsplit('.').next().unwrap_or_default();
        variables.insert(name.clone(), format!("{short}: {value}"));
        details.insert(name, VariableDetails { kind, value, shape, dtype, length, bytes });
    }
    let (state, news) = call.news_of(&session);
    let moment = running.map(|cell| format!("Cell {cell} runs meanwhile: these are the variables of this moment."));
    let notice = news.into_iter().chain(moment).reduce(|news, moment| format!("{news} {moment}"));
    let mut text = serde_json::to_string(&variables)?;
    if let Some(notice) = &notice {
        text = format!("{text}\n{notice}");
    }
    let session_id = session.id.to_string();
    Ok(Reply::of(Variables { variables, details, session_id, state, notice }).text(text))
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

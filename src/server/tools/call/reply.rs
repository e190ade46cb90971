//! What a tool gives back, and how it becomes a result of the protocol.
//!
//! Runs in: server. A tool says what came of a call (a value, its text, pictures, files); what of it a client gets, and in
//! which form, is decided here and nowhere else.

use std::time::Duration;

use jiff::Timestamp;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, InputRequiredResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    clients,
    error::ToolError,
    lane::{self, Told},
    links,
    request::Call,
    server::Server,
    texts::{self, MOST_SHOWN},
};

/// A shorter wait for its turn is not told.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(500);

/// What came of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reply<R> {
    value: R,
    /// For people and models; the value's JSON when left out.
    text: Option<String>,
    is_error: bool,
    pictures: Vec<ContentBlock>,
    /// Files of the workspace that the reply is about.
    files: Vec<String>,
    /// Most bytes of the text.
    most: usize,
}

impl<R: Serialize> Reply<R> {
    /// A reply whose text is its JSON.
    pub(crate) fn of(value: R) -> Self {
        Self { value, text: None, is_error: false, pictures: Vec::new(), files: Vec::new(), most: MOST_SHOWN }
    }

    /// With a text of its own.
    pub(crate) fn text(mut self, text: String) -> Self {
        self.text = Some(text);
        self
    }

    /// With a text that may have so many bytes: that much was asked for.
    pub(crate) fn at_most(mut self, bytes: usize) -> Self {
        self.most = self.most.max(bytes);
        self
    }

    /// Whether the call did not do what was asked.
    pub(crate) fn failed(mut self, is_error: bool) -> Self {
        self.is_error = is_error;
        self
    }

    pub(crate) fn pictures(mut self, pictures: impl IntoIterator<Item = ContentBlock>) -> Self {
        self.pictures.extend(pictures);
        self
    }

    /// Files that a client may want to open, the most important first.
    pub(crate) fn files<'a>(mut self, paths: impl IntoIterator<Item = &'a String>) -> Self {
        self.files.extend(paths.into_iter().take(links::MAX_LINKS).cloned());
        self
    }

    /// The same, whatever the tool, for calls that ask for it later.
    pub(crate) fn kept(self) -> Result<Reply<Value>, ToolError> {
        let Self { value, text, is_error, pictures, files, most } = self;
        let value = serde_json::to_value(&value)?;
        Ok(Reply { value, text, is_error, pictures, files, most })
    }

    fn result(self, server: &Server, call: &Call) -> Result<CallToolResult, ToolError> {
        let text = match self.text {
            Some(mut text) => {
                texts::fit_model(&mut text, self.most);
                text
            }
            None => serde_json::to_string(&self.value)?,
        };
        let mut content = vec![ContentBlock::text(text)];
        let manner = clients::manner(&call.context, server.structured);
        content.extend(self.pictures);
        if manner.links {
            let place = server.place(call.visitor.peek())?;
            links::add(&mut content, place.root(), self.files.iter().map(String::as_str));
        }
        let structured = manner.structure.then_some(&self.value);
        if let Some(lane) = &call.lane {
            let result_type = lane::result_type(&call.context);
            let told = Told { result_type, content: &content, structured_content: structured, is_error: self.is_error };
            if lane.answer(&call.context, &told) {
                return Ok(lane::told());
            }
        }
        let mut result = CallToolResult::success(content);
        result.structured_content = structured.map(serde_json::to_value).transpose()?;
        result.is_error = Some(self.is_error);
        Ok(result)
    }
}

impl Reply<Value> {
    /// The word in it that says how the work ended.
    pub(crate) fn status(&self) -> Option<&str> {
        self.value.get("status")?.as_str()
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn size(&self) -> usize {
        let text = self.text.as_ref().map_or(0, String::len);
        2 * text + texts::size_of_json(&self.value) + texts::size_of_json(&self.pictures)
    }
}

/// A reply, or a question that the client must answer before there is one.
pub(crate) enum Answer<R> {
    Done(Reply<R>),
    Asks(InputRequiredResult),
    /// It goes on as a task.
    Task(Box<CallToolResponse>),
}

/// What the function of a tool may return.
pub(crate) trait Respond {
    /// What its output schema is made from.
    type Value: JsonSchema;

    fn respond(self, server: &Server, call: &Call) -> Result<CallToolResponse, ToolError>;
}

impl<R: Serialize + JsonSchema> Respond for Reply<R> {
    type Value = R;

    fn respond(self, server: &Server, call: &Call) -> Result<CallToolResponse, ToolError> {
        self.result(server, call).map(Into::into)
    }
}

impl<R: Serialize + JsonSchema> Respond for Answer<R> {
    type Value = R;

    fn respond(self, server: &Server, call: &Call) -> Result<CallToolResponse, ToolError> {
        match self {
            Self::Done(reply) => reply.respond(server, call),
            Self::Asks(question) => Ok(question.into()),
            Self::Task(task) => Ok(*task),
        }
    }
}

/// The time, as replies have it.
pub(crate) fn now() -> String {
    Timestamp::now().to_string()
}

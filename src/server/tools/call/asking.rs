//! Questions of running cells on their way to a client: MCP elicitation, in both protocol generations.
//!
//! Runs in: server. Older clients get a request of ours during the call. Those of 2026-07-28 get an `InputRequiredResult`
//! and call again; between the two calls the cell waits in its worker, and its [`Flight`] here under a name that only the
//! client knows. A call that brings such a name never runs code: it finds its cell, or is refused.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rmcp::{
    Peer, RoleServer, ServiceError,
    model::{
        ClientResult, ElicitRequest, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema,
        InputRequest, InputRequests, InputRequiredResult, InputResponses, PrimitiveSchemaDefinition, ProtocolVersion,
        ServerRequest, StringSchema,
    },
    service::{PeerRequestOptions, RequestContext, RequestHandle},
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    protocol::Answer,
    server::{
        owner::Owner,
        sessions::{
            handle::Session,
            orders::{Question, SessionError},
            runs::{Ended, Run, Stage},
        },
    },
};

/// The field of the form, and the name of the question among [`InputRequests`].
const FIELD: &str = "input";
/// Most cells that wait for a second call at a time.
const MAX_WAITING: usize = 256;
/// The outcome of a cell that ended while it waited is kept so long for its client.
const KEEP: Duration = Duration::from_secs(600);
/// Longest title of the form's field, in characters.
const MAX_TITLE: usize = 100;

/// How a client is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a request during the call.
    Request,
    /// By a result that makes it call again.
    Result,
}

/// How this call's client can be asked, if it says that it can show a form.
pub(crate) fn way(context: &RequestContext<RoleServer>) -> Option<Way> {
    let offered = context.client_capabilities()?.elicitation?;
    if offered.form.is_none() && offered.url.is_some() {
        return None;
    }
    // Dates of one format: in the order of their letters.
    let stateless = context.protocol_version()?.as_str() >= ProtocolVersion::V_2026_07_28.as_str();
    Some(if stateless { Way::Result } else { Way::Request })
}

/// A cell under way, as its calls see it. Dropped by the call that it belongs to, it is taken back.
#[derive(Debug)]
pub(crate) struct Flight {
    session: Session,
    run: Arc<Run>,
    /// To hear of its end; none while no call follows it.
    stage: Option<watch::Receiver<Stage>>,
    /// What it asks; another has that who follows it too.
    questions: Option<mpsc::UnboundedReceiver<Question>>,
    /// The cell ends with the call that follows it.
    is_own: bool,
    open: Option<Question>,
    /// Questions that it has asked.
    asked: u64,
    sent: Option<Sent>,
}

/// A question that an older client has been asked.
#[derive(Debug)]
struct Sent {
    handle: RequestHandle<RoleServer>,
    answer: oneshot::Sender<Answer>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.is_own {
            self.run.cancel.cancel();
        }
    }
}

impl Flight {
    /// By the call that has sent the cell.
    pub(crate) fn new(session: Session, run: Arc<Run>, questions: mpsc::UnboundedReceiver<Question>) -> Self {
        let stage = Some(run.watch());
        Self { session, run, stage, questions: Some(questions), is_own: true, open: None, asked: 0, sent: None }
    }

    /// By another one, which answers no questions.
    pub(crate) fn beside(session: Session, run: Arc<Run>) -> Self {
        let stage = Some(run.watch());
        Self { session, run, stage, questions: None, is_own: false, open: None, asked: 0, sent: None }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// What tells it from all others.
    pub(super) fn key(&self) -> (u64, u64) {
        (self.session.life.number(), self.run.cell)
    }

    /// Whether a client may have to answer what the cell asks.
    pub(super) fn answers(&self) -> bool {
        self.questions.is_some()
    }

    pub(super) fn is_over(&self) -> bool {
        self.run.is_over()
    }

    /// The call goes, and the cell stays.
    pub(super) fn let_go(&mut self) {
        (self.stage, self.is_own) = (None, false);
    }

    /// Another call follows it.
    pub(super) fn take_up(&mut self) {
        self.stage = Some(self.run.watch());
    }

    /// Has the cell end, if it belongs to the call.
    pub(crate) fn take_back_run(&self) -> bool {
        if self.is_own {
            self.run.cancel.cancel();
        }
        self.is_own
    }

    /// Waits for the end, or for a question (`None`), which is the open one then. Cancel-safe.
    pub(crate) async fn step(&mut self) -> Result<Option<Arc<Ended>>, SessionError> {
        if self.is_open() {
            return Ok(None);
        }
        let stage = self.stage.get_or_insert_with(|| self.run.watch());
        loop {
            tokio::select! {
                biased;
                ended = Run::ended(stage) => {
                    let ended = ended.ok_or_else(|| SessionError::Deleted(self.session.id.to_string()))?;
                    withdraw(&mut self.sent, "the cell has ended").await;
                    return Ok(Some(ended));
                }
                Some(question) = next(&mut self.questions) => {
                    self.open = Some(question);
                    self.asked += 1;
                    withdraw(&mut self.sent, "the code asks something else now").await;
                    return Ok(None);
                }
                answer = answer_to(&mut self.sent) => match (answer, self.sent.take()) {
                    (Some(answer), Some(sent)) => drop(sent.answer.send(answer)),
                    (_, sent) => {
                        self.sent = sent;
                        withdraw(&mut self.sent, "it was not answered in time").await;
                    }
                },
            }
        }
    }

    /// Sends the open question as a request.
    pub(crate) async fn send(&mut self, peer: &Peer<RoleServer>) {
        let Some(params) = self.form() else { return };
        let Some(question) = self.open.take() else { return };
        let request = ServerRequest::ElicitRequest(ElicitRequest::new(params));
        match peer.send_cancellable_request(request, PeerRequestOptions::no_options()).await {
            Ok(handle) => self.sent = Some(Sent { handle, answer: question.answer }),
            Err(error) => drop(question.answer.send(failed(&error))),
        }
    }

    /// The client is not to answer any more: no call follows the cell.
    pub(crate) async fn stop_asking(&mut self) {
        withdraw(&mut self.sent, "the call has been answered").await;
    }

    /// The open question as a form of one field, which may stay empty: so may a line of input.
    fn form(&self) -> Option<ElicitRequestParams> {
        let question = self.open.as_ref()?;
        let title = question.prompt.trim().trim_end_matches([':', '>', '?']).trim();
        let mut field = StringSchema::new();
        field.title =
            Some(if title.is_empty() || title.chars().count() > MAX_TITLE { FIELD } else { title }.to_owned().into());
        let field = PrimitiveSchemaDefinition::String(field);
        Some(ElicitRequestParams::FormElicitationParams {
            meta: None,
            message: message(&self.session.id, question),
            requested_schema: ElicitationSchema::new([(FIELD.to_owned(), field)].into()),
        })
    }
}

/// Tells the client that its answer is not wanted any more, if it has been asked.
async fn withdraw(sent: &mut Option<Sent>, reason: &str) {
    if let Some(sent) = sent.take() {
        let _ = sent.handle.cancel(Some(reason.to_owned())).await;
    }
}

async fn next(questions: &mut Option<mpsc::UnboundedReceiver<Question>>) -> Option<Question> {
    match questions {
        Some(questions) => questions.recv().await,
        None => std::future::pending().await,
    }
}

/// Who asks, then what the code has written, which ends with its prompt.
fn message(session: &str, question: &Question) -> String {
    let Question { cell, prompt, output, .. } = question;
    let header = format!("Python code (session {session:?}, cell {cell}) waits for a line of input.");
    let shown = if output.ends_with(prompt.as_str()) { output.clone() } else { format!("{output}\n{prompt}") };
    let shown = shown.trim();
    if shown.is_empty() { header } else { format!("{header}\n\n{shown}") }
}

/// The client's answer; `None` when the cell does not wait for it any more.
async fn answer_to(sent: &mut Option<Sent>) -> Option<Answer> {
    let Some(Sent { handle, answer: wanted }) = sent else { return std::future::pending().await };
    tokio::select! {
        biased;
        said = &mut handle.rx => Some(match said {
            Ok(Ok(ClientResult::ElicitResult(result))) => answer(&result),
            Ok(Ok(_)) => Answer::Failed("the client answered with something else than elicitation's result".to_owned()),
            Ok(Err(error)) => failed(&error),
            Err(_) => Answer::Failed("the connection to the client is closed".to_owned()),
        }),
        () = wanted.closed() => None,
    }
}

fn failed(error: &ServiceError) -> Answer {
    Answer::Failed(format!("the client did not ask its user: {error}"))
}

fn answer(result: &ElicitResult) -> Answer {
    match result.action {
        ElicitationAction::Accept => {
            let value = result.content.as_ref().map_or(&Value::Null, |content| &content[FIELD]);
            Answer::Line(match value {
                Value::Null => String::new(),
                Value::String(text) => text.strip_suffix('\n').unwrap_or(text).to_owned(),
                other => other.to_string(),
            })
        }
        ElicitationAction::Decline => Answer::Declined,
        _ => Answer::Cancelled,
    }
}

/// Cells whose client is to call again, by the name that it was given.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<HashMap<String, (Instant, Flight)>>);

impl Waiting {
    /// Keeps a cell whose question is open; gives what its client is told.
    pub(crate) fn put(&self, flight: Flight) -> InputRequiredResult {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let request = flight.form().map(|params| InputRequest::Elicitation(ElicitRequest::new(params)));
        let mut cells = self.0.lock();
        cells.retain(|_, (since, flight)| since.elapsed() < KEEP || !flight.is_over());
        if cells.len() >= MAX_WAITING
            && let Some(oldest) = cells.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone())
        {
            cells.remove(&oldest);
        }
        cells.insert(name.clone(), (Instant::now(), flight));
        let requests = request.map(|request| InputRequests::from([(FIELD.to_owned(), request)]));
        InputRequiredResult::new(requests, Some(name))
    }

    /// Finds the cell of an owner's client that calls again, once, and passes its answer on. Without an answer that can be read
    /// the question stays open.
    pub(crate) fn take(&self, owner: &Owner, name: &str, responses: Option<&InputResponses>) -> Option<Flight> {
        let mut flight = {
            let mut cells = self.0.lock();
            cells.get(name).filter(|(_, flight)| flight.session.life.owner() == owner)?;
            cells.remove(name)?.1
        };
        let response = responses.and_then(|responses| responses.get(FIELD));
        if let Some(result) = response.and_then(|value| serde_json::from_value::<ElicitResult>(value.clone()).ok())
            && let Some(question) = flight.open.take()
        {
            let _ = question.answer.send(answer(&result));
        }
        Some(flight)
    }
}

impl Flight {
    /// The open question, and the key under which a task is to be answered.
    pub(crate) fn question(&self) -> Option<(String, InputRequest)> {
        if !self.is_open() {
            return None;
        }
        Some((self.key_of_question(), InputRequest::Elicitation(ElicitRequest::new(self.form()?))))
    }

    /// A task is answered. What is no answer to the open question changes nothing.
    pub(crate) fn answer(&mut self, key: &str, response: &Value) {
        if key != self.key_of_question() {
            return;
        }
        if let Ok(result) = serde_json::from_value::<ElicitResult>(response.clone())
            && let Some(question) = self.open.take()
        {
            let _ = question.answer.send(answer(&result));
        }
    }

    fn key_of_question(&self) -> String {
        format!("{FIELD}-{}", self.asked)
    }

    /// Whether it still waits for the answer to a question that its client has been told.
    pub(crate) fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|question| !question.answer.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(value: Value) -> Answer {
        answer(&serde_json::from_value(value).expect("a result"))
    }

    #[test]
    fn every_answer_is_a_line_or_a_reason() {
        let line = |text: &str| Answer::Line(text.to_owned());
        assert_eq!(result(json!({"action": "accept", "content": {"input": "Ada"}})), line("Ada"));
        assert_eq!(result(json!({"action": "accept", "content": {"input": "Ada\n"}})), line("Ada"));
        assert_eq!(result(json!({"action": "accept", "content": {"input": 7}})), line("7"));
        assert_eq!(result(json!({"action": "accept", "content": {}})), line(""));
        assert_eq!(result(json!({"action": "accept"})), line(""));
        assert_eq!(result(json!({"action": "decline"})), Answer::Declined);
        assert_eq!(result(json!({"action": "cancel"})), Answer::Cancelled);
    }

    #[test]
    fn a_message_says_who_asks_and_shows_the_prompt_once() {
        let words = |prompt: &str, output: &str| {
            let question = Question {
                cell: 3,
                prompt: prompt.to_owned(),
                output: output.to_owned(),
                answer: oneshot::channel().0,
            };
            message("a", &question)
        };
        let header = "Python code (session \"a\", cell 3) waits for a line of input.";
        assert_eq!(words("Name? ", "1) x\nName? "), format!("{header}\n\n1) x\nName?"));
        assert_eq!(words("Name? ", ""), format!("{header}\n\nName?"));
        assert_eq!(words("", ""), header);
    }
}

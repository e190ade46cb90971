//! Fixtures that go on as tasks (SEP-2663). They are calls of forkpy's own tools under the names that the suite knows, so that
//! the suite looks at forkpy's own tasks; one apart, which asks two things at once: no cell does.
//!
//! Runs in: server. Runs cells in the caller's session `default`, and in one that it makes and deletes.

use std::sync::{Arc, LazyLock};

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, ClientCapabilities, CreateTaskResult, GetTaskResult, UpdateTaskParams,
    },
    service::RequestContext,
    task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions},
};
use serde_json::{Value, json};

use super::{
    inputs::{ask, name, response, text_of},
    object,
    parts::{is_on, question, said},
};
use crate::server::tools::{
    self,
    call::{request::Call, server::Server, tool::Tool},
};

pub(super) const NAMES: [&str; 7] = [
    "greet",
    "slow_compute",
    "failing_job",
    "protocol_error_job",
    "confirm_delete",
    "multi_input",
    "test_tool_with_task",
];

/// A session that ends while its cell runs: nothing can come of its task.
const SHORT_LIVED: &str = "conformance-short-lived";
/// Longer than a call of a server with `--wait` below it waits.
const LONG: f64 = 1.5;

type Answer = Result<CallToolResponse, ErrorData>;

/// A fixture's answer; `make` gives the call of a tool for this request.
pub(in crate::server::mcp) async fn call(
    server: &Arc<Server>,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
    make: impl Fn(&'static Tool) -> Call,
) -> Option<Answer> {
    if !is_on() || !NAMES.contains(&request.name.as_ref()) {
        return None;
    }
    let knows = context.client_capabilities().is_some_and(|can| can.supports_tasks());
    if !knows && !matches!(request.name.as_ref(), "greet" | "slow_compute") {
        let wanted = ClientCapabilities::builder().enable_tasks().build();
        return Some(Err(ErrorData::missing_required_client_capability(wanted)));
    }
    Some(Own { server, make }.answer(request).await)
}

/// Forkpy's own tools.
struct Own<'a, F> {
    server: &'a Arc<Server>,
    make: F,
}

impl<F: Fn(&'static Tool) -> Call> Own<'_, F> {
    async fn tool(&self, name: &str, arguments: Value) -> Answer {
        let tool = tools::find(name).ok_or_else(|| ErrorData::internal_error("a tool is missing", None))?;
        let call = Call { arguments: Some(object(arguments)), ..(self.make)(tool) };
        Ok(tool.answer(self.server, call).await)
    }

    async fn cell(&self, seconds: f64, code: &str) -> Answer {
        let code = format!("import time\ntime.sleep({seconds})\n{code}");
        self.tool("run_python_code", json!({"code": code})).await
    }

    async fn answer(&self, request: &CallToolRequestParams) -> Answer {
        let arguments = request.arguments.clone().unwrap_or_default();
        match request.name.as_ref() {
            "greet" => {
                let name = arguments.get("name").and_then(Value::as_str).unwrap_or("World");
                Ok(said(format!("Hello, {name}!")).into())
            }
            "slow_compute" => {
                let seconds = arguments.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
                self.cell(seconds, "print('computed')").await
            }
            "failing_job" => {
                // Its time is over: a failure of the call, not of the code.
                let arguments = json!({"code": "import time\ntime.sleep(60)", "timeout": LONG});
                self.tool("run_python_code", arguments).await
            }
            "protocol_error_job" => {
                let session = json!({"session_id": SHORT_LIVED});
                self.tool("create_session", session.clone()).await?;
                let arguments = json!({"code": "import time\ntime.sleep(60)", "session_id": SHORT_LIVED});
                let task = self.tool("run_python_code", arguments).await;
                self.tool("delete_session", session).await?;
                task
            }
            "confirm_delete" => self.cell(LONG, "print('deleted', input('Delete it? '))").await,
            "multi_input" => {
                let options = TaskOptions::new();
                let task = TASKS.spawn(options, |task| Box::pin(asks(task)));
                Ok(CallToolResponse::Task(CreateTaskResult::new(task)))
            }
            _ => match response(request.input_responses.as_ref(), "user_name") {
                Some(given) => self.cell(LONG, &format!("print({:?})", text_of(given, "name"))).await,
                None => ask([name()?], None),
            },
        }
    }
}

/// Tasks that are no cells.
static TASKS: LazyLock<TaskManager> = LazyLock::new(TaskManager::new);

/// Asks two things at once.
async fn asks(task: TaskContext) -> Result<rmcp::model::CallToolResult, TaskExit> {
    let asked = ["first", "second"].map(|key| {
        let task = task.clone();
        async move {
            let form = question("Go on?", "confirm", "boolean").map_err(TaskExit::Error)?;
            task.request_input(key, form).await
        }
    });
    futures::future::try_join_all(asked).await?;
    Ok(said("done"))
}

fn known<T>(name: &str, work: impl FnOnce() -> T) -> Option<T> {
    (is_on() && TASKS.get_task(name).is_ok()).then(work)
}

pub(in crate::server::mcp) fn get(name: &str) -> Option<Result<GetTaskResult, ErrorData>> {
    known(name, || TASKS.get_task(name).map(GetTaskResult::new))
}

pub(in crate::server::mcp) fn update(request: &UpdateTaskParams) -> Option<Result<(), ErrorData>> {
    known(&request.task_id, || TASKS.update_task(&request.task_id, request.input_responses.clone()))
}

pub(in crate::server::mcp) fn cancel(name: &str) -> Option<Result<(), ErrorData>> {
    known(name, || TASKS.cancel_task(name))
}

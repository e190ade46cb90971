//! A tool: what is listed of it, and the function that answers its calls.
//!
//! Runs in: server. Schemas are made from the function's types, so that they cannot differ from what it takes and gives.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, JsonObject, MetaObject, ToolAnnotations};
use schemars::JsonSchema;
use serde_json::json;

use super::{error::ToolError, icons, reply::Respond, request::Call, schema, server::Server, texts::MOST_SHOWN};
use crate::server::{scope::Scope, tools::cells::jobs};

/// What a tool does to the world, for its annotations.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    Reads,
    Changes,
    /// Replaces what was there; twice is as once.
    Overwrites,
    Destroys,
    /// Runs anything at all.
    Open,
}

/// In which lists a tool stands; a smaller one is part of each larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// What a model needs to work with Python.
    Core,
    /// What clients of forkpy and of its ancestor know, and what only forkpy has.
    Standard,
    /// Whatever there is.
    All,
    /// In none: another tool has taken its work over, and it can be called until the next release.
    Former,
}

type Further = fn(Arc<Server>, Call) -> BoxFuture<'static, jobs::Outcome>;

type Work<'a> = BoxFuture<'a, Result<CallToolResponse, ToolError>>;

/// How the schemas of what a tool takes and gives are made.
struct Schemas {
    input: fn() -> JsonObject,
    output: fn() -> Arc<JsonObject>,
}

/// How a tool's calls are answered.
pub(crate) enum Way {
    /// By a function that the call waits for.
    Within(for<'a> fn(&'a Server, Call) -> Work<'a>),
    /// By one that may go on without the call.
    Beyond(Further),
    /// The same of one that is short as a rule: its calls do not say how long they wait.
    Outlasting(Further),
}

/// A tool. Its schemas are made when they are first asked for: those of all tools take longer than a server's start.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) set: Set,
    /// What a token of an issuer has to be for.
    pub(crate) scope: Option<Scope>,
    effect: Effect,
    about: &'static str,
    /// Its function, with the family that it stands in.
    function: &'static str,
    schemas: Schemas,
    input: OnceLock<Arc<JsonObject>>,
    listed: OnceLock<rmcp::model::Tool>,
    way: Way,
}

impl Tool {
    /// A tool whose schemas are those of what `function` takes and gives; `way` calls it. Made by
    /// [`tool!`](tool).
    pub(crate) fn new<'a, A, R, W, F>(
        set: Set,
        name: &'static str,
        (effect, scope): (Effect, Option<Scope>),
        about: &'static str,
        (function, _): (&'static str, F),
        way: Way,
    ) -> Self
    where
        A: JsonSchema,
        R: Respond,
        W: Future<Output = Result<R, ToolError>>,
        F: Fn(&'a Server, &'a Call, A) -> W,
    {
        let schemas = Schemas { input: schema::input::<A>, output: schema::output::<R::Value> };
        let (input, listed) = (OnceLock::new(), OnceLock::new());
        Self { name, set, scope, effect, about, function, schemas, input, listed, way }
    }

    /// The schema of its arguments.
    pub(crate) fn input(&self) -> &Arc<JsonObject> {
        self.input.get_or_init(|| {
            let mut input = (self.schemas.input)();
            if self.set != Set::Core {
                schema::known_session(&mut input);
            }
            if matches!(self.way, Way::Beyond(_)) {
                schema::add(&mut input, schema::input::<jobs::Waits>());
            }
            Arc::new(input)
        })
    }

    /// As clients see it.
    pub(crate) fn listed(&self) -> &rmcp::model::Tool {
        self.listed.get_or_init(|| {
            let output = (self.schemas.output)();
            let output = if matches!(self.way, Way::Beyond(_) | Way::Outlasting(_)) {
                schema::or_unfinished(&output)
            } else {
                output
            };
            let mut listed = rmcp::model::Tool::new(self.name, self.about, Arc::clone(self.input()))
                .with_title(title(self.name))
                .with_raw_output_schema(output)
                .with_annotations(annotations(self.effect));
            listed.icons = icons::of(self.function).map(|icon| vec![icon]);
            let speaks_long = self.set == Set::Core || matches!(self.effect, Effect::Open);
            if speaks_long { listed.with_meta(size()) } else { listed }
        })
    }

    /// Answers a call; a refusal is an answer too.
    pub(crate) async fn answer(&self, server: &Arc<Server>, call: Call) -> CallToolResponse {
        // Boxed is what a cell does not need: each call has room for the largest part, which is moved about with it.
        if server.away.is_some()
            && let Err(error) = Box::pin(server.find(&call)).await
        {
            return refusal(&error.into()).into();
        }
        let answered = match self.way {
            Way::Within(work) => work(server, call).await,
            Way::Beyond(work) => Box::pin(jobs::answer(server, call, true, work)).await,
            Way::Outlasting(work) => Box::pin(jobs::answer(server, call, false, work)).await,
        };
        answered.unwrap_or_else(|error| refusal(&error).into())
    }
}

/// One row of the table of tools: how its calls are answered, in which lists it stands, its name, what it does to the world, the
/// scope that it needs, its function, and what is told about it.
macro_rules! tool {
    ($way:ident, $set:ident, $name:literal, $effect:ident, $scope:ident, $function:path, $about:literal) => {
        $crate::server::tools::call::tool::Tool::new(
            $crate::server::tools::call::tool::Set::$set,
            $name,
            (
                $crate::server::tools::call::tool::Effect::$effect,
                $crate::server::tools::call::tool::tool!(@scope $scope),
            ),
            $about,
            (stringify!($function), $function),
            $crate::server::tools::call::tool::Way::$way(|server, mut call| {
                Box::pin(async move {
                    let server = &*server;
                    let place = server.place(call.visitor.peek())?;
                    let asked = call.read(place.root())?;
                    let reply = $function(server, &call, asked).await?;
                    $crate::server::tools::call::tool::tool!(@ending $way, reply, server, &call)
                })
            }),
        )
    };
    (@scope Any) => {
        None
    };
    (@scope $scope:ident) => {
        Some($crate::server::scope::Scope::$scope)
    };
    (@ending Within, $reply:ident, $server:ident, $call:expr) => {
        $crate::server::tools::call::reply::Respond::respond($reply, $server, $call)
    };
    // The call that follows the work takes it from there.
    (@ending $way:ident, $reply:ident, $server:ident, $call:expr) => {
        $reply.kept()
    };
}
pub(crate) use tool;

/// `run_python_code` as people read it.
fn title(name: &str) -> String {
    let words = name.replace('_', " ").replace("python", "Python");
    let (first, rest) = words.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

/// For Claude Code, which takes longer texts from tools that say so.
fn size() -> MetaObject {
    let mut meta = MetaObject::new();
    meta.0.insert("anthropic/maxResultSizeChars".to_owned(), json!(MOST_SHOWN));
    meta
}

fn annotations(effect: Effect) -> ToolAnnotations {
    let annotations = ToolAnnotations::new().open_world(matches!(effect, Effect::Open));
    match effect {
        Effect::Reads => annotations.read_only(true).destructive(false).idempotent(true),
        Effect::Changes => annotations.read_only(false).destructive(false).idempotent(true),
        Effect::Overwrites => annotations.read_only(false).destructive(true).idempotent(true),
        Effect::Destroys | Effect::Open => annotations.read_only(false).destructive(true).idempotent(false),
    }
}

/// A refusal, as the answer to a call.
pub(crate) fn refusal(error: &ToolError) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(error.to_string())])
}

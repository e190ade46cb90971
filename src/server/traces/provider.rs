//! Whether there are traces, and what they are sent by.
//!
//! Runs in: server. Reads the variables of OpenTelemetry that its SDK for Rust leaves to programs; all others are read by
//! the SDK. A variable that cannot be followed is told in the log, and the server runs without traces.

use std::{
    env,
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_HEADERS,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, SpanExporter, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{SdkTracer, SdkTracerProvider},
};

use super::collector::Collector;

/// What no session is to see: they hold what a collector lets programs in by.
pub(crate) const SECRETS: [&str; 2] = [OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS];
/// The one way in which spans are sent.
const PROTOCOL: &str = "http/protobuf";
/// What the SDK takes for `OTEL_TRACES_SAMPLER`; of others it takes the default, and says nothing.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

static ON: OnceLock<Tracing> = OnceLock::new();

struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Whether calls are traced.
#[must_use]
pub(crate) fn is_on() -> bool {
    ON.get().is_some()
}

pub(super) fn tracer() -> Option<&'static SdkTracer> {
    ON.get().map(|tracing| &tracing.tracer)
}

/// Begins to trace, where the environment names a collector. `server` is the name of this server among several.
pub(crate) fn begin(server: Option<&str>) {
    let Some(endpoint) = wanted() else { return };
    let limit = [OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT].into_iter().find_map(given);
    let limit =
        limit.and_then(|text| text.parse().ok()).map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis);
    let exporter = match SpanExporter::builder().with_http().with_http_client(Collector::new(limit)).build() {
        Ok(exporter) => exporter,
        Err(error) => return tracing::warn!("calls are not traced: {error}"),
    };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(server)).build();
    let scope = InstrumentationScope::builder("forkpy").with_version(env!("CARGO_PKG_VERSION")).build();
    let tracer = provider.tracer_with_scope(scope);
    if ON.set(Tracing { provider, tracer }).is_ok() {
        tracing::info!("calls are traced, to {endpoint}");
    }
}

/// What has been traced is sent, as far as that goes within the limit. Nothing is traced any more.
pub(crate) fn end(limit: Duration) {
    if let Some(tracing) = ON.get()
        && let Err(error) = tracing.provider.shutdown_with_timeout(limit)
    {
        tracing::warn!("the last traces were not sent: {error}");
    }
}

/// The same, before what may be the end and may be not.
pub(crate) fn flush(limit: Duration) {
    let Some(tracing) = ON.get() else { return };
    let provider = tracing.provider.clone();
    let (done, is_done) = mpsc::channel();
    // The SDK's own limit is 5 s.
    let flushing = thread::Builder::new().name("traces-flush".into()).spawn(move || {
        let _ = done.send(provider.force_flush());
    });
    if flushing.is_ok() {
        let _ = is_done.recv_timeout(limit);
    }
}

/// Where traces are to go; none, or a word in the log, where they go nowhere.
fn wanted() -> Option<String> {
    let endpoint = [OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT].into_iter().find_map(given)?;
    if given("OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true")) {
        return None;
    }
    match given("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(other) => {
            tracing::warn!("calls are not traced: OTEL_TRACES_EXPORTER is {other:?}, and there are otlp and none");
            return None;
        }
    }
    let protocol = [OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL].into_iter().find_map(given);
    if let Some(protocol) = protocol.filter(|protocol| protocol != PROTOCOL) {
        tracing::warn!(
            "calls are not traced: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}, and forkpy speaks {PROTOCOL} only \
             (a collector listens for it on port 4318)"
        );
        return None;
    }
    if let Some(sampler) = given("OTEL_TRACES_SAMPLER").filter(|sampler| !SAMPLERS.contains(&sampler.as_str())) {
        tracing::warn!(
            "OTEL_TRACES_SAMPLER is {sampler:?}, which is not known: parentbased_always_on takes its place. There are {}",
            SAMPLERS.join(", ")
        );
    }
    Some(endpoint)
}

/// An empty variable is none, as OpenTelemetry says.
fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Who sends the traces. What the environment says of that comes last, and wins.
fn resource(server: Option<&str>) -> Resource {
    let named = server.map(|name| KeyValue::new("service.instance.id", name.to_owned()));
    let own = [KeyValue::new("service.name", "forkpy"), KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder_empty()
        .with_attributes(own.into_iter().chain(named))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match given("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

//! Traces: spans for requests, attempts, waits and token requests, sent to an OpenTelemetry collector over OTLP.
//!
//! OpenTelemetry's own library samples, keeps and sends the spans. Ours are the way to the collector ([`collector`]),
//! the queue in front of it ([`queue`]), and how strictly a caller's context is read ([`context`]).
//!
//! A [`Tracer`] is there where the config has an endpoint for traces, and only then does a request carry anything for it.
//! Spans go into a bounded queue without waiting, and a task on the control thread sends them off: a collector that is
//! slow or gone costs spans, never requests.

mod collector;
mod context;
mod queue;
mod rejected;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _};
use tokio::runtime::Handle;

use crate::config::Tracing;
use crate::metrics::Metrics;
use collector::Collector;
pub use context::{Parent, TRACEPARENT, TRACESTATE, traceparent};
pub use opentelemetry::trace::{SpanContext, SpanKind};
use queue::Sending;

const NAME: &str = "bearerd";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// As `User-Agent` has it.
const PROGRAM: &str = concat!("bearerd/", env!("CARGO_PKG_VERSION"));

/// The tracer in force, or none; a reload exchanges it.
pub type TracerCell = ArcSwapOption<Tracer>;

/// Makes spans, which are taken to the collector when they have ended.
pub struct Tracer {
    config: Arc<Tracing>,
    /// Holds the queue too: it is closed once the tracer is gone, and the last of its spans.
    sdk: SdkTracer,
    sending: Sending,
}

impl Tracer {
    /// Its spans are sent by a task on `control`, which ends once the tracer is gone and its last spans were sent.
    ///
    /// # Errors
    /// The library refuses the endpoint.
    pub fn start(
        config: &Arc<Tracing>,
        control: &Handle,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, String> {
        let _entered = control.enter();
        let resource = resource(config);
        let mut collector = Collector::new(config).map_err(|error| format!("tracing.endpoint: {error}"))?;
        collector.exporter.set_resource(&resource);
        let (queue, sending) = queue::start(collector, config.batches, metrics);
        let mut provider = SdkTracerProvider::builder().with_span_processor(queue).with_resource(resource);
        // Else the library asks OTEL_TRACES_SAMPLER.
        if let Some(share) = config.sample {
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
            provider = provider.with_sampler(sampler);
        }
        let scope = InstrumentationScope::builder(NAME).with_version(VERSION).build();
        let sdk = provider.build().tracer_with_scope(scope);
        Ok(Arc::new(Self { config: Arc::clone(config), sdk, sending }))
    }

    /// What it was made from.
    pub fn config(&self) -> &Arc<Tracing> {
        &self.config
    }

    /// A span below `parent`.
    pub fn start_below(&self, parent: &Context, name: &'static str, kind: SpanKind) -> Span {
        Span(self.sdk.build_with_context(SpanBuilder::from_name(name).with_kind(kind), parent))
    }

    /// A trace of its own that began at `started`, with a link to what it is for.
    pub fn start_root(
        &self,
        name: &'static str,
        kind: SpanKind,
        started: SystemTime,
        link: Option<SpanContext>,
    ) -> Span {
        let mut builder = SpanBuilder::from_name(name).with_kind(kind).with_start_time(started);
        builder.links = link.map(|link| vec![Link::with_context(link)]);
        Span(self.sdk.build_with_context(builder, &Context::new()))
    }

    /// The process ends: waits until what ended so far was sent, at most `limit`, and tells of what was not.
    pub async fn finish(&self, limit: Duration) {
        self.sending.finish(limit).await;
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("endpoint", &self.config.endpoint.text).finish_non_exhaustive()
    }
}

/// Who sends the spans. What the operator says in the environment goes before what bearerd says of itself, and the file
/// before both.
fn resource(config: &Tracing) -> Resource {
    let own =
        [KeyValue::new("service.name", Tracing::SERVICE_NAME), KeyValue::new("service.version", VERSION)];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match &config.service_name {
        Some(name) => resource.with_service_name(name.clone()).build(),
        None => resource.build(),
    }
}

/// One span under way; it ends when it is dropped. Nothing that a caller, an upstream or an issuer wrote may be in it.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// Whether anything that is set will be sent.
    pub fn is_recorded(&self) -> bool {
        self.0.is_recording()
    }

    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// What spans below this one begin from.
    pub fn below(&self) -> Context {
        Context::new().with_remote_span_context(self.context().clone())
    }

    /// From the config and the request's method alone, so that there are few names.
    pub fn rename(&mut self, name: String) {
        self.0.update_name(name);
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(name, value));
    }

    /// `error.type`: where it failed.
    pub fn fail(&mut self, error: Cow<'static, str>) {
        self.set("error.type", error);
        self.0.set_status(Status::error(""));
    }
}

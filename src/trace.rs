//! Traces: spans for requests, attempts, waits, and token requests, sent to an OpenTelemetry collector over OTLP.
//!
//! OpenTelemetry's library samples, holds, and sends the spans. bearerd's own parts are the connection to the collector
//! ([`collector`]), the queue in front of it ([`queue`]), and the strict parser of a caller's W3C Trace Context ([`Parent`]).
//!
//! A [`Tracer`] exists only if the config names an endpoint for traces. Spans go into a bounded queue without waiting, and a
//! task on the control thread sends them. If the collector is slow or gone, spans are lost, and requests are not affected.

mod collector;
mod queue;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use collector::Collector;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _};
use queue::Sending;
use tokio::runtime::Handle;

use crate::config::Tracing;
use crate::metrics::Metrics;
pub use opentelemetry::trace::{SpanContext, SpanKind};

const NAME: &str = "bearerd";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The value of `User-Agent`.
const PROGRAM: &str = concat!("bearerd/", env!("CARGO_PKG_VERSION"));

/// The running tracer, if there is one. A reload replaces it.
pub type TracerCell = ArcSwapOption<Tracer>;

/// Creates spans. Each goes to the collector when it has ended.
pub struct Tracer {
    config: Arc<Tracing>,
    /// Also holds the queue, which closes when the tracer and its last span are dropped.
    sdk: SdkTracer,
    sending: Sending,
}

impl Tracer {
    /// Starts the task on `control` that sends the spans. The task ends once the tracer is dropped and its last spans are sent.
    ///
    /// # Errors
    /// A message for the operator if the library refuses the endpoint.
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
        // Without it, the library reads OTEL_TRACES_SAMPLER.
        if let Some(share) = config.sample {
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
            provider = provider.with_sampler(sampler);
        }
        let scope = InstrumentationScope::builder(NAME).with_version(VERSION).build();
        let sdk = provider.build().tracer_with_scope(scope);
        Ok(Arc::new(Self { config: Arc::clone(config), sdk, sending }))
    }

    /// The config that the tracer was started with.
    pub fn config(&self) -> &Arc<Tracing> {
        &self.config
    }

    /// Starts a span with this parent.
    pub fn start_below(&self, parent: &Context, name: &'static str, kind: SpanKind) -> Span {
        Span(self.sdk.build_with_context(SpanBuilder::from_name(name).with_kind(kind), parent))
    }

    /// Starts a trace that began at `started`, with a link to the span that caused it.
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

    /// Waits up to `limit` until all finished spans are sent, and logs how many were not. For the end of the process.
    pub async fn finish(&self, limit: Duration) {
        self.sending.finish(limit).await;
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("endpoint", &self.config.endpoint.text).finish_non_exhaustive()
    }
}

/// The resource: who sends the spans. The environment overrides bearerd's own values, and the config file overrides both.
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

/// A started span, which ends when it is dropped. It must not contain anything that a caller, an upstream, or an issuer wrote.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// Whether the span will be sent. If not, setting attributes has no effect.
    pub fn is_recorded(&self) -> bool {
        self.0.is_recording()
    }

    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// The parent context for spans below this one.
    pub fn below(&self) -> Context {
        Context::new().with_remote_span_context(self.context().clone())
    }

    /// `name` must come from the config and the method alone, so that there are few names.
    pub fn rename(&mut self, name: String) {
        self.0.update_name(name);
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(name, value));
    }

    /// Marks the span as failed, with this `error.type`.
    pub fn fail(&mut self, error: Cow<'static, str>) {
        self.set("error.type", error);
        self.0.set_status(Status::error(""));
    }
}

/// Trace, parent, and flags (W3C Trace Context, section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add (section 3.3). It is passed on unchanged.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace id is random (level 2 of the recommendation).
const RANDOM: u8 = 0b10;

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;
/// Section 3.3.1.1.
const MOST_STATES: usize = 32;

/// The parent of a request's span.
#[derive(Debug)]
pub struct Parent {
    /// Empty if the request begins a trace.
    pub context: Context,
    /// The flag that the library does not keep. bearerd's own trace IDs are random.
    pub random: bool,
}

impl Parent {
    /// Parses the context that a caller sent. An invalid one is removed from the header fields together with its `tracestate`
    /// (section 4.3).
    ///
    /// The library's propagator is more lenient than the recommendation: it accepts short IDs, blanks, a sign, a trailing `-`,
    /// the first of two fields, and the first line of a state.
    pub fn take_from(headers: &mut HeaderMap) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let given = match (values.next(), values.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        let Some((context, random)) = given else {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
            return Self { context: Context::new(), random: true };
        };
        if !is_state(headers) {
            headers.remove(TRACESTATE);
        }
        Self { context: Context::new().with_remote_span_context(context), random }
    }
}

/// The context, and whether its trace id is random.
fn parse(text: &[u8]) -> Option<(SpanContext, bool)> {
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = std::str::from_utf8(known).ok()?.split('-');
    let mut next = |length| parts.next().filter(|part| part.len() == length && part.bytes().all(is_digit));
    let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    // A later version may have more parts after another dash.
    let fits = match version {
        "00" => rest.is_empty(),
        "ff" => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    // It is unknown whether other flags apply to spans below. `tracestate` is passed on as a header field, and no span has it,
    // because a caller wrote it.
    let context = SpanContext::new(
        TraceId::from_hex(trace_id).ok()?,
        SpanId::from_hex(span_id).ok()?,
        flags & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    (fits && context.is_valid()).then_some((context, flags.to_u8() & RANDOM != 0))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The `traceparent` of a span, to send to an upstream.
pub fn traceparent(span: &SpanContext, random: bool) -> HeaderValue {
    let flags = (span.trace_flags() & TraceFlags::SAMPLED).to_u8() | if random { RANDOM } else { 0 };
    let mut text = BytesMut::with_capacity(LENGTH);
    // Writing to a growing buffer does not fail.
    let _ = write!(text, "00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static(""))
}

/// Whether every list member of `tracestate` is a key and a value (section 3.3.1).
fn is_state(headers: &HeaderMap) -> bool {
    let mut members = 0;
    headers.get_all(TRACESTATE).iter().all(|line| {
        line.to_str().is_ok_and(|line| {
            line.split(',').map(|member| member.trim_matches([' ', '\t'])).all(|member| {
                // Empty members are allowed.
                member.is_empty() || {
                    members += 1;
                    members <= MOST_STATES && is_member(member)
                }
            })
        })
    })
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let of_a_key = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let begins = key.starts_with(|char: char| char.is_ascii_lowercase() || char.is_ascii_digit());
    let of_a_value = |byte: u8| matches!(byte, 0x20..=0x7E) && byte != b'=';
    begins
        && key.len() <= 256
        && key.bytes().all(of_a_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(of_a_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn taken(headers: &mut HeaderMap) -> bool {
        Parent::take_from(headers).context.has_active_span()
    }

    #[test]
    fn what_is_read_is_written_again() {
        for (flags, sampled) in [("-01", true), ("-00", false), ("-03", true), ("-02", false)] {
            let text = GOOD.replace("-01", flags);
            let (context, random) = parse(text.as_bytes()).unwrap();
            assert_eq!(context.is_sampled(), sampled);
            assert!(context.is_remote());
            assert_eq!(traceparent(&context, random), text);
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-what-the-future-brings", &GOOD[2..]);
        assert_eq!(parse(later.as_bytes()), parse(GOOD.as_bytes()));
        assert!(parse(format!("cc{}.what", &GOOD[2..]).as_bytes()).is_none());
    }

    #[test]
    fn what_is_no_context_is_refused() {
        let zeros = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let no_parent = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        let bad = [
            String::new(),
            GOOD.to_uppercase(),
            format!("{GOOD}-00"),
            format!(" {GOOD}"),
            format!("ff{}", &GOOD[2..]),
            GOOD[..54].to_owned(),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf9", "4bg9"),
            zeros,
            no_parent,
        ];
        for text in bad {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_state_goes_with_the_context_that_it_belongs_to() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE,,"));
        assert!(taken(&mut headers));
        assert_eq!(headers.len(), 2);
        headers.insert(TRACESTATE, HeaderValue::from_static("UPPER=1"));
        assert!(taken(&mut headers));
        assert!(!headers.contains_key(TRACESTATE));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(!taken(&mut headers));
        assert!(headers.is_empty(), "two of them are none");
    }
}

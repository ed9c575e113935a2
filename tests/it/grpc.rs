//! gRPC through tonic's own client and server: unary, server streaming, both ways.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{RawResponse, Setup, World, let_pass, within};

/// Health and reflection, as tonic ships them.
struct Grpc {
    url: String,
    health: HealthReporter,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl Grpc {
    async fn start() -> Self {
        Self::serve(Server::builder()).await
    }

    async fn serve(mut server: Server) -> Self {
        let (health, service) = tonic_health::server::health_reporter();
        let seen = Arc::<Mutex<Vec<MetadataMap>>>::default();
        let record = Arc::clone(&seen);
        let service = InterceptedService::new(service, move |request: tonic::Request<()>| {
            record.lock().unwrap().push(request.metadata().clone());
            Ok(request)
        });
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = server.add_service(service).add_service(reflection);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url, health, seen }
    }

    fn seen(&self) -> Vec<MetadataMap> {
        self.seen.lock().unwrap().clone()
    }
}

async fn scene(setup: Setup, upstream: &str) -> (World, Channel) {
    let world = setup.route(&format!("upstream = \"{upstream}\"\nprotocol = \"http2\"")).start().await;
    let channel = Endpoint::from_shared(format!("http://{}", world.address("main"))).unwrap();
    let channel = within("a channel", channel.connect()).await.unwrap();
    (world, channel)
}

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn unary_request_works_and_gets_the_credential() {
    let upstream = Grpc::start().await;
    let (_world, channel) = scene(Setup::new().await, &upstream.url).await;
    let mut client = HealthClient::new(channel);
    let mut request = tonic::Request::new(check(""));
    request.metadata_mut().insert("authorization", "Bearer mine".parse().unwrap());
    request.metadata_mut().insert_bin("x-bytes-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255]));
    let answer = within("the response", client.check(request)).await.unwrap();
    assert_eq!(answer.into_inner().status(), tonic_health::ServingStatus::Serving.into());
    let seen = upstream.seen();
    let tokens: Vec<_> = seen[0].get_all("authorization").iter().collect();
    assert_eq!(tokens, ["Bearer token-1"]);
    assert_eq!(seen[0].get_bin("x-bytes-bin").unwrap().to_bytes().unwrap().as_ref(), [0, 255]);
}

#[tokio::test]
async fn status_of_the_service_passes() {
    let upstream = Grpc::start().await;
    let (_world, channel) = scene(Setup::new().await, &upstream.url).await;
    let status = HealthClient::new(channel).check(check("nowhere")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert!(status.message().contains("not registered"), "{status}");
}

#[tokio::test]
async fn server_stream_arrives_message_by_message() {
    let upstream = Grpc::start().await;
    let (_world, channel) = scene(Setup::new().await, &upstream.url).await;
    let mut client = HealthClient::new(channel);
    upstream.health.set_service_status("job", tonic_health::ServingStatus::Serving).await;
    let mut stream = client.watch(check("job")).await.unwrap().into_inner();
    for wanted in [
        tonic_health::ServingStatus::Serving,
        tonic_health::ServingStatus::NotServing,
        tonic_health::ServingStatus::Serving,
    ] {
        upstream.health.set_service_status("job", wanted).await;
        let found = loop {
            let message = within("a message", stream.message()).await.unwrap().unwrap();
            if message.status() == wanted.into() {
                break message.status();
            }
        };
        assert_eq!(found, wanted.into());
    }
}

#[tokio::test]
async fn idle_stream_outlives_a_server_that_asks_whether_its_client_lives() {
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_millis(200)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)));
    let upstream = Grpc::serve(server).await;
    let (_world, channel) = scene(Setup::new().await, &upstream.url).await;
    upstream.health.set_service_status("job", tonic_health::ServingStatus::Serving).await;
    let mut stream = HealthClient::new(channel).watch(check("job")).await.unwrap().into_inner();
    within("a message", stream.message()).await.unwrap().unwrap();
    let_pass(Duration::from_secs(3)).await;
    upstream.health.set_service_status("job", tonic_health::ServingStatus::NotServing).await;
    let message = within("another message", stream.message()).await.unwrap().unwrap();
    assert_eq!(message.status(), tonic_health::ServingStatus::NotServing.into());
}

#[tokio::test]
async fn both_directions_stream_in_lockstep() {
    let upstream = Grpc::start().await;
    let (_world, channel) = scene(Setup::new().await, &upstream.url).await;
    let (questions, receiver) = tokio::sync::mpsc::channel(1);
    let ask = |symbol: &str| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.to_owned())),
    };
    questions.send(ask("grpc.health.v1.Health")).await.unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let responses = client.server_reflection_info(ReceiverStream::new(receiver)).await.unwrap();
    let mut responses = responses.into_inner();
    for _ in 0..5 {
        let answer = within("a response", responses.next()).await.unwrap().unwrap();
        let Some(MessageResponse::FileDescriptorResponse(_)) = answer.message_response else {
            panic!("{answer:?}");
        };
        questions.send(ask("grpc.health.v1.HealthCheckResponse")).await.unwrap();
    }
    drop(questions);
}

#[tokio::test]
async fn refused_client_is_unauthenticated() {
    let setup = Setup::new().await;
    setup.issuer.always_this(RawResponse::oauth_error(401, "invalid_client"));
    let upstream = Grpc::start().await;
    let (_world, channel) = scene(setup, &upstream.url).await;
    let status = HealthClient::new(channel).check(check("")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    assert_eq!(status.message(), "token_refused");
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn upstream_out_of_reach_is_unavailable() {
    let nobody = crate::support::nobody();
    let (_world, channel) = scene(Setup::new().await, &format!("http://{nobody}")).await;
    let status = HealthClient::new(channel).check(check("")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(status.message(), "upstream_unreachable");
}

//! Metadata services of clouds, as documented, byte for byte. They are asked over plain HTTP without a proxy, so these rows
//! have a stage of their own: the service's address is a var of the preset. The clouds' own clients ask the same service as
//! controls.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::headers_that_count;
use crate::support::python::python;
use crate::support::{RawResponse, Recorded, Scripted, Setup, World, cli, eventually, stays, unix_now};

/// What a machine's metadata service is asked, and what it responds.
#[derive(Clone, Copy)]
struct Service {
    preset: &'static str,
    /// The var with the address, and what is written; `{issuer}` is the service's origin, `{host}` its host and port.
    var: (&'static str, &'static str),
    /// What the operator writes.
    issuer: &'static str,
    env: &'static [(&'static str, &'static str)],
    target: &'static str,
    /// Without `host`.
    headers: &'static [&'static str],
    response: fn() -> RawResponse,
    token: &'static str,
    lifetime: f64,
}

const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln";

/// The response that Azure's page about tokens on virtual machines shows.
fn of_azure_vm() -> RawResponse {
    json(
        200,
        &format!(
            r#"{{"access_token":"{TOKEN}","refresh_token":"","expires_in":"3599","expires_on":"{}","not_before":"1506480273","resource":"https://management.azure.com/","token_type":"Bearer"}}"#,
            in_an_hour()
        ),
    )
}

/// The response that Azure's page about App Service shows: it has no `expires_in`.
fn of_app_service() -> RawResponse {
    json(
        200,
        &format!(
            r#"{{"access_token":"{TOKEN}","expires_on":"{}","resource":"https://vault.azure.net","token_type":"Bearer","client_id":"5E29463D-71DA-4FE0-8E69-999B57DB23B0"}}"#,
            in_an_hour()
        ),
    )
}

fn in_an_hour() -> u64 {
    unix_now() as u64 + 3600
}

fn json(status: u16, body: &str) -> RawResponse {
    RawResponse::status(status).header("content-type", "application/json; charset=utf-8").body(body)
}

/// Google's server says who it is in every response.
fn of_google(response: RawResponse) -> RawResponse {
    response.header("Metadata-Flavor", "Google").header("Server", "Metadata Server for VM")
}

fn access_token_of_google() -> RawResponse {
    of_google(json(200, r#"{"access_token":"ya29.c.c0ASRK0GbX","expires_in":3187,"token_type":"Bearer"}"#))
}

/// A bare JWT, which Google's server calls text/html.
fn id_token_of_google() -> RawResponse {
    of_google(RawResponse::ok(id_token(1800)).header("content-type", "text/html"))
}

fn id_token(seconds: u64) -> String {
    let exp = unix_now() as u64 + seconds;
    let claims =
        format!(r#"{{"aud":"https://billing.example.com","exp":{exp},"iss":"https://accounts.google.com"}}"#);
    format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

const AZURE_VM: Service = Service {
    preset: "azure-managed-identity",
    var: ("metadata_host", "{host}"),
    issuer: "params = { resource = \"https://management.azure.com/\" }",
    env: &[],
    target: "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F",
    headers: &["metadata: true"],
    response: of_azure_vm,
    token: TOKEN,
    lifetime: 3599.0,
};

const APP_SERVICE: Service = Service {
    preset: "azure-app-service",
    var: ("endpoint", "{issuer}/msi/token"),
    issuer: "params = { resource = \"https://vault.azure.net\" }",
    env: &[("IDENTITY_HEADER", "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a")],
    target: "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net",
    headers: &["x-identity-header: 853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a"],
    response: of_app_service,
    token: TOKEN,
    lifetime: 3600.0,
};

const ARC: Service = Service {
    preset: "azure-arc",
    var: ("metadata_host", "{host}"),
    issuer: "params = { resource = \"https://management.azure.com/\" }\nchallenge_folder = \"tokens\"",
    env: &[],
    target: "/metadata/identity/oauth2/token?api-version=2020-06-01&resource=https%3A%2F%2Fmanagement.azure.com%2F",
    headers: &["metadata: true", "authorization: Basic a2V5LW9mLXRoZS1hZ2VudA"],
    response: of_azure_vm,
    token: TOKEN,
    lifetime: 3599.0,
};

/// What the agent's key file has.
const ARC_KEY: &str = "a2V5LW9mLXRoZS1hZ2VudA";

const GCE: Service = Service {
    preset: "gce",
    var: ("metadata_host", "{host}"),
    issuer: "params = { scopes = \"https://www.googleapis.com/auth/devstorage.read_only\" }",
    env: &[],
    target: "/computeMetadata/v1/instance/service-accounts/default/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_only",
    headers: &["metadata-flavor: Google"],
    response: access_token_of_google,
    token: "ya29.c.c0ASRK0GbX",
    lifetime: 3187.0,
};

const GCE_ID_TOKEN: Service = Service {
    preset: "gce-id-token",
    var: ("metadata_host", "{host}"),
    issuer: "params = { audience = \"https://billing.example.com\", format = \"full\" }",
    env: &[],
    target: "/computeMetadata/v1/instance/service-accounts/default/identity?audience=https%3A%2F%2Fbilling.example.com&format=full",
    headers: &["metadata-flavor: Google"],
    response: id_token_of_google,
    token: "eyJhbGciOiJSUzI1NiJ9.",
    lifetime: 1800.0,
};

impl Service {
    fn var(&self, server: &Scripted) -> String {
        let host = server.address.unwrap().to_string();
        self.var.1.replace("{issuer}", &server.url).replace("{host}", &host)
    }

    async fn setup(&self, response: RawResponse) -> Setup {
        let setup = Setup::new().await;
        setup.issuer.always_this(response);
        self.with(setup)
    }

    fn with(&self, setup: Setup) -> Setup {
        let Self { preset, var: (name, _), issuer, .. } = self;
        let value = self.var(&setup.issuer);
        let setup = self.env.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
        setup.whole(&format!(
            r#"
            [admin]
            address = "127.0.0.1:0"
            [log]
            format = "json"
            level = "debug"
            [listener.main]
            address = "127.0.0.1:0"
            [issuer.corp]
            preset = "{preset}"
            vars.{name} = "{value}"
            {issuer}
            [[route]]
            name = "api"
            upstream = "{{upstream}}"
            issuer = "corp"
            "#
        ))
    }

    /// The config without the address.
    fn without_var(&self, setup: &Setup) -> String {
        let text = setup.config();
        let line = format!("vars.{} = \"{}\"\n", self.var.0, self.var(&setup.issuer));
        assert!(text.contains(&line), "{text}");
        text.replace(&line, "")
    }

    /// The world after a request that got the token.
    async fn granted(&self, response: RawResponse) -> World {
        let world = self.setup(response).await.start().await;
        self.expect_token(&world).await;
        world
    }

    async fn expect_token(&self, world: &World) {
        let response = world.get("/thing").await;
        assert_eq!(response.status, 200, "{}\n{}", response.text(), world.log().text());
        let upstream = world.upstream().last();
        let token = upstream.bearer().unwrap();
        assert!(token.starts_with(self.token), "{token}");
        let labels = [("issuer", "corp"), ("route", "api")];
        let expiry = world.metric("bearerd_token_expiry_timestamp_seconds", &labels).await.unwrap();
        let lived = expiry - unix_now();
        assert!((self.lifetime - 20.0..self.lifetime + 2.0).contains(&lived), "lives {lived} s");
    }

    fn expect_request(&self, request: &Recorded, headers: &[&str]) {
        assert_eq!(request.head.start, format!("GET {} HTTP/1.1", self.target));
        assert_eq!(request.text(), "");
        let found = headers_that_count(&request.head, headers);
        let mut wanted: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
        wanted.push(format!("host: {}", request.header("host").unwrap()));
        wanted.sort_unstable();
        assert_eq!(found, wanted);
    }

    /// The request fails with these words, and nothing reaches the upstream.
    async fn refused(&self, response: RawResponse, status: u16, code: &str, detail: &[&str]) -> World {
        let world = self.setup(response).await.start().await;
        expect_refused(&world, status, code, detail).await;
        world
    }
}

async fn expect_refused(world: &World, status: u16, code: &str, words: &[&str]) {
    let response = world.get("/thing").await;
    response.expect_problem(status, code);
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    for words in words {
        assert!(detail.contains(words), "no {words:?} in {detail:?}");
    }
    assert_eq!(world.upstream().count(), 0);
}

/// The failures that `/metrics` counts by their kind.
async fn failed(world: &World, outcome: &str) -> f64 {
    let labels = [("issuer", "corp"), ("outcome", outcome)];
    world.metric("bearerd_token_requests_total", &labels).await.unwrap_or_default()
}

#[tokio::test]
async fn azure_vm() {
    let world = AZURE_VM.granted(of_azure_vm()).await;
    AZURE_VM.expect_request(&world.issuer().last(), AZURE_VM.headers);
}

#[tokio::test]
async fn azure_vm_with_a_user_assigned_identity() {
    for (written, sent) in [
        ("client_id = \"00001111-aaaa\"", "api-version=2018-02-01&resource=r&client_id=00001111-aaaa"),
        ("params.object_id = \"aaaabbbb-0000\"", "api-version=2018-02-01&object_id=aaaabbbb-0000&resource=r"),
        (
            "params.msi_res_id = \"/subscriptions/1\"",
            "api-version=2018-02-01&msi_res_id=%2Fsubscriptions%2F1&resource=r",
        ),
    ] {
        let issuer = format!("{written}\nparams.resource = \"r\"").leak();
        let world = Service { issuer, ..AZURE_VM }.granted(of_azure_vm()).await;
        let target = world.issuer().last().target().to_owned();
        let mut pairs: Vec<&str> = target.split_once('?').unwrap().1.split('&').collect();
        let mut wanted: Vec<&str> = sent.split('&').collect();
        pairs.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(pairs, wanted);
    }
}

#[tokio::test]
async fn azure_app_service() {
    let world = APP_SERVICE.granted(of_app_service()).await;
    APP_SERVICE.expect_request(&world.issuer().last(), APP_SERVICE.headers);
    for key in APP_SERVICE.env.iter().map(|(_, value)| value) {
        assert!(!world.log().text().contains(key), "the platform's key is a secret");
    }
}

#[tokio::test]
async fn azure_app_service_needs_no_var_where_the_platform_sets_its_variables() {
    let setup = Setup::new().await;
    setup.issuer.always_this(of_app_service());
    let setup = APP_SERVICE.with(setup);
    let endpoint = APP_SERVICE.var(&setup.issuer);
    let text = APP_SERVICE.without_var(&setup);
    let world = setup.env("IDENTITY_ENDPOINT", &endpoint).whole(&text).start().await;
    APP_SERVICE.expect_token(&world).await;
    APP_SERVICE.expect_request(&world.issuer().last(), APP_SERVICE.headers);
}

#[tokio::test]
async fn gce() {
    let world = GCE.granted(access_token_of_google()).await;
    GCE.expect_request(&world.issuer().last(), GCE.headers);
}

#[tokio::test]
async fn gce_id_token() {
    let world = GCE_ID_TOKEN.granted(id_token_of_google()).await;
    GCE_ID_TOKEN.expect_request(&world.issuer().last(), GCE_ID_TOKEN.headers);
}

/// The key of Google's own variable, at a server that is not Google's.
#[tokio::test]
async fn the_well_known_key_is_the_one_that_googles_variable_names() {
    let setup = Setup::new().await;
    let key =
        setup.file("elsewhere.json", std::fs::read(crate::support::jwt::key_path("google.json")).unwrap());
    let issuer = "preset = \"gce-default\"\n# client_id\n# client_secret\nscopes = [\"s\"]";
    let setup = setup.env("GOOGLE_APPLICATION_CREDENTIALS", key.to_str().unwrap()).issuer(issuer);
    let world = setup.start().await;
    world.get("/").await.expect_status(200);
    let assertion = world.issuer().last().params("assertion").pop().unwrap();
    let claims = assertion.split('.').nth(1).unwrap();
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert!(claims.contains("bot@acme.iam.gserviceaccount.com"), "{claims}");
}

/// Anything may respond at that address where the machine is none of Google's.
#[tokio::test]
async fn a_server_that_does_not_say_that_it_is_googles_gives_no_token() {
    for (service, response) in [
        (GCE, json(200, r#"{"access_token":"stranger","expires_in":3187,"token_type":"Bearer"}"#)),
        (GCE_ID_TOKEN, RawResponse::ok(id_token(1800))),
        (GCE_ID_TOKEN, RawResponse::ok(id_token(1800)).header("metadata-flavor", "google")),
    ] {
        let detail = ["no header field metadata-flavor: Google, so it is not the expected server"];
        service.refused(response, 502, "token_refused", &detail).await;
    }
}

#[tokio::test]
async fn no_redirect_of_a_metadata_service_is_followed() {
    let setup = Setup::new().await;
    let elsewhere = Scripted::start(None).await;
    let there = RawResponse::status(302).header("location", &format!("{}/t", elsewhere.url));
    setup.issuer.always_this(of_google(there));
    let world = GCE.with(setup).start().await;
    expect_refused(&world, 502, "token_refused", &["302", "does not follow redirects"]).await;
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn a_scope_stands_for_its_resource() {
    for (service, scope) in [
        (AZURE_VM, "https://management.azure.com//.default"),
        (APP_SERVICE, "https://vault.azure.net/.default"),
        (APP_SERVICE, "https://vault.azure.net"),
    ] {
        let issuer = format!("vars.scope = \"{scope}\"").leak();
        let world = Service { issuer, ..service }.setup((service.response)()).await.start().await;
        world.get("/").await.expect_status(200);
        assert_eq!(world.issuer().request(1).await.target(), service.target, "{scope}");
    }
    // The resource itself goes before it, and without either nothing is sent in its place.
    for (issuer, resource) in
        [("params.resource = \"r\"\nvars.scope = \"s/.default\"", &["r"][..]), ("", &[])]
    {
        let world = Service { issuer, ..AZURE_VM }.setup(of_azure_vm()).await.start().await;
        world.get("/").await.expect_status(200);
        let request = world.issuer().request(1).await;
        let query = request.target().split_once('?').unwrap().1;
        let sent: Vec<_> = query.split('&').filter_map(|pair| pair.strip_prefix("resource=")).collect();
        assert_eq!(sent, resource, "{issuer}");
    }
}

const IDENTITY_NOT_FOUND: &str = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;

#[tokio::test]
async fn a_machine_without_the_identity_is_a_refused_client_with_its_remedy() {
    let no_msi = r#"{"statusCode":400,"message":"No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.","correlationId":"5e3a"}"#;
    let many = r#"{"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"}"#;
    let no_account =
        r#"{"error":"invalid_request","error_description":"Service account not enabled on this instance"}"#;
    let chosen = Service { issuer: "client_id = \"00001111-aaaa\"\nparams.resource = \"r\"", ..AZURE_VM };
    for (service, response, detail) in [
        (
            AZURE_VM,
            json(400, IDENTITY_NOT_FOUND),
            "switch on the machine's or app's own identity at the cloud",
        ),
        (chosen, json(400, IDENTITY_NOT_FOUND), "assign this identity to the machine or app at the cloud"),
        (AZURE_VM, json(400, many), "choose one of the machine's identities by client_id of [issuer.corp]"),
        (APP_SERVICE, json(400, no_msi), "switch on the machine's or app's own identity at the cloud"),
        (GCE, of_google(json(404, no_account)), "attach a service account to this machine"),
    ] {
        let world = service.refused(response, 502, "token_refused", &[detail]).await;
        assert!(failed(&world, "client_refused").await >= 1.0, "{detail}");
        let count = world.issuer().count();
        expect_refused(&world, 502, "token_refused", &[detail]).await;
        assert_eq!(world.issuer().count(), count, "it is asked again after a minute");
    }
}

/// Some services say it in plain text, and some in members of their own.
#[tokio::test]
async fn no_identity_is_told_in_whatever_form_it_is_said() {
    let plain = |status, text: &str| {
        RawResponse::status(status).header("content-type", "text/plain; charset=utf-8").body(text)
    };
    let switch_on = "switch on the machine's or app's own identity at the cloud";
    for (service, response, detail) in [
        (APP_SERVICE, plain(400, "No MSI found for specified ClientId/ResourceId."), switch_on),
        (
            APP_SERVICE,
            json(
                400,
                r#"{"ExceptionMessage":"No MSI found for specified ClientId/ResourceId.","ErrorCode":"X"}"#,
            ),
            switch_on,
        ),
        (
            APP_SERVICE,
            json(
                400,
                r#"{"error":{"code":"BadRequest","message":"Unable to load the proper Managed Identity."}}"#,
            ),
            switch_on,
        ),
    ] {
        let world = service.refused(response, 502, "token_refused", &[detail]).await;
        assert!(failed(&world, "client_refused").await >= 1.0, "{detail}");
    }
    let of_gke = of_google(plain(
        403,
        "Unable to generate access token; IAM returned 403 Forbidden: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
    ));
    GCE.refused(of_gke, 502, "token_refused", &["roles/iam.workloadIdentityUser"]).await;
    let no_audience = of_google(plain(400, "non-empty audience parameter required\n"));
    GCE_ID_TOKEN.refused(no_audience, 502, "token_refused", &["audience: params = { audience"]).await;
}

#[tokio::test]
async fn a_resource_that_the_tenant_does_not_know_is_told_by_the_key() {
    let unknown = r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named https://x was not found in the tenant."}"#;
    let detail = ["check resource in params of [issuer.corp]"];
    AZURE_VM.refused(json(400, unknown), 502, "token_refused", &detail).await;
}

#[tokio::test]
async fn a_key_of_the_platform_that_is_refused_is_named() {
    let detail = ["check headers.x-identity-header of [issuer.corp] (environment variable IDENTITY_HEADER)"];
    APP_SERVICE.refused(RawResponse::status(401), 502, "token_refused", &detail).await;
}

/// The address is the same in each cloud.
#[tokio::test]
async fn the_metadata_service_of_another_cloud_is_no_wrong_client() {
    let page = |status| {
        let page = format!("<?xml version=\"1.0\"?><html><head><title>{status}</title></head></html>");
        RawResponse::status(status).header("content-type", "text/html").body(page)
    };
    for status in [401, 403, 404] {
        let detail =
            ["check that this is the metadata service that vars", "each cloud has one at the same address"];
        let world = AZURE_VM.refused(page(status), 502, "token_refused", &detail).await;
        assert!(!world.get("/thing").await.text().contains("client_secret"));
    }
}

/// The variable of Google's own libraries, which emulators set.
#[tokio::test]
async fn gce_is_where_googles_variable_says() {
    for service in [GCE, GCE_ID_TOKEN] {
        let setup = Setup::new().await;
        setup.issuer.always_this((service.response)());
        let setup = service.with(setup);
        let host = service.var(&setup.issuer);
        let text = service.without_var(&setup);
        let world = setup.env("GCE_METADATA_HOST", &host).whole(&text).start().await;
        service.expect_token(&world).await;
        service.expect_request(&world.issuer().last(), service.headers);
    }
}

#[tokio::test]
async fn an_address_that_is_none_of_this_machine_is_told_with_where_it_comes_from() {
    for (value, says) in [
        (
            "metadata-proxy:8080",
            "metadata-proxy comes from vars, or from an environment variable that the preset reads",
        ),
        ("user@host/path", "the environment's GCE_METADATA_HOST is not a host name"),
    ] {
        let setup = Setup::new().await;
        let setup = GCE.with(setup);
        let text = GCE.without_var(&setup);
        let setup = setup.whole(&text);
        setup.write();
        let output = cli::run_with(setup.folder(), &["check"], &[("GCE_METADATA_HOST", value)]).await;
        output.expect_code(78);
        // Long lines are wrapped.
        let told = output.all().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(says), "{value}: {told}");
    }
    // A URL is as good as its host.
    let setup = Setup::new().await;
    setup.issuer.always_this(access_token_of_google());
    let setup = GCE.with(setup);
    let (text, url) = (GCE.without_var(&setup), setup.issuer.url.clone());
    let world = setup.env("GCE_METADATA_HOST", &url).whole(&text).start().await;
    GCE.expect_token(&world).await;
}

#[tokio::test]
async fn a_missing_resource_is_told_by_the_key() {
    let missing =
        r#"{"error":"invalid_request","error_description":"Required query variable 'resource' is missing"}"#;
    let service = Service { issuer: "", ..AZURE_VM };
    let detail = ["give the API's URI as resource: params = { resource = \"…\" } of [issuer.corp]"];
    service.refused(json(400, missing), 502, "token_refused", &detail).await;
}

#[tokio::test]
async fn a_service_that_is_not_ready_after_boot_is_asked_until_it_is() {
    let early: [fn() -> RawResponse; 4] =
        [|| json(404, ""), || RawResponse::status(410), || RawResponse::status(503), RawResponse::drop];
    for early in early {
        let setup = Setup::new().await;
        setup.issuer.next(early()).always_this(of_azure_vm());
        let world = AZURE_VM.with(setup).start().await;
        world.ready().await;
        AZURE_VM.expect_token(&world).await;
        assert_eq!(world.issuer().count(), 2);
    }
}

#[tokio::test]
async fn a_service_that_nobody_can_reach_after_boot_is_asked_when_it_is_there() {
    let setup = Setup::new().await;
    let address = crate::support::nobody();
    let var = format!("metadata_host = \"{address}\"");
    let setup = AZURE_VM.with(setup);
    let text =
        setup.config().replace(&format!("metadata_host = \"{}\"", setup.issuer.address.unwrap()), &var);
    let world = setup.whole(&text).start().await;
    expect_refused(&world, 503, "token_unavailable", &["cannot be reached"]).await;
    let late = Scripted::on(tokio::net::TcpListener::bind(address).await.unwrap(), None);
    late.always_this(of_azure_vm());
    world.ready().await;
    AZURE_VM.expect_token(&world).await;
    assert_eq!(late.count(), 1);
}

#[tokio::test]
async fn a_busy_service_is_asked_again_when_it_says_or_after_a_pause() {
    let busy = || json(429, r#"{"error":"Too many requests"}"#);
    let world =
        AZURE_VM.refused(busy().header("retry-after", "60"), 503, "token_unavailable", &["429"]).await;
    let response = world.get("/thing").await;
    response.expect_problem(503, "token_unavailable");
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(world.issuer().count(), 1);

    let setup = Setup::new().await;
    setup.issuer.next(busy()).next(busy()).always_this(of_azure_vm());
    let world = AZURE_VM.with(setup).start().await;
    world.ready().await;
    assert_eq!(world.issuer().count(), 3);
    assert!(failed(&world, "throttled").await >= 2.0);
}

/// Metadata services cache tokens, and give the same one until shortly before it expires.
#[tokio::test]
async fn the_same_token_again_is_kept_and_makes_no_loop() {
    let setup = Setup::new().await;
    let started = std::time::Instant::now();
    setup.issuer.always(move |_, _| {
        let left = 60_u64.saturating_sub(started.elapsed().as_secs());
        let expires_on = unix_now() as u64 + left;
        json(200, &format!(r#"{{"access_token":"cached","expires_in":"{left}","expires_on":"{expires_on}","token_type":"Bearer"}}"#))
    });
    let world = Service { issuer: "params.resource = \"r\"\nrefresh_at = 0.02", ..AZURE_VM }
        .with(setup)
        .start()
        .await;
    let asked_again = || async {
        world.get("/thing").await.expect_status(200);
        (world.issuer().count() >= 2).then_some(())
    };
    eventually("the renewal", asked_again).await;
    world.log().wait("that the token was kept", |line| line.contains("\"token.kept\"")).await;
    // By refresh_at alone it would be asked every second now, and it is asked next when half of the rest is over.
    stays(std::time::Duration::from_secs(4), || world.issuer().count()).await;
    assert_eq!(world.upstream().last().bearer(), Some("cached"));
    assert!(!world.log().text().contains("token.renewed"));
}

/// The agent's first response, which names this file.
fn challenge(path: &Path) -> RawResponse {
    RawResponse::status(401).header("WWW-Authenticate", &format!("Basic realm={}", path.display()))
}

#[tokio::test]
async fn azure_arc() {
    let setup = Setup::new().await;
    let key = setup.file("tokens/e7c1.key", ARC_KEY);
    setup.issuer.next(challenge(&key)).always_this(of_azure_vm());
    let world = ARC.with(setup).start().await;
    ARC.expect_token(&world).await;
    let requests = world.issuer().requests();
    assert_eq!(requests.len(), 2);
    ARC.expect_request(&requests[0], &["metadata: true"]);
    ARC.expect_request(&requests[1], ARC.headers);
    assert!(!world.log().text().contains(ARC_KEY));
}

#[tokio::test]
async fn azure_arc_that_refuses_its_own_key_is_not_asked_for_ever() {
    let setup = Setup::new().await;
    let key = setup.file("tokens/e7c1.key", ARC_KEY);
    setup.issuer.always_this(challenge(&key));
    let world = ARC.with(setup).start().await;
    expect_refused(&world, 502, "token_refused", &["401", "check the agent on this machine"]).await;
    assert_eq!(world.issuer().count(), 2);
    assert!(failed(&world, "client_refused").await >= 1.0);
}

/// A scene with key files, and others.
async fn with_key_files() -> Setup {
    let setup = Setup::new().await;
    for (name, content) in [
        ("tokens/good.key", ARC_KEY),
        ("tokens/notes.txt", "text-of-notes"),
        ("tokens/empty.key", "\n"),
        ("tokens/lines.key", "k\u{1}k\nk"),
        ("tokens/large.key", &"k".repeat(4097)),
        ("tokens-2/beside.key", "key-beside"),
        ("outside.key", "key-outside"),
    ] {
        setup.file(name, content);
    }
    let tokens = setup.folder().join("tokens");
    std::os::unix::fs::symlink("../outside.key", tokens.join("link.key")).unwrap();
    std::os::unix::fs::symlink("notes.txt", tokens.join("text.key")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, tokens.join("pipe.key"), rustix::fs::Mode::RUSR).unwrap();
    setup
}

#[tokio::test]
async fn only_a_key_file_below_the_folder_is_read() {
    for (named, why) in [
        ("{folder}/outside.key", "is not below"),
        ("{folder}/tokens-2/beside.key", "is not below"),
        ("{folder}/tokens/../outside.key", "is not below"),
        ("{folder}/tokens/link.key", "is not below"),
        ("/etc/passwd", "is not below"),
        ("good.key", "is not an absolute path"),
        ("{folder}/tokens/notes.txt", "has a name that does not end with .key"),
        ("{folder}/tokens/text.key", "has a name that does not end with .key"),
        ("{folder}/tokens/large.key", "is larger than 4 KiB"),
        ("{folder}/tokens/empty.key", "is empty"),
        ("{folder}/tokens/lines.key", "contains control characters"),
        ("{folder}/tokens/nothing.key", "No such file"),
        ("{folder}/tokens/pipe.key", "is a pipe"),
    ] {
        let setup = with_key_files().await;
        let named = named.replace("{folder}", &setup.folder().display().to_string());
        setup.issuer.always_this(challenge(Path::new(&named)));
        let world = ARC.with(setup).start().await;
        let words = [&named, why, "let the user that runs bearerd read the agent's key files"];
        expect_refused(&world, 503, "token_unavailable", &words).await;
        assert!(failed(&world, "credential").await >= 1.0, "{named}");
        for request in world.issuer().requests() {
            assert_eq!(request.header("authorization"), None, "{named}");
        }
    }
}

#[tokio::test]
async fn without_a_folder_a_challenge_is_a_refusal_like_any_other() {
    let setup = Setup::new().await;
    let key = setup.file("tokens/e7c1.key", ARC_KEY);
    setup.issuer.always_this(challenge(&key));
    let world = AZURE_VM.with(setup).start().await;
    expect_refused(&world, 502, "token_refused", &["401"]).await;
    assert_eq!(world.issuer().count(), 1);
}

/// What a cloud's own client says of this service, and the requests that it sent for the token.
async fn control(
    service: &Service,
    server: &Scripted,
    folder: &Path,
) -> (String, Vec<std::sync::Arc<Recorded>>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metadata/controls.py");
    let mut command = tokio::process::Command::new(python("metadata").await);
    command.arg(script).arg(service.preset).arg(service.var(server)).arg(folder.join("tokens"));
    command
        .envs(service.env.iter().copied())
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .kill_on_drop(true);
    let output =
        tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = service.target.split('?').next().unwrap();
    let requests =
        server.requests().into_iter().filter(|request| request.target().starts_with(path)).collect();
    (String::from_utf8(output.stdout).unwrap().trim().to_owned(), requests)
}

fn sorted_query(target: &str) -> Vec<String> {
    let query = target.split_once('?').unwrap().1;
    let mut pairs: Vec<String> = crate::support::message::form_decode(query)
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.sort();
    pairs
}

#[tokio::test]
#[ignore = "needs python3 and ensurepip"]
async fn the_clouds_own_clients_ask_and_read_the_same() {
    for service in [AZURE_VM, APP_SERVICE, ARC, GCE, GCE_ID_TOKEN] {
        let setup = Setup::new().await;
        let key = setup.file("tokens/e7c1.key", ARC_KEY);
        let is_arc = service.preset == ARC.preset;
        let path = service.target.split('?').next().unwrap();
        setup.issuer.always(move |request, _| match request.target() {
            // google-auth asks for the account's name first.
            target if !target.starts_with(path) => of_google(json(
                200,
                r#"{"email":"billing@acme.iam.gserviceaccount.com","scopes":[],"aliases":["default"]}"#,
            )),
            _ if is_arc && request.header("authorization").is_none() => challenge(&key),
            _ => (service.response)(),
        });
        let (token, theirs) = control(&service, &setup.issuer, setup.folder()).await;
        assert!(token.starts_with(service.token), "{}: {token}", service.preset);
        let before = setup.issuer.count();
        let world = service.with(setup).start().await;
        service.expect_token(&world).await;
        let ours = world.issuer().requests().split_off(before);
        assert_eq!(ours.len(), theirs.len(), "{}", service.preset);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.method(), theirs.method());
            assert_eq!(sorted_query(ours.target()), sorted_query(theirs.target()), "{}", service.preset);
            for name in service.headers.iter().map(|header| header.split_once(": ").unwrap().0) {
                assert_eq!(ours.header(name), theirs.header(name), "{}: {name}", service.preset);
            }
        }
    }
}

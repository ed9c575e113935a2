//! What goes through unread, and the proxies on the way.

use super::{HOST, connect, forward_with, inside, refused, secure, serving, trusting};
use crate::support::egress::Egress;
use crate::support::{RawRequest, Scripted, Setup, eventually, tls};

#[tokio::test]
async fn other_hosts_pass_unread_and_never_lead_to_this_machine() {
    let world = forward_with(", unmatched = \"tunnel\"").await.start().await;
    let admin = world.address("admin").port();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "x.localhost", "[::ffff:127.0.0.1]"]
    {
        let response = refused(&world, &format!("{host}:{admin}")).await;
        assert_eq!((response.status, response.code().as_deref()), (403, Some("caller_refused")), "{host}");
        assert!(response.text().contains("a tunnel never leads there"), "{host}: {}", response.text());
    }
    if let Some(own) = own_address() {
        let listener = tokio::net::TcpListener::bind((own, 0)).await.unwrap();
        let response = refused(&world, &listener.local_addr().unwrap().to_string()).await;
        assert_eq!(response.status, 403, "{own}");
    }
    // A named host in another spelling is not another host.
    for authority in [format!("{HOST}.:443"), "API.example.com.:443".to_owned()] {
        let response = refused(&world, &authority).await;
        assert_eq!(response.status, 403, "{authority}");
        assert!(response.text().contains("without the dot"), "{authority}: {}", response.text());
    }
    // Plain http is not let through: nobody encrypts it.
    let response =
        world.exchange(RawRequest::get("http://other.example.com/").host("other.example.com")).await;
    assert_eq!(response.status, 403);
    assert!(!response.text().contains("unmatched"), "it is set already: {}", response.text());
    assert!(response.text().contains("only a CONNECT"), "{}", response.text());
    // A named host is still served here.
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
}

/// An address of this machine that other machines reach.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // UDP sends nothing here; the system only chooses the address.
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn tunnels_pass_through_the_listeners_proxy_and_routes_through_their_own() {
    let far = Scripted::start(Some(tls::ca().issue(&["far.example.com"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    let keys = format!(", unmatched = \"tunnel\", proxy = \"http://{}\"", egress.address);
    let world = forward_with(&keys).await.start().await;
    let wire = connect(&world, "far.example.com:443").await;
    let client = tls::ca().client(&[], None);
    let mut client = secure(wire, client, "far.example.com", "far.example.com").await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    assert_eq!(far.last().bearer(), None, "bearerd does not read the tunnel");
    let seen = egress.seen();
    assert_eq!((seen.len(), seen[0].word(1)), (1, "far.example.com:443"));
    assert_eq!(refused(&world, "169.254.169.254:80").await.status, 403);
    assert_eq!(egress.seen().len(), 1);
}

#[tokio::test]
async fn the_proxy_of_the_route_applies() {
    let upstream = Scripted::start(Some(tls::ca().issue(&[HOST]).server(&["http/1.1"]))).await;
    let egress = Egress::to(upstream.address.unwrap()).await;
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("upstream-ca.pem", &tls::ca().pem);
    let world = serving(setup, "")
        .route(&format!(
            "# upstream\nhost = \"{HOST}\"\nproxy = \"http://{}\"\ntls = {{ ca = {{ file = \"upstream-ca.pem\" }} }}",
            egress.address
        ))
        .start()
        .await;
    let mut client = inside(&world, HOST).await;
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
    assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    assert_eq!(egress.seen()[0].word(1), format!("{HOST}:443"));
}

/// squid as the corporate proxy, which lets CONNECT through to any port.
struct Squid {
    address: std::net::SocketAddr,
    folder: tempfile::TempDir,
    _child: tokio::process::Child,
}

impl Squid {
    async fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let address = crate::support::nobody();
        let folder = tempfile::tempdir().unwrap();
        // If root starts it, squid becomes a user of its own.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "http_port {address}\nhttp_access allow all\ncache deny all\npid_filename none\n\
             access_log stdio:{}\ncache_log {}\nicp_port 0\nhtcp_port 0\nnetdb_filename none\n\
             logfile_rotate 0\npinger_enable off\ncoredump_dir {}\nshutdown_lifetime 1 seconds\n",
            path("access.log"),
            path("cache.log"),
            folder.path().display()
        );
        std::fs::write(path("squid.conf"), config).unwrap();
        let child = tokio::process::Command::new("squid")
            .args(["-N", "-n", &format!("bearerd{}", address.port()), "-f"])
            .arg(path("squid.conf"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("squid is installed");
        eventually("squid", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Self { address, folder, _child: child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

#[tokio::test]
#[ignore = "needs squid"]
async fn squid_between_bearerd_and_the_api() {
    let upstream = Scripted::start(Some(tls::localhost().server(&["http/1.1"]))).await;
    let port = upstream.address.unwrap().port();
    let setup = Setup::with(Scripted::issuer().await, upstream);
    setup.file("upstream-ca.pem", &tls::ca().pem);
    let squid = Squid::start().await;
    let authority = format!("localhost:{port}");
    let world = serving(setup, "")
        .route(&format!(
            "# upstream\nhost = \"{authority}\"\nproxy = \"http://{}\"\n\
             tls = {{ ca = {{ file = \"upstream-ca.pem\" }} }}",
            squid.address
        ))
        .start()
        .await;
    let wire = connect(&world, &authority).await;
    let mut client = secure(wire, trusting(&world, &[]), "localhost", &authority).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
        assert_eq!(world.upstream().last().bearer(), Some("token-1"));
    }
    // squid logs a tunnel when it ends.
    drop(client);
    drop(world);
    eventually("squid's log", || async {
        squid.log().contains(&format!("CONNECT {authority}")).then_some(())
    })
    .await;
}

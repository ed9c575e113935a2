//! What goes through unread, and the proxies on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{HOST, connect, forward_with, inside, refused, secure, serving, trusting};
use crate::support::egress::Egress;
use crate::support::{RawRequest, Scripted, Setup, cli, eventually, tls};

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

/// What goes through is TLS, whoever does it.
#[tokio::test]
async fn tunnels_obey_the_variable_for_https() {
    let far = Scripted::start(Some(tls::ca().issue(&["far.invalid"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    let (used, nobody) = (format!("http://{}", egress.address), "http://127.0.0.1:1");
    for (https, http, all) in [(&*used, nobody, nobody), ("", nobody, &*used), ("", &*used, "")] {
        let setup = forward_with(", unmatched = \"tunnel\", proxy = \"env\"").await;
        let named = [("HTTPS_PROXY", https), ("HTTP_PROXY", http), ("ALL_PROXY", all)];
        let set = named.iter().filter(|(_, value)| !value.is_empty());
        let world = set.fold(setup, |setup, (name, value)| setup.env(name, value)).start().await;
        let before = egress.seen().len();
        if http == used {
            assert_eq!(refused(&world, "far.invalid:443").await.status, 502, "HTTP_PROXY is for http://");
            assert_eq!(egress.seen().len(), before);
            continue;
        }
        let wire = connect(&world, "far.invalid:443").await;
        let client = tls::ca().client(&[], None);
        let mut client = secure(wire, client, "far.invalid", "far.invalid").await.unwrap();
        assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200, "{https} {all}");
        assert_eq!(egress.seen().len(), before + 1);
    }
    let setup = forward_with(", unmatched = \"tunnel\", proxy = \"env\"").await;
    setup.write();
    let checked = cli::run_with(setup.folder(), &["check"], &[("HTTPS_PROXY", "socks5://egress:1080")]).await;
    checked.expect_code(78);
    let words = "HTTPS_PROXY names a proxy of the scheme socks5";
    assert!(checked.all().contains("listener.main.forward.proxy"), "{}", checked.all());
    assert!(checked.all().contains(words), "{}", checked.all());
}

#[tokio::test]
async fn check_refuses_an_egress_proxy_that_is_an_own_listener() {
    let address = crate::support::nobody();
    let port = address.port();
    let tunnel = ", unmatched = \"tunnel\"";
    let own = "is bearerd's own listener `main`: requests would go round in a circle";
    for (keys, route, issuer, env, key) in [
        (&*format!("{tunnel}, proxy = \"http://{address}\""), "", "", "", "listener.main.forward.proxy"),
        (&*format!("{tunnel}, proxy = \"env\""), "", "", "localhost", "listener.main.forward.proxy"),
        ("", &*format!("proxy = \"http://localhost:{port}\""), "", "", "route[0].proxy"),
        ("", "proxy = \"env\"", "", "127.0.0.1", "route[0].proxy"),
        ("", "", "proxy = \"env\"", "127.0.0.1", "issuer.corp.proxy"),
    ] {
        let setup = forward_with(keys)
            .await
            .listener(&format!("address = \"{address}\""))
            .route(&format!("upstream = \"https://api.example.com\"\n{route}"))
            .issuer(&format!("token_url = \"https://idp.example.com/token\"\n{issuer}"));
        setup.write();
        let variables = [("HTTPS_PROXY", &*format!("http://user:s3cret@{env}:{port}"))];
        let variables = if env.is_empty() { &[][..] } else { &variables[..] };
        for verb in ["check", "run"] {
            let output = cli::run_with(setup.folder(), &[verb], variables).await;
            output.expect_code(78);
            assert!(output.all().contains(key) && output.all().contains(own), "{key}: {}", output.all());
            assert!(!output.all().contains("s3cret"), "{}", output.all());
        }
    }
}

/// Something in between, so that the config does not show where its proxy leads.
async fn relay(
    to: tokio::sync::watch::Receiver<Option<std::net::SocketAddr>>,
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let to = to.borrow().unwrap();
            tokio::spawn(async move {
                let mut onward = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_proxy_that_leads_back_to_bearerd_is_noticed_at_once() {
    let (tell, told) = tokio::sync::watch::channel(None);
    let (relay, accepted) = relay(told).await;
    let proxy = format!("proxy = \"http://{relay}\"");
    let world = serving(Setup::new().await, &format!(", unmatched = \"tunnel\", {proxy}"))
        .route(&format!("# upstream\nhost = \"{HOST}\"\n{proxy}"))
        .start()
        .await;
    tell.send(Some(world.address("main"))).unwrap();
    let unmatched = refused(&world, "far.example.com:443").await;
    assert_eq!((unmatched.status, unmatched.code().as_deref()), (502, Some("upstream_unreachable")));
    assert!(unmatched.text().contains("leads back to bearerd's own listener"), "{}", unmatched.text());
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    let mut client = inside(&world, HOST).await;
    let named = client.exchange(&RawRequest::get("/")).await;
    assert_eq!((named.status, named.code().as_deref()), (502, Some("upstream_unreachable")));
    assert!(named.text().contains("leads back to bearerd's own listener"), "{}", named.text());
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    let line = |line: &str| line.contains("this CONNECT comes from bearerd itself");
    world.log().wait("the refusal in the access log", line).await;
}

/// As `bearerd exec` in the program of another `bearerd exec`.
#[tokio::test]
async fn another_bearerd_may_be_the_egress_proxy() {
    let far = Scripted::start(Some(tls::ca().issue(&["far.example.com"]).server(&[]))).await;
    let egress = Egress::to(far.address.unwrap()).await;
    let tunnel = ", unmatched = \"tunnel\"";
    let outer = forward_with(&format!("{tunnel}, proxy = \"http://{}\"", egress.address)).await.start().await;
    let inner =
        forward_with(&format!("{tunnel}, proxy = \"http://{}\"", outer.address("main"))).await.start().await;
    let wire = connect(&inner, "far.example.com:443").await;
    let client = tls::ca().client(&[], None);
    let mut client = secure(wire, client, "far.example.com", "far.example.com").await.unwrap();
    assert_eq!(client.exchange(&RawRequest::get("/")).await.status, 200);
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

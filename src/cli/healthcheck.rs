//! `bearerd healthcheck`: ask the admin address whether it is ready.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use toml::de::DeTable;

use super::args::{Common, Output};
use super::{Exit, Failure, check, find, output};
use crate::config::{self, Address};

/// A probe that takes longer than this means "no".
const TIMEOUT: Duration = Duration::from_secs(5);
/// The default of `admin.address`.
const DEFAULT_ADDRESS: &str = "127.0.0.1:9180";
/// The largest response that is read: `/status` of some thousand routes.
const MAX_RESPONSE: u64 = 16 << 20;

/// A response of the admin address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AdminResponse {
    pub(super) status: u16,
    pub(super) body: String,
}

pub(super) fn healthcheck(common: &Common, format: Output) -> Result<Exit, Failure> {
    let address = admin_address(&find(common)?)?;
    let response = ask(&address, "/readyz");
    let ready = response.as_ref().is_ok_and(|response| response.status == 200);
    match format {
        Output::Text => output::answer_people(&output::harmless(&text(&address, &response))),
        Output::Json => output::answer_json(&json!({
            "ready": ready,
            "address": place(&address),
            "status": response.as_ref().ok().map(|response| response.status),
            "reason": match &response {
                Ok(response) => response.body.clone(),
                Err(error) => error.to_string(),
            },
        })),
    }
    Ok(if ready { Exit::Fine } else { Exit::No })
}

/// The admin address of a valid config, or of the readable part of an invalid one. An error in the file does not affect
/// the running program, so it must not make its probes fail.
fn admin_address(path: &Path) -> Result<Address, Failure> {
    match config::load(path) {
        Ok(config) => Ok(config.admin.address),
        Err(problems) => read_admin_address(path).ok_or_else(|| {
            output::tell(&check::report(&problems.0));
            Failure::new(Exit::Config, check::verdict(path, &problems.0))
        }),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "config::load has already reported what is wrong with the file"
)]
fn read_admin_address(path: &Path) -> Option<Address> {
    parse_admin_address(&std::fs::read_to_string(path).ok()?, path.parent()?)
}

fn parse_admin_address(text: &str, folder: &Path) -> Option<Address> {
    let (document, _) = DeTable::parse_recoverable(text);
    let Some(admin) = document.get_ref().get("admin") else {
        return DEFAULT_ADDRESS.parse().ok().map(Address::Tcp);
    };
    let Some(address) = admin.get_ref().get("address") else {
        return DEFAULT_ADDRESS.parse().ok().map(Address::Tcp);
    };
    let address = address.get_ref().as_str()?;
    match address.strip_prefix("unix:") {
        Some(socket) => Some(Address::Unix(folder.join(socket))),
        None => address.parse().ok().map(Address::Tcp),
    }
}

fn text(address: &Address, response: &io::Result<AdminResponse>) -> String {
    match response {
        Ok(AdminResponse { status: 200, body }) => body.trim_end().to_owned(),
        Ok(AdminResponse { status, body }) => match body.strip_prefix("not ready") {
            Some(reasons) => format!("not ready ({status}){reasons}"),
            None => format!("not ready ({status}): {body}"),
        },
        Err(error) => {
            let error = error.to_string();
            let error = error.split(" (os error").next().unwrap_or(&error);
            format!("no response at {}: {error}: is bearerd running with this config?", place(address))
        }
    }
}

pub(super) fn place(address: &Address) -> String {
    match address {
        Address::Tcp(address) => reachable(*address).to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// A server that listens on every address is reached on loopback.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

/// Requests a page of the admin address.
pub(super) fn ask(address: &Address, page: &str) -> io::Result<AdminResponse> {
    match address {
        Address::Tcp(address) if address.port() == 0 => {
            Err(io::Error::other("the config leaves the port open (port 0): give [admin] address a port"))
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream, page)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream, page)
        }
    }
}

fn exchange(mut stream: impl Read + Write, page: &str) -> io::Result<AdminResponse> {
    // HTTP/1.0, so that the response ends with the connection and is not chunked.
    let head = format!("GET {page} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: bearerd-healthcheck\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("it does not speak HTTP"))
}

fn parse(text: &str) -> Option<AdminResponse> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    Some(AdminResponse { status: words.next()?.parse().ok()?, body: body.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        for (listens, asked) in
            [("0.0.0.0:9180", "127.0.0.1:9180"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn an_error_in_the_file_does_not_hide_the_admin_address() {
        let address = |text| parse_admin_address(text, Path::new("/etc/bearerd"));
        let tcp = |text: &str| Some(Address::Tcp(text.parse().unwrap()));
        assert_eq!(address("[admin]\naddress = \"127.0.0.1:7\"\n[limits]\nx = \n"), tcp("127.0.0.1:7"));
        assert_eq!(address("frobnicate = 1"), tcp("127.0.0.1:9180"));
        assert_eq!(address("[admin]\n"), tcp("127.0.0.1:9180"));
        assert_eq!(
            address("[admin]\naddress = \"unix:admin.sock\""),
            Some(Address::Unix("/etc/bearerd/admin.sock".into()))
        );
        assert_eq!(address("[admin]\naddress = \"nowhere\""), None);
    }

    #[test]
    fn an_answer_is_status_and_body() {
        let response = parse("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nno: x\n").unwrap();
        assert_eq!(response, AdminResponse { status: 503, body: "no: x".to_owned() });
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse("HTTP/1.1 200 OK"), None);
    }

    #[test]
    fn a_no_is_said_once_and_has_its_reasons() {
        let said = |body: &str| {
            text(
                &Address::Unix("/run/admin".into()),
                &Ok(AdminResponse { status: 503, body: body.to_owned() }),
            )
        };
        assert_eq!(said("not ready\n[-] token of issuer corp"), "not ready (503)\n[-] token of issuer corp");
        assert_eq!(said("a proxy's own words"), "not ready (503): a proxy's own words");
    }

    #[test]
    fn asks_readyz_and_reads_to_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 1000];
            let length = stream.read(&mut request).unwrap();
            request.truncate(length);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nready\n").unwrap();
            request
        });
        assert_eq!(
            ask(&address, "/readyz").unwrap(),
            AdminResponse { status: 200, body: "ready".to_owned() }
        );
        assert!(server.join().unwrap().starts_with(b"GET /readyz "));
    }

    #[test]
    fn nobody_there_is_a_no_with_the_address() {
        // Bound, it is nobody else's; it does not listen.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap();
        let address = Address::Tcp(port);
        let response = ask(&address, "/readyz");
        assert!(response.is_err());
        assert!(text(&address, &response).contains(&port.to_string()));
    }
}

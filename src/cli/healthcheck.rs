//! `bearerd healthcheck`: ask the admin address whether it is ready.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use super::args::{Common, Output};
use super::{Exit, Failure, load, output};
use crate::config::Address;

/// A probe that takes longer than this is a "no".
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read of an answer.
const MAX_ANSWER: u64 = 64 * 1024;
/// HTTP/1.0, so that the answer ends with the connection and is not chunked.
const REQUEST: &[u8] = b"GET /readyz HTTP/1.0\r\nHost: localhost\r\nUser-Agent: bearerd-healthcheck\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
}

pub(super) fn healthcheck(common: &Common, format: Output) -> Result<Exit, Failure> {
    let address = load(common)?.admin.address;
    let answer = ask(&address);
    let ready = answer.as_ref().is_ok_and(|answer| answer.status == 200);
    match format {
        Output::Text => output::answer(&output::harmless(&text(&address, &answer))),
        Output::Json => output::answer_json(&json!({
            "ready": ready,
            "address": place(&address),
            "status": answer.as_ref().ok().map(|answer| answer.status),
            "reason": match &answer {
                Ok(answer) => answer.body.clone(),
                Err(error) => error.to_string(),
            },
        })),
    }
    Ok(if ready { Exit::Fine } else { Exit::No })
}

fn text(address: &Address, answer: &io::Result<Answer>) -> String {
    match answer {
        Ok(Answer { status: 200, .. }) => "ready".to_owned(),
        Ok(Answer { status, body }) => format!("not ready ({status}): {body}"),
        Err(error) => format!("no answer at {}: {error}", place(address)),
    }
}

fn place(address: &Address) -> String {
    match address {
        Address::Tcp(address) => reachable(*address).to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// What listens everywhere is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

fn ask(address: &Address) -> io::Result<Answer> {
    match address {
        Address::Tcp(address) if address.port() == 0 => {
            Err(io::Error::other("the config leaves the port open (port 0): give [admin] address a port"))
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream)
        }
    }
}

fn exchange(mut stream: impl Read + Write) -> io::Result<Answer> {
    stream.write_all(REQUEST)?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("it does not speak HTTP"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    Some(Answer { status: words.next()?.parse().ok()?, body: body.trim().to_owned() })
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
    fn an_answer_is_status_and_body() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nno: x\n").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "no: x".to_owned() });
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse("HTTP/1.1 200 OK"), None);
    }

    #[test]
    fn asks_readyz_and_reads_to_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nready\n").unwrap();
            request
        });
        assert_eq!(ask(&address).unwrap(), Answer { status: 200, body: "ready".to_owned() });
        assert!(server.join().unwrap().starts_with(b"GET /readyz "));
    }

    #[test]
    fn nobody_there_is_a_no_with_the_address() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = Address::Tcp(port);
        let answer = ask(&address);
        assert!(answer.is_err());
        assert!(text(&address, &answer).contains(&port.to_string()));
    }
}

//! Request bodies that are large, in many pieces, not wanted or not sent.

use super::*;

const CHUNKED: &str = "Host: localhost\r\nTransfer-Encoding: chunked\r\n";

#[tokio::test]
async fn a_body_of_many_chunks_is_whole() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let chunks = "1\r\na\r\n".repeat(2000);
    client.send(&format!("POST /length HTTP/1.1\r\n{CHUNKED}\r\n{chunks}0\r\n\r\n")).await;
    assert!(client.response().await.ends_with("\r\n\r\n2000"));
}

#[tokio::test]
async fn leave_to_send_a_body_is_not_given_within_an_answer() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.send(&format!("POST /echo HTTP/1.1\r\n{CHUNKED}Expect: 100-continue\r\n\r\n")).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(client.0.read_u8()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("5\r\nhello\r\n0\r\n\r\nGET /ok HTTP/1.0\r\n\r\n").await;
    let rest = client.rest().await;
    assert!(rest.starts_with("5\r\nhello\r\n0\r\n\r\nHTTP/1.0 200 OK\r\n"), "{rest}");
}

/// It may have taken the answer for a reason to keep its body: what comes next is either of the two.
#[tokio::test]
async fn a_body_that_was_neither_wanted_nor_asked_for_ends_the_connection() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let lines = "Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n";
    client.send(&format!("POST /unwanted HTTP/1.1\r\n{lines}\r\n")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.handler.release.add_permits(1);
    let answers = client.rest().await;
    assert!(answers.starts_with("HTTP/1.1 200") && answers.ends_with("ok"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
}

#[tokio::test]
async fn nothing_follows_an_unwanted_body_that_is_broken() {
    let server = Server::start(limits());
    let mut client = server.connect().await;
    let mut first = format!("POST /ok HTTP/1.1\r\n{CHUNKED}\r\nno size");
    // As much as is read at once; what is read next would look like the end of the body.
    first.push_str(&"x".repeat(16 * 1024 - first.len()));
    client.send(&format!("{first}0\r\n\r\nGET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let answers = client.rest().await;
    assert!(answers.starts_with("HTTP/1.1 200") && answers.ends_with("ok"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
}

#[tokio::test]
async fn a_caller_may_send_all_of_its_body_before_it_reads() {
    const SIZE: usize = 64 * 1024 * 1024;
    let server = Server::start(limits());
    let mut client = server.connect().await;
    client.send(&format!("POST /both HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    // The response, too, is more than the socket takes.
    soon(client.0.write_all(&vec![b'x'; SIZE])).await.unwrap();
    client.send("GET /ok HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.ends_with("\r\n\r\nok"));
}

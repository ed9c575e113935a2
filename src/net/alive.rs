//! Packets on quiet connections, so that a NAT on the way does not forget them and a dead peer is noticed.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// A connection that was quiet for this long is asked after.
const QUIET: Duration = Duration::from_secs(60);
/// Again after this long, where nothing came back.
const AGAIN: Duration = Duration::from_secs(15);
/// So often in a row; then the peer is gone.
const TIMES: u32 = 4;

/// Sets TCP keep-alive on a TCP socket. It serves without, so a failure is no error.
///
/// There is no `TCP_USER_TIMEOUT`: on Linux it also ends a connection whose peer is alive and only does not read for so
/// long, which is for `idle_timeout` to say.
pub fn keep_alive(socket: impl AsFd) {
    let socket = socket.as_fd();
    let _ = sockopt::set_socket_keepalive(socket, true)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, QUIET))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, AGAIN))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, TIMES));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_what_was_set() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!sockopt::socket_keepalive(&socket).unwrap());
        keep_alive(&socket);
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), QUIET);
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), AGAIN);
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), TIMES);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        keep_alive(&one);
    }
}

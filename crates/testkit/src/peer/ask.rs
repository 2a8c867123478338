//! The client: one question, one answer, and who gave it.

use super::http::Head;
use super::tls;
use crate::Error;
use socket2::{Domain, Socket, Type};
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server that answered.
    pub server: String,
    /// The address under which that server saw us. Not told over UDP.
    pub client: Option<SocketAddr>,
    /// The HTTP status. Over UDP always 200.
    pub status: u16,
    /// Over UDP, the payload as it came back.
    pub body: Vec<u8>,
    /// From before the first packet to the last byte.
    pub took: Duration,
}

/// Asks `http://HOST[:PORT]/PATH`, `https://…` (any certificate is good) or `udp://HOST:PORT[/PAYLOAD]`, from the
/// source address `from` if given. `timeout` is for each wait: to connect, and for each piece of the answer.
///
/// # Errors
/// No answer, with the system's reason; or one that is not of a [`Server`](super::Server).
pub fn ask(from: Option<IpAddr>, url: &str, timeout: Duration) -> Result<Answer, Error> {
    exchange(from, url, None, timeout)
}

/// Posts `body` to an `http://` or `https://` address; otherwise as [`ask`]. Over UDP the body is the payload.
///
/// # Errors
/// As [`ask`].
pub fn send(from: Option<IpAddr>, url: &str, body: &[u8], timeout: Duration) -> Result<Answer, Error> {
    exchange(from, url, Some(body), timeout)
}

/// A TCP connection from the given source address.
pub(super) fn connect(from: Option<IpAddr>, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn exchange(from: Option<IpAddr>, url: &str, body: Option<&[u8]>, timeout: Duration) -> Result<Answer, Error> {
    let started = Instant::now();
    let asked = Url::parse(url).and_then(|url| match url.scheme {
        Scheme::Http => url.ask_http(connect(from, url.to, timeout)?, body),
        Scheme::Https => url.ask_http(tls::connect(connect(from, url.to, timeout)?, url.to.ip())?, body),
        Scheme::Udp => url.ask_udp(from, body, timeout),
    });
    let from = from.map_or(String::new(), |from| format!(" from {from}"));
    // A socket whose time is up says "try again": what the caller wants to know is that there was no answer.
    let asked = asked.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::from(io::ErrorKind::TimedOut),
        _ => error,
    });
    let answer = asked.map_err(|error| Error::new(format!("ask {url}{from}"), error))?;
    Ok(Answer { took: started.elapsed(), ..answer })
}

#[derive(Debug)]
struct Url<'u> {
    scheme: Scheme,
    /// With the port, as it was written.
    authority: &'u str,
    to: SocketAddr,
    /// With its slash.
    path: &'u str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Udp,
}

impl<'u> Url<'u> {
    fn parse(url: &'u str) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| wrong("write http://, https:// or udp:// before it"))?;
        let (scheme, port) = match scheme {
            "http" => (Scheme::Http, Some(80)),
            "https" => (Scheme::Https, Some(443)),
            "udp" => (Scheme::Udp, None),
            _ => return Err(wrong("the schemes are http, https and udp")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // An IPv6 address has colons of its own and therefore brackets.
        let has_port = authority.rfind(':').is_some_and(|at| authority.rfind(']').is_none_or(|bracket| bracket < at));
        let addresses = match (has_port, port) {
            (true, _) => authority.to_socket_addrs(),
            (false, Some(port)) => format!("{authority}:{port}").to_socket_addrs(),
            (false, None) => Err(wrong("a UDP address needs a port")),
        };
        let to = addresses?.next().ok_or_else(|| wrong("the host has no address"))?;
        Ok(Url { scheme, authority, to, path: if path.is_empty() { "/" } else { path } })
    }

    fn ask_http(&self, mut stream: impl Read + Write, body: Option<&[u8]>) -> io::Result<Answer> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.unwrap_or(&[]);
        let (path, authority, length) = (self.path, self.authority, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        stream.flush()?;
        let mut stream = BufReader::new(stream);
        let head = Head::read(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.first.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let mut body = vec![0; usize::try_from(head.length).map_err(io::Error::other)?.min(BODY_MAX)];
        stream.read_exact(&mut body)?;
        Ok(Answer {
            server: head.served_by.ok_or_else(|| io::Error::other("whoever answered does not tell its name"))?,
            client: head.client,
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            body,
            took: Duration::ZERO,
        })
    }

    fn ask_udp(&self, from: Option<IpAddr>, body: Option<&[u8]>, timeout: Duration) -> io::Result<Answer> {
        let any = if self.to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
        socket.connect(self.to)?;
        socket.set_read_timeout(Some(timeout))?;
        let payload = body.unwrap_or(match self.path {
            "/" => b"hello",
            path => &path.as_bytes()[1..],
        });
        socket.send(payload)?;
        let mut buffer = vec![0; 65_536];
        let length = socket.recv(&mut buffer)?;
        buffer.truncate(length);
        let name = buffer.strip_suffix(payload).and_then(|head| head.strip_suffix(b": "));
        let name = name.ok_or_else(|| io::Error::other("the answer is not `name: ` and what was sent"))?;
        Ok(Answer {
            server: String::from_utf8_lossy(name).into_owned(),
            client: None,
            status: 200,
            body: payload.to_vec(),
            took: Duration::ZERO,
        })
    }
}

/// Longer answers are cut.
const BODY_MAX: usize = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_with_and_without_port_and_path() {
        for (url, scheme, to, path) in [
            ("http://192.0.2.10", Scheme::Http, "192.0.2.10:80", "/"),
            ("https://192.0.2.10/a/b?c", Scheme::Https, "192.0.2.10:443", "/a/b?c"),
            ("http://[2001:db8::1]/", Scheme::Http, "[2001:db8::1]:80", "/"),
            ("https://[2001:db8::1]:8443/", Scheme::Https, "[2001:db8::1]:8443", "/"),
            ("udp://192.0.2.10:443/x", Scheme::Udp, "192.0.2.10:443", "/x"),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!((parsed.scheme, parsed.to.to_string().as_str(), parsed.path), (scheme, to, path), "{url}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_reason() {
        for (url, reason) in [
            ("192.0.2.10", "ask 192.0.2.10: write http://, https:// or udp:// before it"),
            ("ftp://192.0.2.10/", "ask ftp://192.0.2.10/: the schemes are http, https and udp"),
            ("udp://192.0.2.10/", "ask udp://192.0.2.10/: a UDP address needs a port"),
        ] {
            assert_eq!(ask(None, url, Duration::from_secs(1)).unwrap_err().to_string(), reason);
        }
    }
}

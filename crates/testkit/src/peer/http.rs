//! HTTP/1.1, as much of it as curl, browsers and health checks need of a test server. No chunked bodies.

use super::server::Shared;
use super::{FNV_OFFSET, checksum_more};
use crate::frame;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Answers requests until the client has no more.
pub(super) fn serve(stream: impl Read + Write, client: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(head) = Head::read(&mut stream)? {
        let keep_alive = head.keep_alive;
        Exchange { stream: &mut stream, head, client, shared }.answer()?;
        if !keep_alive {
            break;
        }
    }
    Ok(())
}

/// The first line and the fields of a request or of an answer.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// `GET /path HTTP/1.1` or `HTTP/1.1 200 OK`
    pub first: String,
    pub length: u64,
    pub served_by: Option<String>,
    pub client: Option<SocketAddr>,
    keep_alive: bool,
    expects_continue: bool,
}

impl Head {
    /// `None` when the other side has closed.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = stream.take(HEAD_MAX);
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let first = line.trim_end().to_owned();
        let mut head = Head { keep_alive: first.ends_with("HTTP/1.1"), first, ..Head::default() };
        loop {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let field = line.trim_end();
            if field.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = field.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse().map_err(|_| io::ErrorKind::InvalidData)?,
                "connection" => head.keep_alive = !value.eq_ignore_ascii_case("close"),
                "expect" => head.expects_continue = value.eq_ignore_ascii_case("100-continue"),
                "transfer-encoding" => return Err(io::ErrorKind::Unsupported.into()),
                "x-served-by" => head.served_by = Some(value.to_owned()),
                "x-client" => head.client = value.parse().ok(),
                _ => {}
            }
        }
    }
}

/// One request that is to be answered.
struct Exchange<'s, S> {
    stream: &'s mut BufReader<S>,
    head: Head,
    client: SocketAddr,
    shared: &'s Shared,
}

impl<S: Read + Write> Exchange<'_, S> {
    fn answer(mut self) -> io::Result<()> {
        let (length, checksum) = self.take_body()?;
        let first = self.head.first.clone();
        let mut words = first.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = target.split('?').next().unwrap_or("");
        let number = |prefix: &str| path.strip_prefix(prefix).and_then(|digits| digits.parse::<u64>().ok());
        let (name, client) = (&self.shared.name, self.client);
        match method {
            "GET" | "HEAD" => {
                if let Some(length) = number("/bytes/").filter(|length| *length <= BYTES_MAX) {
                    self.bytes(length)
                } else if let Some(length) = number("/slow/").filter(|length| *length <= BYTES_MAX) {
                    self.slow(length)
                } else if path == "/healthz" {
                    let status = self.shared.health.load(Ordering::Relaxed);
                    self.text(status, &format!("{name} answers {status}\n"))
                } else {
                    self.text(200, &format!("{name} saw {client}\n"))
                }
            }
            "POST" if path == "/sink" => self.text(200, &format!("{length} {checksum:016x}\n")),
            "POST" => match number("/healthz/").filter(|status| (200..600).contains(status)) {
                Some(status) => {
                    self.shared.health.store(status as u16, Ordering::Relaxed);
                    self.text(200, &format!("{name} will answer {status}\n"))
                }
                None => self.text(404, "POST to /sink or /healthz/N\n"),
            },
            _ => self.text(405, "GET, HEAD or POST\n"),
        }
    }

    fn take_body(&mut self) -> io::Result<(u64, u64)> {
        if self.head.expects_continue {
            self.stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let (mut left, mut checksum) = (self.head.length, FNV_OFFSET);
        while left > 0 {
            let piece = self.stream.fill_buf()?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            checksum = checksum_more(checksum, &piece[..taken]);
            self.stream.consume(taken);
            left -= taken as u64;
        }
        Ok((self.head.length, checksum))
    }

    fn text(&mut self, status: u16, text: &str) -> io::Result<()> {
        self.start(status, text.len() as u64)?;
        self.body(text.as_bytes())
    }

    fn bytes(&mut self, length: u64) -> io::Result<()> {
        self.start(200, length)?;
        // Whole periods, so that the pieces join without a seam.
        let piece = frame::pattern(251 * 256);
        let mut left = length;
        while left > 0 {
            let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.body(&piece[..now])?;
            left -= now as u64;
        }
        Ok(())
    }

    fn slow(&mut self, length: u64) -> io::Result<()> {
        self.start(200, length)?;
        let line = length.div_ceil(SLOW_LINES).max(1);
        let mut left = length;
        while left > 0 {
            let now = line.min(left);
            let mut text = vec![b'.'; now as usize - 1];
            text.push(b'\n');
            self.body(&text)?;
            left -= now;
            thread::sleep(SLOW_EACH);
        }
        Ok(())
    }

    fn start(&mut self, status: u16, length: u64) -> io::Result<()> {
        let reason = match status {
            200 => "OK",
            404 => "Not Found",
            405 => "Method Not Allowed",
            503 => "Service Unavailable",
            _ => "As Told",
        };
        let (name, client) = (&self.shared.name, self.client);
        let connection = if self.head.keep_alive { "keep-alive" } else { "close" };
        // In one write, and so in one segment.
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
             Connection: {connection}\r\nX-Served-By: {name}\r\nX-Client: {client}\r\n\r\n"
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.stream.get_mut().flush()
    }

    fn body(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.head.first.starts_with("HEAD ") {
            return Ok(());
        }
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }
}

const HEAD_MAX: u64 = 16 * 1024;
const BYTES_MAX: u64 = 1 << 40;
const SLOW_LINES: u64 = 30;
const SLOW_EACH: Duration = Duration::from_millis(100);

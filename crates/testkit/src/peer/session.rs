//! A connection that stays open: the way to show that one survives a change.

use super::ask::connect;
use super::server::Shared;
use crate::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// A TCP connection to an echo port.
#[derive(Debug)]
pub struct Session {
    to: SocketAddr,
    local: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Session {
    /// Connects, from the source address `from` if given. `timeout` is for this and for each later answer.
    ///
    /// # Errors
    /// No connection.
    pub fn open(from: Option<IpAddr>, to: SocketAddr, timeout: Duration) -> Result<Self, Error> {
        let opened = connect(from, to, timeout).and_then(|stream| Ok((stream.local_addr()?, stream)));
        let (local, stream) = opened.map_err(|error| Error::new(format!("connect to {to}"), error))?;
        Ok(Session { to, local, stream: BufReader::new(stream) })
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Says a line, and returns the name of the server that repeated it.
    ///
    /// # Errors
    /// The connection is dead, or the answer is another's.
    pub fn say(&mut self, line: &str) -> Result<String, Error> {
        let doing = || format!("say `{line}` to {} on an open connection", self.to);
        let heard = Self::exchange(&mut self.stream, line).map_err(|error| {
            let timed_out = error.kind() == io::ErrorKind::WouldBlock;
            Error::new(doing(), if timed_out { io::ErrorKind::TimedOut.into() } else { error })
        })?;
        match heard.trim_end_matches('\n').split_once(": ") {
            Some((name, echo)) if echo == line => Ok(name.to_owned()),
            _ => Err(Error::new(doing(), io::Error::other(format!("heard `{}`", heard.trim_end())))),
        }
    }

    fn exchange(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<String> {
        stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut heard = String::new();
        match stream.read_line(&mut heard)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(heard),
        }
    }
}

/// The other end.
pub(super) fn serve(stream: TcpStream, _client: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut stream).take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let answer = [shared.name.as_bytes(), b": ", &line].concat();
        stream.get_mut().write_all(&answer)?;
    }
}

const LINE_MAX: u64 = 64 * 1024;

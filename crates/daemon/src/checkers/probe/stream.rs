//! Connections, and conversations over them.

use super::{Fault, fault, passage};
use marca_proto::health::talk::{Step, Talk};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// A connection, by whichever way.
pub(super) enum Connection {
    /// The kernel's.
    Socket(TcpStream),
    /// The check's own, on the way of clients' packets.
    Passage(Box<passage::stream::Stream>),
}

/// What a socket of the kernel's is tied to; nothing of it, usually.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    pub own: Option<IpAddr>,
    pub interface: Option<NonZeroU32>,
}

impl Bound {
    /// # Errors
    /// As `bind(2)` and `setsockopt(2)`.
    pub fn bind(self, socket: &socket2::SockRef<'_>, is_v4: bool) -> io::Result<()> {
        if self.interface.is_some() {
            if is_v4 {
                socket.bind_device_by_index_v4(self.interface)?;
            } else {
                socket.bind_device_by_index_v6(self.interface)?;
            }
        }
        match self.own {
            Some(own) => socket.bind(&SocketAddr::new(own, 0).into()),
            None => Ok(()),
        }
    }
}

pub(super) async fn connect(peer: SocketAddr, bound: Bound) -> Result<TcpStream, Fault> {
    let ours = |error: std::io::Error| Fault::Ours(format!("make a socket: {}", super::plain(&error)));
    let socket = if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(ours)?;
    bound.bind(&socket2::SockRef::from(&socket), peer.is_ipv4()).map_err(ours)?;
    // Thousands of checks a second are not to leave as many ports waiting for a minute: they end by a reset.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).map_err(ours)?;
    let stream = socket.connect(peer).await.map_err(|error| fault("connect", &error))?;
    Ok(stream)
}

/// Speaks until the answer is known.
pub(super) async fn converse<S>(
    stream: &mut S,
    talk: &mut impl Talk,
    deadline: Instant,
    timeout: Duration,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut has_come = false;
    match tokio::time::timeout_at(deadline, turns(stream, talk, &mut has_come)).await {
        Ok(done) => done,
        Err(_) if !has_come => Err(super::too_late(timeout)),
        Err(_) => match talk.end() {
            Step::Bad(why) => Err(Fault::Theirs(format!("{why} within {timeout:?}"))),
            Step::Good => Ok(()),
            Step::More | Step::Send(_) => Err(super::too_late(timeout)),
        },
    }
}

async fn turns<S>(stream: &mut S, talk: &mut impl Talk, has_come: &mut bool) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut step = talk.open();
    let mut buffer = [0; 1024];
    loop {
        step = match step {
            Step::Good => return Ok(()),
            Step::Bad(why) => return Err(Fault::Theirs(why)),
            Step::Send(bytes) => {
                stream.write_all(&bytes).await.map_err(|error| fault("send", &error))?;
                stream.flush().await.map_err(|error| fault("send", &error))?;
                Step::More
            }
            Step::More => match stream.read(&mut buffer).await.map_err(|error| fault("receive", &error))? {
                0 => talk.end(),
                len => {
                    *has_come = true;
                    talk.receive(buffer.get(..len).unwrap_or_default())
                }
            },
        };
    }
}

/// Polite, and not waited for: the kernel sends it, and the end of the connection behind it.
pub(super) fn say_farewell(connection: Connection, farewell: &[u8]) {
    match connection {
        Connection::Socket(stream) if socket2::SockRef::from(&stream).set_linger(None).is_ok() => {
            // A full socket or a peer that is gone: then without.
            let _ = stream.try_write(farewell);
        }
        Connection::Socket(_) => {}
        Connection::Passage(mut stream) => stream.say_farewell(farewell),
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Socket(stream) => Pin::new(stream).poll_read(context, buffer),
            Connection::Passage(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Socket(stream) => Pin::new(stream).poll_write(context, bytes),
            Connection::Passage(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Socket(stream) => Pin::new(stream).poll_flush(context),
            Connection::Passage(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Socket(stream) => Pin::new(stream).poll_shutdown(context),
            Connection::Passage(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

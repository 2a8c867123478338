//! Connections, and conversations over them.

use super::{Fault, fault};
use marca_proto::health::talk::{Step, Talk};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

pub(super) async fn connect(peer: SocketAddr) -> Result<TcpStream, Fault> {
    let ours = |error: std::io::Error| Fault::Ours(format!("make a socket: {}", super::plain(&error)));
    let socket = if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(ours)?;
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
pub(super) fn say_farewell(stream: TcpStream, farewell: &[u8]) {
    if socket2::SockRef::from(&stream).set_linger(None).is_ok() {
        // A full socket or a peer that is gone: then without.
        let _ = stream.try_write(farewell);
    }
}

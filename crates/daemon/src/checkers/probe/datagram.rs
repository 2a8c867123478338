//! UDP, DNS and ping.

use super::{Fault, fault, plain};
use marca_proto::health::talk::dns::Query;
use marca_proto::health::talk::echo::Echo;
use marca_proto::health::talk::exchange::Expect;
use socket2::{Domain, Protocol, Socket, Type};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// A datagram there. Without anything to expect, good is whatever is not refused: many services answer nothing to what
/// they do not know.
pub(super) async fn exchange(
    peer: SocketAddr,
    send: &[u8],
    expect: Option<&Expect>,
    deadline: Instant,
    timeout: Duration,
) -> Result<(), Fault> {
    let socket = connected(peer).await?;
    socket.send(send).await.map_err(|error| fault("send", &error))?;
    let mut buffer = [0; MOST_BYTES];
    let mut wrong = None;
    loop {
        match tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
            Ok(Ok(len)) => {
                let answer = buffer.get(..len).unwrap_or_default();
                match expect {
                    Some(expect) if !expect.is_in(answer) => wrong = Some(expect.missing_in(answer)),
                    _ => return Ok(()),
                }
            }
            Ok(Err(error)) => return Err(fault("receive", &error)),
            Err(_) => {
                return match (expect, wrong) {
                    (None, _) => Ok(()),
                    (Some(_), Some(why)) => Err(Fault::Theirs(why)),
                    (Some(_), None) => Err(super::too_late(timeout)),
                };
            }
        }
    }
}

pub(super) async fn query(peer: SocketAddr, query: &Query) -> Result<(), Fault> {
    let socket = connected(peer).await?;
    let id = random();
    socket.send(&query.bytes(id)).await.map_err(|error| fault("send", &error))?;
    let mut buffer = [0; MOST_BYTES];
    loop {
        let len = socket.recv(&mut buffer).await.map_err(|error| fault("receive", &error))?;
        if let Some(judged) = query.judge(id, buffer.get(..len).unwrap_or_default()) {
            return judged.map_err(Fault::Theirs);
        }
    }
}

/// A raw socket that is connected hears from this host only; an unprivileged one would need a sysctl.
pub(super) async fn ping(address: IpAddr) -> Result<(), Fault> {
    let ours = |error: io::Error| Fault::Ours(format!("ping: {}", plain(&error)));
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)).map_err(ours)?;
    socket.connect(&SocketAddr::new(address, 0).into()).map_err(|error| fault("ping", &error))?;
    let echo = Echo { is_v6: address.is_ipv6(), identifier: random(), sequence: random() };
    // To whoever sends and receives, one connected socket of datagrams is as good as another.
    let socket = UdpSocket::from_std(socket.into()).map_err(ours)?;
    socket.send(&echo.request()).await.map_err(|error| fault("ping", &error))?;
    let mut buffer = [0; MOST_BYTES];
    loop {
        let len = socket.recv(&mut buffer).await.map_err(|error| fault("ping", &error))?;
        if echo.is_answered_by(buffer.get(..len).unwrap_or_default()) {
            return Ok(());
        }
    }
}

async fn connected(peer: SocketAddr) -> Result<UdpSocket, Fault> {
    let own: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0)).await;
    let socket = socket.map_err(|error| Fault::Ours(format!("make a socket: {}", plain(&error))))?;
    socket.connect(peer).await.map_err(|error| fault("connect", &error))?;
    Ok(socket)
}

/// Nobody else's, as far as it matters.
fn random() -> u16 {
    RandomState::new().hash_one(0) as u16
}

/// Of a datagram that is looked at.
const MOST_BYTES: usize = 2048;

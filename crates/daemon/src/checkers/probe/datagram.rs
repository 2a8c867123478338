//! UDP, DNS and ping.

use super::passage::Datagrams;
use super::stream::Bound;
use super::{Fault, fault, plain};
use marca_proto::health::talk::dns::Query;
use marca_proto::health::talk::echo::Echo;
use marca_proto::health::talk::exchange::Expect;
use socket2::{Domain, Protocol, Socket, Type};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;

/// Where datagrams go, by whichever way.
pub(super) enum Peer {
    Socket(UdpSocket),
    Passage(Datagrams),
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Peer::Socket(socket) => socket.send(bytes).await.map(drop),
            Peer::Passage(datagrams) => datagrams.send(bytes).await,
        }
        .map_err(|error| fault("send", &error))
    }

    /// What comes as an answer.
    async fn receive(&mut self) -> Result<Vec<u8>, Fault> {
        match self {
            Peer::Socket(socket) => {
                let mut buffer = [0; MOST_BYTES];
                let len = socket.recv(&mut buffer).await.map_err(|error| fault("receive", &error))?;
                Ok(buffer.get(..len).unwrap_or_default().to_vec())
            }
            Peer::Passage(datagrams) => datagrams.receive().await,
        }
    }

    /// Nothing has come.
    fn silent(&self, timeout: Duration) -> Fault {
        match self {
            Peer::Socket(_) => super::too_late(timeout),
            Peer::Passage(datagrams) => datagrams.silent(timeout),
        }
    }
}

/// A datagram there. Without anything to expect, good is whatever is not refused: many services answer nothing to what
/// they do not know.
pub(super) async fn exchange(
    peer: &mut Peer,
    send: &[u8],
    expect: Option<&Expect>,
    deadline: Instant,
    timeout: Duration,
) -> Result<(), Fault> {
    match tokio::time::timeout_at(deadline, peer.send(send)).await {
        Ok(sent) => sent?,
        Err(_) => return Err(peer.silent(timeout)),
    }
    let mut wrong = None;
    loop {
        match tokio::time::timeout_at(deadline, peer.receive()).await {
            Ok(Ok(answer)) => match expect {
                Some(expect) if !expect.is_in(&answer) => wrong = Some(expect.missing_in(&answer)),
                _ => return Ok(()),
            },
            Ok(Err(fault)) => return Err(fault),
            Err(_) => {
                return match (expect, wrong) {
                    (None, _) => Ok(()),
                    (Some(_), Some(why)) => Err(Fault::Theirs(why)),
                    (Some(_), None) => Err(peer.silent(timeout)),
                };
            }
        }
    }
}

pub(super) async fn query(peer: &mut Peer, query: &Query, deadline: Instant, timeout: Duration) -> Result<(), Fault> {
    let asked = async {
        let id = random();
        peer.send(&query.bytes(id)).await?;
        loop {
            if let Some(judged) = query.judge(id, &peer.receive().await?) {
                return judged.map_err(Fault::Theirs);
            }
        }
    };
    match tokio::time::timeout_at(deadline, asked).await {
        Ok(judged) => judged,
        Err(_) => Err(peer.silent(timeout)),
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

/// A socket of the kernel's for this peer.
pub(super) async fn connected(peer: SocketAddr, bound: Bound) -> Result<UdpSocket, Fault> {
    let ours = |error: io::Error| Fault::Ours(format!("make a socket: {}", plain(&error)));
    let domain = if peer.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP)).map_err(ours)?;
    bound.bind(&socket2::SockRef::from(&socket), peer.is_ipv4()).map_err(ours)?;
    let socket = UdpSocket::from_std(socket.into()).map_err(ours)?;
    socket.connect(peer).await.map_err(|error| fault("connect", &error))?;
    Ok(socket)
}

/// Nobody else's, as far as it matters.
fn random() -> u16 {
    RandomState::new().hash_one(0) as u16
}

/// Of a datagram that is looked at.
const MOST_BYTES: usize = 2048;

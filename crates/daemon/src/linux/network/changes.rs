//! What changes in the network of a namespace, as it happens. Says what to look at again, not what it is now.

use super::{NetworkError, decode};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::collections::VecDeque;
use std::net::IpAddr;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A neighbour was found, moved, or was lost. `mac` is `None` when packets can no longer be sent to it.
    Neighbour { interface: u32, address: IpAddr, mac: Option<[u8; 6]> },
    /// An interface came, went or changed. Both are `false` when it went. They mean what they mean in
    /// [`Interface`](super::Interface).
    Link { interface: u32, up: bool, carrier: bool },
    /// A route or a routing rule came, went or changed.
    Route,
    /// An address of the host's went, or came without saying which.
    Address,
    /// The host has this address, or a way to exactly this one.
    Came { address: IpAddr },
    /// Changes were lost, because they came faster than they were read: look at everything again.
    Missed,
}

/// The changes of one namespace: the one in which [`open`](Self::open) was called. What nobody reads waits in the
/// kernel, whose buffer is the limit (`net.core.rmem_default`); beyond it changes become one [`Change::Missed`].
pub struct Changes {
    socket: TokioSocket,
    /// Of the last datagram.
    waiting: VecDeque<Change>,
}

impl Changes {
    /// Listens in the network namespace of the calling thread. Open before reading what the state is, so that no
    /// change falls between.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn open() -> Result<Self, NetworkError> {
        let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
        let listen = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        };
        Ok(Self { socket: listen().map_err(NetworkError::Open)?, waiting: VecDeque::new() })
    }

    /// The next change. Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Result<Change, NetworkError> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Ok(change);
            }
            match self.socket.recv_from_full().await {
                // Port 0 is the kernel. Other processes may send to the groups too.
                Ok((datagram, source)) if source.port_number() == 0 => self.waiting.extend(changes(&datagram)),
                Ok(_) => {}
                // netlink(7): the kernel dropped messages that did not fit. What it queued before is still there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Change::Missed),
                Err(cause) => {
                    return Err(NetworkError::Request { doing: "listen for changes of the network".to_owned(), cause });
                }
            }
        }
    }
}

/// The changes in one datagram, which may hold several messages.
fn changes(mut datagram: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some((message, rest)) = split_message(datagram) {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => changes.extend(change(&message.payload)),
            // It was a change, so somebody had better look.
            Err(error) => {
                tracing::debug!("a netlink message cannot be decoded: {error}");
                changes.push(Change::Missed);
            }
        }
        datagram = rest;
    }
    changes
}

/// Cuts the first message off: its first four bytes are its length, and the next begins at a multiple of four
/// (`NLMSG_ALIGN`). `None` at the end and at nonsense.
fn split_message(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    let message = datagram.get(..length).filter(|message| message.len() >= NLMSG_HDRLEN)?;
    Some((message, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelNeighbour, DelRoute, DelRule, NewAddress, NewLink, NewNeighbour, NewRoute, NewRule,
    };
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    match message {
        NewNeighbour(entry) => Some(Change::Neighbour {
            interface: entry.header.ifindex,
            address: decode::neighbour_address(entry)?,
            mac: decode::neighbour_mac(entry),
        }),
        DelNeighbour(entry) => Some(Change::Neighbour {
            interface: entry.header.ifindex,
            address: decode::neighbour_address(entry)?,
            mac: None,
        }),
        NewLink(link) if is_about_the_link(link) => {
            let (up, carrier) = decode::link_state(link);
            Some(Change::Link { interface: link.header.index, up, carrier })
        }
        DelLink(link) if is_about_the_link(link) => {
            Some(Change::Link { interface: link.header.index, up: false, carrier: false })
        }
        NewRoute(route) => Some(decode::only_destination(route).map_or(Change::Route, came)),
        DelRoute(_) | NewRule(_) | DelRule(_) => Some(Change::Route),
        NewAddress(address) => Some(decode::address(address).map_or(Change::Address, |(_, net)| came(net.addr()))),
        DelAddress(_) => Some(Change::Address),
        _ => None,
    }
}

fn came(address: IpAddr) -> Change {
    Change::Came { address }
}

/// A bridge reports with the same messages, but its own family, what its ports do: a port that leaves the bridge is
/// an RTM_DELLINK of an interface that lives on (net/bridge/br_netlink.c, `br_ifinfo_notify`).
fn is_about_the_link(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

/// `include/uapi/linux/netlink.h`.
const NLMSG_HDRLEN: usize = 16;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// RTM_NEWADDR of 127.0.0.1/8 on interface 1, without attributes but IFA_LOCAL.
    const NEW_ADDRESS: [u8; 32] = {
        let mut bytes = [0; 32];
        bytes[0] = 32;
        bytes[4] = 20;
        bytes[16] = 2;
        bytes[17] = 8;
        bytes[20] = 1;
        bytes[24] = 8;
        bytes[26] = 2;
        bytes[28] = 127;
        bytes[31] = 1;
        bytes
    };

    const LOOPBACK: Change = Change::Came { address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) };

    #[test]
    #[cfg(target_endian = "little")]
    fn a_datagram_of_two_messages_is_two_changes() {
        assert_eq!(changes(&[NEW_ADDRESS, NEW_ADDRESS].concat()), [LOOPBACK, LOOPBACK]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn every_truncation_ends_without_a_panic_or_an_endless_loop() {
        for length in 0..NEW_ADDRESS.len() {
            assert_eq!(changes(&NEW_ADDRESS[..length]), [], "{length} bytes");
        }
        for claimed in 0..16 {
            let mut bytes = NEW_ADDRESS;
            bytes[0] = claimed;
            assert_eq!(changes(&bytes), [], "a length of {claimed}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_message_that_cannot_be_decoded_counts_as_missed() {
        let mut bytes = NEW_ADDRESS;
        bytes[24] = 200;
        assert_eq!(changes(&bytes), [Change::Missed]);
    }
}

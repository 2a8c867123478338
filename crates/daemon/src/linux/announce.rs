//! Sends whole Ethernet frames on one interface. Owns the packet socket; what is in the frames and when they are due
//! is `marca_proto::announce`.

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use std::io;

/// A socket that sends on one interface and receives nothing.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    interface: String,
}

impl PacketSocket {
    /// Opens a packet socket on the interface with this index, in the network namespace of the calling thread. Needs
    /// `CAP_NET_RAW`.
    pub fn open(ifindex: u32) -> Result<Self, PacketError> {
        // For the messages only; the socket works by index. nix 0.31 gives an empty name instead of an error.
        let interface = nix::net::if_::if_indextoname(ifindex)
            .ok()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("interface {ifindex}"));
        // packet(7): "If proto is set to zero, no packets are received". Non-blocking, because a full queue must not
        // stop an async thread: a lost announcement is repeated soon.
        match Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)
            .and_then(|socket| socket.bind(&link_address(ifindex, 0)?).map(|()| socket))
        {
            Ok(socket) => Ok(Self { socket, interface }),
            Err(cause) => Err(PacketError::Open { interface, cause }),
        }
    }

    /// Sends one Ethernet frame, from its destination address on and without checksum. Returns when the kernel has
    /// queued it. A full queue is an error (`WouldBlock` or `ENOBUFS`).
    pub fn send(&self, frame: &[u8]) -> Result<(), PacketError> {
        // A packet socket sends all of a frame or fails: net/packet/af_packet.c, `packet_snd`.
        self.socket.send(frame).map(drop).map_err(|cause| PacketError::Send {
            length: frame.len(),
            interface: self.interface.clone(),
            cause,
        })
    }
}

/// What could not be done with a packet socket.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    #[error("open a packet socket on {interface}: {cause}")]
    Open { interface: String, cause: io::Error },
    #[error("send a frame of {length} bytes on {interface}: {cause}")]
    Send { length: usize, interface: String, cause: io::Error },
}

/// Of an interface; 0: of any. `protocol` is an EtherType, 0: none.
pub(super) fn link_address(ifindex: u32, protocol: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let family = libc::AF_PACKET as libc::sa_family_t;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the platform's `sockaddr_*` types and no larger than the storage, which is
    // zeroed, a valid value of every field; `length` is its size, and its family says that it is one.
    let address = unsafe {
        let link: &mut libc::sockaddr_ll = storage.view_as();
        link.sll_family = family;
        link.sll_ifindex = index;
        link.sll_protocol = protocol.to_be();
        SockAddr::new(storage, length)
    };
    Ok(address)
}

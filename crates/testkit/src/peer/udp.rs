//! The UDP echo.

use super::server::Shared;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Until the server is stopped.
pub(super) fn serve(socket: &UdpSocket, shared: &Shared) -> io::Result<()> {
    // The answer must come from the address that was asked. A socket that is bound to all addresses would take the
    // outgoing interface's, and never a VIP that is on `lo`.
    if socket.local_addr()?.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    socket.set_read_timeout(Some(STOP_WITHIN))?;
    let mut answer = format!("{}: ", shared.name).into_bytes();
    let head = answer.len();
    let mut payload = vec![0; PAYLOAD_MAX];
    while !shared.is_stopped() {
        let Ok((length, client, asked)) = receive(socket, &mut payload) else { continue };
        answer.truncate(head);
        answer.extend(&payload[..length]);
        let control = asked.as_ref().map(Asked::as_control);
        // The client may be gone, or the way to it: the next one is not to suffer for that.
        let _ =
            sendmsg(socket.as_raw_fd(), &[IoSlice::new(&answer)], control.as_slice(), MsgFlags::empty(), Some(&client));
    }
    Ok(())
}

/// Our address that a datagram was sent to.
enum Asked {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Asked {
    fn as_control(&self) -> ControlMessage<'_> {
        match self {
            Asked::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Asked::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        }
    }
}

fn receive(socket: &UdpSocket, payload: &mut [u8]) -> Result<(usize, SockaddrStorage, Option<Asked>), Errno> {
    let mut space = cmsg_space!(in6_pktinfo);
    let mut pieces = [IoSliceMut::new(payload)];
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty())?;
    let asked = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            // No interface: the answer goes where the routes say, not back through a tunnel that it came by.
            Some(Asked::V4(in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ipi_addr: in_addr { s_addr: 0 } }))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let link_local = Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local();
            let ipi6_ifindex = if link_local { info.ipi6_ifindex } else { 0 };
            Some(Asked::V6(in6_pktinfo { ipi6_ifindex, ..info }))
        }
        _ => None,
    });
    let client = received.address.ok_or(Errno::EDESTADDRREQ)?;
    Ok((received.bytes, client, asked))
}

const STOP_WITHIN: Duration = Duration::from_millis(100);
const PAYLOAD_MAX: usize = 65_536;

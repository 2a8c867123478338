//! Packets of the director's own, past the kernel's TCP/IP: sends whole frames on any interface, and hears what comes
//! back as the kernel gets it, before it looks at addresses. What is in them is the caller's.

use super::announce::link_address;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use tokio::net::UdpSocket;

/// Sends frames.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
}

impl Sender {
    /// In the network namespace of the calling thread. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open() -> io::Result<Self> {
        // packet(7): "If proto is set to zero, no packets are received".
        Ok(Self { socket: Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)? })
    }

    /// Sends an Ethernet frame, from its destination address on, on the interface with this index.
    ///
    /// # Errors
    /// As `send(2)`: the queue is full, the interface is gone or down.
    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // A packet socket sends all of a frame or fails: net/packet/af_packet.c, `packet_snd`.
        self.socket.send_to(frame, &link_address(interface, 0)?).map(drop)
    }
}

/// Hears IP packets of one family, whatever interface they come in on, from the IP header on. What XDP or TC has forwarded
/// is not among them.
#[derive(Debug)]
pub struct Listener {
    /// To whoever receives, one socket of datagrams is as good as another.
    socket: UdpSocket,
    is_v4: bool,
    ports: RangeInclusive<u16>,
}

impl Listener {
    /// Hears nothing yet. In the network namespace of the calling thread. Needs `CAP_NET_RAW`, and a tokio runtime.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open(is_v4: bool, ports: RangeInclusive<u16>) -> io::Result<Self> {
        // Without a protocol, so that nothing comes before there is a filter.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), None)?;
        socket.attach_filter(&filter(is_v4, &[], &ports))?;
        // As much as the host allows: answers to thousands of checks may come at once.
        socket.set_recv_buffer_size(RECEIVE_BYTES)?;
        let protocol = if is_v4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
        socket.bind(&link_address(0, protocol as u16)?)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, is_v4, ports })
    }

    /// Hears TCP and UDP to the ports of these addresses, and ICMP to them; of more than [`MOST_ADDRESSES`] of any.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub fn listen_to(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let own: Vec<u32> = addresses.iter().filter(|a| a.is_ipv4() == self.is_v4).map(|a| last_word(*a)).collect();
        SockRef::from(&self.socket).attach_filter(&filter(self.is_v4, &own, &self.ports))
    }

    /// The next packet; answers its length. One that is longer than the buffer is cut.
    ///
    /// # Errors
    /// As `recv(2)`.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(buffer).await
    }
}

/// The host's addresses, each with the name of its interface; none if the kernel does not say.
pub fn addresses() -> Vec<(String, IpAddr)> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|address| address.ip().into()))?;
        Some((interface.interface_name, address))
    };
    all.filter_map(address).collect()
}

/// As far as addresses are compared. The last words of two IPv6 addresses may be alike: whoever hears looks again.
fn last_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() as u32,
    }
}

/// A classic BPF program over a packet from its IP header on; a load beyond its end refuses it. Later fragments and extension
/// headers are not let through.
fn filter(is_v4: bool, own: &[u32], ports: &RangeInclusive<u16>) -> Vec<SockFilter> {
    program(is_v4, own, ports)
        .into_iter()
        .map(|[code, jt, jf, k]| SockFilter::new(code as u16, jt as u8, jf as u8, k))
        .collect()
}

fn program(is_v4: bool, own: &[u32], ports: &RangeInclusive<u16>) -> Vec<[u32; 4]> {
    let own = if own.len() > MOST_ADDRESSES {
        &[][..]
    } else if own.is_empty() {
        return vec![REFUSE];
    } else {
        own
    };
    let mut program = Vec::new();
    if !own.is_empty() {
        program.push([LOAD_WORD, 0, 0, if is_v4 { 16 } else { 36 }]);
        // Over the others, and over the refusal.
        program.extend(own.iter().zip((1..=own.len() as u32).rev()).map(|(own, left)| [IF_EQUAL, left, 0, *own]));
        program.push(REFUSE);
    }
    let icmp = if is_v4 { u32::from(ICMP) } else { u32::from(ICMP_V6) };
    if is_v4 {
        program.extend([[LOAD_HALF, 0, 0, 6], [IF_ANY_BIT, 7, 0, 0x1fff]]);
        program.extend([[LOAD_LENGTH, 0, 0, 0], [LOAD_BYTE, 0, 0, 9]]);
    } else {
        program.push([LOAD_BYTE, 0, 0, 6]);
    }
    program.extend([[IF_EQUAL, 5, 0, icmp], [IF_EQUAL, 1, 0, u32::from(TCP)], [IF_EQUAL, 0, 2, u32::from(UDP)]]);
    program.push(if is_v4 { [LOAD_HALF_BEHIND, 0, 0, 2] } else { [LOAD_HALF, 0, 0, 42] });
    // The last one is at most the highest port there is.
    program.extend([[IF_AT_LEAST, 1, 0, u32::from(*ports.start())], REFUSE, [TAKE, 0, 0, WHOLE]]);
    program
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

// `linux/bpf_common.h`, `linux/filter.h`.
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
/// Of the IPv4 header, which begins here.
const LOAD_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const LOAD_HALF_BEHIND: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const TAKE: u32 = libc::BPF_RET | libc::BPF_K;
const REFUSE: [u32; 4] = [TAKE, 0, 0, 0];
const WHOLE: u32 = 0x4_0000;

/// Beyond, a packet costs more than it would to hear it: each is a comparison.
pub const MOST_ADDRESSES: usize = 32;
const RECEIVE_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use std::os::unix::net::UnixDatagram;

    const PORTS: RangeInclusive<u16> = 61_000..=65_535;

    /// What of these packets the kernel lets through.
    fn let_through(is_v4: bool, own: &[IpAddr], packets: &[Vec<u8>]) -> Vec<usize> {
        let (from, to) = UnixDatagram::pair().unwrap();
        let own: Vec<u32> = own.iter().map(|address| last_word(*address)).collect();
        // A Unix datagram is filtered from its first byte on.
        SockRef::from(&to).attach_filter(&filter(is_v4, &own, &PORTS)).unwrap();
        to.set_nonblocking(true).unwrap();
        let through = packets.iter().enumerate().filter(|(_, packet)| {
            let _ = from.send(packet);
            to.recv(&mut [0; 2048]).is_ok()
        });
        through.map(|(place, _)| place).collect()
    }

    fn written(builder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = Vec::new();
        builder(&mut packet);
        packet
    }

    #[test]
    fn what_comes_to_the_ports_of_own_addresses_is_heard_and_nothing_else() {
        let own: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let ip = |to: [u8; 4]| PacketBuilder::ipv4([192, 0, 2, 10], to, 64);
        let tcp = |to, port| written(|p| ip(to).tcp(80, port, 1, 1).syn().write(p, &[]).unwrap());
        let udp = |to, port| written(|p| ip(to).udp(53, port).write(p, &[]).unwrap());
        let icmp = |to| written(|p| ip(to).icmpv4_echo_request(1, 1).write(p, &[]).unwrap());
        let (mine, other, foreign) = ([10, 0, 0, 1], [192, 0, 2, 1], [198, 51, 100, 7]);
        let mut fragment = tcp(mine, 61_000);
        fragment[7] = 1;
        let mut options = tcp(mine, 61_000);
        options[0] = 0x46;
        options.splice(20..20, [1, 1, 1, 1]);
        let packets = [
            tcp(mine, 61_000),
            tcp(other, 65_535),
            udp(mine, 61_000),
            icmp(mine),
            options,
            tcp(mine, 60_999),
            tcp(foreign, 61_000),
            udp(mine, 53),
            icmp(foreign),
            fragment,
            tcp(mine, 61_000)[..21].to_vec(),
        ];
        assert_eq!(let_through(true, &own, &packets), [0, 1, 2, 3, 4]);
        assert_eq!(let_through(true, &[], &packets), [0; 0], "nobody asks");
        let many: Vec<IpAddr> = (0..40).map(|n| [10, 9, 0, n].into()).collect();
        assert_eq!(let_through(true, &many, &packets), [0, 1, 2, 3, 4, 6, 8]);
    }

    #[test]
    fn so_it_is_in_ipv6() {
        let own: IpAddr = "fd00::1".parse().unwrap();
        let IpAddr::V6(mine) = own else { unreachable!() };
        let ip = |to: [u8; 16]| PacketBuilder::ipv6([1; 16], to, 64);
        let tcp = |to, port| written(|p| ip(to).tcp(80, port, 1, 1).syn().write(p, &[]).unwrap());
        let udp = |port| written(|p| ip(mine.octets()).udp(53, port).write(p, &[]).unwrap());
        let icmp = written(|p| ip(mine.octets()).icmpv6_echo_request(1, 1).write(p, &[]).unwrap());
        let packets = [tcp(mine.octets(), 61_000), udp(61_000), icmp, tcp([9; 16], 61_000), udp(60_999)];
        assert_eq!(let_through(false, &[own], &packets), [0, 1, 2]);
    }
}

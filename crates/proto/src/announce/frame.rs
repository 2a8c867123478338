//! The two Ethernet frames that announce a VIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address, as on the wire.
pub type Mac = [u8; 6];

/// The Ethernet frame, without checksum, that tells every neighbour that `vip` is at `mac`: a gratuitous ARP request
/// (42 bytes; whoever sends it pads it) or an unsolicited neighbour advertisement (86 bytes).
pub fn announcement(mac: Mac, vip: IpAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => gratuitous_arp(mac, vip),
        IpAddr::V6(vip) => unsolicited_neighbour_advertisement(mac, vip),
    }
}

/// RFC 826, in the form that RFC 5227 §3 prefers for announcements: a request, because some stacks take nothing from
/// replies that they did not ask for.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-------------------------------+-------------------------------+
/// |       hardware type (1)       |     protocol type (0x0800)    |
/// +---------------+---------------+-------------------------------+
/// | hw length (6) |proto length 4 |          request (1)          |
/// +---------------+---------------+-------------------------------+
/// |                          sender MAC                           |
/// +                               +-------------------------------+
/// |                               |              VIP              |
/// +-------------------------------+-------------------------------+
/// |              VIP              |        target MAC (0)         |
/// +-------------------------------+                               +
/// |                                                               |
/// +---------------------------------------------------------------+
/// |                              VIP                              |
/// +---------------------------------------------------------------+
/// ```
fn gratuitous_arp(mac: Mac, vip: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend([0, 1]);
    frame.extend(ETHERTYPE_IPV4);
    frame.extend([6, 4, 0, ARP_REQUEST]);
    frame.extend(mac);
    frame.extend(vip.octets());
    // RFC 5227 §1.1: the target hardware address "is ignored and SHOULD be set to all zeroes".
    frame.extend([0; 6]);
    // RFC 5227 §2.3: "the sender and target IP addresses are both set to the host's newly selected IPv4 address".
    frame.extend(vip.octets());
    frame
}

/// RFC 4861 §4.4 and §7.2.6.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +---------------+---------------+-------------------------------+
/// |  type (136)   |   code (0)    |           checksum            |
/// +-+-+-+---------+---------------+-------------------------------+
/// |R|S|O|                        reserved                         |
/// +-+-+-+---------------------------------------------------------+
/// |                        VIP (16 bytes)                         |
/// +---------------+---------------+-------------------------------+
/// | option (2)    | length (1)    |                               |
/// +---------------+---------------+             MAC               +
/// |                                                               |
/// +---------------------------------------------------------------+
/// ```
fn unsolicited_neighbour_advertisement(mac: Mac, vip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
    message.extend([FLAG_ROUTER | FLAG_OVERRIDE, 0, 0, 0]);
    message.extend(vip.octets());
    // The option's length counts units of eight bytes, its two-byte head included.
    message.extend([OPTION_TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);
    let checksum = icmpv6_checksum(vip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0, 0, NEIGHBOUR_ADVERTISEMENT_LEN, ICMPV6, HOP_LIMIT]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(destination: Mac, source: Mac, ethertype: [u8; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype);
    frame
}

/// RFC 4443 §2.3: one's complement over the pseudo-header of RFC 8200 §8.1 and the message, whose checksum field is
/// zero. The message's length is even.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut sum = u32::from(NEIGHBOUR_ADVERTISEMENT_LEN) + u32::from(ICMPV6);
    sum += source.segments().into_iter().chain(destination.segments()).map(u32::from).sum::<u32>();
    sum += message.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
    while let carry @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + carry;
    }
    // The loop left nothing above the low sixteen bits.
    !(sum as u16)
}

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 2464 §7: 33:33 and the last four bytes of the group.
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_REQUEST: u8 = 1;
const ICMPV6: u8 = 58;
/// RFC 4861 §7.1.2: receivers drop anything less, as it may have come through a router.
const HOP_LIMIT: u8 = 255;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const NEIGHBOUR_ADVERTISEMENT_LEN: u8 = 32;
/// RFC 9568 §6.4.1 sets it in a virtual router's announcements, and a director is a router. Were it clear, hosts whose
/// default router is the VIP would strike it from their list (RFC 4861 §7.2.5).
const FLAG_ROUTER: u8 = 0x80;
/// RFC 4861 §7.2.6: "to force updating existing cache entries".
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_LAYER_ADDRESS: u8 = 2;

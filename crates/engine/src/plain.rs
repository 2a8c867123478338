//! Packets as most are, whose headers lie where they always do: they may take a [shortcut](crate::shortcut), or go through a
//! [door](crate::door).

use crate::forward::{self, nat};
use crate::layout::{Address, TCP, UDP, V4};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::checksum::Change;
use crate::wire::emit::IPV4_HEADER;
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FIN, Headers, RST, SYN, put_word};

/// Where the transport header is, behind an IPv4 header without options and no tags.
const L4: usize = ETHERNET + IPV4_HEADER;

/// An IPv4 packet as most are: no options, fragments or tags, and one that opens and closes nothing.
///
/// Five words from [`SEEN_AT`] on, the first byte the lowest, which hold the end of the link header, the IP header, and as
/// much of TCP's as tells its flags. Words, since LLVM for BPF takes apart what it is told of bytes, and from there, since the
/// addresses are one of them.
#[derive(Clone, Copy)]
pub struct Plain([u64; 5]);

pub const SEEN_AT: usize = ETHERNET - 4;

impl Plain {
    #[inline(always)]
    pub fn of<P: Packet>(p: &P) -> Option<Self> {
        let bytes: [u8; 40] = p.read(SEEN_AT)?;
        let [a, b, c, d, e]: [[u8; 8]; 5] = zerocopy::transmute!(bytes);
        let plain = Self([a, b, c, d, e].map(u64::from_le_bytes));
        plain.is_plain().then_some(plain)
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        let Self([link, fragment, ..]) = self;
        let kind = u64::from(ETHERTYPE_IPV4.swap_bytes()) | 0x45 << 16;
        link >> 16 & 0xff_ffff == kind
            && *fragment as u32 & u32::from(0x3fff_u16.swap_bytes()) << 16 == 0
            && self.aging() & 0xfe != 0
            && self.is_whole()
    }

    /// Time to live, protocol and checksum.
    #[inline(always)]
    fn aging(&self) -> u32 {
        (self.0[1] >> 32) as u32
    }

    /// Of the IP packet.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        ((self.0[0] >> 48) as u16).swap_bytes().into()
    }

    #[inline(always)]
    pub fn tos(&self) -> u8 {
        (self.0[0] >> 40) as u8
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.aging() >> 8) as u8
    }

    /// As in [`crate::layout::Shortcut`], as the next.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        self.0[2]
    }

    #[inline(always)]
    pub fn flow(&self) -> u64 {
        u64::from(self.0[3] as u32) | u64::from(self.protocol()) << 32
    }

    /// The same in full.
    #[inline(always)]
    pub fn headers(&self) -> Headers {
        let (source, destination) = (self.addresses() as u32, (self.addresses() >> 32) as u32);
        let ports = self.0[3];
        Headers {
            source: Address::of_last(source),
            destination: Address::of_last(destination),
            l3: ETHERNET as u16,
            l4: L4 as u16,
            length: self.length(),
            source_port: (ports as u16).swap_bytes(),
            destination_port: ((ports >> 16) as u16).swap_bytes(),
            family: V4,
            protocol: self.protocol(),
            ttl: self.aging() as u8,
            tos: self.tos(),
            ..Headers::default()
        }
    }

    /// Time to live, protocol and checksum, a hop later; what else changes the checksum is in 16 bits.
    #[inline(always)]
    pub fn aged(&self, header_change: u32) -> [u8; 4] {
        let aging = self.aging();
        let checksum = changed((aging >> 16) as u16, header_change);
        (((aging & 0xffff) - 1) | (u32::from(checksum) << 16)).to_le_bytes()
    }

    /// As `forward::age`.
    #[inline(always)]
    pub fn age<P: Packet>(&self, p: &mut P) -> Result<(), Reason> {
        forward::write(p, ETHERNET + 8, self.aged(Change::aging().folded()))
    }

    /// As [`nat::rewrite`].
    #[inline(always)]
    pub fn rewrite<P: Packet>(&self, p: &mut P, edit: &nat::Edit) -> Result<(), Reason> {
        let addresses = self.addresses();
        let (source, destination, ports) = (addresses as u32, (addresses >> 32) as u32, self.0[3] as u32);
        let (address, port) = (edit.address.last(), u32::from(edit.port.swap_bytes()));
        let (old, new, new_ports) = if edit.source {
            (source, [address, destination], ports & 0xffff_0000 | port)
        } else {
            (destination, [source, address], ports & 0xffff | port << 16)
        };
        let by_address = Change::default().word(old, address);
        let header_change = by_address.and(Change::aging()).folded();
        let transport_change = by_address.word(ports, new_ports).folded();
        self.readdress(p, [new[0], new[1], new_ports], header_change, transport_change)
    }

    /// New addresses and ports, and what they change.
    #[inline(always)]
    pub fn readdress<P: Packet>(&self, p: &mut P, new: [u32; 3], header: u32, transport: u32) -> Result<(), Reason> {
        // They are behind the checksum.
        let [t, u, c, d] = self.aged(header);
        let mut b = [t, u, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        put_word(&mut b, 4, new[0]);
        put_word(&mut b, 8, new[1]);
        put_word(&mut b, 12, new[2]);
        forward::write(p, ETHERNET + 8, b)?;
        mend_checksum(p, self.protocol(), transport)
    }

    /// Lengths and flags, as [`crate::wire::transport`] wants them, of a packet that opens and closes nothing.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        let Self([.., ports, flags]) = self;
        match self.protocol() {
            TCP => {
                let header = (flags >> 36) as u32 & 0xf;
                header >= 5
                    && IPV4_HEADER as u32 + header * 4 <= self.length()
                    && (flags >> 40) as u8 & (SYN | FIN | RST) == 0
            }
            // One with bytes behind it goes another way.
            UDP => {
                let datagram = u32::from(((ports >> 32) as u16).swap_bytes());
                datagram >= 8 && IPV4_HEADER as u32 + datagram == self.length()
            }
            _ => false,
        }
    }
}

/// The headers of an IPv6 packet, if they are as most are: neither extensions nor tags, and one that opens and closes
/// nothing.
#[inline(always)]
pub fn v6<P: Packet>(p: &P) -> Option<Headers> {
    if p.read::<2>(ETHERNET - 2)? != ETHERTYPE_IPV6.to_be_bytes() {
        return None;
    }
    let mut h = wire::ipv6(p, ETHERNET).ok()?;
    if !matches!(h.protocol, TCP | UDP) {
        return None;
    }
    wire::transport(p, &mut h).ok()?;
    if h.tcp_flags & (SYN | FIN | RST) == 0 { Some(h) } else { None }
}

/// TCP's or UDP's.
#[inline(always)]
fn mend_checksum<P: Packet>(p: &mut P, protocol: u8, change: u32) -> Result<(), Reason> {
    let at = if protocol == TCP { L4 + 16 } else { L4 + 6 };
    let Some(old) = p.read::<2>(at) else { return Err(Reason::Inconsistent) };
    let old = u16::from_ne_bytes(old);
    let new = changed(old, change);
    if protocol == TCP {
        return forward::write(p, at, new.to_ne_bytes());
    }
    // RFC 768: 0 means that the sender made none; a sum of 0 is sent as all ones.
    if old == 0 {
        return Ok(());
    }
    forward::write(p, at, if new == 0 { [0xff; 2] } else { new.to_ne_bytes() })
}

/// RFC 1624 §3, equation 3, with a change in 16 bits. Never all ones, as [`Change::apply`].
#[inline(always)]
fn changed(checksum: u16, change: u32) -> u16 {
    let sum = u32::from(!checksum) + change;
    !((sum & 0xffff) + (sum >> 16)) as u16
}

//! A frame as the engine sees it: bounded copies in and out, no references.
//!
//! In XDP a frame is its bytes and nothing more. In TC it is a `struct sk_buff`, which also says what is still to be done
//! to the bytes: checksums that a card will fill in, segments that they will be cut into. The methods with a body are for
//! that; what they do by default is right where there are only bytes.

use crate::wire::ETHERNET;
use crate::wire::checksum::Change;

/// The furthest offset that a frame is ever asked for; beyond it there is nothing to read. Ethernet, two tags, and headers
/// fit many times over, and the verifier gives up on packet ranges beyond 0xffff. All bits below it are set.
pub const FURTHEST: usize = 0x3ff;

/// A frame. `N` is 2 at least: the verifier learns nothing from comparing the end of a single byte. Offsets count from the first byte of the Ethernet header, and move when the frame grows or shrinks.
pub trait Packet {
    /// Whether a frame is its bytes and nothing more: what was done to one can be done to another of the same flow.
    const IS_BYTES: bool = true;

    /// The `N` bytes at `at`, or `None` when they are not all there.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Copies the `length` bytes at `at`, 1 to `N` of them; false when they are not all there. Unlike [`Self::read`] it
    /// reaches all of the frame.
    #[must_use]
    fn copy<const N: usize>(&self, at: usize, length: usize, to: &mut [u8; N]) -> bool;

    /// Overwrites the `N` bytes at `at`; false, and nothing written, when they are not all there.
    #[must_use]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool;

    /// Adds `by` bytes of unspecified content in front; false when there is no room.
    #[must_use]
    fn grow_front(&mut self, by: usize) -> bool;

    /// Removes the first `by` bytes; false when there are not as many.
    #[must_use]
    fn shrink_front(&mut self, by: usize) -> bool;

    /// Makes room between the link header and the IP packet at `l3`, and leaves it to the caller what to write there. VLAN
    /// tags stay in front of it; the MAC addresses and the ethertype are unspecified afterwards. False when there is no
    /// room.
    #[must_use]
    #[inline(always)]
    fn grow(&mut self, l3: usize, front: &Front) -> bool {
        self.grow_front(front.bytes) && move_tags(self, l3, front.bytes)
    }

    /// Cuts the frame off at its end, to `length` bytes; false when it has not as many.
    #[must_use]
    fn truncate(&mut self, length: usize) -> bool;

    /// Whether the frame has at least `length` bytes, those of a multi-buffer frame's later buffers included.
    fn reaches(&self, length: usize) -> bool;

    /// The interface that the frame came in on.
    fn interface(&self) -> u32;

    /// Keeps the checksum of a TCP or UDP header, which lies at `at`, in step with what is changed; false, and nothing
    /// changed, when it is not all there.
    #[must_use]
    #[inline(always)]
    fn amend(&mut self, at: usize, amendment: &Amendment) -> bool {
        let Some(old) = self.read::<2>(at) else { return false };
        let old = u16::from_ne_bytes(old);
        // RFC 768: 0 means that the sender made none; a sum of 0 is sent as all ones.
        if amendment.zero_is_none && old == 0 {
            return true;
        }
        let new = amendment.pseudo_header.and(amendment.covered).apply(old);
        let new = if amendment.zero_is_none && new == 0 { 0xffff } else { new };
        self.write(at, new.to_ne_bytes())
    }

    /// Told what has been changed in the IP header of a packet whose checksums do not make up for it: IPv6 has none.
    #[inline(always)]
    fn resum(&mut self, _change: Change) {}

    /// Whether the checksum of the packet's transport header is still to be computed on its way out, from where that header
    /// lies now to the end of the frame. `scratch` is the place of any two bytes.
    #[inline(always)]
    fn awaits_checksum(&mut self, _scratch: usize) -> bool {
        false
    }

    /// Where the frame stands for many packets, into which it will be cut: how many bytes behind the transport header each
    /// of them gets. 0: it is one packet.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }
}

/// What a frame grows by, in front of its IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    pub bytes: usize,
    /// V4 or V6: of the IP header that comes first.
    pub family: u8,
    pub kind: FrontKind,
}

/// What it is that a frame grows by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontKind {
    /// The headers of an ICMP error: what was the packet is its quotation.
    Error,
    /// A tunnel's outer header, and nothing between it and the packet.
    IpInIp,
    /// An outer header and UDP's, and what may follow that.
    Udp,
    /// An outer header and GRE's.
    Gre,
}

/// What a transport checksum has to be kept in step with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amendment {
    /// In the pseudo-header: addresses, and the length.
    pub pseudo_header: Change,
    /// In what the checksum itself covers: ports, and whatever is behind them.
    pub covered: Change,
    /// As in UDP: a checksum of 0 means that there is none.
    pub zero_is_none: bool,
}

/// After growing in front by `by` bytes: brings the VLAN tags to the new front. Nobody needs the MAC addresses and the
/// ethertype.
#[inline(always)]
pub fn move_tags<P: Packet + ?Sized>(p: &mut P, l3: usize, by: usize) -> bool {
    (l3 < ETHERNET + 4 || copy4(p, by + 12, 12)) && (l3 < ETHERNET + 8 || copy4(p, by + 16, 16))
}

#[inline(always)]
fn copy4<P: Packet + ?Sized>(p: &mut P, from: usize, to: usize) -> bool {
    match p.read::<4>(from) {
        Some(bytes) => p.write(to, bytes),
        None => false,
    }
}

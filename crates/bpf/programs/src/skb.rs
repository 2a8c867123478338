//! A frame in TC: the engine's [`Packet`] over a `struct sk_buff`. All unsafe access to it is here.
//!
//! What is otherwise than in XDP: only the beginning may lie in one piece, and is pulled there; the outer VLAN tag is not in
//! the data, and stays with the packet wherever it goes; the checksum may be unfinished, which the kernel's helpers know
//! how to change; one packet may stand for many (GSO).

use crate::frame::{Halves, Words};
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_GRE,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_MARK_MANGLED_0,
    BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail,
    bpf_skb_load_bytes, bpf_skb_pull_data,
};
use core::cell::Cell;
use marca_engine::Packet;
use marca_engine::layout::V4;
use marca_engine::packet::{Amendment, FURTHEST, Front, FrontKind, move_tags};
use marca_engine::wire::ETHERNET;
use marca_engine::wire::checksum::Change;

/// The context of one run of a program. `CAREFUL` programs hide how an address comes about: where packets are read in
/// loops, LLVM finds the end of some bytes by another way than their beginning, and the verifier does not follow. That
/// costs a store and a load each time, which the entry need not pay: it has no loops.
pub struct Skb<const CAREFUL: bool> {
    ctx: *mut __sk_buff,
    hidden: Cell<usize>,
}

pub type Entry = Skb<false>;
pub type Stage = Skb<true>;

/// How much of a packet must lie in one piece: all that the fast path reads (two tags, the longest IPv4 header, or IPv6's,
/// and TCP's first 20 bytes); or all that anybody reads.
pub const HEADERS: u32 = 128;
pub const ALL: u32 = FURTHEST as u32 + 1 + HEADERS;

impl<const CAREFUL: bool> Skb<CAREFUL> {
    /// With its first `reach` bytes, if it has as many, in one piece. Most packets' headers are so already.
    #[inline(always)]
    pub fn new(ctx: *mut __sk_buff, reach: u32) -> Self {
        let skb = Self { ctx, hidden: Cell::new(0) };
        let wanted = skb.length().min(reach);
        let (data, end) = skb.ends();
        if end - data < wanted as usize {
            // SAFETY: the context is valid for the whole run; no packet pointer lives across this. When there is no memory for
            // it, what is read later is not there.
            unsafe { bpf_skb_pull_data(ctx, wanted) };
        }
        skb
    }

    /// The context, read anew each time: LLVM otherwise keeps the address of a field that is read often, and the verifier
    /// lets nobody read from the context but at a constant offset from its beginning.
    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        // SAFETY: a reference is valid.
        unsafe { (&raw const self.ctx).read_volatile() }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.context()).len }
    }

    /// See `Frame::ends`.
    #[inline(always)]
    fn ends(&self) -> (usize, usize) {
        let ctx = self.context();
        // SAFETY: as there.
        unsafe {
            ((&raw const (*ctx).data).read_volatile() as usize, (&raw const (*ctx).data_end).read_volatile() as usize)
        }
    }

    /// See `Frame::at`.
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<usize> {
        if at > FURTHEST {
            return None;
        }
        let (data, end) = self.ends();
        let mut p = data + at;
        if CAREFUL {
            // SAFETY: a cell of our own.
            unsafe {
                self.hidden.as_ptr().write_volatile(p);
                p = self.hidden.as_ptr().read_volatile();
            }
        }
        if p + N > end {
            return None;
        }
        Some(p)
    }

    /// A change under or before a checksum. An address in a pseudo-header also leaves its trace in the sum that a card has
    /// made of the whole packet, and in a checksum that is unfinished: the helper knows.
    #[inline(always)]
    fn replace(&mut self, at: usize, change: Change, flags: u64) -> i64 {
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        unsafe { bpf_l4_csum_replace(self.ctx, at as u32, 0, u64::from(change.sum()), flags) }
    }
}

impl<const CAREFUL: bool> Packet for Skb<CAREFUL> {
    const IS_BYTES: bool = false;

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let p = self.at::<N>(at)?;
        // SAFETY: N bytes of the packet, as `at` has checked; the kernel's machines read unaligned.
        Some(unsafe {
            if N.is_multiple_of(4) {
                (p as *const Words<N>).read().0
            } else if N.is_multiple_of(2) {
                (p as *const Halves<N>).read().0
            } else {
                (p as *const [u8; N]).read()
            }
        })
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, at: usize, length: usize, to: &mut [u8; N]) -> bool {
        // See `Frame::copy`.
        const { assert!(N.is_power_of_two()) }
        let length = (length.wrapping_sub(1) & (N - 1)) + 1;
        // SAFETY: the context is valid for the whole run, and `to` has room for as many.
        unsafe { bpf_skb_load_bytes(self.ctx.cast(), at as u32, to.as_mut_ptr().cast(), length as u32) == 0 }
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        let Some(p) = self.at::<N>(at) else { return false };
        // SAFETY: as in `read`. The kernel has unshared the packet's beginning before the program runs, since it writes.
        unsafe {
            if N.is_multiple_of(4) {
                (p as *mut Words<N>).write(Words(bytes));
            } else if N.is_multiple_of(2) {
                (p as *mut Halves<N>).write(Halves(bytes));
            } else {
                (p as *mut [u8; N]).write(bytes);
            }
        }
        true
    }

    #[inline(always)]
    fn grow_front(&mut self, by: usize) -> bool {
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        unsafe { bpf_skb_change_head(self.ctx, by as u32, 0) == 0 }
    }

    /// The kernel takes away what is behind the link header, and not what is in front of all; whoever shrinks a frame writes
    /// its link header anew.
    #[inline(always)]
    fn shrink_front(&mut self, by: usize) -> bool {
        let flags = u64::from(BPF_F_ADJ_ROOM_NO_CSUM_RESET);
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        unsafe { bpf_skb_adjust_room(self.ctx, -(by as i32), BPF_ADJ_ROOM_MAC, flags) == 0 }
    }

    #[inline(always)]
    fn grow(&mut self, l3: usize, front: &Front) -> bool {
        if l3 != ETHERNET {
            // A tag in the data (the inner one of two): the kernel makes room only right before an IP header. It could not
            // cut such a packet into segments either.
            return self.segment() == 0 && self.grow_front(front.bytes) && move_tags(self, l3, front.bytes);
        }
        let outer = if front.family == V4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
        // Segments stay as long as they are: that they fit has been looked at. And who has seen that a checksum is right
        // need not look again.
        let flags = match front.kind {
            FrontKind::Error => BPF_F_ADJ_ROOM_NO_CSUM_RESET,
            FrontKind::IpInIp => BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_FIXED_GSO | outer,
            FrontKind::Udp => {
                BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_FIXED_GSO | outer | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
            }
            FrontKind::Gre => {
                BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_FIXED_GSO | outer | BPF_F_ADJ_ROOM_ENCAP_L4_GRE
            }
        };
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        unsafe { bpf_skb_adjust_room(self.ctx, front.bytes as i32, BPF_ADJ_ROOM_MAC, u64::from(flags)) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        // Also at its very length: afterwards it is one packet, in one piece.
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        length <= self.length() as usize && unsafe { bpf_skb_change_tail(self.ctx, length as u32, 0) == 0 }
    }

    #[inline(always)]
    fn reaches(&self, length: usize) -> bool {
        length <= self.length() as usize
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.context()).ifindex }
    }

    #[inline(always)]
    fn amend(&mut self, at: usize, amendment: &Amendment) -> bool {
        let flags = if amendment.zero_is_none { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        // Both in any case: a branch here costs the verifier twice the work on all that follows.
        let pseudo_header = self.replace(at, amendment.pseudo_header, flags | u64::from(BPF_F_PSEUDO_HDR));
        let covered = self.replace(at, amendment.covered, flags);
        pseudo_header | covered == 0
    }

    #[inline(always)]
    fn resum(&mut self, change: Change) {
        // Fails where no card has made a sum, and then there is nothing to do.
        // SAFETY: the context is valid for the whole run.
        unsafe { bpf_csum_update(self.ctx, change.sum()) };
    }

    /// There is no field that says so. But the kernel does not touch an unfinished checksum when what it covers changes.
    #[inline(always)]
    fn awaits_checksum(&mut self, scratch: usize) -> bool {
        let Some(before) = self.read::<2>(scratch) else { return false };
        // SAFETY: as in `replace`.
        if unsafe { bpf_l4_csum_replace(self.ctx, scratch as u32, 0, 1, 2) } != 0 {
            return false;
        }
        let after = self.read::<2>(scratch);
        self.write(scratch, before) && after == Some(before)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.context()).gso_size }
    }
}

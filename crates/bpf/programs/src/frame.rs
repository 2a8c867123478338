//! A frame in XDP: the engine's [`Packet`]. All unsafe access to packets is here.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use marca_engine::Packet;
use marca_engine::packet::FURTHEST;

/// The context of one run of a program.
pub struct Frame {
    pub ctx: *mut xdp_md,
}

/// Bytes that are moved eight, four or two at a time: the kernel reads packets unaligned, but LLVM for BPF takes apart what is
/// declared unaligned.
#[repr(C, align(8))]
pub struct Longs<const N: usize>(pub [u8; N]);
#[repr(C, align(4))]
pub struct Words<const N: usize>(pub [u8; N]);
#[repr(C, align(2))]
pub struct Halves<const N: usize>(pub [u8; N]);

impl Frame {
    #[inline(always)]
    fn ends(&self) -> (usize, usize) {
        // SAFETY: the context is valid for the whole run. Volatile, or LLVM parts the 32-bit load from its widening and
        // the verifier no longer sees a packet pointer.
        unsafe {
            (
                (&raw const (*self.ctx).data).read_volatile() as usize,
                (&raw const (*self.ctx).data_end).read_volatile() as usize,
            )
        }
    }

    /// The address of `N` bytes at `at`, if they are there. The very pointer that is compared is the one to use: the
    /// verifier follows no other.
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<usize> {
        if at > FURTHEST {
            return None;
        }
        let (data, end) = self.ends();
        let p = data + at;
        if p + N > end {
            return None;
        }
        Some(p)
    }

    /// Stores eight bytes at once, where [`Packet::write`] stores words.
    #[inline(always)]
    pub fn put_long(&mut self, at: usize, long: u64) -> bool {
        let Some(p) = self.at::<8>(at) else { return false };
        // SAFETY: as in `write`.
        unsafe { (p as *mut u64).write(long) }
        true
    }

    #[inline(always)]
    pub fn put_word(&mut self, at: usize, word: u32) -> bool {
        self.write(at, word.to_ne_bytes())
    }

    #[inline(always)]
    pub fn put_half(&mut self, at: usize, half: u16) -> bool {
        self.write(at, half.to_ne_bytes())
    }

    #[inline(always)]
    fn adjust(&mut self, by: i32) -> bool {
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        unsafe { bpf_xdp_adjust_head(self.ctx, by) == 0 }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let p = self.at::<N>(at)?;
        // SAFETY: N bytes of the packet, as `at` has checked; the kernel's machines read unaligned.
        Some(unsafe {
            if N.is_multiple_of(8) {
                (p as *const Longs<N>).read().0
            } else if N.is_multiple_of(4) {
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
        // A mask, for the verifier to see that it is one of them at least and all at the most.
        const { assert!(N.is_power_of_two()) }
        let length = (length.wrapping_sub(1) & (N - 1)) + 1;
        // SAFETY: the context is valid for the whole run, and `to` has room for as many.
        unsafe { bpf_xdp_load_bytes(self.ctx, at as u32, to.as_mut_ptr().cast(), length as u32) == 0 }
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        let Some(p) = self.at::<N>(at) else { return false };
        // SAFETY: as in `read`.
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
        self.adjust(-(by as i32))
    }

    #[inline(always)]
    fn shrink_front(&mut self, by: usize) -> bool {
        self.adjust(by as i32)
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        // SAFETY: the context is valid for the whole run; no packet pointer lives across this.
        unsafe {
            let by = length as i32 - bpf_xdp_get_buff_len(self.ctx) as i32;
            by <= 0 && bpf_xdp_adjust_tail(self.ctx, by) == 0
        }
    }

    #[inline(always)]
    fn reaches(&self, length: usize) -> bool {
        let (data, end) = self.ends();
        // Most frames are one buffer: ask the helper only for what that does not hold.
        // SAFETY: the context is valid for the whole run.
        length <= end - data || length as u64 <= unsafe { bpf_xdp_get_buff_len(self.ctx) }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}

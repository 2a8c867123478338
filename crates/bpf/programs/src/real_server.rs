//! What runs on real servers and other peers: the decapsulator, and a program that does nothing.

use crate::frame::Frame;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use marca_engine::Reason;
use marca_engine::decap::{Policy, decapsulate};
use marca_engine::layout::Address;

/// From whom packets are taken out: a director's address, or the zero address of a family for anybody. Value unused.
#[btf_map]
static DIRECTORS: HashMap<[u32; 5], u32, 64> = HashMap::new();
/// The UDP port at which GUE arrives.
#[btf_map]
static GUE_PORT: Array<u32, 1> = Array::new();
#[btf_map]
static DECAP_REASONS: PerCpuArray<u64, { Reason::COUNT }> = PerCpuArray::new();

struct Directors;

impl Policy for Directors {
    #[inline(always)]
    fn accepts(&self, family: u8, outer_source: &Address, _: &Address) -> bool {
        let [a, b, c, d] = outer_source.parts();
        // SAFETY: the value is not read.
        unsafe {
            DIRECTORS.get([a, b, c, d, u32::from(family)]).is_some()
                || DIRECTORS.get([0, 0, 0, 0, u32::from(family)]).is_some()
        }
    }

    #[inline(always)]
    fn gue_port(&self) -> u16 {
        match GUE_PORT.get(0) {
            Some(port) => *port as u16,
            None => 0,
        }
    }
}

/// Takes packets out of tunnels and hands them to the kernel.
#[xdp(frags)]
pub fn marca_decap(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let reason = decapsulate(&mut frame, &Directors);
    if let Some(count) = DECAP_REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this processor's own copy.
        unsafe { *count += 1 }
    }
    match reason.action() {
        marca_engine::Action::Pass => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}

/// Nothing: a veth takes frames that its peer transmits or redirects in XDP only if it has a program itself.
#[xdp(frags)]
pub fn marca_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

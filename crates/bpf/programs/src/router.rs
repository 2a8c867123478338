//! The director's programs.

use crate::frame::Frame;
use crate::maps::{BETWEEN, Maps, PROGRAMS, ticks};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use marca_engine::{Action, Outcome, Packet};

/// Places in `PROGRAMS`; the loader fills them (`marca_bpf::TAIL_CALLS`).
const JUDGE: u32 = 0;
const ACT: u32 = 1;

/// The entry: every packet of an interface.
#[xdp(frags)]
pub fn marca(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    if let Some(outcome) = marca_engine::fast(&mut frame, &mut maps) {
        return answer(&frame, outcome);
    }
    // SAFETY: does not return when it succeeds; when the daemon has not set the program yet, the kernel gets the packet.
    unsafe { PROGRAMS.tail_call(&ctx, JUDGE) };
    xdp_action::XDP_PASS
}

/// The first half of the long way, of the packets that [`marca`] hands over.
#[xdp(frags)]
pub fn marca_judge(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = BETWEEN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: this processor's own copy; the next program reads it before another packet can come.
    let between = unsafe { &mut *between };
    match marca_engine::judge(&frame, &mut maps, between) {
        Ok(_) => {
            // SAFETY: as in `marca`.
            unsafe { PROGRAMS.tail_call(&ctx, ACT) };
            xdp_action::XDP_ABORTED
        }
        Err(outcome) => answer(&frame, outcome),
    }
}

/// The second half of the long way.
#[xdp(frags)]
pub fn marca_act(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = BETWEEN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: `marca_judge` of the same object has just written it.
    let work = unsafe { (*between).work().assume_init_ref() };
    let outcome = marca_engine::act(&mut frame, &mut maps, work);
    answer(&frame, outcome)
}

/// Answers the engine's clock to the daemon, by a test run.
#[xdp(frags)]
pub fn marca_clock(_: XdpContext) -> u32 {
    ticks()
}

#[inline(always)]
fn answer(frame: &Frame, outcome: Outcome) -> u32 {
    match outcome.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Send if outcome.interface == frame.interface() => xdp_action::XDP_TX,
        // SAFETY: a helper without preconditions; a bad interface is an error in its answer.
        Action::Send => unsafe { bpf_redirect(outcome.interface, 0) as u32 },
    }
}

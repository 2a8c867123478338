//! The director's programs.

use crate::frame::Frame;
use crate::maps::{BETWEEN, Maps, PROGRAMS, ticks};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use marca_engine::{Action, Between, Outcome, Packet, Stage, Turn};

/// The entry: every packet of an interface.
#[xdp(frags)]
pub fn marca(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let turn = marca_engine::fast(&mut frame, &mut maps);
    go_on(&ctx, &frame, turn)
}

/// The first half of the long way.
#[xdp(frags)]
pub fn marca_judge(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::judge(&frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// A new connection gets a real server.
#[xdp(frags)]
pub fn marca_choose(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::choose(&mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The second half of the long way.
#[xdp(frags)]
pub fn marca_act(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::act(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The sender is told why its packet goes no further.
#[xdp(frags)]
pub fn marca_tell(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::tell(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// Fullnat's short way to real servers.
#[xdp(frags)]
pub fn marca_full(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let turn = marca_engine::full(&mut frame, &mut maps);
    go_on(&ctx, &frame, turn)
}

/// The first half of fullnat's way from real servers.
#[xdp(frags)]
pub fn marca_back(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::back(&frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The second half.
#[xdp(frags)]
pub fn marca_give(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::give(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// A source for a connection under fullnat.
#[xdp(frags)]
pub fn marca_borrow(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::borrow(&mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The source is put in.
#[xdp(frags)]
pub fn marca_hide(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::hide(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// A fragment follows the first one of its packet.
#[xdp(frags)]
pub fn marca_follow(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::follow(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The first third of an ICMP error's way.
#[xdp(frags)]
pub fn marca_quote(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::quote(&frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The second third of an ICMP error's way.
#[xdp(frags)]
pub fn marca_relate(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::relate(&frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// The last third of an ICMP error's way.
#[xdp(frags)]
pub fn marca_relay(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::relay(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// An error about a tunnel becomes the packet that was inside.
#[xdp(frags)]
pub fn marca_unwrap(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let mut maps = Maps::new(&frame);
    let Some(between) = between() else { return xdp_action::XDP_ABORTED };
    let turn = marca_engine::unwrap(&mut frame, &mut maps, between);
    go_on(&ctx, &frame, turn)
}

/// What the packet's earlier stages have left.
#[inline(always)]
fn between() -> Option<&'static mut Between> {
    let between = BETWEEN.get_ptr_mut(0)?;
    // SAFETY: this processor's own copy; the packet's stages end before another packet can come.
    Some(unsafe { &mut *between })
}

/// The next stage, or the packet's end.
#[inline(always)]
fn go_on(ctx: &XdpContext, frame: &Frame, turn: Turn) -> u32 {
    if turn.stage == Stage::Done {
        return answer(frame, turn.outcome);
    }
    // SAFETY: does not return when it succeeds; when the daemon has not set the program yet, the kernel gets the packet.
    unsafe { PROGRAMS.tail_call(ctx, turn.stage as u32) };
    xdp_action::XDP_PASS
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

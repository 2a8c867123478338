//! The director's programs, each twice: for XDP, and for TC where XDP is a poor fit.

use crate::frame::Frame;
use crate::maps::{BETWEEN, Maps, PROGRAMS, PROGRAMS_TC, ticks};
use crate::skb::{self, Skb};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use marca_engine::{Action, Between, Outcome, Packet, Stage, Turn};

/// The entry: every packet of an interface.
#[xdp(frags)]
#[inline(always)]
pub fn marca(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let turn = marca_engine::enter(&mut frame, &mut Maps::new(ctx.ctx.cast()));
    go_on(&frame, turn)
}

/// The packets that have no shortcut.
#[xdp(frags)]
#[inline(always)]
pub fn marca_serve(ctx: XdpContext) -> u32 {
    let mut frame = Frame { ctx: ctx.ctx };
    let turn = marca_engine::fast(&mut frame, &mut Maps::new(ctx.ctx.cast()));
    go_on(&frame, turn)
}

/// They lay shortcuts for those that follow.
#[xdp(frags)]
pub fn marca_remember(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let turn = marca_engine::remember(&frame, &mut Maps::new(ctx.ctx.cast()));
    go_on(&frame, turn)
}

/// The entry in TC, where packets have no shortcuts.
#[classifier]
#[inline(always)]
pub fn marca_tc(ctx: TcContext) -> i32 {
    let mut skb = skb::Entry::new(ctx.skb.skb, skb::HEADERS);
    let turn = marca_engine::fast(&mut skb, &mut Maps::new(ctx.skb.skb.cast()));
    go_on(&skb, turn)
}

/// A line for each stage: its programs in XDP and in TC, as `marca_bpf::TAIL_CALLS` names them, and what it calls. Nothing that
/// an earlier stage has left (which cannot be): the packet is dropped.
macro_rules! stages {
    ($($(#[$doc:meta])* $xdp:ident $tc:ident $stage:expr,)*) => {$(
        $(#[$doc])*
        #[xdp(frags)]
        pub fn $xdp(ctx: XdpContext) -> u32 {
            let mut frame = Frame { ctx: ctx.ctx };
            let turn = ($stage)(&mut frame, &mut Maps::new(ctx.ctx.cast()));
            turn.map_or(frame.drop(), |turn| go_on(&frame, turn))
        }

        $(#[$doc])*
        #[classifier]
        pub fn $tc(ctx: TcContext) -> i32 {
            let mut skb = skb::Stage::new(ctx.skb.skb, skb::ALL);
            let turn = ($stage)(&mut skb, &mut Maps::new(ctx.skb.skb.cast()));
            turn.map_or(skb.drop(), |turn| go_on(&skb, turn))
        }
    )*};
}

stages! {
    /// The first half of the long way.
    marca_judge marca_judge_tc |p, t| Some(marca_engine::judge(p, t, between()?)),
    /// A new connection gets a real server.
    marca_choose marca_choose_tc |_, t| Some(marca_engine::choose(t, between()?)),
    /// The second half of the long way.
    marca_act marca_act_tc |p, t| Some(marca_engine::act(p, t, between()?)),
    /// The sender is told why its packet goes no further.
    marca_tell marca_tell_tc |p, t| Some(marca_engine::tell(p, t, between()?)),
    /// Fullnat's short way to real servers.
    marca_full marca_full_tc |p, t| Some(marca_engine::full(p, t)),
    /// The first half of fullnat's way from real servers.
    marca_back marca_back_tc |p, t| Some(marca_engine::back(p, t, between()?)),
    /// The second half.
    marca_give marca_give_tc |p, t| Some(marca_engine::give(p, t, between()?)),
    /// A source for a connection under fullnat.
    marca_borrow marca_borrow_tc |_, t| Some(marca_engine::borrow(t, between()?)),
    /// The source is put in.
    marca_hide marca_hide_tc |p, t| Some(marca_engine::hide(p, t, between()?)),
    /// A fragment follows the first one of its packet.
    marca_follow marca_follow_tc |p, t| Some(marca_engine::follow(p, t, between()?)),
    /// The first third of an ICMP error's way.
    marca_quote marca_quote_tc |p, t| Some(marca_engine::quote(p, t, between()?)),
    /// The second third of an ICMP error's way.
    marca_relate marca_relate_tc |p, t| Some(marca_engine::relate(p, t, between()?)),
    /// The last third of an ICMP error's way.
    marca_relay marca_relay_tc |p, t| Some(marca_engine::relay(p, t, between()?)),
    /// An error about a tunnel becomes the packet that was inside.
    marca_unwrap marca_unwrap_tc |p, t| Some(marca_engine::unwrap(p, t, between()?)),
    /// What an FTP control connection says is heeded.
    marca_ftp marca_ftp_tc |p, t| Some(marca_engine::overhear(p, t, between()?)),
}

/// What the packet's earlier stages have left.
#[inline(always)]
fn between() -> Option<&'static mut Between> {
    let between = BETWEEN.get_ptr_mut(0)?;
    // SAFETY: this processor's own copy; the packet's stages end before another packet can come.
    Some(unsafe { &mut *between })
}

/// Answers the engine's clock to the daemon, by a test run.
#[xdp(frags)]
pub fn marca_clock(_: XdpContext) -> u32 {
    ticks()
}

/// What the kernel calls a frame, and wants to hear about it.
trait Hook: Packet {
    type Answer;

    /// Goes on with a stage's program. Does not return when it succeeds.
    fn call(&self, stage: u32);

    fn pass(&self) -> Self::Answer;
    fn drop(&self) -> Self::Answer;
    fn send(&self, interface: u32) -> Self::Answer;
}

/// The next stage, or the packet's end.
#[inline(always)]
fn go_on<H: Hook>(frame: &H, turn: Turn) -> H::Answer {
    match turn.stage {
        Stage::Sent => return frame.send(turn.outcome.interface),
        Stage::Done => return answer(frame, turn.outcome),
        _ => {}
    }
    frame.call(turn.stage as u32);
    // When the daemon has not set the program yet, the kernel gets the packet.
    frame.pass()
}

#[inline(always)]
fn answer<H: Hook>(frame: &H, outcome: Outcome) -> H::Answer {
    match outcome.action() {
        Action::Pass => frame.pass(),
        Action::Drop => frame.drop(),
        Action::Send => frame.send(outcome.interface),
    }
}

impl Hook for Frame {
    type Answer = u32;

    #[inline(always)]
    fn call(&self, stage: u32) {
        // SAFETY: the context is valid for the whole run.
        unsafe { PROGRAMS.tail_call(&XdpContext::new(self.ctx), stage) };
    }

    #[inline(always)]
    fn pass(&self) -> u32 {
        xdp_action::XDP_PASS
    }

    #[inline(always)]
    fn drop(&self) -> u32 {
        xdp_action::XDP_DROP
    }

    #[inline(always)]
    fn send(&self, interface: u32) -> u32 {
        if interface == self.interface() {
            return xdp_action::XDP_TX;
        }
        // SAFETY: a helper without preconditions; a bad interface is an error in its answer.
        unsafe { bpf_redirect(interface, 0) as u32 }
    }
}

impl<const CAREFUL: bool> Hook for Skb<CAREFUL> {
    type Answer = i32;

    #[inline(always)]
    fn call(&self, stage: u32) {
        // SAFETY: the context is valid for the whole run.
        unsafe { PROGRAMS_TC.tail_call(&TcContext::new(self.context()), stage) };
    }

    /// Whoever comes after us in TC (`TCX_NEXT`, the same number) decides, as if we were not there: `TC_ACT_OK` would keep the
    /// packet from them, which XDP cannot do either.
    #[inline(always)]
    fn pass(&self) -> i32 {
        TC_ACT_UNSPEC
    }

    #[inline(always)]
    fn drop(&self) -> i32 {
        TC_ACT_SHOT as i32
    }

    #[inline(always)]
    fn send(&self, interface: u32) -> i32 {
        // SAFETY: the context is valid for the whole run; a helper without preconditions. In the control block, of which
        // nobody makes anything on the way out, test runs see where the packet leaves.
        unsafe {
            (*self.context()).cb[0] = interface;
            bpf_redirect(interface, 0) as i32
        }
    }
}

//! The benchmark's programs: `BPF_PROG_TEST_RUN` with repetition hands a program its own output, so these restore the
//! frame, choose a flow, and tail-call what is measured.

use crate::frame::Frame;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use marca_engine::Packet;

/// Of eight bytes each, behind the link header's beginning.
const PIECES: usize = 15;

/// Where the pieces begin: so that no word that a program loads of an IPv4 packet, or of an IPv6 packet, lies across two of
/// them. A processor cannot forward two stores to one load and waits for both to reach the cache; no driver's frame makes it
/// wait like that.
const PIECES_V4: u32 = 10;
/// See [`PIECES_V4`].
const PIECES_V6: u32 = 14;

/// What to restore, and how flows differ.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Template {
    /// In memory order.
    pub pieces: [u64; PIECES],
    /// What is in front of them, but for the last two bytes of 14.
    pub begin: [u32; 3],
    pub kind: u32,
    /// One of [`PIECES_V4`] and [`PIECES_V6`].
    pub first: u32,
    /// Length of the frame.
    pub length: u32,
    /// Flows, a power of two, minus 1.
    pub flows: u32,
    /// In which piece the 32 bits end that hold the flow's number, xored to what is there, and how many bits of the piece are
    /// behind them. Checksums are left as they are: the engine only changes them by differences.
    pub which: u32,
    pub shift: u32,
    /// Where [`bench_send`] sends it.
    pub interface: u32,
}

/// When [`bench_send`] sent what.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SendTimes {
    /// Frames so far.
    pub frames: u64,
    /// Nanoseconds of the monotonic clock: when the first frame was about to be sent.
    pub first: u64,
    /// And when the newest batch's first one was.
    pub newest: u64,
}

/// As many frames as are sent at once.
const BATCH: u64 = 64;

#[btf_map]
static BENCH_SENT: Array<SendTimes, 1> = Array::new();
#[btf_map]
static BENCH_TEMPLATE: Array<Template, 1> = Array::new();
#[btf_map]
static BENCH_NEXT: Array<u32, 1> = Array::new();
#[btf_map]
static BENCH_PROGRAMS: ProgramArray<1> = ProgramArray::new();
/// The yardstick: a VIP table as the kernel's own hash map has it, key of 20 bytes.
#[btf_map]
static BENCH_VIPS: HashMap<[u32; 5], u32, 1024> = HashMap::new();

/// Restores the frame for the next flow, then calls what is measured.
#[xdp(frags)]
pub fn bench_entry(ctx: XdpContext) -> u32 {
    restore(&ctx);
    // SAFETY: does not return when it succeeds.
    unsafe { BENCH_PROGRAMS.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Restores the frame for the next flow, and sends it out of an interface, as if a driver had received it there. For live
/// frames, whose pages come back as others have left them. They must be longer than the template: what the program has not
/// changed in length, Linux 6.1 does not restore (`net/bpf/test_run.c`, `reset_ctx`).
#[xdp(frags)]
pub fn bench_send(ctx: XdpContext) -> u32 {
    look_at_the_clock();
    restore(&ctx);
    let Some(template) = BENCH_TEMPLATE.get(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: a helper without preconditions; a bad interface is an error in its answer.
    unsafe { bpf_redirect(template.interface, 0) as u32 }
}

/// The empty program: what restoring and calling cost.
#[xdp(frags)]
pub fn bench_empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// One lookup of the destination in a hash map.
#[xdp(frags)]
pub fn bench_lookup(ctx: XdpContext) -> u32 {
    let frame = Frame { ctx: ctx.ctx };
    let Some(b) = frame.read::<4>(30) else { return xdp_action::XDP_ABORTED };
    let key = [0, 0, 0, u32::from_ne_bytes(b), 6 << 16 | 80];
    // SAFETY: nobody writes while it is measured.
    match unsafe { BENCH_VIPS.get(key) } {
        Some(_) => xdp_action::XDP_TX,
        None => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn look_at_the_clock() {
    let Some(sent) = BENCH_SENT.get_ptr_mut(0) else { return };
    // SAFETY: the map's only value, which lives as long as the map; one processor sends.
    let sent = unsafe { &mut *sent };
    if sent.frames % BATCH == 0 {
        // SAFETY: a helper without preconditions.
        sent.newest = unsafe { bpf_ktime_get_ns() };
        if sent.frames == 0 {
            sent.first = sent.newest;
        }
    }
    sent.frames += 1;
}

#[inline(always)]
fn restore(ctx: &XdpContext) {
    let Some(template) = BENCH_TEMPLATE.get(0) else { return };
    let Some(next) = BENCH_NEXT.get_ptr_mut(0) else { return };
    let mut frame = Frame { ctx: ctx.ctx };
    // An encapsulated frame has grown: take off what is in front. The length is then the template's.
    // SAFETY: the context is valid for the whole run.
    unsafe {
        let grown = bpf_xdp_get_buff_len(ctx.ctx) as i32 - template.length as i32;
        if grown != 0 {
            bpf_xdp_adjust_head(ctx.ctx, grown);
        }
    }
    // SAFETY: measured on one processor.
    let flow = unsafe {
        *next = (*next).wrapping_add(1);
        // A walk without locality through all of them: an odd factor permutes a power of two.
        (*next).wrapping_mul(0x9e37_79b1) & template.flows
    };
    let _ = begin(&mut frame, template) && go_on(&mut frame, template, flow);
}

/// The first bytes of the link header.
#[inline(always)]
fn begin(frame: &mut Frame, template: &Template) -> bool {
    let [a, b, c] = template.begin;
    frame.put_word(0, a)
        && frame.put_word(4, b)
        && frame.put_half(8, c as u16)
        && (template.first == PIECES_V4
            || (frame.put_half(10, (c >> 16) as u16) && frame.put_half(12, template.kind as u16)))
}

/// The pieces.
#[inline(always)]
fn go_on(frame: &mut Frame, template: &Template, flow: u32) -> bool {
    // One or the other: where they begin is to be a number in the code.
    if template.first == PIECES_V4 {
        put_pieces::<{ PIECES_V4 as usize }>(frame, template, flow)
    } else {
        put_pieces::<{ PIECES_V6 as usize }>(frame, template, flow)
    }
}

#[inline(always)]
fn put_pieces<const FIRST: usize>(frame: &mut Frame, template: &Template, flow: u32) -> bool {
    let flow = u64::from(flow.to_be()) << 32 >> (template.shift & 63);
    let mut number = 0;
    while number < PIECES {
        let mut piece = template.pieces[number];
        if number as u32 == template.which {
            piece ^= flow;
        }
        if !frame.put_long(FIRST + number * 8, piece) {
            return true;
        }
        number += 1;
    }
    true
}

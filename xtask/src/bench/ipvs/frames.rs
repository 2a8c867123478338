//! Packets as a driver would bring them (`BPF_PROG_TEST_RUN` with live frames), and what the machine spends on them.

use crate::bench::stand::Template;
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use marca_testkit::frame;
use marca_testkit::topology::Namespace;
use std::cell::RefCell;

/// Frames, all alike but for their flows, that leave an interface.
pub struct Frames<'n> {
    from: &'n Namespace,
    interface: u32,
    bytes: Vec<u8>,
    template: Option<Template>,
}

impl<'n> Frames<'n> {
    pub fn new(from: &'n Namespace, interface: &str, text: &str) -> Result<Self> {
        let interface = from.enter(|| nix::net::if_::if_nametoindex(interface)).context("find the interface")?;
        Ok(Self { from, interface, bytes: frame::build(text)?, template: None })
    }

    /// So many flows, a power of two; their number is in the 32 bits at `at`.
    pub fn flows(mut self, flows: u32, at: u32) -> Result<Self> {
        self.template = Some(Template::new(&self.bytes, flows, at)?.out_of(self.interface));
        // So that the program has something to take off.
        self.bytes.splice(0..0, [0; LONGER]);
        Ok(self)
    }
}

/// As in the BPF program.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sent {
    frames: u64,
    first: u64,
    newest: u64,
}
// SAFETY: plain integers without padding.
unsafe impl Pod for Sent {}

/// Sends frames.
pub struct Sender {
    ebpf: Ebpf,
    template: RefCell<Array<MapData, Template>>,
    sent: RefCell<Array<MapData, Sent>>,
}

impl Sender {
    pub fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(marca_bpf::bench()).context("load the benchmark's object")?;
        let program: &mut Xdp = ebpf.program_mut(SEND).context("bench_send is missing")?.try_into()?;
        program.load().context("load bench_send")?;
        let template = Array::try_from(ebpf.take_map("BENCH_TEMPLATE").context("BENCH_TEMPLATE is missing")?)?;
        let sent = Array::try_from(ebpf.take_map("BENCH_SENT").context("BENCH_SENT is missing")?)?;
        Ok(Self { ebpf, template: RefCell::new(template), sent: RefCell::new(sent) })
    }

    /// Sends so many, and has whoever gets them do what is to be done with them; nanoseconds of the guest's clock, each an
    /// instruction, from the first frame to the first of the last batch. Outside of that the system call waits for others
    /// (`synchronize_rcu`), and a processor with nothing to do has its clock go to the next timer.
    pub fn send(&self, frames: &Frames, count: u32) -> Result<u64> {
        let template = frames.template.context("frames without flows")?;
        self.template.borrow_mut().set(0, template, 0)?;
        self.sent.borrow_mut().set(0, Sent::default(), 0)?;
        let program: &Xdp = self.ebpf.program(SEND).context("bench_send is missing")?.try_into()?;
        frames.from.enter(|| {
            let options = TestRunOptions {
                data_in: Some(&frames.bytes),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            program.test_run(options).context("send live frames")
        })?;
        let sent = self.sent.borrow().get(&0, 0)?;
        ensure!(sent.frames == u64::from(count), "{} of {count} frames were sent", sent.frames);
        Ok(sent.newest - sent.first)
    }

    /// Instructions a packet.
    pub fn measure(&self, frames: &Frames, packets: u32) -> Result<f64> {
        let taken = self.send(frames, packets + BATCH)?;
        ensure!(packets.is_multiple_of(BATCH) && taken > 0, "the clock does not count");
        Ok(taken as f64 / f64::from(packets))
    }
}

const SEND: &str = "bench_send";
/// Frames that are sent at once, as in the BPF program: less than a veth's ring holds.
const BATCH: u32 = 64;
const LONGER: usize = 4;

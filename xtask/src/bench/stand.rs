//! The test stand: the entry program that restores frames, the network namespace around it, and the clock.

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::process::Command;
use std::time::Duration;

/// As in the BPF program, as is what follows.
const PIECES: usize = 15;
const PIECES_V4: usize = 10;
const PIECES_V6: usize = 14;

/// Longest frame that can be restored.
const FRAME: usize = PIECES * 8;

/// As in the BPF program.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Template {
    pieces: [u64; PIECES],
    begin: [u32; 3],
    kind: u32,
    first: u32,
    length: u32,
    flows: u32,
    which: u32,
    shift: u32,
    interface: u32,
}
// SAFETY: plain integers without padding.
unsafe impl Pod for Template {}

impl Template {
    /// `flows` is a power of two; the flow's number is xored to the 32 bits at `at`.
    pub fn new(frame: &[u8], flows: u32, at: u32) -> Result<Self> {
        ensure!(frame.len() <= FRAME, "a frame of {} bytes cannot be restored", frame.len());
        let mut bytes = [0; FRAME + PIECES_V6];
        bytes[..frame.len()].copy_from_slice(frame);
        let first = if bytes[12..14] == [8, 0] { PIECES_V4 } else { PIECES_V6 };
        let begin = [0, 4, 8].map(|at| u32::from_ne_bytes(array(&bytes[at..])));
        let kind = u16::from_ne_bytes(array(&bytes[12..])).into();
        let pieces = std::array::from_fn(|number| u64::from_ne_bytes(array(&bytes[first + number * 8..])));
        let end = at as usize + 4 - first;
        let which = (end - 1) / 8;
        let inside = end - which * 8;
        ensure!(inside >= 4 || flows <= 1 << (inside * 8), "the flow's number lies across two pieces");
        Ok(Self {
            pieces,
            begin,
            kind,
            first: first as u32,
            length: frame.len() as u32,
            flows: flows - 1,
            which: which as u32,
            shift: ((8 - inside) * 8) as u32,
            interface: 0,
        })
    }

    /// For the program that sends it.
    pub fn out_of(self, interface: u32) -> Self {
        Self { interface, ..self }
    }

    pub fn frame(&self) -> Vec<u8> {
        let head = self.begin.iter().flat_map(|word| word.to_ne_bytes()).chain((self.kind as u16).to_ne_bytes());
        let pieces = self.pieces.iter().flat_map(|piece| piece.to_ne_bytes());
        head.take(self.first as usize).chain(pieces).take(self.length as usize).collect()
    }
}

/// The first bytes of a slice that has as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes[at])
}

/// The stand's own programs.
#[derive(Clone, Copy, Debug)]
pub enum Own {
    Empty,
    Lookup,
}

/// A stand in the network namespace of the calling thread.
pub struct Stand {
    ebpf: Ebpf,
    template: Array<MapData, Template>,
    programs: ProgramArray<MapData>,
    interface: u32,
}

impl Stand {
    /// Moves the calling thread to a network namespace of its own, where the interfaces [`OUTSIDE`] and its peer are and
    /// every client and real server has a route with a known neighbour; and to one processor.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (are you root?)")?;
        network()?;
        last_processor()?;
        let mut ebpf = Ebpf::load(marca_bpf::bench()).context("load the benchmark's object")?;
        for name in ["bench_entry", "bench_empty", "bench_lookup"] {
            own(&mut ebpf, name)?.load().with_context(|| format!("load {name}"))?;
        }
        let interface = nix::net::if_::if_nametoindex(OUTSIDE).context("find the interface")?;
        // Test runs are said to come in on this interface, and the kernel wants to see it ready for XDP.
        own(&mut ebpf, "bench_empty")?.attach(OUTSIDE, XdpMode::Driver).context("attach to the interface")?;
        let template = Array::try_from(ebpf.take_map("BENCH_TEMPLATE").context("BENCH_TEMPLATE is missing")?)?;
        let programs = ProgramArray::try_from(ebpf.take_map("BENCH_PROGRAMS").context("BENCH_PROGRAMS is missing")?)?;
        let mut vips: HashMap<MapData, [u32; 5], u32> =
            HashMap::try_from(ebpf.take_map("BENCH_VIPS").context("BENCH_VIPS is missing")?)?;
        for vip in 0..VIPS {
            vips.insert(lookup_key([192, 0, 2, vip]), 1, 0)?;
        }
        Ok(Self { ebpf, template, programs, interface })
    }

    /// The interface on which frames come in.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Nanoseconds a packet, of restoring and of one of the stand's own programs.
    pub fn measure_own(&mut self, program: Own, template: &Template, repeat: u32) -> Result<f64> {
        let name = match program {
            Own::Empty => "bench_empty",
            Own::Lookup => "bench_lookup",
        };
        let fd = own(&mut self.ebpf, name)?.fd()?.try_clone()?;
        self.measure(&fd, template, repeat)
    }

    /// Nanoseconds a packet, of restoring and of this program.
    pub fn measure(&mut self, program: &ProgramFd, template: &Template, repeat: u32) -> Result<f64> {
        self.template.set(0, template, 0)?;
        self.programs.set(0, program, 0).context("put the program behind the entry (has it the frags attribute?)")?;
        let entry = own(&mut self.ebpf, "bench_entry")?;
        let frame = template.frame();
        let mut context = [0u8; 24];
        // `struct xdp_md`: where the data ends, and the interface.
        context[4..8].copy_from_slice(&template.length.to_ne_bytes());
        context[12..16].copy_from_slice(&self.interface.to_ne_bytes());
        let run = |repeat| {
            let options =
                TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
            // This thread's time on the processor: the kernel's own answer is in whole nanoseconds.
            let before = processor_time()?;
            let result = entry.test_run(options).context("run the program")?;
            let taken = processor_time()? - before;
            // XDP_ABORTED: the tail call failed.
            if result.return_value == 0 {
                bail!("the program was not reached, or failed");
            }
            anyhow::Ok(taken)
        };
        // The system call's own time is in both.
        let one = run(1)?;
        Ok((run(repeat)?.saturating_sub(one)).as_nanos() as f64 / f64::from(repeat - 1))
    }
}

/// The key of the yardstick's table: an address, a protocol and a port, as the BPF program makes it.
fn lookup_key(address: [u8; 4]) -> [u32; 5] {
    [0, 0, 0, u32::from_ne_bytes(address), 6 << 16 | 80]
}

/// VIPs in the yardstick's table.
const VIPS: u8 = 100;

fn own<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("{name} is missing"))?.try_into()?)
}

fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// On the last processor: interrupts prefer the first.
fn last_processor() -> Result<()> {
    let count = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1);
    let mut set = CpuSet::new();
    set.set(count as usize - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("keep to one processor")
}

/// The interface of the clients and of the real servers.
pub const OUTSIDE: &str = "bench0";

fn network() -> Result<()> {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{key}"), "1").with_context(|| format!("set {key}"))?;
    }
    let commands = "link add bench0 type veth peer name bench1
        link set bench0 up
        link set bench1 up
        address add 203.0.113.1/24 dev bench0
        address add 2001:db8:f::1/64 dev bench0 nodad
        neighbour add 203.0.113.2 lladdr 02:00:00:00:00:99 nud permanent dev bench0
        neighbour add 2001:db8:f::2 lladdr 02:00:00:00:00:99 nud permanent dev bench0
        route add default via 203.0.113.2 dev bench0
        route add default via 2001:db8:f::2 dev bench0";
    for command in commands.lines() {
        let output = Command::new("ip").args(command.split_whitespace()).output().context("run ip")?;
        ensure!(output.status.success(), "ip {}: {}", command.trim(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

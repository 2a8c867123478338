//! The programs in the kernel, run by `BPF_PROG_TEST_RUN`.

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader};
use marca_config::model::Gue;
use marca_daemon::linux::data_plane::{DataPlane, Hook, Maps, detach};
use marca_engine::reason::Reason;
use marca_tables::memory::Capacity;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub reason: Reason,
    pub verdict: Verdict,
    /// Where it is sent, if it is; XDP's test runs keep that to themselves.
    pub interface: Option<u32>,
    pub frame: Vec<u8>,
}

/// What the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Aborted,
    Drop,
    Pass,
    /// Out of the interface that it came in on.
    Transmit,
    /// Out of another one.
    Redirect,
}

impl Verdict {
    /// `include/uapi/linux/pkt_cls.h`. There is one way to send a packet in TC, back or on.
    fn of_tc(number: u32, back: bool) -> Self {
        match number as i32 {
            -1 => Self::Pass,
            2 => Self::Drop,
            7 if back => Self::Transmit,
            7 => Self::Redirect,
            _ => Self::Aborted,
        }
    }

    /// `enum xdp_action` in `include/uapi/linux/bpf.h`.
    fn of_xdp(number: u32) -> Self {
        match number {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Transmit,
            4 => Self::Redirect,
            _ => Self::Aborted,
        }
    }
}

/// The director's data plane and the decapsulator, loaded, and attached to nothing.
pub struct Kernel {
    pub plane: DataPlane,
    /// Where the entry belongs.
    hook: Hook,
    /// Of either type: aya keeps to itself the type that it wants to open an XDP program as such, and a test run asks the
    /// kernel, which knows what it is.
    entry: SchedClassifier,
    real_server: Ebpf,
    decap_reasons: PerCpuArray<MapData, u64>,
    /// What the director's counters must be after the last packet, and the decapsulator's; nobody else's packets are counted.
    counts: Vec<u64>,
    decap_counts: Vec<u64>,
    /// Dropped last.
    _folder: Folder,
}

impl Kernel {
    /// `label` keeps apart tests of one process. The programs that do nothing are attached to these interfaces: the
    /// kernel runs tests only as if from a queue that is ready for XDP.
    pub fn load(
        label: &str,
        hook: Hook,
        capacity: &Capacity,
        seed: u64,
        interfaces: &[String],
        directors: &[IpAddr],
    ) -> Self {
        let folder = Folder::new(label);
        let mut plane = DataPlane::load(&folder.0, capacity, seed).unwrap_or_else(|e| panic!("{e}"));
        plane.pin_entry(hook).unwrap_or_else(|e| panic!("{e}"));
        let entry = SchedClassifier::from_pin(folder.0.join(hook.entry_pin())).unwrap();
        let mut real_server = EbpfLoader::new().load(marca_bpf::real_server()).unwrap();
        let mut allowed: HashMap<MapData, [u32; 5], u32> =
            real_server.take_map("DIRECTORS").unwrap().try_into().unwrap();
        for &director in directors {
            let (family, address) = marca_tables::classifier::address(director);
            let [a, b, c, d] = address.parts();
            allowed.insert([a, b, c, d, u32::from(family)], 1, 0).unwrap();
        }
        let mut port: Array<MapData, u32> = real_server.take_map("GUE_PORT").unwrap().try_into().unwrap();
        port.set(0, u32::from(Gue::DEFAULT.port), 0).unwrap();
        let decap_reasons = real_server.take_map("DECAP_REASONS").unwrap().try_into().unwrap();
        program(&mut real_server, marca_bpf::DECAP).load().unwrap();
        let pass = program(&mut real_server, marca_bpf::PASS);
        pass.load().unwrap();
        for name in interfaces {
            pass.attach(name, XdpMode::Driver).unwrap();
        }
        let (counts, decap_counts) = (vec![0; Reason::COUNT], vec![0; Reason::COUNT]);
        Self { plane, hook, entry, real_server, decap_reasons, counts, decap_counts, _folder: folder }
    }

    pub fn maps(&mut self) -> &mut Maps {
        &mut self.plane.maps
    }

    /// Whether the kernel runs this frame: it refuses those that end inside the Ethernet header, and in TC those that end in
    /// the IP header (`net/bpf/test_run.c`, `bpf_test_init`, `bpf_prog_test_run_skb`).
    pub fn takes(&self, frame: &[u8]) -> bool {
        let least = match (self.hook, frame.get(12..14)) {
            (Hook::Tc, Some([0x08, 0x00])) => 20,
            (Hook::Tc, Some([0x86, 0xdd])) => 40,
            (Hook::Tc, _) => 1,
            (Hook::Xdp, _) => 0,
        };
        frame.len() >= marca_engine::wire::ETHERNET + least
    }

    /// Whether a packet's headroom ends somewhere: the kernel finds more of it for packets in TC.
    pub fn headroom_ends(&self) -> bool {
        self.hook == Hook::Xdp
    }

    /// Runs the director's entry, and what it calls. `reserved` bytes of the headroom are taken. The counter of the reason that
    /// is `expected` is looked at first, and of the others only when it has not moved: to read one of them is a system
    /// call. See [`assert_counted`](Self::assert_counted).
    pub fn run(&mut self, frame: &[u8], interface: u32, reserved: usize, expected: Reason) -> Ran {
        let (verdict, to, frame) = match self.hook {
            Hook::Xdp => {
                let (verdict, frame) = test_run_xdp(&self.entry, frame, interface, reserved);
                (verdict, None, frame)
            }
            Hook::Tc => test_run_tc(&self.entry, frame, interface),
        };
        let maps = &self.plane.maps;
        let reason = moved(&mut self.counts, expected, |reason| maps.reason(reason));
        Ran { reason, verdict, interface: to, frame }
    }

    /// Runs the decapsulator; `expected` as in [`run`](Self::run).
    pub fn decapsulate(&mut self, frame: &[u8], interface: u32, expected: Reason) -> Ran {
        let (verdict, frame) = test_run_xdp(&*program(&mut self.real_server, marca_bpf::DECAP), frame, interface, 0);
        let Self { decap_reasons, decap_counts, .. } = self;
        let reason = moved(decap_counts, expected, |reason| decapsulated(decap_reasons, reason));
        Ran { reason, verdict, interface: None, frame }
    }

    /// Since the beginning each packet has been counted once, under the one reason that it was said to have.
    pub fn assert_counted(&self, what: &str) {
        for reason in Reason::ALL {
            let (counts, index) = ((&self.counts, &self.decap_counts), *reason as usize);
            let found = (self.plane.maps.reason(*reason), decapsulated(&self.decap_reasons, *reason));
            assert_eq!(found, (counts.0[index], counts.1[index]), "{what}: one packet has one reason: {reason:?}");
        }
    }
}

fn decapsulated(reasons: &PerCpuArray<MapData, u64>, reason: Reason) -> u64 {
    reasons.get(&(reason as u32), 0).unwrap().iter().sum()
}

/// The one reason whose counter has moved, by one.
fn moved(counts: &mut [u64], expected: Reason, count: impl Fn(Reason) -> u64) -> Reason {
    let mut reason = expected;
    if count(expected) != counts[expected as usize] + 1 {
        let moved = Reason::ALL.iter().map(|&reason| (reason, count(reason) - counts[reason as usize]));
        let moved: Vec<(Reason, u64)> = moved.filter(|(_, difference)| *difference != 0).collect();
        let [(only, 1)] = moved[..] else { panic!("one packet has one reason: {moved:?}") };
        reason = only;
    }
    counts[reason as usize] += 1;
    reason
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

fn test_run_xdp<P>(program: &P, frame: &[u8], interface: u32, reserved: usize) -> (Verdict, Vec<u8>)
where
    P: for<'o> TestRun<Opts<'o> = TestRunOptions<'o>, Result = TestRunResult>,
{
    // Metadata lies in front of the packet, in the headroom.
    let data: Vec<u8> = std::iter::repeat_n(0, reserved).chain(frame.iter().copied()).collect();
    // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [reserved as u32, data.len() as u32, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
    let mut out = vec![0; data.len() + ROOM];
    let options = TestRunOptions {
        data_in: Some(&data),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        repeat: 1,
        ..Default::default()
    };
    let ran = program.test_run(options).unwrap_or_else(|e| panic!("{} bytes: {e:?}", frame.len()));
    out.truncate(ran.data_size_out as usize);
    (Verdict::of_xdp(ran.return_value), out.split_off(reserved))
}

/// Also answers where the packet is sent: the program leaves that in the control block.
fn test_run_tc(program: &SchedClassifier, frame: &[u8], interface: u32) -> (Verdict, Option<u32>, Vec<u8>) {
    // `struct __sk_buff`; all but this is zero.
    let mut context = [0; SK_BUFF];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&interface.to_ne_bytes());
    let mut context_out = [0; SK_BUFF];
    let mut out = vec![0; frame.len() + ROOM];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ctx_out: Some(&mut context_out),
        repeat: 1,
        ..Default::default()
    };
    let ran = program.test_run(options).unwrap_or_else(|e| panic!("{} bytes: {e:?}", frame.len()));
    out.truncate(ran.data_size_out as usize);
    let to = u32::from_ne_bytes(context_out[CB..CB + 4].try_into().unwrap());
    let verdict = Verdict::of_tc(ran.return_value, to == interface);
    let sent = matches!(verdict, Verdict::Transmit | Verdict::Redirect);
    (verdict, sent.then_some(to), out)
}

/// Length and offsets in `struct __sk_buff`.
const SK_BUFF: usize = 192;
const IFINDEX: usize = 40;
const CB: usize = 48;

/// By how much a frame may grow.
const ROOM: usize = 64;

/// A folder of the BPF file system, taken away on drop, also when its test panics.
struct Folder(PathBuf);

const PREFIX: &str = "marca-vectors-";

impl Folder {
    fn new(label: &str) -> Self {
        remove_orphans();
        Self(Path::new(marca_daemon::linux::bpffs::MOUNT_POINT).join(format!("{PREFIX}{}-{label}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = detach(&self.0) {
            eprintln!("{} is still there: {error}", self.0.display());
        }
    }
}

/// Folders of test runs that were killed.
fn remove_orphans() {
    for entry in std::fs::read_dir(marca_daemon::linux::bpffs::MOUNT_POINT).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(process).exists() {
            let _ = detach(&entry.path());
        }
    }
}

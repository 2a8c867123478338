//! The vectors: packets, and what becomes of them, run natively, in the kernel by XDP and by TC, and through `explain`. They
//! must agree.
//!
//! What is expected stands in `tests/vectors/*.toml`; this adds what no list holds: every truncation and some thousand
//! mutations of every vector's packet. Needs root and iproute2.

mod both;
mod flows;
mod format;
mod kernel;
mod network;

use both::Both;
use format::{Arrival, Side, Vector};
use marca_daemon::linux::data_plane::Hook;
use marca_engine::Reason;
use marca_engine::reason::Action;
use marca_engine::wire;
use marca_tables::Frame;
use marca_testkit::frame;

/// Runs the test with XDP and with TC in the kernel, each on a thread of its own, which takes its namespace with it.
fn with_both(label: &str, test: impl Fn(&mut Both) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        let runs = [(Hook::Xdp, "xdp"), (Hook::Tc, "tc")]
            .map(|(hook, name)| scope.spawn(move || test(&mut Both::new(&format!("{label}-{name}"), hook))));
        for run in runs {
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

fn concerned(both: &Both) -> Vec<Vector> {
    format::all().into_iter().filter(|vector| both.concerns(vector)).collect()
}

#[test]
fn every_vector_comes_out_as_written_natively_in_the_kernel_and_explained() {
    with_both("vectors", |both| {
        let mut faults = Vec::new();
        for vector in concerned(both) {
            both.prepare(&vector);
            let ran = both.run(&vector, &vector.packet);
            both.assert_same_tables(&vector.name);
            faults.extend(both.judge(&vector, &ran).err());
        }
        assert!(faults.is_empty(), "{} vectors:\n{}", faults.len(), faults.join("\n"));
    });
}

#[test]
fn copied_routes_lead_every_vector_to_where_the_kernels_own_do() {
    with_both("routes", |both| {
        for vector in concerned(both) {
            both.prepare(&vector);
            both.copy_routes();
            let ran = both.run(&vector, &vector.packet);
            if let Err(fault) = both.judge(&vector, &ran) {
                panic!("{fault}");
            }
        }
    });
}

#[test]
fn no_two_vectors_have_one_name_and_every_reason_is_reached() {
    let vectors = format::all();
    for (index, vector) in vectors.iter().enumerate() {
        assert!(vectors[..index].iter().all(|other| other.name != vector.name), "{} is there twice", vector.name);
    }
    let missing: Vec<&str> = Reason::ALL
        .iter()
        .filter(|reason| !vectors.iter().any(|vector| vector.reason == **reason))
        .map(|reason| reason.label())
        .collect();
    assert!(missing.is_empty(), "no vector has {missing:?}");
}

#[test]
fn a_truncated_packet_is_never_sent_on_and_leaves_no_trace() {
    with_both("truncated", |both| {
        for vector in concerned(both) {
            both.prepare(&vector);
            let before = both.written();
            for length in 0..packet_end(&vector.packet.frame) {
                let frame = vector.packet.frame[..length].to_vec();
                let ran = both.run(&vector, &Arrival { frame, ..vector.packet });
                assert_ne!(ran.reason.action(), Action::Send, "{}, the first {length} bytes", vector.name);
            }
            assert_eq!(both.written(), before, "{}", vector.name);
            both.assert_same_tables(&vector.name);
        }
    });
}

/// Where the IP packet ends, or the frame, when that is shorter.
fn packet_end(frame: &[u8]) -> usize {
    let end =
        wire::network(&Frame::new(frame.to_vec(), 0)).map_or(frame.len(), |h| usize::from(h.l3) + h.length as usize);
    end.min(frame.len())
}

/// Of each vector's packet.
const MUTATIONS: u32 = 40;

#[test]
fn mutated_packets_have_the_same_end_natively_and_in_the_kernel() {
    with_both("mutated", |both| {
        let mut noise = Noise(1);
        for vector in concerned(both) {
            both.prepare(&vector);
            for _ in 0..MUTATIONS {
                let frame = noise.mutate(&vector.packet.frame);
                let ran = both.run(&vector, &Arrival { frame, ..vector.packet });
                let allowed = vector.reason == Reason::Inconsistent || ran.reason != Reason::Inconsistent;
                assert!(allowed, "{}: a packet alone makes no tables contradict each other", vector.name);
            }
            both.assert_same_tables(&vector.name);
        }
    });
}

#[test]
fn a_live_flow_goes_where_it_began_in_the_kernel_too() {
    with_both("flows", |both| {
        for scheduler in ["rr", "wlc", "sh", "maglev", "twos", "lblcr", "dh"] {
            for persist in [false, true] {
                flows::a_live_flow_goes_where_it_began(both, scheduler, persist);
            }
        }
    });
}

/// Forged clients, each of whom sends one packet: many times as many as the table of half-open connections holds.
#[test]
fn a_flood_in_the_kernel_displaces_no_flow_and_no_template() {
    with_both("flood", |both| {
        both.start(
            "[service.shop]\nvip = '192.0.2.10'\nports = ['tcp/80', 'udp/53']\nscheduler = 'rr'\npersist = '5m'\n\
             [[service.shop.server]]\naddress = '10.0.0.11'\n[[service.shop.server]]\naddress = '10.0.0.12'\n",
        );
        let arrival = |line: &str| Arrival { interface: Side::Outside, frame: frame::build(line).unwrap() };
        let data = |client: usize| arrival(&format!("ip4 203.0.113.{client} > 192.0.2.10 / tcp 4242 > 80 A"));
        let mut homes = Vec::new();
        for client in 1..100 {
            both.take(&arrival(&format!("ip4 203.0.113.{client} > 192.0.2.10 / tcp 4242 > 80 S")));
            homes.push(both.take(&data(client)).frame);
        }
        let before = both.lasting();
        assert_eq!(before.len(), 2 * homes.len());
        for line in ["tcp 99 > 80 S", "udp 99 > 53 / data 20"] {
            let forged = arrival(&format!("ip4 10.99.0.0 > 192.0.2.10 / {line}")).frame;
            both.flood((0..20_000u16).map(|number| {
                let mut frame = forged.clone();
                // The last two bytes of the source, whose checksum nobody asks for.
                frame[28..30].copy_from_slice(&number.to_be_bytes());
                frame
            }));
        }
        assert_eq!(both.lasting(), before);
        for (client, home) in (1..100).zip(homes) {
            assert_eq!(both.take(&data(client)).frame, home, "client {client}");
        }
    });
}

/// Numbers that look random and are the same in every run (Marsaglia, "Xorshift RNGs", 2003).
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// Some bytes changed, most of them in the headers; sometimes a piece cut off or added.
    fn mutate(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = frame.to_vec();
        for _ in 0..self.below(4) {
            let (reach, at_most) = (bytes.len().min(HEADERS), bytes.len());
            let reach = if self.below(8) == 0 { at_most } else { reach };
            if reach != 0 {
                let at = self.below(reach);
                bytes[at] = match self.below(3) {
                    0 => bytes[at] ^ 1 << self.below(8),
                    1 => [0, 1, 4, 6, 17, 44, 0x7f, 0xff][self.below(8)],
                    _ => self.below(256) as u8,
                };
            }
        }
        match self.below(6) {
            0 => bytes.truncate(self.below(frame.len() + 1)),
            1 => bytes.resize(frame.len() + self.below(64), 0),
            _ => {}
        }
        bytes
    }
}

/// Bytes in which headers are.
const HEADERS: usize = 90;

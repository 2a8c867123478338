//! Any frames, one after another, through a director that has one of everything.

use crate::Reader;
use crate::director::{Director, SMALL};
use marca_config::model::Config;
use marca_engine::decap::{Policy, decapsulate};
use marca_engine::layout::{Address, TCP, UDP, V4};
use marca_engine::wire::{self, Headers};
use marca_engine::{Action, Packet, Reason};
use marca_tables::{Capacity, Frame};
use std::sync::LazyLock;

const EVERYTHING: &str = include_str!("everything.toml");

/// Two configurations that take each other's place.
static CONFIGURATIONS: LazyLock<[Config; 2]> = LazyLock::new(|| {
    let another = OTHERWISE.iter().fold(EVERYTHING.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    });
    [EVERYTHING, &another]
        .map(|text| marca_config::load("everything.toml", text).unwrap_or_else(|faults| panic!("{faults}")).config)
});

/// What is different in the other one: weights, servers, a scheduler, persistence, where a mark leads.
const OTHERWISE: &[(&str, &str)] = &[
    ("weight = 2", "weight = 0"),
    (r#"    { name = "b", address = ["10.0.0.14", "fd00::14"] },"#, ""),
    (r#"scheduler = "sh""#, r#"scheduler = "maglev""#),
    (r#"persist = "5m""#, r#"persist = { timeout = "30s", netmask = "/24" }"#),
    ("target = 3128", "target = 3129"),
    (r#"scheduler = "lblcr""#, r#"scheduler = "lblc""#),
    ("upper = 4, lower = 2", "upper = 1"),
    (r#"source = ["10.0.0.100-10.0.0.101", "fd00::100"]"#, r#"source = ["10.0.0.101-10.0.0.102", "fd00::101"]"#),
    (r#"forward = { tunnel = "gue", port = 6080, checksum = true }"#, r#"forward = "gre""#),
    ("connections = 2, burst = 4", "connections = 1000"),
    (r#"passive = "20000-20100""#, r#"passive = "1024-65535""#),
];

/// Real servers that fail and serve again.
const FAILING: [(&str, &str, &str); 4] = [
    ("nat", "10.0.0.11", "fd00::11"),
    ("full", "10.0.0.22", "fd00::22"),
    ("tunnels", "10.0.0.24", "fd00::24"),
    ("files", "10.0.0.32", "fd00::32"),
];

/// Real servers of which ports are closed.
const CLOSING: [(&str, &str, &str); 4] = [
    ("parts", "10.0.0.41", "fd00::41"),
    ("parts", "10.0.0.42", "fd00::42"),
    ("slots", "10.0.0.43", "fd00::43"),
    ("slots", "10.0.0.44", "fd00::44"),
];

const CAPACITY: Capacity =
    Capacity { services: 64, slots: 1 << 15, reals: 128, flows: 256, half_open: 256, templates: 256, ..SMALL };

/// Each frame: a byte of interface (bits 0 and 1) and of passing time (the rest, in ticks; 63: a sweep as well; 62 and 61:
/// the other configuration by a reload or a restart; 60: one of four real servers fails, or serves again; 59 and 58: the
/// first or the second port of one of four others is closed, or open again), two of length, and itself.
pub fn frames(data: &[u8]) {
    let mut director = Director::with(CAPACITY, &CONFIGURATIONS[0]);
    let mut force = 0;
    let mut serves = [true; FAILING.len()];
    let mut closed = [0; CLOSING.len()];
    let mut reader = Reader(data);
    while !reader.is_empty() {
        let what = reader.byte();
        let length = usize::from(reader.short() & 0x7ff);
        let before = reader.bytes(length);
        director.now = director.now.wrapping_add(u32::from(what >> 2));
        match what >> 2 {
            63 => director.pass(),
            62 => {
                force ^= 1;
                director.replace(&CONFIGURATIONS[force]);
            }
            61 => {
                force ^= 1;
                director.start(&CONFIGURATIONS[force]);
            }
            60 => {
                let number = usize::from(what & 3);
                let (service, v4, v6) = FAILING[number];
                serves[number] = !serves[number];
                let addresses = [v4.parse().unwrap(), v6.parse().unwrap()];
                director.health(&CONFIGURATIONS[force], service, addresses, serves[number]);
            }
            part @ (58 | 59) => {
                let number = usize::from(what & 3);
                let (service, v4, v6) = CLOSING[number];
                closed[number] ^= 1 << (59 - part);
                let addresses = [v4.parse().unwrap(), v6.parse().unwrap()];
                director.close(&CONFIGURATIONS[force], service, addresses, closed[number]);
            }
            _ => {}
        }
        let (outcome, after) = director.process(before.to_vec(), u32::from(what & 3));
        assert_ne!(outcome.reason, Reason::Inconsistent, "a packet alone makes no tables contradict each other");
        match outcome.reason {
            Reason::Nat
            | Reason::FullNat
            | Reason::Reply
            | Reason::ErrorToClient
            | Reason::FtpAnnounced
            | Reason::FtpUnfollowed => assert_same_faults(before, &after),
            Reason::Tunnel => assert_same_inside(before, &after),
            // By direct routing or NAT; a tunnel's is longer.
            Reason::ErrorToServer if before.len() == after.len() => assert_same_faults(before, &after),
            reason if reason.action() != Action::Send && reason != Reason::Decapsulated => {
                assert_eq!(before, after, "a frame that is not sent is as it was");
            }
            _ => {}
        }
    }
    director.check_loads();
}

/// A rewritten packet has right checksums exactly where it came with right ones.
pub(crate) fn assert_same_faults(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    let (before, after) = (Sums::of(before), Sums::of(after));
    assert_eq!(before, after);
}

/// What a real server takes out of a tunnel is what the client has sent, but for its time to live, and where the link header
/// leads to.
fn assert_same_inside(before: &[u8], after: &[u8]) {
    let mut frame = Frame::new(after.to_vec(), 1);
    assert_eq!(decapsulate(&mut frame, &Anybody(gue_port(after))), Reason::Decapsulated);
    let aged = |bytes: &[u8]| {
        let (mut packet, h) = (bytes[ETHERNETS..].to_vec(), wire::network(&Frame::new(bytes.to_vec(), 1)).unwrap());
        let l3 = usize::from(h.l3) - ETHERNETS;
        if h.family == V4 {
            assert!(bytes[ETHERNETS..].len() >= l3 + 20);
            // Time to live, and the checksum that covers it.
            [8, 10, 11].iter().for_each(|at| packet[l3 + at] = 0);
        } else {
            packet[l3 + 7] = 0;
        }
        (packet, h.ttl)
    };
    let ((sent, ttl), (arrived, left)) = (aged(before), aged(&frame.bytes));
    assert_eq!(arrived, sent);
    assert_eq!(left + 1, ttl);
    assert_same_faults(before, &frame.bytes);
}

/// MAC addresses.
const ETHERNETS: usize = 12;

/// A real server that takes everything out.
struct Anybody(u16);

impl Policy for Anybody {
    fn accepts(&self, _: u8, _: &Address, _: &Address) -> bool {
        true
    }

    fn gue_port(&self) -> u16 {
        self.0
    }
}

/// Of a frame in a tunnel, if it is one of GUE.
fn gue_port(frame: &[u8]) -> u16 {
    let frame = Frame::new(frame.to_vec(), 1);
    let h = wire::network(&frame).unwrap();
    frame.read::<2>(usize::from(h.l4) + 2).map_or(0, u16::from_be_bytes)
}

/// Ones' complement sums: 0xffff where the checksum is right.
#[derive(Debug, PartialEq, Eq)]
struct Sums {
    header: Option<u16>,
    transport: Option<u16>,
}

impl Sums {
    fn of(bytes: &[u8]) -> Self {
        let frame = Frame::new(bytes.to_vec(), 1);
        let mut h = wire::network(&frame).unwrap();
        if wire::has_extensions(&h) {
            wire::extensions(&frame, &mut h).unwrap();
        }
        let (l3, l4) = (usize::from(h.l3), usize::from(h.l4));
        let end = l3 + h.length as usize;
        let header = (h.family == V4).then(|| sum(&[&bytes[l3..l4]]));
        // ICMP for IPv4 is the only one without a pseudo-header.
        let pseudo = if h.family == V4 && wire::is_icmp(&h) { Vec::new() } else { addresses(&h) };
        Self { header, transport: transport(&h, bytes, &frame).then(|| sum(&[&pseudo, &bytes[l4..end]])) }
    }
}

/// Whether the transport header has a checksum over the addresses, and is not a fragment's.
fn transport(h: &Headers, bytes: &[u8], frame: &Frame) -> bool {
    let whole = !h.fragment && frame.reaches(usize::from(h.l3) + h.length as usize);
    let at = usize::from(h.l4) + 6;
    whole
        && (h.protocol == TCP
            || wire::is_icmp(h)
            || (h.protocol == UDP && bytes.get(at..at + 2).is_some_and(|sum| sum != [0, 0])))
}

fn addresses(h: &Headers) -> Vec<u8> {
    if h.family == V4 {
        [h.source.octets_v4(), h.destination.octets_v4()].concat()
    } else {
        [h.source.octets_v6(), h.destination.octets_v6()].concat()
    }
}

/// RFC 1071.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Both are zero.
    if sum == 0 { 0xffff } else { sum as u16 }
}

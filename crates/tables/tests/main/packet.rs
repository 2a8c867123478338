//! Frames of connections, made quickly: a long test sends millions. Their checksums are left 0, which the engine never
//! reads; where checksums matter, tests write their frames with `marca_testkit::frame`.

use marca_engine::wire::{ACK, FIN, RST, SYN};
use std::net::IpAddr;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    pub protocol: u8,
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Syn,
    SynAck,
    Data,
    Fin,
    Reset,
}

impl Segment {
    fn flags(self) -> u8 {
        match self {
            Segment::Syn => SYN,
            Segment::SynAck => SYN | ACK,
            Segment::Data => ACK,
            Segment::Fin => FIN | ACK,
            Segment::Reset => RST,
        }
    }

    /// The chunk that does the same to an SCTP association; of an established one a COOKIE ECHO changes nothing.
    fn chunk(self) -> u8 {
        match self {
            Segment::Syn => 1,
            Segment::SynAck => 2,
            Segment::Data => 10,
            Segment::Fin => 7,
            Segment::Reset => 6,
        }
    }
}

const TCP: u8 = 6;
const SCTP: u8 = 132;

impl Way {
    pub fn reversed(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    /// The segment does not matter to UDP.
    pub fn frame(&self, segment: Segment) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(14 + 40 + 20);
        bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        let length: u16 = match self.protocol {
            TCP => 20,
            SCTP => 16,
            _ => 12,
        };
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([0x08, 0x00, 0x45, 0]);
                bytes.extend((20 + length).to_be_bytes());
                bytes.extend([0, 1, 0x40, 0, 64, self.protocol, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([self.protocol, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            families => panic!("{families:?} are not of one family"),
        }
        bytes.extend(self.from.1.to_be_bytes());
        bytes.extend(self.to.1.to_be_bytes());
        match self.protocol {
            TCP => bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, segment.flags(), 0xff, 0xff, 0, 0, 0, 0]),
            SCTP => bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, segment.chunk(), 0, 0, 4]),
            _ => bytes.extend([0, 12, 0, 0, 0, 0, 0, 0]),
        }
        bytes
    }

    /// Of a frame as [`Way::frame`] makes them.
    pub fn of(frame: &[u8]) -> Self {
        let (protocol, from, to, at): (u8, IpAddr, IpAddr, usize) = if frame[12..14] == [0x08, 0x00] {
            (frame[23], bytes::<4>(frame, 26).into(), bytes::<4>(frame, 30).into(), 34)
        } else {
            (frame[20], bytes::<16>(frame, 22).into(), bytes::<16>(frame, 38).into(), 54)
        };
        let port = |at| u16::from_be_bytes(bytes(frame, at));
        Self { protocol, from: (from, port(at)), to: (to, port(at + 2)) }
    }
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    frame[at..at + N].try_into().unwrap()
}

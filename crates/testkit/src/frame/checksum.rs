//! The two checksums of the wire, written the slow and obvious way: they judge the engine's quick ones.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What a text asks for in place of the right checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Wrong for certain, and never "none": see [`bad_internet`].
    Bad,
    Is(u32),
}

impl Checksum {
    pub fn internet(wanted: Option<Checksum>, right: u16) -> u16 {
        match wanted {
            None => right,
            Some(Checksum::Bad) => bad_internet(right),
            Some(Checksum::Is(value)) => value as u16,
        }
    }

    pub fn crc(wanted: Option<Checksum>, right: u32) -> u32 {
        match wanted {
            None => right,
            Some(Checksum::Bad) => right.wrapping_add(1),
            Some(Checksum::Is(value)) => value,
        }
    }
}

/// The addresses that a transport checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pseudo {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

impl Pseudo {
    /// The checksum of a transport packet whose own checksum field is zero.
    pub fn checksum(&self, protocol: u8, packet: &[u8]) -> u16 {
        let length = packet.len() as u32;
        let mut covered = Vec::with_capacity(40 + packet.len());
        match self {
            // RFC 9293 §3.1
            Pseudo::V4 { source, destination } => {
                covered.extend(source.octets());
                covered.extend(destination.octets());
                covered.extend([0, protocol]);
                covered.extend((length as u16).to_be_bytes());
            }
            // RFC 8200 §8.1
            Pseudo::V6 { source, destination } => {
                covered.extend(source.octets());
                covered.extend(destination.octets());
                covered.extend(length.to_be_bytes());
                covered.extend([0, 0, 0, protocol]);
            }
        }
        covered.extend(packet);
        internet(&covered)
    }
}

/// RFC 1071: the complement of the ones' complement sum of the 16-bit words.
pub fn internet(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// RFC 9260 appendix A. The value goes into the packet in little-endian order.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const CASTAGNOLI_REVERSED: u32 = 0x82f6_3b78;
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ CASTAGNOLI_REVERSED } else { crc >> 1 };
        }
    }
    !crc
}

/// One more, in ones' complement arithmetic where 0 and 0xffff are the same number. Flipping all the bits would not
/// do: it turns 0 into 0xffff, which receivers accept, and a UDP checksum of 0xffff into "no checksum".
fn bad_internet(right: u16) -> u16 {
    if right == 0xffff { 1 } else { right + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internet_checksum_of_the_example_in_rfc_1071() {
        assert_eq!(internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn an_odd_last_byte_counts_as_the_high_half_of_a_word() {
        assert_eq!(internet(&[0x12]), internet(&[0x12, 0x00]));
    }

    #[test]
    fn crc32c_of_the_usual_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_bad_checksum_is_neither_right_nor_absent() {
        for right in 0..=0xffff {
            let bad = bad_internet(right);
            assert_ne!(bad % 0xffff, right % 0xffff, "{right:#06x}");
            assert_ne!(bad, 0, "{right:#06x}");
        }
    }
}

//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 §4), as raw sockets have it.

/// A question and how its answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    pub is_v6: bool,
    pub identifier: u16,
    pub sequence: u16,
}

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
const HEADER_LEN: usize = 8;
const PAYLOAD: &[u8; 16] = b"marca health ...";

impl Echo {
    /// The message. The checksum of ICMPv6 is the kernel's business (RFC 3542 §3.1).
    pub fn request(&self) -> Vec<u8> {
        let kind = if self.is_v6 { REQUEST_V6 } else { REQUEST };
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.identifier.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(PAYLOAD);
        if !self.is_v6 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// Whether this is its answer: what a raw socket reads, with the IP header in IPv4.
    pub fn is_answered_by(&self, packet: &[u8]) -> bool {
        let header = if self.is_v6 { 0 } else { usize::from(packet.first().map_or(0, |first| first & 0xf)) * 4 };
        let Some(message) = packet.get(header..).filter(|message| message.len() >= HEADER_LEN) else { return false };
        let kind = if self.is_v6 { REPLY_V6 } else { REPLY };
        message[0] == kind
            && message[1] == 0
            && message[4..6] == self.identifier.to_be_bytes()
            && message[6..8] == self.sequence.to_be_bytes()
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_others_read() {
        let request = Echo { is_v6: false, identifier: 0x1234, sequence: 7 }.request();
        let (header, payload) = etherparse::Icmpv4Header::from_slice(&request).unwrap();
        let echo = etherparse::IcmpEchoHeader { id: 0x1234, seq: 7 };
        assert_eq!(header.icmp_type, etherparse::Icmpv4Type::EchoRequest(echo));
        assert_eq!(header.checksum, header.icmp_type.calc_checksum(payload));
        let request = Echo { is_v6: true, identifier: 0x1234, sequence: 7 }.request();
        let (header, _) = etherparse::Icmpv6Header::from_slice(&request).unwrap();
        assert_eq!(header.icmp_type, etherparse::Icmpv6Type::EchoRequest(echo));
    }

    #[test]
    fn only_its_own_reply_answers_it() {
        let echo = Echo { is_v6: false, identifier: 0x1234, sequence: 7 };
        let packet = |kind: u8, sequence: u8| [&[0x45; 20][..], &[kind, 0, 0, 0, 0x12, 0x34, 0, sequence]].concat();
        assert!(echo.is_answered_by(&packet(0, 7)));
        assert!(!echo.is_answered_by(&packet(8, 7)), "the request itself, over loopback");
        assert!(!echo.is_answered_by(&packet(0, 6)));
        let v6 = Echo { is_v6: true, ..echo };
        assert!(v6.is_answered_by(&[129, 0, 0, 0, 0x12, 0x34, 0, 7]));
        for len in 0..28 {
            assert!(!echo.is_answered_by(&packet(0, 7)[..len]));
        }
    }
}

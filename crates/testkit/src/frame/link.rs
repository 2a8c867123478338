//! Ethernet, 802.1Q tags and ARP.

use super::words::{Fields, Line};
use super::{Around, FrameError, Header, ether_type_of};
use std::fmt::{self, Display};
use std::net::Ipv4Addr;
use std::str::FromStr;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const VLAN: u16 = 0x8100;
pub(super) const SERVICE_VLAN: u16 = 0x88a8;
pub(super) const IPV6: u16 = 0x86dd;

/// `eth SOURCE > DESTINATION [type=HHHH]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Eth {
    source: Mac,
    destination: Mac,
    ether_type: Option<u16>,
}

impl Eth {
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let header: &[u8; 14] = bytes.first_chunk()?;
        let [destination @ .., _, _, _, _, _, _, _, _] = *header;
        let [_, _, _, _, _, _, source @ .., _, _] = *header;
        let eth = Eth {
            source: Mac(source),
            destination: Mac(destination),
            ether_type: Some(u16::from_be_bytes([header[12], header[13]])),
        };
        Some((eth, header.len()))
    }

    pub fn ether_type(&self) -> Option<u16> {
        self.ether_type
    }
}

impl Default for Eth {
    fn default() -> Self {
        Eth { source: Mac([2, 0, 0, 0, 0, 2]), destination: Mac([2, 0, 0, 0, 0, 1]), ether_type: None }
    }
}

impl Header for Eth {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let (source, destination) = fields.pair("a MAC address")?;
        Ok(Eth { source, destination, ether_type: fields.ether_type("type")? })
    }

    fn print(&self) -> String {
        Line::new("eth").pair(&self.source, &self.destination).ether_type("type", self.ether_type).finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(14 + around.payload.len());
        out.extend(self.destination.0);
        out.extend(self.source.0);
        out.extend(self.ether_type.unwrap_or(ether_type_of(around.next)).to_be_bytes());
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![Eth { ether_type: None, ..self.clone() }]
    }
}

/// `vlan ID [tpid=88a8] [pcp=N] [dei] [type=HHHH]`
///
/// The TPID is the ethertype of the header before; it is written here because that is where people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vlan {
    id: u16,
    pub tpid: u16,
    priority: u8,
    drop_eligible: bool,
    ether_type: Option<u16>,
}

impl Vlan {
    pub fn read(bytes: &[u8], tpid: u16) -> Option<(Self, usize)> {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let tag = u16::from_be_bytes([header[0], header[1]]);
        let vlan = Vlan {
            id: tag & 0x0fff,
            tpid,
            priority: (tag >> 13) as u8,
            drop_eligible: tag & 0x1000 != 0,
            ether_type: Some(u16::from_be_bytes([header[2], header[3]])),
        };
        Some((vlan, header.len()))
    }

    pub fn ether_type(&self) -> Option<u16> {
        self.ether_type
    }
}

impl Header for Vlan {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let word = fields.word("a VLAN number")?;
        let id = word.text.parse().ok().filter(|id| *id <= 0x0fff);
        Ok(Vlan {
            id: id.ok_or_else(|| fields.error(word.span(), "a VLAN number is at most 4095"))?,
            tpid: fields.ether_type("tpid")?.unwrap_or(VLAN),
            priority: fields.number("pcp", 7)?.unwrap_or(0),
            drop_eligible: fields.flag("dei"),
            ether_type: fields.ether_type("type")?,
        })
    }

    fn print(&self) -> String {
        Line::new("vlan")
            .word(self.id)
            .ether_type("tpid", Some(self.tpid).filter(|tpid| *tpid != VLAN))
            .number("pcp", self.priority, 0)
            .flag("dei", self.drop_eligible)
            .ether_type("type", self.ether_type)
            .finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let tag = u16::from(self.priority) << 13 | u16::from(self.drop_eligible) << 12 | self.id;
        let mut out = Vec::with_capacity(4 + around.payload.len());
        out.extend(tag.to_be_bytes());
        out.extend(self.ether_type.unwrap_or(ether_type_of(around.next)).to_be_bytes());
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![Vlan { ether_type: None, ..self.clone() }]
    }
}

/// `arp request|reply|N SENDER-MAC SENDER-IP > TARGET-MAC TARGET-IP`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

impl Arp {
    pub const LENGTH: usize = 28;
    /// Ethernet and IPv4, and the lengths of their addresses (RFC 826).
    const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let packet: &[u8; Self::LENGTH] = bytes.first_chunk()?;
        if packet[..6] != Self::FIXED {
            return None;
        }
        let side = |at: usize| {
            let mac = Mac(packet[at..at + 6].try_into().ok()?);
            let address: [u8; 4] = packet[at + 6..at + 10].try_into().ok()?;
            Some((mac, Ipv4Addr::from(address)))
        };
        let arp = Arp { operation: u16::from_be_bytes([packet[6], packet[7]]), sender: side(8)?, target: side(18)? };
        Some((arp, Self::LENGTH))
    }
}

impl Header for Arp {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let word = fields.word("`request`, `reply` or a number")?;
        let operation = match word.text {
            "request" => 1,
            "reply" => 2,
            other => other
                .parse()
                .map_err(|_| fields.error(word.span(), "an ARP operation is `request`, `reply` or a number"))?,
        };
        let sender = (fields.parsed("a MAC address")?, fields.parsed("an IPv4 address")?);
        let arrow = fields.word("`>` and the target")?;
        if arrow.text != ">" {
            return Err(fields.error(arrow.span(), "expected `>` here"));
        }
        Ok(Arp { operation, sender, target: (fields.parsed("a MAC address")?, fields.parsed("an IPv4 address")?) })
    }

    fn print(&self) -> String {
        let line = match self.operation {
            1 => Line::new("arp").word("request"),
            2 => Line::new("arp").word("reply"),
            other => Line::new("arp").word(other),
        };
        let (sender, target) = (&self.sender, &self.target);
        line.word(&sender.0).pair(sender.1, &target.0).word(target.1).finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let mut out = Self::FIXED.to_vec();
        out.extend(self.operation.to_be_bytes());
        for (mac, address) in [&self.sender, &self.target] {
            out.extend(mac.0);
            out.extend(address.octets());
        }
        out.extend(around.payload);
        Ok(out)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut octets = text.split(':').map(|part| match part.len() {
            1 | 2 if part.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                u8::from_str_radix(part, 16).map_err(|_| ())
            }
            _ => Err(()),
        });
        let mut mac = [0; 6];
        for octet in &mut mac {
            *octet = octets.next().ok_or(())??;
        }
        if octets.next().is_some() { Err(()) } else { Ok(Mac(mac)) }
    }
}

impl Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

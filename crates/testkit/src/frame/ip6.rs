//! IPv6, its extension headers, and the authentication header that IPv4 shares with it.

use super::checksum::Pseudo;
use super::words::{Fields, Line};
use super::{Around, FrameError, Header, protocol_of};
use std::net::Ipv6Addr;

pub(super) const HOP_OPTIONS: u8 = 0;
pub(super) const ROUTE: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const DESTINATION_OPTIONS: u8 = 60;

/// `ip6 SOURCE > DESTINATION [hop=64] [tc=0] [flow=0] [proto= len= ver=]`
///
/// A routing header does not change the destination that checksums cover: a frame with segments left has to say
/// `csum=` itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ip6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    traffic_class: u8,
    flow_label: u32,
    protocol: Option<u8>,
    length: Option<u16>,
    version: Option<u8>,
}

impl Ip6 {
    pub const LENGTH: usize = 40;

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let header: &[u8; Self::LENGTH] = bytes.first_chunk()?;
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).ok()?));
        let ip = Ip6 {
            source: address(8)?,
            destination: address(24)?,
            hop_limit: header[7],
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            protocol: Some(header[6]),
            length: Some(u16::from_be_bytes([header[4], header[5]])),
            version: Some((first >> 28) as u8),
        };
        Some((ip, Self::LENGTH))
    }

    pub fn pseudo(&self) -> Pseudo {
        Pseudo::V6 { source: self.source, destination: self.destination }
    }

    pub fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    /// The whole packet's length as its header says it.
    pub fn said_length(&self) -> Option<usize> {
        self.length.map(|length| Self::LENGTH + usize::from(length))
    }
}

impl Header for Ip6 {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let (source, destination) = fields.pair("an IPv6 address")?;
        Ok(Ip6 {
            source,
            destination,
            hop_limit: fields.number("hop", 0xff)?.unwrap_or(64),
            traffic_class: fields.number("tc", 0xff)?.unwrap_or(0),
            flow_label: fields.number("flow", 0xf_ffff)?.unwrap_or(0),
            protocol: fields.number("proto", 0xff)?,
            length: fields.number("len", 0xffff)?,
            version: fields.number("ver", 15)?,
        })
    }

    fn print(&self) -> String {
        Line::new("ip6")
            .pair(self.source, self.destination)
            .number("hop", self.hop_limit, 64)
            .number("tc", self.traffic_class, 0)
            .number("flow", self.flow_label, 0)
            .option("proto", &self.protocol)
            .option("len", &self.length)
            .option("ver", &self.version)
            .finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let length = match self.length {
            Some(length) => length,
            None => u16::try_from(around.payload.len())
                .map_err(|_| "the packet is longer than an IPv6 header can say; give `len=`")?,
        };
        let first = u32::from(self.version.unwrap_or(6)) << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
        let mut out = Vec::with_capacity(Self::LENGTH + around.payload.len());
        out.extend(first.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.push(self.protocol.unwrap_or(protocol_of(around.next)));
        out.push(self.hop_limit);
        out.extend(self.source.octets());
        out.extend(self.destination.octets());
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![
            Ip6 { protocol: None, ..self.clone() },
            Ip6 { length: None, ..self.clone() },
            Ip6 { version: None, ..self.clone() },
        ]
    }
}

/// The extension headers, all but the authentication header counted in eight-byte units.
///
/// - `hopopts [opts=HEX]`, `dstopts [opts=HEX]`: by default one `PadN` that fills the header
/// - `route [type=0] [left=0] [body=HEX]`
/// - `frag [id=1] [off=0] [more] [res=0]`: `off=` counts eight-byte units, `res=` is the reserved octet
/// - `ah [spi=1] [seq=1] [icv=HEX]`: by default twelve zeros as the check value
///
/// Bodies are filled up with zeros. All take `proto=` and, but for `frag`, `len=` (the octet as it is on the wire).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    body: Body,
    protocol: Option<u8>,
    length: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    HopOptions(Vec<u8>),
    DestinationOptions(Vec<u8>),
    Route { kind: u8, segments_left: u8, body: Vec<u8> },
    Fragment { id: u32, offset: u16, more: bool },
    Authentication { spi: u32, sequence: u32, check: Vec<u8> },
}

impl Extension {
    const UNIT: usize = 8;
    /// RFC 8200 §4.2: an option of type 1 whose four octets of data make six with its head.
    const PAD_SIX: [u8; 6] = [1, 4, 0, 0, 0, 0];
    const CHECK_LENGTH: usize = 12;

    pub fn read(bytes: &[u8], protocol: u8) -> Option<(Self, usize)> {
        let (head, length) = bytes.first_chunk::<2>().map(|head| (head[0], head[1]))?;
        let size = match protocol {
            FRAGMENT => Self::UNIT,
            // RFC 4302 §2.2: in 32-bit words, minus two.
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * Self::UNIT,
        };
        let rest = bytes.get(2..size)?;
        let four = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let body = match protocol {
            HOP_OPTIONS => Body::HopOptions(rest.to_vec()),
            DESTINATION_OPTIONS => Body::DestinationOptions(rest.to_vec()),
            ROUTE => Body::Route { kind: rest[0], segments_left: rest[1], body: rest[2..].to_vec() },
            FRAGMENT => {
                let offset = u16::from_be_bytes([rest[0], rest[1]]);
                Body::Fragment { id: four(2)?, offset: offset >> 3, more: offset & 1 == 1 }
            }
            AUTHENTICATION => {
                Body::Authentication { spi: four(2)?, sequence: four(6)?, check: rest.get(10..)?.to_vec() }
            }
            _ => return None,
        };
        Some((Extension { body, protocol: Some(head), length: Some(length) }, size))
    }

    /// The protocol number that names this header in the one before it.
    pub fn number(&self) -> u8 {
        match self.body {
            Body::HopOptions(_) => HOP_OPTIONS,
            Body::DestinationOptions(_) => DESTINATION_OPTIONS,
            Body::Route { .. } => ROUTE,
            Body::Fragment { .. } => FRAGMENT,
            Body::Authentication { .. } => AUTHENTICATION,
        }
    }

    /// The protocol to read the payload by, if the payload begins with its header.
    pub fn readable_protocol(&self) -> Option<u8> {
        match self.body {
            Body::Fragment { offset: 1.., .. } => None,
            _ => self.protocol,
        }
    }
}

impl Header for Extension {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let body = match fields.name.text {
            "hopopts" => Body::HopOptions(fields.bytes("opts")?.unwrap_or(Self::PAD_SIX.to_vec())),
            "dstopts" => Body::DestinationOptions(fields.bytes("opts")?.unwrap_or(Self::PAD_SIX.to_vec())),
            "route" => Body::Route {
                kind: fields.number("type", 0xff)?.unwrap_or(0),
                segments_left: fields.number("left", 0xff)?.unwrap_or(0),
                body: fields.bytes("body")?.unwrap_or(vec![0; 4]),
            },
            "frag" => Body::Fragment {
                id: fields.number("id", 0xffff_ffff)?.unwrap_or(1),
                offset: fields.number("off", 0x1fff)?.unwrap_or(0),
                more: fields.flag("more"),
            },
            _ => Body::Authentication {
                spi: fields.number("spi", 0xffff_ffff)?.unwrap_or(1),
                sequence: fields.number("seq", 0xffff_ffff)?.unwrap_or(1),
                check: fields.bytes("icv")?.unwrap_or(vec![0; Self::CHECK_LENGTH]),
            },
        };
        let protocol = fields.number("proto", 0xff)?;
        let length = if matches!(body, Body::Fragment { .. }) {
            // The octet is reserved there, and has a name of its own.
            fields.number("res", 0xff)?
        } else {
            fields.number("len", 0xff)?
        };
        Ok(Extension { body, protocol, length })
    }

    fn print(&self) -> String {
        let options = |name: &str, options: &[u8]| {
            Line::new(name).bytes("opts", if options == Self::PAD_SIX { &[] } else { options })
        };
        let line = match &self.body {
            Body::HopOptions(bytes) => options("hopopts", bytes),
            Body::DestinationOptions(bytes) => options("dstopts", bytes),
            Body::Route { kind, segments_left, body } => Line::new("route")
                .number("type", *kind, 0)
                .number("left", *segments_left, 0)
                .bytes("body", if body == &[0; 4] { &[] } else { body }),
            Body::Fragment { id, offset, more } => {
                Line::new("frag").number("id", *id, 1).number("off", *offset, 0).flag("more", *more)
            }
            Body::Authentication { spi, sequence, check } => Line::new("ah")
                .number("spi", *spi, 1)
                .number("seq", *sequence, 1)
                .bytes("icv", if check == &[0; Self::CHECK_LENGTH] { &[] } else { check }),
        };
        let length = if matches!(self.body, Body::Fragment { .. }) { "res" } else { "len" };
        line.option("proto", &self.protocol).option(length, &self.length).finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let mut out = vec![self.protocol.unwrap_or(protocol_of(around.next)), 0];
        let mut unit = Self::UNIT;
        match &self.body {
            Body::HopOptions(options) | Body::DestinationOptions(options) => out.extend(options),
            Body::Route { kind, segments_left, body } => {
                out.extend([*kind, *segments_left]);
                out.extend(body);
            }
            Body::Fragment { id, offset, more } => {
                out.extend((offset << 3 | u16::from(*more)).to_be_bytes());
                out.extend(id.to_be_bytes());
            }
            Body::Authentication { spi, sequence, check } => {
                unit = 4;
                out.extend([0, 0]);
                out.extend(spi.to_be_bytes());
                out.extend(sequence.to_be_bytes());
                out.extend(check);
            }
        }
        // The most that the length octet can say: see `read`.
        let limit = if unit == Self::UNIT { (0xff + 1) * unit } else { (0xff + 2) * unit };
        if out.len() > limit {
            return Err(format!("this extension header takes at most {limit} bytes"));
        }
        out.resize(out.len().next_multiple_of(unit), 0);
        out[1] = self.length.unwrap_or(match self.body {
            Body::Fragment { .. } => 0,
            Body::Authentication { .. } => (out.len() / 4 - 2) as u8,
            _ => (out.len() / Self::UNIT - 1) as u8,
        });
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![Extension { protocol: None, ..self.clone() }, Extension { length: None, ..self.clone() }]
    }
}

//! IPv4.

use super::checksum::{Checksum, Pseudo, internet};
use super::words::{Fields, Line};
use super::{Around, FrameError, Header, protocol_of};
use std::net::Ipv4Addr;

/// `ip4 SOURCE > DESTINATION [ttl=64] [tos=0] [id=1] [df] [mf] [rf] [frag=0] [opts=HEX] [proto= len= csum= ihl= ver=]`
///
/// `frag=` counts eight-byte units, as the wire does. `rf` is the reserved flag. Options are filled up with zeros
/// (end of list) to whole words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ip4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    tos: u8,
    id: u16,
    reserved: bool,
    dont_fragment: bool,
    more_fragments: bool,
    /// In units of eight bytes.
    fragment: u16,
    options: Vec<u8>,
    protocol: Option<u8>,
    length: Option<u16>,
    checksum: Option<Checksum>,
    header_words: Option<u8>,
    version: Option<u8>,
}

impl Ip4 {
    const FIXED: usize = 20;
    const OPTIONS_MAX: usize = 40;

    /// Takes any 20 bytes: what is wrong with them becomes overrides.
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let fixed: &[u8; Self::FIXED] = bytes.first_chunk()?;
        let said = usize::from(fixed[0] & 15) * 4;
        let header = if said < Self::FIXED || said > bytes.len() { Self::FIXED } else { said };
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let flags = word(6);
        let ip = Ip4 {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
            destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            ttl: fixed[8],
            tos: fixed[1],
            id: word(4),
            reserved: flags & 0x8000 != 0,
            dont_fragment: flags & 0x4000 != 0,
            more_fragments: flags & 0x2000 != 0,
            fragment: flags & 0x1fff,
            options: bytes[Self::FIXED..header].to_vec(),
            protocol: Some(fixed[9]),
            length: Some(word(2)),
            checksum: Some(Checksum::Is(u32::from(word(10)))),
            header_words: Some(fixed[0] & 15),
            version: Some(fixed[0] >> 4),
        };
        Some((ip, header))
    }

    pub fn pseudo(&self) -> Pseudo {
        Pseudo::V4 { source: self.source, destination: self.destination }
    }

    /// The protocol to read the payload by, if the payload begins with its header.
    pub fn readable_protocol(&self) -> Option<u8> {
        self.protocol.filter(|_| self.fragment == 0)
    }

    /// The packet's length as its header says it.
    pub fn said_length(&self) -> Option<usize> {
        self.length.map(usize::from)
    }
}

impl Header for Ip4 {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let (source, destination) = fields.pair("an IPv4 address")?;
        Ok(Ip4 {
            source,
            destination,
            ttl: fields.number("ttl", 0xff)?.unwrap_or(64),
            tos: fields.number("tos", 0xff)?.unwrap_or(0),
            id: fields.number("id", 0xffff)?.unwrap_or(1),
            reserved: fields.flag("rf"),
            dont_fragment: fields.flag("df"),
            more_fragments: fields.flag("mf"),
            fragment: fields.number("frag", 0x1fff)?.unwrap_or(0),
            options: fields.bytes("opts")?.unwrap_or_default(),
            protocol: fields.number("proto", 0xff)?,
            length: fields.number("len", 0xffff)?,
            checksum: fields.checksum(4)?,
            header_words: fields.number("ihl", 15)?,
            version: fields.number("ver", 15)?,
        })
    }

    fn print(&self) -> String {
        Line::new("ip4")
            .pair(self.source, self.destination)
            .number("ttl", self.ttl, 64)
            .number("tos", self.tos, 0)
            .number("id", self.id, 1)
            .flag("rf", self.reserved)
            .flag("df", self.dont_fragment)
            .flag("mf", self.more_fragments)
            .number("frag", self.fragment, 0)
            .bytes("opts", &self.options)
            .option("proto", &self.protocol)
            .option("len", &self.length)
            .checksum(self.checksum, 4)
            .option("ihl", &self.header_words)
            .option("ver", &self.version)
            .finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        if self.options.len() > Self::OPTIONS_MAX {
            return Err(format!("IPv4 options take at most {} bytes", Self::OPTIONS_MAX));
        }
        let header = Self::FIXED + self.options.len().next_multiple_of(4);
        let length = match self.length {
            Some(length) => length,
            None => u16::try_from(header + around.payload.len())
                .map_err(|_| "the packet is longer than an IPv4 header can say; give `len=`")?,
        };
        let flags = u16::from(self.reserved) << 15
            | u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment;
        let mut out = Vec::with_capacity(header + around.payload.len());
        out.push(self.version.unwrap_or(4) << 4 | self.header_words.unwrap_or((header / 4) as u8));
        out.push(self.tos);
        out.extend(length.to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.push(self.ttl);
        out.push(self.protocol.unwrap_or(protocol_of(around.next)));
        out.extend([0, 0]);
        out.extend(self.source.octets());
        out.extend(self.destination.octets());
        out.extend(&self.options);
        out.resize(header, 0);
        let checksum = Checksum::internet(self.checksum, internet(&out));
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![
            Ip4 { protocol: None, ..self.clone() },
            Ip4 { length: None, ..self.clone() },
            Ip4 { header_words: None, ..self.clone() },
            Ip4 { version: None, ..self.clone() },
            Ip4 { checksum: None, ..self.clone() },
            Ip4 { checksum: Some(Checksum::Bad), ..self.clone() },
        ]
    }
}

//! Headers of tunnels: GRE and GUE. IP in IP has none.

use super::words::{Fields, Line};
use super::{Around, FrameError, Header, ether_type_of, protocol_of};

pub(super) const GRE: u8 = 47;
/// UDP's destination port for GUE (IANA).
pub(super) const GUE_PORT: u16 = 6080;

/// `gre [flags=0 type=]`
///
/// RFC 2784 §2.1: `flags=` is the first half of the header, its version included. What some flags add is payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gre {
    flags: u16,
    ether_type: Option<u16>,
}

impl Gre {
    const LENGTH: usize = 4;

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let (flags, ether_type) = (u16::from_be_bytes([a, b]), Some(u16::from_be_bytes([c, d])));
        Some((Gre { flags, ether_type }, Self::LENGTH))
    }

    /// What follows, if that is right behind this header.
    pub fn ether_type(&self) -> Option<u16> {
        self.ether_type.filter(|_| self.flags == 0)
    }
}

impl Header for Gre {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let flags = fields.number("flags", 0xffff)?.unwrap_or(0);
        Ok(Gre { flags, ether_type: fields.ether_type("type")? })
    }

    fn print(&self) -> String {
        Line::new("gre").number("flags", self.flags, 0).ether_type("type", self.ether_type).finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let mut out = self.flags.to_be_bytes().to_vec();
        out.extend(self.ether_type.unwrap_or(ether_type_of(around.next)).to_be_bytes());
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![Gre { ether_type: None, ..self.clone() }]
    }
}

/// `gue [first=0 flags=0 proto=]`
///
/// draft-ietf-intarea-gue §3.1: `first=` is variant, control bit and length of the extensions, which are payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gue {
    first: u8,
    protocol: Option<u8>,
    flags: u16,
}

impl Gue {
    const LENGTH: usize = 4;

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, protocol, c, d] = *bytes.first_chunk()?;
        Some((Gue { first, protocol: Some(protocol), flags: u16::from_be_bytes([c, d]) }, Self::LENGTH))
    }

    /// What follows, if that is right behind this header.
    pub fn protocol(&self) -> Option<u8> {
        self.protocol.filter(|_| self.first == 0)
    }
}

impl Header for Gue {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        Ok(Gue {
            first: fields.number("first", 0xff)?.unwrap_or(0),
            protocol: fields.number("proto", 0xff)?,
            flags: fields.number("flags", 0xffff)?.unwrap_or(0),
        })
    }

    fn print(&self) -> String {
        Line::new("gue")
            .number("first", self.first, 0)
            .option("proto", &self.protocol)
            .number("flags", self.flags, 0)
            .finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let [c, d] = self.flags.to_be_bytes();
        let mut out = vec![self.first, self.protocol.unwrap_or(protocol_of(around.next)), c, d];
        out.extend(around.payload);
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![Gue { protocol: None, ..self.clone() }]
    }
}

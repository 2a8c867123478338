//! ICMP and ICMPv6. The layers after an error are the packet that it quotes.

use super::checksum::{Checksum, internet};
use super::words::{Fields, Line};
use super::{Around, FrameError, Header};

pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// `icmp KIND [code=0] [csum=]` and `icmp6 KIND …`, where KIND is a name of [`V4`] or [`V6`], or `type=N`.
///
/// The four bytes after the checksum are, by kind: `id=1 seq=1` of an echo, `mtu=` of an `unreachable` (IPv4) or a
/// `too-big` (IPv6), and for all others, and where those do not fit, `rest=` with eight hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Icmp {
    version: Version,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    checksum: Option<Checksum>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

/// What the rest of the header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Echo,
    /// RFC 1191 §4: the lower half, the upper one is zero.
    MtuShort,
    MtuLong,
    Opaque,
}

/// Name, type, the rest of the header.
type Kind = (&'static str, u8, Rest);

const V4: [Kind; 8] = [
    ("echo", 8, Rest::Echo),
    ("reply", 0, Rest::Echo),
    ("unreachable", 3, Rest::MtuShort),
    ("quench", 4, Rest::Opaque),
    ("redirect", 5, Rest::Opaque),
    ("exceeded", 11, Rest::Opaque),
    ("problem", 12, Rest::Opaque),
    ("timestamp", 13, Rest::Echo),
];
const V4_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];

const V6: [Kind; 11] = [
    ("echo", 128, Rest::Echo),
    ("reply", 129, Rest::Echo),
    ("unreachable", 1, Rest::Opaque),
    ("too-big", 2, Rest::MtuLong),
    ("exceeded", 3, Rest::Opaque),
    ("problem", 4, Rest::Opaque),
    ("router-solicit", 133, Rest::Opaque),
    ("router-advert", 134, Rest::Opaque),
    ("solicit", 135, Rest::Opaque),
    ("advert", 136, Rest::Opaque),
    ("redirect", 137, Rest::Opaque),
];
/// RFC 4443 §2.1: error messages have the high bit of their type clear. These are the ones that it defines.
const V6_ERRORS: [u8; 4] = [1, 2, 3, 4];

impl Icmp {
    const LENGTH: usize = 8;

    pub fn read(bytes: &[u8], version: Version) -> Option<(Self, usize)> {
        let [kind, code, c0, c1, rest @ ..]: [u8; Self::LENGTH] = *bytes.first_chunk()?;
        let checksum = Some(Checksum::Is(u32::from(u16::from_be_bytes([c0, c1]))));
        Some((Icmp { version, kind, code, rest, checksum }, Self::LENGTH))
    }

    pub fn number(&self) -> u8 {
        match self.version {
            Version::V4 => ICMP,
            Version::V6 => ICMPV6,
        }
    }

    pub fn is_error(&self) -> bool {
        match self.version {
            Version::V4 => V4_ERRORS.contains(&self.kind),
            Version::V6 => V6_ERRORS.contains(&self.kind),
        }
    }

    fn kinds(version: Version) -> &'static [Kind] {
        match version {
            Version::V4 => &V4,
            Version::V6 => &V6,
        }
    }
}

impl Header for Icmp {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let version = if fields.name.text == "icmp6" { Version::V6 } else { Version::V4 };
        let named = Self::kinds(version).iter().find(|(name, ..)| fields.flag(name)).copied();
        let numbered = fields.number("type", 0xff)?.map(|kind| ("", kind, Rest::Opaque));
        let Some((_, kind, rest_kind)) = named.or(numbered) else {
            let names: Vec<_> = Self::kinds(version).iter().map(|(name, ..)| *name).collect();
            let what = format!("`{}` needs `type=N` or one of {}", fields.name.text, names.join(", "));
            return Err(fields.error(fields.span(), what));
        };
        let mut rest = [0; 4];
        match rest_kind {
            Rest::Echo => {
                let id: u16 = fields.number("id", 0xffff)?.unwrap_or(1);
                let sequence: u16 = fields.number("seq", 0xffff)?.unwrap_or(1);
                rest[..2].copy_from_slice(&id.to_be_bytes());
                rest[2..].copy_from_slice(&sequence.to_be_bytes());
            }
            Rest::MtuShort => {
                let mtu: u16 = fields.number("mtu", 0xffff)?.unwrap_or(0);
                rest[2..].copy_from_slice(&mtu.to_be_bytes());
            }
            Rest::MtuLong => {
                let mtu: u32 = fields.number("mtu", 0xffff_ffff)?.unwrap_or(0);
                rest = mtu.to_be_bytes();
            }
            Rest::Opaque => {}
        }
        if let Some(given) = fields.bytes("rest")? {
            rest = given.try_into().map_err(|_| fields.error(fields.span(), "`rest=` takes four bytes"))?;
        }
        let code = fields.number("code", 0xff)?.unwrap_or(0);
        Ok(Icmp { version, kind, code, rest, checksum: fields.checksum(4)? })
    }

    fn print(&self) -> String {
        let line = Line::new(if self.version == Version::V4 { "icmp" } else { "icmp6" });
        let named = Self::kinds(self.version).iter().find(|(_, kind, _)| *kind == self.kind);
        let (line, rest_kind) = match named {
            Some((name, _, rest_kind)) => (line.word(name), *rest_kind),
            None => (line.word(format_args!("type={}", self.kind)), Rest::Opaque),
        };
        let line = line.number("code", self.code, 0);
        let [r0, r1, r2, r3] = self.rest;
        let line = match rest_kind {
            Rest::Echo => {
                line.number("id", u16::from_be_bytes([r0, r1]), 1).number("seq", u16::from_be_bytes([r2, r3]), 1)
            }
            Rest::MtuShort if (r0, r1) == (0, 0) => line.number("mtu", u16::from_be_bytes([r2, r3]), 0),
            Rest::MtuLong => line.number("mtu", u32::from_be_bytes(self.rest), 0),
            _ if self.rest == [0; 4] => line,
            _ => line.bytes("rest", &self.rest),
        };
        line.checksum(self.checksum, 4).finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(Self::LENGTH + around.payload.len());
        out.extend([self.kind, self.code, 0, 0]);
        out.extend(self.rest);
        out.extend(around.payload);
        // ICMPv6 covers the addresses (RFC 4443 §2.3), ICMP does not.
        let right = match self.version {
            Version::V4 => internet(&out),
            Version::V6 => around.pseudo()?.checksum(ICMPV6, &out),
        };
        let checksum = Checksum::internet(self.checksum, right);
        out[2..4].copy_from_slice(&checksum.to_be_bytes());
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![Icmp { checksum: None, ..self.clone() }, Icmp { checksum: Some(Checksum::Bad), ..self.clone() }]
    }
}

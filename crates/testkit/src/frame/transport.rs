//! TCP and UDP.

use super::checksum::{Checksum, Pseudo};
use super::words::{Fields, Line};
use super::{Around, FrameError, Header};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// `tcp SOURCE > DESTINATION FLAGS [seq=1] [ack=0] [win=65535] [urg=0] [opts=HEX] [csum= doff= res= cut=N]`
///
/// FLAGS are letters of `SFRPUECA`, or `-` for none. Options are filled up with zeros to whole words. `doff=` is the
/// data offset, `res=` the four reserved bits. `cut=N` keeps the first N bytes only, as ICMP errors quote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    source: u16,
    destination: u16,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    checksum: Option<Checksum>,
    header_words: Option<u8>,
    reserved: u8,
    cut: Option<usize>,
}

impl Tcp {
    const FIXED: usize = 20;
    const OPTIONS_MAX: usize = 40;
    const WINDOW: u16 = 65535;
    /// The order is that of the names people use: `SA`, `PA`, `FA`, `RA`.
    const FLAGS: [(char, u8); 8] =
        [('S', 2), ('F', 1), ('R', 4), ('P', 8), ('U', 32), ('E', 64), ('C', 128), ('A', 16)];
    /// A cut at or before this loses the flags.
    const FLAGS_AT: usize = 13;

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        if bytes.len() < 4 {
            return None;
        }
        let mut fixed = [0; Self::FIXED];
        let present = bytes.len().min(Self::FIXED);
        fixed[..present].copy_from_slice(&bytes[..present]);
        let said = usize::from(fixed[12] >> 4) * 4;
        let header = if said < Self::FIXED || said > bytes.len() { present } else { said };
        let two = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let four = |at: usize| u32::from(two(at)) << 16 | u32::from(two(at + 2));
        let tcp = Tcp {
            source: two(0),
            destination: two(2),
            flags: fixed[13],
            sequence: four(4),
            acknowledgement: four(8),
            window: two(14),
            urgent: two(18),
            options: bytes[present..header].to_vec(),
            checksum: Some(Checksum::Is(u32::from(two(16)))),
            header_words: Some(fixed[12] >> 4),
            reserved: fixed[12] & 15,
            cut: Some(present).filter(|present| *present < Self::FIXED),
        };
        Some((tcp, header))
    }

    fn parse_flags(text: &str) -> Option<u8> {
        if text == "-" {
            return Some(0);
        }
        text.chars().try_fold(0, |flags, letter| {
            let (_, bit) = Self::FLAGS.iter().find(|(name, _)| *name == letter)?;
            if flags & bit == 0 { Some(flags | bit) } else { None }
        })
    }
}

impl Header for Tcp {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let (source, destination) = fields.pair("a port")?;
        let cut = fields.number("cut", Self::FIXED as u64 - 1)?;
        let flags = match fields.word("flags: letters of SFRPUECA, or `-` for none") {
            Ok(word) => Self::parse_flags(word.text).ok_or_else(|| {
                fields.error(word.span(), "TCP flags are letters of SFRPUECA, each once, or `-` for none")
            })?,
            Err(_) if cut.is_some_and(|cut| cut <= Self::FLAGS_AT) => 0,
            Err(error) => return Err(error),
        };
        Ok(Tcp {
            source,
            destination,
            flags,
            sequence: fields.number("seq", 0xffff_ffff)?.unwrap_or(1),
            acknowledgement: fields.number("ack", 0xffff_ffff)?.unwrap_or(0),
            window: fields.number("win", 0xffff)?.unwrap_or(Self::WINDOW),
            urgent: fields.number("urg", 0xffff)?.unwrap_or(0),
            options: fields.bytes("opts")?.unwrap_or_default(),
            checksum: fields.checksum(4)?,
            header_words: fields.number("doff", 15)?,
            reserved: fields.number("res", 15)?.unwrap_or(0),
            cut,
        })
    }

    fn print(&self) -> String {
        let mut line = Line::new("tcp").pair(self.source, self.destination);
        if self.cut.is_none_or(|cut| cut > Self::FLAGS_AT) {
            let flags = Self::FLAGS.iter().filter(|(_, bit)| self.flags & bit != 0);
            let flags: String = flags.map(|(name, _)| *name).collect();
            line = line.word(if flags.is_empty() { "-" } else { &flags });
        }
        line.number("seq", self.sequence, 1)
            .number("ack", self.acknowledgement, 0)
            .number("win", self.window, Self::WINDOW)
            .number("urg", self.urgent, 0)
            .bytes("opts", &self.options)
            .checksum(self.checksum, 4)
            .option("doff", &self.header_words)
            .number("res", self.reserved, 0)
            .option("cut", &self.cut)
            .finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        if self.options.len() > Self::OPTIONS_MAX {
            return Err(format!("TCP options take at most {} bytes", Self::OPTIONS_MAX));
        }
        let header = Self::FIXED + self.options.len().next_multiple_of(4);
        let mut out = Vec::with_capacity(header + around.payload.len());
        out.extend(self.source.to_be_bytes());
        out.extend(self.destination.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.acknowledgement.to_be_bytes());
        out.push(self.header_words.unwrap_or((header / 4) as u8) << 4 | self.reserved);
        out.push(self.flags);
        out.extend(self.window.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend(&self.options);
        out.resize(header, 0);
        out.extend(around.payload);
        let checksum = Checksum::internet(self.checksum, around.pseudo()?.checksum(TCP, &out));
        out[16..18].copy_from_slice(&checksum.to_be_bytes());
        cut(out, self.cut, around)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![
            Tcp { header_words: None, ..self.clone() },
            // What a cut has taken away may as well be the default.
            Tcp { window: Self::WINDOW, ..self.clone() },
            Tcp { checksum: None, ..self.clone() },
            Tcp { checksum: Some(Checksum::Bad), ..self.clone() },
        ]
    }
}

/// `udp SOURCE > DESTINATION [nosum] [len= csum=]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Udp {
    source: u16,
    destination: u16,
    length: Option<u16>,
    checksum: Option<Checksum>,
}

impl Udp {
    const LENGTH: usize = 8;
    const NO_CHECKSUM: Checksum = Checksum::Is(0);

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let header: &[u8; Self::LENGTH] = bytes.first_chunk()?;
        let two = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let udp = Udp {
            source: two(0),
            destination: two(2),
            length: Some(two(4)),
            checksum: Some(Checksum::Is(u32::from(two(6)))),
        };
        Some((udp, Self::LENGTH))
    }

    pub fn is_to(&self, port: u16) -> bool {
        self.destination == port
    }

    /// RFC 768: a checksum that comes out as zero is sent as all ones, because zero means that there is none.
    fn right_checksum(pseudo: Pseudo, packet: &[u8]) -> u16 {
        match pseudo.checksum(UDP, packet) {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

impl Header for Udp {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let (source, destination) = fields.pair("a port")?;
        let length = fields.number("len", 0xffff)?;
        let no_checksum = fields.flag("nosum");
        let checksum = fields.checksum(4)?;
        Ok(Udp { source, destination, length, checksum: if no_checksum { Some(Self::NO_CHECKSUM) } else { checksum } })
    }

    fn print(&self) -> String {
        let line = Line::new("udp").pair(self.source, self.destination);
        match self.checksum {
            Some(Self::NO_CHECKSUM) => line.word("nosum"),
            other => line.checksum(other, 4),
        }
        .option("len", &self.length)
        .finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let length = match self.length {
            Some(length) => length,
            None => u16::try_from(Self::LENGTH + around.payload.len())
                .map_err(|_| "the datagram is longer than a UDP header can say; give `len=`")?,
        };
        let mut out = Vec::with_capacity(Self::LENGTH + around.payload.len());
        out.extend(self.source.to_be_bytes());
        out.extend(self.destination.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend([0, 0]);
        out.extend(around.payload);
        let checksum = Checksum::internet(self.checksum, Self::right_checksum(around.pseudo()?, &out));
        out[6..8].copy_from_slice(&checksum.to_be_bytes());
        Ok(out)
    }

    fn simpler(&self) -> Vec<Self> {
        vec![
            Udp { length: None, ..self.clone() },
            Udp { checksum: None, ..self.clone() },
            Udp { checksum: Some(Checksum::Bad), ..self.clone() },
        ]
    }
}

/// Applies `cut=`, after which nothing can come.
pub(super) fn cut(mut packet: Vec<u8>, at: Option<usize>, around: &Around<'_>) -> Result<Vec<u8>, String> {
    let Some(at) = at else { return Ok(packet) };
    if around.next.is_some() {
        return Err("nothing can follow a header that is cut".to_owned());
    }
    packet.truncate(at);
    Ok(packet)
}

//! SCTP: the common header and the first chunk. Further chunks are written as `hex`.

use super::checksum::{Checksum, crc32c};
use super::transport::cut;
use super::words::{Fields, Line};
use super::{Around, FrameError, Header};

pub(super) const SCTP: u8 = 132;

/// `sctp SOURCE > DESTINATION [tag=0] [CHUNK [flags=] [value=HEX] [len=]] [csum= cut=N]`
///
/// CHUNK is a name of [`Chunk::NAMES`] or `chunk=N`. The layers after a `data` chunk are its user data and are filled
/// up with zeros to whole words; after any other chunk they stand behind it. `value=` is what follows the chunk's
/// four-byte head, for `data` the twelve bytes before the user data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sctp {
    source: u16,
    destination: u16,
    tag: u32,
    chunk: Option<Chunk>,
    checksum: Option<Checksum>,
    cut: Option<usize>,
}

impl Sctp {
    const LENGTH: usize = 12;

    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        if bytes.len() < 4 {
            return None;
        }
        let mut header = [0; Self::LENGTH];
        let present = bytes.len().min(Self::LENGTH);
        header[..present].copy_from_slice(&bytes[..present]);
        let [s0, s1, d0, d1, t0, t1, t2, t3, c0, c1, c2, c3] = header;
        let (chunk, chunk_length) = Chunk::read(&bytes[present..]).unzip();
        let sctp = Sctp {
            source: u16::from_be_bytes([s0, s1]),
            destination: u16::from_be_bytes([d0, d1]),
            tag: u32::from_be_bytes([t0, t1, t2, t3]),
            chunk,
            checksum: Some(Checksum::Is(u32::from_le_bytes([c0, c1, c2, c3]))),
            cut: Some(present).filter(|present| *present < Self::LENGTH),
        };
        Some((sctp, present + chunk_length.unwrap_or(0)))
    }

    /// Where the user data of a data chunk ends, counted from the common header, as the chunk's head says it.
    pub fn said_data_end(&self) -> Option<usize> {
        let chunk = self.chunk.as_ref().filter(|chunk| chunk.kind == Chunk::DATA)?;
        chunk.length.map(|length| Self::LENGTH + usize::from(length))
    }
}

impl Header for Sctp {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let (source, destination) = fields.pair("a port")?;
        Ok(Sctp {
            source,
            destination,
            tag: fields.number("tag", 0xffff_ffff)?.unwrap_or(0),
            chunk: Chunk::parse(fields)?,
            checksum: fields.checksum(8)?,
            cut: fields.number("cut", Self::LENGTH as u64 - 1)?,
        })
    }

    fn print(&self) -> String {
        let line = Line::new("sctp").pair(self.source, self.destination).number("tag", self.tag, 0);
        let line = match &self.chunk {
            Some(chunk) => chunk.print(line),
            None => line,
        };
        line.checksum(self.checksum, 8).option("cut", &self.cut).finish()
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(Self::LENGTH + around.payload.len());
        out.extend(self.source.to_be_bytes());
        out.extend(self.destination.to_be_bytes());
        out.extend(self.tag.to_be_bytes());
        out.extend([0; 4]);
        match &self.chunk {
            Some(chunk) => chunk.emit(&mut out, around.payload)?,
            None => out.extend(around.payload),
        }
        let checksum = Checksum::crc(self.checksum, crc32c(&out));
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
        cut(out, self.cut, around)
    }

    fn simpler(&self) -> Vec<Self> {
        let chunks = self.chunk.iter().flat_map(Chunk::simpler);
        let mut simpler: Vec<Self> = chunks.map(|chunk| Sctp { chunk: Some(chunk), ..self.clone() }).collect();
        simpler.push(Sctp { checksum: None, ..self.clone() });
        simpler.push(Sctp { checksum: Some(Checksum::Bad), ..self.clone() });
        simpler
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    kind: u8,
    flags: Option<u8>,
    value: Option<Vec<u8>>,
    length: Option<u16>,
}

impl Chunk {
    const DATA: u8 = 0;
    const HEAD: usize = 4;
    const DATA_VALUE: usize = 12;
    /// RFC 9260 §3.2
    const NAMES: [(&'static str, u8); 14] = [
        ("data", 0),
        ("init", 1),
        ("init-ack", 2),
        ("sack", 3),
        ("heartbeat", 4),
        ("heartbeat-ack", 5),
        ("abort", 6),
        ("shutdown", 7),
        ("shutdown-ack", 8),
        ("error", 9),
        ("cookie-echo", 10),
        ("cookie-ack", 11),
        ("shutdown-complete", 14),
        ("forward-tsn", 192),
    ];

    fn parse(fields: &mut Fields<'_>) -> Result<Option<Self>, FrameError> {
        let named = Self::NAMES.iter().find(|(name, _)| fields.flag(name)).map(|(_, kind)| *kind);
        let numbered = fields.number("chunk", 0xff)?;
        let Some(kind) = named.or(numbered) else { return Ok(None) };
        let flags = fields.number("flags", 0xff)?;
        let value = fields.bytes("value")?;
        Ok(Some(Chunk { kind, flags, value, length: fields.number("len", 0xffff)? }))
    }

    fn print(&self, line: Line) -> Line {
        let line = match Self::NAMES.iter().find(|(_, kind)| *kind == self.kind) {
            Some((name, _)) => line.word(name),
            None => line.word(format_args!("chunk={}", self.kind)),
        };
        line.option("flags", &self.flags)
            .bytes("value", self.value.as_deref().unwrap_or(&[]))
            .option("len", &self.length)
    }

    /// The chunk and how many bytes it takes, user data not counted.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let [kind, flags, l0, l1] = *bytes.first_chunk::<{ Self::HEAD }>()?;
        let length = u16::from_be_bytes([l0, l1]);
        let value = match kind {
            Self::DATA => bytes.get(Self::HEAD..Self::HEAD + Self::DATA_VALUE)?,
            _ => bytes.get(Self::HEAD..usize::from(length).next_multiple_of(4))?,
        };
        let given = Some(value.to_vec()).filter(|value| !value.is_empty());
        // The text cannot say "a value of no bytes" for a chunk that has one by default.
        if given.is_none() && !Self::default_value(kind).is_empty() {
            return None;
        }
        Some((Chunk { kind, flags: Some(flags), value: given, length: Some(length) }, Self::HEAD + value.len()))
    }

    fn emit(&self, out: &mut Vec<u8>, payload: &[u8]) -> Result<(), String> {
        let default;
        let value = match &self.value {
            Some(value) => value.as_slice(),
            None => {
                default = Self::default_value(self.kind);
                &default
            }
        };
        let user_data = if self.kind == Self::DATA { payload } else { &[] };
        let length = match self.length {
            Some(length) => length,
            None => u16::try_from(Self::HEAD + value.len() + user_data.len())
                .map_err(|_| "the chunk is longer than its head can say; give `len=`")?,
        };
        // RFC 9260 §3.3.1: first and last fragment at once.
        let flags = self.flags.unwrap_or(if self.kind == Self::DATA { 3 } else { 0 });
        out.extend([self.kind, flags]);
        out.extend(length.to_be_bytes());
        out.extend(value);
        out.extend(user_data);
        out.resize(out.len().next_multiple_of(4), 0);
        if self.kind != Self::DATA {
            out.extend(payload);
        }
        Ok(())
    }

    /// What a peer would accept: tags, windows and sequence numbers are 1 or full, one stream each way.
    fn default_value(kind: u8) -> Vec<u8> {
        const INIT: [u8; 16] = [0, 0, 0, 1, 0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 1];
        const STATE_COOKIE: [u8; 8] = [0, 7, 0, 8, b'm', b'a', b'r', b'c'];
        match kind {
            Self::DATA => vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            1 => INIT.to_vec(),
            2 => [&INIT[..], &STATE_COOKIE].concat(),
            3 => vec![0, 0, 0, 1, 0, 0, 255, 255, 0, 0, 0, 0],
            // RFC 9260 §3.3.5: a heartbeat carries one parameter of type 1.
            4 | 5 => vec![0, 1, 0, 8, b'b', b'e', b'a', b't'],
            7 => vec![0, 0, 0, 1],
            10 => STATE_COOKIE[4..].to_vec(),
            192 => vec![0, 0, 0, 1],
            _ => Vec::new(),
        }
    }

    fn simpler(&self) -> Vec<Self> {
        let mut simpler = vec![
            Chunk { flags: None, ..self.clone() },
            Chunk { length: None, ..self.clone() },
            Chunk { value: None, ..self.clone() },
        ];
        // A value is read together with the zeros that fill it up; without one of them only the length can show it.
        if let Some([most @ .., 0]) = self.value.as_deref() {
            let fill = most.iter().rev().take(2).take_while(|byte| **byte == 0).count();
            let shorter = (0..=fill).map(|fewer| most[..most.len() - fewer].to_vec()).filter(|value| !value.is_empty());
            simpler.extend(shorter.map(|value| Chunk { value: Some(value), length: None, ..self.clone() }));
        }
        simpler
    }
}

//! The lines of a control connection, read byte by byte.
//!
//! From the client: `PORT h1,h2,h3,h4,p1,p2` (RFC 959 §4.1.2), `EPRT |2|2001:db8::7|5282|` (RFC 2428 §2). From the real
//! server: `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)`, of which RFC 959 fixes but the code, so that the numbers are
//! looked for (RFC 1123 §4.1.2.6), and `229 Entering Extended Passive Mode (|||6446|)` (RFC 2428 §3). A line counts when
//! it is there whole.

/// What a line announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Nothing,
    /// `PORT`
    Port,
    /// `EPRT`
    ExtendedPort,
    /// `227`
    Passive,
    /// `229`
    ExtendedPassive,
}

/// A data connection that a segment announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub kind: Kind,
    /// Of the side that has sent it.
    pub port: u16,
    /// `PORT` and `227`: the address, in memory order.
    pub address: u32,
    /// Offset in the segment of what follows the line's first word.
    pub start: u32,
    /// `PORT` and `227`: from the first to behind the last of the numbers.
    pub first: u32,
    pub last: u32,
}

impl Announcement {
    pub const NOTHING: Self = Self { kind: Kind::Nothing, port: 0, address: 0, start: 0, first: 0, last: 0 };
}

/// Length of a code and its space.
pub const CODE: u32 = 4;

/// Reads a segment.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    from_server: bool,
    /// The last eight bytes, the latest lowest.
    recent: u64,
    /// Of the line at hand.
    kind: Kind,
    /// It has told all.
    told: bool,
    start: u32,
    first: u32,
    last: u32,
    /// Numbers before the one at hand, lowest byte last, and how many.
    numbers: u64,
    count: u32,
    number: u32,
    digits: u32,
    /// What stands between the parts of an extended line, and how often it was there; [`SPOILT`]: not in its place.
    delimiter: u8,
    delimiters: u32,
    /// The last announcement so far.
    pub found: Announcement,
    /// Some line began like an announcement and was none, or did not end.
    pub unclear: bool,
}

const SPOILT: u32 = 9;
/// Numbers before the last one.
const NUMBERS: u32 = 5;
/// More than a part of an address and a port can be, each.
const TOO_MUCH: u32 = 256;
const TOO_MUCH_EXTENDED: u32 = 65_536;

impl Reader {
    /// Of the real server's segment, or the client's. It is taken to begin with a line.
    #[inline(always)]
    pub const fn new(from_server: bool) -> Self {
        Self {
            from_server,
            recent: b'\n' as u64,
            kind: Kind::Nothing,
            told: false,
            start: 0,
            first: 0,
            last: 0,
            numbers: 0,
            count: 0,
            number: 0,
            digits: 0,
            delimiter: 0,
            delimiters: 0,
            found: Announcement::NOTHING,
            unclear: false,
        }
    }

    /// Reads a whole segment.
    pub fn read(from_server: bool, segment: &[u8]) -> Self {
        let mut reader = Self::new(from_server);
        for (at, byte) in (0..).zip(segment) {
            reader.take(at, *byte);
        }
        reader
    }

    /// The byte at this offset, each in its turn.
    #[inline(always)]
    pub fn take(&mut self, at: u32, byte: u8) {
        self.recent = self.recent << 8 | u64::from(byte);
        if self.kind == Kind::Nothing {
            self.begin(at);
        } else if !self.told {
            if self.kind == Kind::Passive || self.kind == Kind::Port {
                self.numbers(at, byte);
            } else {
                self.parts(byte);
            }
        }
        if byte == b'\n' {
            self.end();
        }
    }

    #[inline(always)]
    fn end(&mut self) {
        if self.kind != Kind::Nothing {
            // Until now a line that is not whole.
            self.unclear = !self.told;
        }
        if self.told {
            let extended = self.kind == Kind::ExtendedPort || self.kind == Kind::ExtendedPassive;
            self.found = Announcement {
                kind: self.kind,
                port: if extended { self.number as u16 } else { self.numbers as u16 },
                address: ((self.numbers >> 16) as u32).to_be(),
                start: self.start,
                first: self.first,
                last: self.last,
            };
        }
        self.kind = Kind::Nothing;
        self.told = false;
    }

    /// After the first word of a line: which one was it?
    #[inline(always)]
    fn begin(&mut self, at: u32) {
        let five = self.recent & 0xff_ffff_ffff;
        let six = self.recent & 0xffff_ffff_ffff | LETTERS;
        let kind = if self.from_server {
            match five {
                PASSIVE => Kind::Passive,
                EXTENDED_PASSIVE => Kind::ExtendedPassive,
                _ => Kind::Nothing,
            }
        } else {
            match six {
                PORT => Kind::Port,
                EXTENDED_PORT => Kind::ExtendedPort,
                _ => Kind::Nothing,
            }
        };
        if kind == Kind::Nothing {
            return;
        }
        self.kind = kind;
        self.unclear = true;
        self.start = at.wrapping_add(1);
        self.numbers = 0;
        self.count = 0;
        self.number = 0;
        self.digits = 0;
        self.delimiters = 0;
    }

    /// `h1,h2,h3,h4,p1,p2`, wherever it stands.
    #[inline(always)]
    fn numbers(&mut self, at: u32, byte: u8) {
        if self.digit(byte, TOO_MUCH) {
            if self.count == 0 && self.digits == 1 {
                self.first = at;
            }
            return;
        }
        let is_number = self.digits != 0 && self.number < TOO_MUCH;
        self.numbers = self.numbers << 8 | u64::from(self.number);
        self.number = 0;
        self.digits = 0;
        if is_number && self.count == NUMBERS {
            self.last = at;
            self.told = true;
        } else if is_number && byte == b',' {
            self.count += 1;
        } else {
            self.numbers = 0;
            self.count = 0;
        }
    }

    /// `|2|2001:db8::7|5282|`, after a bracket in an answer. What is said of the address is passed over.
    #[inline(always)]
    fn parts(&mut self, byte: u8) {
        if self.delimiters == 0 {
            if self.kind == Kind::ExtendedPassive && self.count == 0 {
                self.count = u32::from(byte == b'(');
            } else if byte != b' ' {
                self.delimiter = byte;
                self.delimiters = if byte.is_ascii_digit() { SPOILT } else { 1 };
            }
        } else if byte == self.delimiter {
            if self.delimiters == 3 && self.digits != 0 && self.number < TOO_MUCH_EXTENDED {
                self.told = true;
            }
            self.delimiters = if self.delimiters < 3 { self.delimiters + 1 } else { SPOILT };
        } else if self.delimiters == 3 && !self.digit(byte, TOO_MUCH_EXTENDED) {
            self.delimiters = SPOILT;
        }
    }

    /// Takes a digit; false for any other byte.
    #[inline(always)]
    fn digit(&mut self, byte: u8, too_much: u32) -> bool {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return false;
        }
        let number = self.number * 10 + u32::from(digit);
        self.number = if number < too_much { number } else { too_much };
        self.digits = 1 + u32::from(self.digits != 0);
        true
    }
}

/// The first words, behind the end of the line before; commands in any case (RFC 959 §5.3).
const PASSIVE: u64 = letters(b"\n227 ");
const EXTENDED_PASSIVE: u64 = letters(b"\n229 ");
const PORT: u64 = letters(b"\nport ");
const EXTENDED_PORT: u64 = letters(b"\neprt ");
/// The bit that tells small letters from large ones, of the four letters.
const LETTERS: u64 = 0x2020_2020 << 8;

const fn letters(text: &[u8]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < text.len() {
        word = word << 8 | text[i] as u64;
        i += 1;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    fn server(text: &str) -> Reader {
        Reader::read(true, text.as_bytes())
    }

    fn client(text: &str) -> Reader {
        Reader::read(false, text.as_bytes())
    }

    /// Kind and port, when something is announced.
    fn said(reader: &Reader) -> Option<(Kind, u16)> {
        (reader.found.kind != Kind::Nothing).then_some((reader.found.kind, reader.found.port))
    }

    #[test]
    fn announcements_are_read() {
        for (text, port) in [
            ("227 Entering Passive Mode (10,0,0,11,39,16).\r\n", 10_000),
            ("227 Entering Passive Mode. 10,0,0,11,39,16\r\n", 10_000),
            ("227 10,0,0,11,39,16\n", 10_000),
            ("227 =10,0,0,11,39,16\r\n", 10_000),
            ("227 Mode 2 of 3, (10,0,0,11,39,16)\r\n", 10_000),
            ("227 1,2,3 (10,0,0,11,255,255)\r\n", 65_535),
            ("200 OK\r\n227 x (10,0,0,11,0,21)\r\n150 go\r\n", 21),
        ] {
            let reader = server(text);
            assert_eq!(said(&reader), Some((Kind::Passive, port)), "{text:?}");
            assert_eq!(reader.found.address, u32::from_ne_bytes([10, 0, 0, 11]), "{text:?}");
            let numbers = &text[reader.found.first as usize..reader.found.last as usize];
            assert!(numbers.starts_with("10,0,0,11,"), "{numbers}");
        }
        for (text, port) in [
            ("229 Entering Extended Passive Mode (|||6446|)\r\n", 6446),
            ("229 (!!!1!)\r\n", 1),
            ("229 Mode 3 (|1|10.0.0.11|65535|) here\r\n", 65_535),
        ] {
            assert_eq!(said(&server(text)), Some((Kind::ExtendedPassive, port)), "{text:?}");
        }
        for (text, port) in [("PORT 198,51,100,7,16,146\r\n", 4242), ("port 1,2,3,4,0,1\n", 1)] {
            assert_eq!(said(&client(text)), Some((Kind::Port, port)), "{text:?}");
        }
        for (text, port) in [
            ("EPRT |1|198.51.100.7|4242|\r\n", 4242),
            ("eprt |2|2001:db8::7|5282|\r\n", 5282),
            ("TYPE I\r\nEPRT +2+2001:db8::7+5282+\r\nRETR a\r\n", 5282),
        ] {
            assert_eq!(said(&client(text)), Some((Kind::ExtendedPort, port)), "{text:?}");
        }
    }

    #[test]
    fn what_begins_alike_is_unclear() {
        for text in [
            "227 Entering Passive Mode (10,0,0,11,39,16).",
            "227 Entering Passive Mode (10,0,0,11,39).\r\n",
            "227 Entering Passive Mode (10,0,0,256,39,16).\r\n",
            "227 Entering Passive Mode (10,0,0,11,39,16,\n",
            "227 nothing\r\n",
            "227 \n",
            "229 |||6446|\r\n",
            "229 (|||6446\r\n",
            "229 (|||65536|)\r\n",
            "229 (||||)\r\n",
            "229 (|||x1|)\r\n",
            "229 (1111)\r\n",
        ] {
            let reader = server(text);
            // A seventh number is no matter: the six before it are read.
            let whole = text.contains("16,");
            assert_eq!((said(&reader).is_some(), reader.unclear), (whole, !whole), "{text:?}");
        }
        for text in ["PORT 1,2,3\r\n", "EPRT |2|::1|\r\n", "EPRT \r\n", "PORT 1,2,3,4,5,6"] {
            let reader = client(text);
            assert_eq!((said(&reader), reader.unclear), (None, true), "{text:?}");
        }
    }

    #[test]
    fn other_lines_are_none() {
        for text in [
            "",
            "227",
            "2270 (1,2,3,4,5,6)\r\n",
            " 227 (1,2,3,4,5,6)\r\n",
            "227-(1,2,3,4,5,6)\r\n",
            "x\r227 (1,2,3,4,5,6)\r\n",
        ] {
            let reader = server(text);
            assert_eq!((said(&reader), reader.unclear), (None, false), "{text:?}");
        }
        for text in ["227 (1,2,3,4,5,6)\r\n", "REPORT 1,2,3,4,5,6\r\n", "PORTX1,2,3,4,5,6\r\n", "EPSV\r\n"] {
            let reader = client(text);
            assert_eq!((said(&reader), reader.unclear), (None, false), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_last_announcement_counts(ports in prop::collection::vec(1u16.., 1..4), extended: bool) {
            let line = |port: &u16| {
                let [p, q] = port.to_be_bytes();
                if extended { format!("229 x (|||{port}|)\r\n") } else { format!("227 x (10,0,0,1,{p},{q})\r\n") }
            };
            let text: String = ports.iter().map(line).collect();
            prop_assert_eq!(said(&server(&text)).map(|(_, port)| port), ports.last().copied());
        }

        #[test]
        fn whatever_is_said_offsets_are_within_it(
            pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..24), from_server: bool,
        ) {
            let text: Vec<u8> = pieces.concat().into_bytes();
            let found = Reader::read(from_server, &text).found;
            let numbers = matches!(found.kind, Kind::Passive | Kind::Port);
            prop_assert!((found.start as usize) < text.len().max(1));
            if numbers {
                prop_assert!(found.start <= found.first && found.first + 11 <= found.last);
                prop_assert!((found.last as usize) < text.len());
                prop_assert!(text[found.first as usize].is_ascii_digit());
            }
        }
    }

    const PIECES: &[&str] = &[
        "227 ", "229 ", "PORT ", "eprt ", "1,", "2,3,4,5,", "6", "255", "(", ")", "|", "||", "9", "\r\n", "\n", "x",
        ",",
    ];
}

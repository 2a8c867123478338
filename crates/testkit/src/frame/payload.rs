//! Bytes that are no header: text, a pattern, anything; and what stands behind the packet.

use super::words::{Fields, Hex, from_hex};
use super::{Around, FrameError, Header};

/// The bytes that `data N` stands for. The period is a prime, so that a piece that moved by a power of two, or by a
/// header's length, does not look as if it had stayed.
pub fn pattern(length: usize) -> Vec<u8> {
    const PERIOD: usize = 251;
    (0..length).map(|at| (at % PERIOD) as u8).collect()
}

/// `data "text"`, `data N`, `hex DIGITS`
///
/// A text knows `\n`, `\r`, `\t`, `\"`, `\\` and `\xHH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payload(pub Vec<u8>);

impl Payload {
    /// A frame may be longer, but a typing error should not take the machine's memory.
    const LENGTH_MAX: usize = 1 << 20;
    /// Shorter patterns are more likely to be something else.
    const PATTERN_MIN: usize = 4;
}

impl Header for Payload {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        if fields.name.text == "hex" {
            let word = fields.word("hexadecimal digits")?;
            let bytes = from_hex(word.text)
                .ok_or_else(|| fields.error(word.span(), "`hex` takes an even number of hexadecimal digits"))?;
            return Ok(Payload(bytes));
        }
        let word = fields.word("a \"text\" or a length")?;
        match word.text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(text) => match unescape(text) {
                Some(bytes) => Ok(Payload(bytes)),
                None => Err(fields.error(word.span(), r#"the escapes of a text are \n \r \t \" \\ and \xHH"#)),
            },
            None => match word.text.parse() {
                Ok(length) if length <= Self::LENGTH_MAX => Ok(Payload(pattern(length))),
                _ => {
                    let what = format!("`data` takes a \"text\" or a length up to {}", Self::LENGTH_MAX);
                    Err(fields.error(word.span(), what))
                }
            },
        }
    }

    fn print(&self) -> String {
        let bytes = &self.0;
        let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t');
        if bytes.is_empty() || (bytes.len() >= Self::PATTERN_MIN && *bytes == pattern(bytes.len())) {
            format!("data {}", bytes.len())
        } else if bytes.iter().all(is_text) {
            format!("data \"{}\"", escape(bytes))
        } else {
            format!("hex {}", Hex(bytes))
        }
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        Ok([&self.0, around.payload].concat())
    }
}

/// `pad N` (zeros) or `trailer DIGITS`: bytes behind the packet that no length and no checksum counts, such as
/// Ethernet's padding. The last layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trailer(pub Vec<u8>);

impl Header for Trailer {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let word = fields.word("a length or hexadecimal digits")?;
        let bytes = match fields.name.text {
            "pad" => {
                word.text.parse().ok().filter(|length| *length <= Payload::LENGTH_MAX).map(|length| vec![0; length])
            }
            _ => from_hex(word.text),
        };
        let bytes = bytes
            .ok_or_else(|| fields.error(word.span(), "`pad` takes a number of bytes, `trailer` hexadecimal digits"))?;
        Ok(Trailer(bytes))
    }

    fn print(&self) -> String {
        if self.0.iter().all(|byte| *byte == 0) {
            format!("pad {}", self.0.len())
        } else {
            format!("trailer {}", Hex(&self.0))
        }
    }

    fn emit(&self, around: &Around<'_>) -> Result<Vec<u8>, String> {
        Ok([&self.0, around.payload].concat())
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            other => out.push(char::from(*other)),
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        out.push(match letters.next()? {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            '"' => b'"',
            '\\' => b'\\',
            'x' => {
                let digits: String = letters.by_ref().take(2).collect();
                *from_hex(&digits)?.first()?
            }
            _ => return None,
        });
    }
    Some(out)
}

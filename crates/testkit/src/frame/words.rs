//! The text's words, where they stand, and how a layer takes its fields from them. Knows no protocol.

use super::FrameError;
use super::checksum::Checksum;
use std::fmt::{self, Display, Write as _};
use std::ops::Range;
use std::str::FromStr;

/// A piece of the text without white space, or a quoted string with its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'t> {
    pub text: &'t str,
    at: usize,
}

impl Word<'_> {
    pub fn span(&self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }
}

/// Splits the text into layers at each word that is `/`.
pub(super) fn layers(text: &str) -> Result<Vec<Fields<'_>>, FrameError> {
    let mut layers = Vec::new();
    let mut words = Vec::new();
    let mut slash = 0..0;
    for word in split(text)? {
        if word.text == "/" {
            slash = word.span();
            layers.push(Fields::new(text, std::mem::take(&mut words), slash.clone())?);
        } else {
            words.push(word);
        }
    }
    layers.push(Fields::new(text, words, slash)?);
    Ok(layers)
}

fn split(text: &str) -> Result<Vec<Word<'_>>, FrameError> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(words);
        }
        let at = text.len() - rest.len();
        let length = if rest.starts_with('"') {
            quoted_length(rest).ok_or_else(|| FrameError::new(text, at..text.len(), "this string has no end"))?
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        words.push(Word { text: &rest[..length], at });
        rest = &rest[length..];
    }
}

fn quoted_length(rest: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The words of one layer. Each is taken once; what is left at the end is refused together with a list of what the
/// layer would have understood.
#[derive(Debug)]
pub(super) struct Fields<'t> {
    text: &'t str,
    pub name: Word<'t>,
    words: Vec<Word<'t>>,
    known: Vec<String>,
}

impl<'t> Fields<'t> {
    fn new(text: &'t str, mut words: Vec<Word<'t>>, slash: Range<usize>) -> Result<Self, FrameError> {
        if words.is_empty() {
            return Err(FrameError::new(text, slash, "a layer is missing here"));
        }
        let name = words.remove(0);
        Ok(Fields { text, name, words, known: Vec::new() })
    }

    /// From the layer's name to its last word.
    pub fn span(&self) -> Range<usize> {
        self.name.at..self.words.last().unwrap_or(&self.name).span().end
    }

    pub fn error(&self, span: Range<usize>, what: impl Into<String>) -> FrameError {
        FrameError::new(self.text, span, what)
    }

    /// The next word that is not `key=value`.
    pub fn word(&mut self, what: &str) -> Result<Word<'t>, FrameError> {
        match self.words.first() {
            Some(word) if !word.text.contains('=') || word.text.starts_with('"') => Ok(self.words.remove(0)),
            Some(word) => Err(self.error(word.span(), format!("expected {what} here"))),
            None => Err(self.error(self.name.span(), format!("`{}` needs {what}", self.name.text))),
        }
    }

    /// `A > B`
    pub fn pair<T: FromStr>(&mut self, what: &str) -> Result<(T, T), FrameError> {
        let first = self.parsed(what)?;
        let arrow = self.word(&format!("`>` after {what}"))?;
        if arrow.text != ">" {
            return Err(self.error(arrow.span(), "expected `>` here"));
        }
        Ok((first, self.parsed(what)?))
    }

    pub fn parsed<T: FromStr>(&mut self, what: &str) -> Result<T, FrameError> {
        let word = self.word(what)?;
        word.text.parse().map_err(|_| self.error(word.span(), format!("`{}` is not {what}", word.text)))
    }

    /// A word of its own such as `df`.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.known.push(name.to_owned());
        let found = self.words.iter().position(|word| word.text == name);
        if let Some(index) = found {
            self.words.remove(index);
        }
        found.is_some()
    }

    /// `key=N`, decimal or `0x` and hexadecimal, at most `limit`.
    pub fn number<T: TryFrom<u64>>(&mut self, key: &str, limit: u64) -> Result<Option<T>, FrameError> {
        self.value(key, &format!("a number up to {limit}"), |text| {
            let value = match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok()?,
                None => text.parse().ok()?,
            };
            if value > limit { None } else { T::try_from(value).ok() }
        })
    }

    /// `key=HHHH`, always hexadecimal.
    pub fn ether_type(&mut self, key: &str) -> Result<Option<u16>, FrameError> {
        self.value(key, "an ethertype, four hexadecimal digits", |text| {
            u16::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        })
    }

    pub fn bytes(&mut self, key: &str) -> Result<Option<Vec<u8>>, FrameError> {
        self.value(key, "an even number of hexadecimal digits", from_hex)
    }

    /// `csum=bad` or `csum=` and `digits` hexadecimal digits.
    pub fn checksum(&mut self, digits: usize) -> Result<Option<Checksum>, FrameError> {
        self.value("csum", &format!("`bad` or {digits} hexadecimal digits"), |text| match text {
            "bad" => Some(Checksum::Bad),
            _ if text.len() != digits => None,
            _ => u32::from_str_radix(text, 16).ok().map(Checksum::Is),
        })
    }

    fn value<T>(
        &mut self,
        key: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, FrameError> {
        self.known.push(format!("{key}="));
        let is_ours = |word: &Word| word.text.strip_prefix(key).is_some_and(|rest| rest.starts_with('='));
        let Some(index) = self.words.iter().position(is_ours) else { return Ok(None) };
        let word = self.words.remove(index);
        match parse(&word.text[key.len() + 1..]) {
            Some(value) => Ok(Some(value)),
            None => Err(self.error(word.span(), format!("`{key}=` takes {what}"))),
        }
    }

    /// Refuses what no one asked for, which includes a field that was written twice.
    pub fn finish(self) -> Result<(), FrameError> {
        let Some(word) = self.words.first() else { return Ok(()) };
        let key = word.text.split_inclusive('=').next().unwrap_or(word.text);
        let what = match self.known.as_slice() {
            known if known.iter().any(|known| known == key) => format!("`{key}` is given twice"),
            [] => format!("`{}` takes nothing more", self.name.text),
            known => format!("`{}` does not take `{key}`; it takes {}", self.name.text, known.join(", ")),
        };
        Err(self.error(word.span(), what))
    }
}

/// The printer's side: the same fields, written only where they differ from what the builder would put there.
#[derive(Debug)]
pub(super) struct Line(String);

impl Line {
    pub fn new(name: &str) -> Self {
        Line(name.to_owned())
    }

    pub fn word(mut self, word: impl Display) -> Self {
        write!(self.0, " {word}").expect("a String takes everything");
        self
    }

    pub fn pair(self, first: impl Display, second: impl Display) -> Self {
        self.word(first).word(">").word(second)
    }

    pub fn flag(self, name: &str, set: bool) -> Self {
        if set { self.word(name) } else { self }
    }

    pub fn number<T: Display + PartialEq>(self, key: &str, value: T, default: T) -> Self {
        if value == default { self } else { self.word(format_args!("{key}={value}")) }
    }

    pub fn option<T: Display>(self, key: &str, value: &Option<T>) -> Self {
        match value {
            Some(value) => self.word(format_args!("{key}={value}")),
            None => self,
        }
    }

    pub fn ether_type(self, key: &str, value: Option<u16>) -> Self {
        self.option(key, &value.map(|value| format!("{value:04x}")))
    }

    pub fn bytes(self, key: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.word(format_args!("{key}={}", Hex(bytes))) }
    }

    pub fn checksum(self, value: Option<Checksum>, digits: usize) -> Self {
        match value {
            None => self,
            Some(Checksum::Bad) => self.word("csum=bad"),
            Some(Checksum::Is(value)) => self.word(format_args!("csum={value:0digits$x}")),
        }
    }

    pub fn finish(self) -> String {
        self.0
    }
}

/// Bytes as hexadecimal digits without spaces.
pub(super) struct Hex<'b>(pub &'b [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

pub(super) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

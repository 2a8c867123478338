//! Parsers of what stands inside the file's strings: ports, durations, addresses, names.
//!
//! Each takes a whole string and says where in it a fault is. None knows the key that it is read for.

pub mod access;
pub mod address;
pub mod check;
pub mod duration;
pub mod name;
pub mod ports;

use std::fmt;
use std::ops::Range;

/// Why a string was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// The headline: lower case, no full stop.
    pub message: String,
    /// What to write beside the underlined text.
    pub label: String,
    /// The bytes of the string that are at fault; all of them if `None`.
    pub at: Option<Range<usize>>,
    /// What to do next.
    pub help: Option<String>,
}

impl TextError {
    fn new(message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { message: message.into(), label: label.into(), at: None, help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `part` must be a slice of `whole`.
    fn at(mut self, part: &str, whole: &str) -> Self {
        let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
        self.at = (start <= whole.len()).then(|| start..whole.len().min(start + part.len()));
        self
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TextError {}

/// A number of plain ASCII digits, which `str::parse` is too generous for (`+80`). Too large counts as `u32::MAX`.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().unwrap_or(u32::MAX))
}

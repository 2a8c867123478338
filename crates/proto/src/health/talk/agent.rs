//! A line that says how a server feels, as agents of HAProxy write it (`agent-check`): words and a weight, separated by
//! blanks, commas or tabs, up to the end of the line; what follows a `#` is a reason for people.

use super::{Step, Talk, shown};
use std::fmt;

/// A weight that a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weight {
    /// In hundredths of the configured one.
    Percent(u16),
    Absolute(u16),
}

impl Weight {
    /// In the place of the configured weight. Nothing stays nothing, and what is not nothing stays at least 1.
    pub fn of(self, configured: u16) -> u16 {
        match self {
            _ if configured == 0 => 0,
            Weight::Absolute(weight) => weight,
            Weight::Percent(percent) => {
                let weight = u32::from(configured) * u32::from(percent) / 100;
                let least = u32::from(percent > 0);
                u16::try_from(weight.max(least)).unwrap_or(u16::MAX)
            }
        }
    }

    /// `75%`, `3`.
    pub fn parse(word: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        match word.strip_suffix('%') {
            Some(percent) => number(percent).filter(|percent| *percent <= MOST_PERCENT).map(Weight::Percent),
            None => number(word).map(Weight::Absolute),
        }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weight::Percent(percent) => write!(f, "{percent}%"),
            Weight::Absolute(weight) => write!(f, "{weight}"),
        }
    }
}

/// HAProxy's limit is 256 times a hundredth of 25600; ten times the weight is more than anybody means.
const MOST_PERCENT: u16 = 1000;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Up(Option<Weight>),
    Down(String),
}

/// `up`, `75%`, `drain`, `down #maintenance`.
///
/// # Errors
/// The line, where it says nothing that is known.
pub fn line(text: &str) -> Result<Said, String> {
    let (words, reason) = match text.split_once('#') {
        Some((words, reason)) => (words, reason.trim()),
        None => (text, ""),
    };
    let (mut up, mut weight) = (None, None);
    for word in words.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "up" | "ready" => up = up.or(Some(Ok(()))),
            "drain" => weight = Some(Weight::Absolute(0)),
            down @ ("down" | "fail" | "failed" | "stopped" | "maint") => up = Some(Err(down.to_owned())),
            word => weight = Some(Weight::parse(word).ok_or_else(|| unknown(text))?),
        }
    }
    match up {
        Some(Err(word)) if reason.is_empty() => Ok(Said::Down(format!("says {word}"))),
        Some(Err(word)) => Ok(Said::Down(format!("says {word}: {}", shown(reason.as_bytes())))),
        Some(Ok(())) => Ok(Said::Up(weight)),
        None if weight.is_some() => Ok(Said::Up(weight)),
        None => Err(unknown(text)),
    }
}

fn unknown(text: &str) -> String {
    format!("says {}, which means nothing", shown(text.trim_ascii().as_bytes()))
}

/// A conversation that ends with the first line.
#[derive(Debug)]
pub struct Agent<'a> {
    send: &'a [u8],
    text: Vec<u8>,
    /// Of a good answer.
    pub weight: Option<Weight>,
    /// A bad answer that means what it says.
    pub says_down: bool,
}

impl<'a> Agent<'a> {
    pub fn new(send: &'a [u8]) -> Self {
        Self { send, text: Vec::new(), weight: None, says_down: false }
    }

    fn judge(&mut self) -> Step {
        let text = String::from_utf8_lossy(&self.text);
        match line(text.lines().next().unwrap_or_default()) {
            Ok(Said::Up(weight)) => {
                self.weight = weight;
                Step::Good
            }
            Ok(Said::Down(why)) => {
                self.says_down = true;
                Step::Bad(why)
            }
            Err(why) => Step::Bad(why),
        }
    }
}

impl Talk for Agent<'_> {
    fn open(&mut self) -> Step {
        if self.send.is_empty() { Step::More } else { Step::Send(self.send.to_vec()) }
    }

    fn receive(&mut self, bytes: &[u8]) -> Step {
        self.text.extend(bytes);
        if self.text.contains(&b'\n') || self.text.len() > MOST_LINE_BYTES { self.judge() } else { Step::More }
    }

    fn end(&mut self) -> Step {
        self.judge()
    }
}

const MOST_LINE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_weights_are_understood() {
        let said = |text: &str| line(text);
        assert_eq!(said("up"), Ok(Said::Up(None)));
        assert_eq!(said("75%"), Ok(Said::Up(Some(Weight::Percent(75)))));
        assert_eq!(said("ready, 30%\r\n"), Ok(Said::Up(Some(Weight::Percent(30)))));
        assert_eq!(said("12"), Ok(Said::Up(Some(Weight::Absolute(12)))));
        assert_eq!(said("drain"), Ok(Said::Up(Some(Weight::Absolute(0)))));
        assert_eq!(said("down"), Ok(Said::Down("says down".into())));
        assert_eq!(said("up 50% maint # new disk "), Ok(Said::Down("says maint: `new disk`".into())));
        for text in ["", "#", "hello", "50%%", "-1", "+5", "65536", "1001%", "HTTP/1.1 200 OK"] {
            assert!(said(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_weight_takes_the_place_of_the_configured_one() {
        assert_eq!(Weight::Percent(50).of(10), 5);
        assert_eq!(Weight::Percent(1).of(10), 1, "a little is not nothing");
        assert_eq!((Weight::Percent(0).of(10), Weight::Percent(100).of(0)), (0, 0));
        assert_eq!(Weight::Percent(1000).of(u16::MAX), u16::MAX);
        assert_eq!((Weight::Absolute(7).of(10), Weight::Absolute(7).of(0)), (7, 0));
    }

    #[test]
    fn the_first_line_ends_it() {
        let mut talk = Agent::new(b"");
        assert_eq!((talk.open(), talk.receive(b"7"), talk.receive(b"5%\ndown")), (Step::More, Step::More, Step::Good));
        assert_eq!(talk.weight, Some(Weight::Percent(75)));
        let mut talk = Agent::new(b"status\n");
        assert_eq!(talk.open(), Step::Send(b"status\n".to_vec()));
        assert_eq!((talk.receive(b"up"), talk.end()), (Step::More, Step::Good));
        assert_eq!(Agent::new(b"").end(), Step::Bad("says ``, which means nothing".into()));
        assert!(matches!(Agent::new(b"").receive(&[b'x'; 2000]), Step::Bad(_)));
    }
}

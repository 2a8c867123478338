//! The conversations, each as bytes in and [`Step`]s out. Whoever has the socket sends what is to be sent, hands over what
//! comes, and sees to the time.
//!
//! | module | the other side |
//! |---|---|
//! | [`exchange`] | anything: bytes sent, bytes or a pattern expected |
//! | [`greeting`] | SMTP and FTP: lines with a code |
//! | [`agent`] | a line that says how a server feels; also a script's output |
//! | [`http`] | a status, and a body |
//! | [`dns`] | a name server |
//! | [`echo`] | ICMP and ICMPv6 echo |

pub mod agent;
pub mod dns;
pub mod echo;
pub mod exchange;
pub mod greeting;
pub mod http;

/// What follows from what has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More must come.
    More,
    /// This is to be sent; then more must come.
    Send(Vec<u8>),
    /// The answer is good.
    Good,
    /// It is not; in words that follow "failed:".
    Bad(String),
}

/// A conversation over a stream.
pub trait Talk {
    /// What is sent first; may be nothing.
    fn open(&mut self) -> Step;
    /// Bytes that have come.
    fn receive(&mut self, bytes: &[u8]) -> Step;
    /// Nothing more will come.
    fn end(&mut self) -> Step;
}

/// How much of an answer is looked at.
pub const MOST_BYTES: usize = 64 * 1024;

/// Some bytes of an answer for people: at most so many, in one line.
pub fn shown(bytes: &[u8]) -> String {
    let text: String =
        bytes.iter().take(SHOWN_BYTES).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    format!("`{text}{}`", if bytes.len() > SHOWN_BYTES { "…" } else { "" })
}

const SHOWN_BYTES: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_shown_in_one_short_line() {
        assert_eq!(shown(b"-ERR\r\n"), "`-ERR\\r\\n`");
        assert_eq!(shown(&[0xff; 3]), "`\\xff\\xff\\xff`");
        assert_eq!(shown(&[b'a'; 61]), format!("`{}…`", "a".repeat(60)));
    }
}

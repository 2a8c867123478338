//! SMTP and FTP: a server speaks first, in lines that begin with a code of three digits (RFC 5321 §4.2, RFC 959 §4.2).

use super::{Step, Talk, shown};

/// A conversation of a greeting and at most one command.
#[derive(Debug)]
pub struct Greeting {
    lines: Vec<u8>,
    /// What is said once the greeting has come, and the code of a good answer to it.
    command: Option<(Vec<u8>, u16)>,
    /// The code that must come next.
    wanted: u16,
}

impl Greeting {
    /// `host` is what the director calls itself.
    pub fn smtp(host: &str) -> Self {
        Self { lines: Vec::new(), command: Some((format!("EHLO {host}\r\n").into_bytes(), 250)), wanted: 220 }
    }

    pub fn ftp() -> Self {
        Self { lines: Vec::new(), command: None, wanted: 220 }
    }

    /// What is said before the connection is closed, so that no server complains.
    pub const FAREWELL: &[u8] = b"QUIT\r\n";

    /// The code of a whole answer, and how long that is: `220-` goes on, `220 ` ends it. `Err`: no such answer.
    fn answer(&self) -> Result<Option<(u16, usize)>, ()> {
        let mut first = None;
        let mut end = 0;
        for line in self.lines.split_inclusive(|b| *b == b'\n') {
            if !line.ends_with(b"\n") {
                break;
            }
            end += line.len();
            let code = code(line);
            match (first, code) {
                // Lines in between may be anything, in FTP.
                (Some(first), code) if code != Some((first, true)) => continue,
                (_, Some((code, true))) => return Ok(Some((code, end))),
                (None, Some((code, false))) => first = Some(code),
                (_, _) => return Err(()),
            }
        }
        if self.lines.len() > MOST_LINES_BYTES { Err(()) } else { Ok(None) }
    }
}

impl Talk for Greeting {
    fn open(&mut self) -> Step {
        Step::More
    }

    fn receive(&mut self, bytes: &[u8]) -> Step {
        self.lines.extend(bytes);
        let (code, end) = match self.answer() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Step::More,
            Err(()) => return Step::Bad(format!("{} is no answer of this protocol", shown(&self.lines))),
        };
        if code != self.wanted {
            return Step::Bad(format!("{} expected, {} came", self.wanted, shown(self.lines.trim_ascii_end())));
        }
        match self.command.take() {
            Some((command, wanted)) => {
                self.lines.drain(..end);
                self.wanted = wanted;
                Step::Send(command)
            }
            None => Step::Good,
        }
    }

    fn end(&mut self) -> Step {
        if self.lines.is_empty() {
            Step::Bad("the connection was closed without a word".into())
        } else {
            Step::Bad(format!("the connection was closed after {}", shown(&self.lines)))
        }
    }
}

const MOST_LINES_BYTES: usize = 8 * 1024;

/// The code of a line, and whether it is an answer's last.
fn code(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let code = code.parse().ok()?;
    match rest.first()? {
        b'-' => Some((code, false)),
        b' ' | b'\r' | b'\n' => Some((code, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_greets_and_answers() {
        let mut talk = Greeting::smtp("director");
        assert_eq!(talk.open(), Step::More);
        assert_eq!(talk.receive(b"220-mail.example.com\r\n220 "), Step::More);
        assert_eq!(talk.receive(b"ESMTP\r\n"), Step::Send(b"EHLO director\r\n".to_vec()));
        assert_eq!(talk.receive(b"250-SIZE\r\n250-PIPELINING\r\n"), Step::More);
        assert_eq!(talk.receive(b"250 HELP\r\n"), Step::Good);
    }

    #[test]
    fn a_file_server_greets_and_may_say_anything_in_between() {
        let mut talk = Greeting::ftp();
        assert_eq!(talk.receive(b"220-Welcome\r\n  to 127 files\r\n221 of them\r\n220 ready\r\n"), Step::Good);
        assert_eq!(Greeting::ftp().receive(b"220 (vsFTPd 3.0.3)\r\n"), Step::Good);
    }

    #[test]
    fn a_server_that_is_busy_is_not_up() {
        let busy = Greeting::ftp().receive(b"421 Too many connections\r\n");
        assert_eq!(busy, Step::Bad("220 expected, `421 Too many connections` came".into()));
        let mut talk = Greeting::smtp("director");
        talk.receive(b"220 \r\n");
        assert_eq!(talk.receive(b"502 no\r\n"), Step::Bad("250 expected, `502 no` came".into()));
    }

    #[test]
    fn garbage_and_silence_are_told_apart() {
        assert!(matches!(Greeting::ftp().receive(b"SSH-2.0-OpenSSH_9.2\r\n"), Step::Bad(_)));
        assert!(matches!(Greeting::ftp().receive(&[b'2'; 9000]), Step::Bad(_)));
        assert_eq!(Greeting::ftp().end(), Step::Bad("the connection was closed without a word".into()));
        let mut talk = Greeting::ftp();
        assert_eq!(talk.receive(b"22"), Step::More);
        assert_eq!(talk.end(), Step::Bad("the connection was closed after `22`".into()));
    }
}

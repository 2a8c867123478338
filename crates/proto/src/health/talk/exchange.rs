//! Bytes sent, bytes or a pattern expected.

use super::{MOST_BYTES, Step, Talk, shown};
use regex::bytes::Regex;

/// What must be found in an answer.
#[derive(Clone, Debug)]
pub enum Expect {
    Bytes(Vec<u8>),
    Regex(Regex),
}

impl Expect {
    pub fn is_in(&self, answer: &[u8]) -> bool {
        match self {
            Expect::Bytes(bytes) => bytes.is_empty() || answer.windows(bytes.len()).any(|window| window == bytes),
            Expect::Regex(regex) => regex.is_match(answer),
        }
    }

    /// What is wrong with an answer that it is not in.
    pub fn missing_in(&self, answer: &[u8]) -> String {
        let wanted = match self {
            Expect::Bytes(bytes) => shown(bytes),
            Expect::Regex(regex) => format!("/{}/", regex.as_str()),
        };
        if answer.is_empty() {
            format!("{wanted} expected, nothing came")
        } else {
            format!("{wanted} expected, {} came", shown(answer))
        }
    }
}

/// A conversation of one question and one answer.
#[derive(Debug)]
pub struct Exchange<'a> {
    send: &'a [u8],
    expect: Option<&'a Expect>,
    answer: Vec<u8>,
}

impl<'a> Exchange<'a> {
    pub fn new(send: &'a [u8], expect: Option<&'a Expect>) -> Self {
        Self { send, expect, answer: Vec::new() }
    }

    /// What has come so far, for whoever gives up waiting.
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }
}

impl Talk for Exchange<'_> {
    fn open(&mut self) -> Step {
        match (self.send.is_empty(), self.expect) {
            (true, None) => Step::Good,
            (true, Some(_)) => Step::More,
            (false, _) => Step::Send(self.send.to_vec()),
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Step {
        let room = MOST_BYTES - self.answer.len();
        self.answer.extend(bytes.iter().take(room));
        match self.expect {
            // Something was sent, and something has come.
            None => Step::Good,
            Some(expect) if expect.is_in(&self.answer) => Step::Good,
            Some(expect) if self.answer.len() >= MOST_BYTES => Step::Bad(expect.missing_in(&self.answer)),
            Some(_) => Step::More,
        }
    }

    fn end(&mut self) -> Step {
        Step::Bad(match self.expect {
            Some(expect) => expect.missing_in(&self.answer),
            None => "the connection was closed without an answer".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Expect {
        Expect::Bytes(text.as_bytes().to_vec())
    }

    fn regex(text: &str) -> Expect {
        Expect::Regex(Regex::new(text).unwrap())
    }

    #[test]
    fn an_answer_may_come_in_pieces() {
        let pong = bytes("+PONG");
        let mut talk = Exchange::new(b"PING\r\n", Some(&pong));
        assert_eq!(talk.open(), Step::Send(b"PING\r\n".to_vec()));
        assert_eq!(talk.receive(b"+PO"), Step::More);
        assert_eq!(talk.receive(b"NG\r\n"), Step::Good);
    }

    #[test]
    fn with_nothing_to_send_or_expect_the_connection_was_enough() {
        assert_eq!(Exchange::new(b"", None).open(), Step::Good);
        let mut question = Exchange::new(b"?", None);
        assert_eq!((question.open(), question.receive(b"!")), (Step::Send(b"?".to_vec()), Step::Good));
    }

    #[test]
    fn a_wrong_answer_is_told_when_nothing_more_comes() {
        for (expect, words) in
            [(bytes("+PONG"), "`+PONG` expected, `-ERR` came"), (regex("^ok"), "/^ok/ expected, `-ERR` came")]
        {
            let mut talk = Exchange::new(b"", Some(&expect));
            assert_eq!((talk.open(), talk.receive(b"-ERR")), (Step::More, Step::More));
            assert_eq!(talk.end(), Step::Bad(words.into()));
        }
        assert_eq!(Exchange::new(b"", Some(&regex("x"))).end(), Step::Bad("/x/ expected, nothing came".into()));
    }

    #[test]
    fn a_peer_that_never_ends_is_not_listened_to_for_ever() {
        let ok = bytes("ok");
        let mut talk = Exchange::new(b"", Some(&ok));
        let steps: Vec<Step> = (0..9).map(|_| talk.receive(&[b'x'; 8 * 1024])).collect();
        assert!(steps[..7].iter().all(|step| *step == Step::More));
        assert!(matches!(steps[7], Step::Bad(_)));
        assert!(matches!(steps[8], Step::Bad(_)));
        assert_eq!(talk.answer().len(), MOST_BYTES);
    }
}

//! What an HTTP response is worth. The bytes on the wire are somebody else's.

use super::MOST_BYTES;
use super::exchange::Expect;

/// None: the status is good.
pub fn bad_status(status: u16, good: &[(u16, u16)]) -> Option<String> {
    let is_good = good.iter().any(|(first, last)| (*first..=*last).contains(&status));
    (!is_good).then(|| format!("HTTP status {status}"))
}

/// A body in which something is expected.
#[derive(Debug)]
pub struct Body<'a> {
    expect: &'a Expect,
    text: Vec<u8>,
}

impl<'a> Body<'a> {
    pub fn new(expect: &'a Expect) -> Self {
        Self { expect, text: Vec::new() }
    }

    /// Whether it is found, or so much has come that nobody looks further.
    pub fn receive(&mut self, bytes: &[u8]) -> bool {
        let room = MOST_BYTES - self.text.len();
        self.text.extend(bytes.iter().take(room));
        self.text.len() >= MOST_BYTES || self.expect.is_in(&self.text)
    }

    /// None: it was found.
    pub fn bad(&self) -> Option<String> {
        (!self.expect.is_in(&self.text)).then(|| format!("in the body {}", self.expect.missing_in(&self.text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_good_within_its_ranges() {
        let good = [(200, 299), (304, 304)];
        assert!([200, 204, 299, 304].iter().all(|status| bad_status(*status, &good).is_none()));
        assert_eq!(bad_status(503, &good), Some("HTTP status 503".into()));
        assert_eq!(bad_status(303, &good), Some("HTTP status 303".into()));
    }

    #[test]
    fn a_body_is_read_until_it_is_found() {
        let expect = Expect::Bytes(b"healthy".to_vec());
        let mut body = Body::new(&expect);
        assert!(!body.receive(b"I am heal"));
        assert_eq!(body.bad(), Some("in the body `healthy` expected, `I am heal` came".into()));
        assert!(body.receive(b"thy\n"));
        assert_eq!(body.bad(), None);
        let mut endless = Body::new(&expect);
        assert!((0..100).any(|_| endless.receive(&[b'x'; 1000])));
        assert!(endless.bad().is_some());
    }
}

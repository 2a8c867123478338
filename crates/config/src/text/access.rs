//! What `[api]` has in its strings: addresses with ports, paths, digests.

use super::TextError;
use crate::diagnostic::quoted;
use std::net::SocketAddr;

/// `192.0.2.1:8443`, `[2001:db8::1]:8443`.
pub fn endpoint(text: &str) -> Result<SocketAddr, TextError> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => {
            Err(TextError::new(format!("{} has no port that can be asked", quoted(text)), "port 0").help(EXAMPLES))
        }
        Err(_) => {
            let what = format!("{} is not an address with a port", quoted(text));
            Err(TextError::new(what, "no address and port").help(EXAMPLES))
        }
    }
}

const EXAMPLES: &str = "for example \"192.0.2.1:8443\", \"[2001:db8::1]:8443\", or \"0.0.0.0:8443\" for every address";

/// A path from the root: the daemon's folder is not where its operator was.
pub fn file(text: &str) -> Result<String, TextError> {
    match text {
        _ if text.starts_with('/') && !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(TextError::new(format!("{} is not a path from the root", quoted(text)), "does not begin with `/`")
            .help("write the whole path, as \"/etc/marca/api.crt\"")),
    }
}

/// SHA-256 in hexadecimal digits.
pub fn digest(text: &str) -> Result<[u8; 32], TextError> {
    let refused = |label: &str| {
        Err(TextError::new(format!("{} is not a SHA-256 digest", quoted(text)), label)
            .help("it has 64 hexadecimal digits; `marca token` makes a secret and its digest"))
    };
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return refused("has other characters");
    }
    if text.len() != 64 {
        return refused(if text.len() < 64 { "too short" } else { "too long" });
    }
    let mut digest = [0; 32];
    for (byte, two) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        *byte = digit(two[0]) << 4 | digit(two[1]);
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_an_address_and_a_port() {
        for text in ["192.0.2.1:8443", "[2001:db8::1]:8443", "0.0.0.0:1"] {
            assert_eq!(endpoint(text).unwrap().to_string(), text);
        }
        for text in ["", "8443", "192.0.2.1", "2001:db8::1:8443", "localhost:8443", "192.0.2.1:0", "192.0.2.1:65536"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn digests_have_64_digits() {
        let text = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00A08";
        let read = digest(text).unwrap();
        assert_eq!((read[0], read[1], read[31]), (0x9f, 0x86, 0x08));
        for text in ["", &text[1..], &format!("{text}0"), &text.replace('9', "g"), &text.replace('9', "ä")] {
            assert!(digest(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_begin_at_the_root() {
        assert_eq!(file("/etc/marca/api.crt"), Ok("/etc/marca/api.crt".into()));
        assert!(file("api.crt").is_err() && file("").is_err());
    }
}

//! Names: of services, of real servers, of interfaces.

use super::TextError;
use crate::diagnostic::quoted;

/// The NAME of `[service.NAME]`. It becomes a metric's label and an argument of commands, hence no blanks or slashes.
pub fn service(text: &str) -> Result<String, TextError> {
    checked(text, "service", |b| matches!(b, b'_' | b'.' | b'-'), "letters, digits, `_`, `.` and `-`")
}

/// A real server's name. Colons too: the default is the address.
pub fn server(text: &str) -> Result<String, TextError> {
    checked(text, "server", |b| matches!(b, b'_' | b'.' | b'-' | b':'), "letters, digits, `_`, `.`, `-` and `:`")
}

/// Who has a token for the API.
pub fn token(text: &str) -> Result<String, TextError> {
    checked(text, "token", |b| matches!(b, b'_' | b'.' | b'-'), "letters, digits, `_`, `.` and `-`")
}

/// A network interface, as the kernel takes it (`net/core/dev.c`, `dev_valid_name`).
pub fn interface(text: &str) -> Result<String, TextError> {
    let label = match text {
        "" => "empty",
        "." | ".." => "not a name",
        _ if text.len() >= IFNAMSIZ => "longer than 15 bytes",
        _ if text.contains(['/', ':']) => "has a `/` or `:`",
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => "has a blank",
        _ => return Ok(text.to_string()),
    };
    Err(TextError::new(format!("{} cannot be the name of an interface", quoted(text)), label)
        .help("`ip -brief link` lists the interfaces; write one in each string"))
}

/// `include/uapi/linux/if.h`; counts the terminating zero.
const IFNAMSIZ: usize = 16;

const MAX_NAME_BYTES: usize = 64;

fn checked(text: &str, what: &str, also: fn(u8) -> bool, allowed: &str) -> Result<String, TextError> {
    let label = match text {
        "" => "empty",
        _ if text.len() > MAX_NAME_BYTES => "longer than 64 bytes",
        _ if !text.bytes().all(|b| b.is_ascii_alphanumeric() || also(b)) => "has other characters",
        _ => return Ok(text.to_string()),
    };
    Err(TextError::new(format!("{} cannot be the name of a {what}", quoted(text)), label)
        .help(format!("a name has 1 to 64 characters: {allowed}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_alphabet_and_a_length() {
        assert_eq!(service("shop-1.example_2"), Ok("shop-1.example_2".to_string()));
        assert_eq!(server("fd00::11"), Ok("fd00::11".to_string()));
        assert!(service(&"x".repeat(64)).is_ok());
        for text in ["", "a b", "a/b", "ä", "a:b", &"x".repeat(65)] {
            assert!(service(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interfaces_are_those_that_the_kernel_takes() {
        for text in ["eth0", "br-lan.100", "wg_ü", "123456789012345"] {
            assert!(interface(text).is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a/b", "a b", "a\tb", "eth0:1", "1234567890123456", "eth0,eth1,eth2,e"] {
            assert!(interface(text).is_err(), "{text}");
        }
    }
}

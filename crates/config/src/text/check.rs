//! What stands in the strings of a health check: bytes, patterns, paths, status codes, and times that may be short.

use super::{TextError, digits, duration};
use crate::diagnostic::quoted;
use std::time::Duration;

/// Bytes as they are.
pub fn plain(text: &str) -> Result<Vec<u8>, TextError> {
    if text.len() > MAX_BYTES {
        return Err(too_long());
    }
    Ok(text.as_bytes().to_vec())
}

/// The same; nothing is found everywhere.
pub fn something(text: &str) -> Result<Vec<u8>, TextError> {
    if text.is_empty() {
        return Err(TextError::new("an empty text is in every answer", "empty").help("leave it out to take any answer"));
    }
    plain(text)
}

/// `"00 ff"`: pairs of digits, with or without blanks.
pub fn hex(text: &str) -> Result<Vec<u8>, TextError> {
    let refused = |label: &str| {
        TextError::new(format!("{} is not hexadecimal", quoted(text)), label)
            .help("write two digits for each byte, for example \"000d 0a\"")
    };
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| {
            c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or_else(|| refused("has other characters"))
        })
        .collect::<Result<_, _>>()?;
    if digits.is_empty() {
        return Err(refused("empty"));
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(refused("half a byte is left"));
    }
    if pairs.len() > MAX_BYTES {
        return Err(too_long());
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// A regular expression, searched for in bytes.
pub fn regex(text: &str) -> Result<String, TextError> {
    match regex::bytes::RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build() {
        Ok(_) if text.is_empty() => {
            Err(TextError::new("an empty text is in every answer", "empty").help("leave it out to take any answer"))
        }
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            // It draws the pattern in several lines; the last one says what.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(TextError::new(format!("{} is not a regular expression", quoted(text)), reason.to_owned())
                .help("the syntax is that of https://docs.rs/regex; in '…' TOML takes backslashes as they are"))
        }
    }
}

/// A token (RFC 9110 §9.1).
pub fn method(text: &str) -> Result<String, TextError> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !text.is_empty() && text.len() <= 32 && text.bytes().all(is_token) && text != "CONNECT" {
        return Ok(text.to_owned());
    }
    Err(TextError::new(format!("{} is not a method that a check can have", quoted(text)), "not a method")
        .help("usual are \"GET\" and \"HEAD\""))
}

/// A path with or without a query (RFC 9112 §3.2.1).
pub fn path(text: &str) -> Result<String, TextError> {
    let label = match text {
        _ if !text.starts_with('/') => "does not begin with `/`",
        _ if text.len() > 2048 => "longer than 2048 bytes",
        _ if !text.bytes().all(|b| b.is_ascii_graphic()) => "has a blank or characters that must be encoded",
        _ if text.contains('#') => "has a fragment, which is never sent",
        _ => return Ok(text.to_owned()),
    };
    Err(TextError::new(format!("{} is not a path", quoted(text)), label)
        .help("write what stands in the first line of a request, for example \"/healthz?deep=1\""))
}

/// What stands in `Host`: a name or an address, with or without a port.
pub fn host(text: &str) -> Result<String, TextError> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if !text.is_empty() && text.len() <= 255 && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err(TextError::new(format!("{} is not a host", quoted(text)), "not a name")
        .help("write a name or an address, for example \"shop.example.com\""))
}

/// A name that a certificate can be for.
pub fn server_name(text: &str) -> Result<String, TextError> {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    if is_address || (text.len() <= 253 && text.split('.').all(is_label)) {
        return Ok(text.to_owned());
    }
    Err(TextError::new(format!("{} is not a server's name", quoted(text)), "not a name")
        .help("write the name that clients use, for example \"shop.example.com\""))
}

/// A name to ask for; `.` is the root.
pub fn dns_name(text: &str) -> Result<String, TextError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_graphic());
    if text == "." || (name.len() <= 253 && name.split('.').all(is_label)) {
        return Ok(text.to_owned());
    }
    Err(TextError::new(format!("{} is not a domain name", quoted(text)), "not a name")
        .help("write a name that the server answers for, for example \"example.com\""))
}

/// `"200"`, `"200-399"`.
pub fn status(text: &str) -> Result<(u16, u16), TextError> {
    let code = |text: &str| digits(text.trim()).and_then(|n| u16::try_from(n).ok()).filter(|n| (100..=599).contains(n));
    let range = match text.split_once('-') {
        Some((first, last)) => code(first).zip(code(last)),
        None => code(text).map(|code| (code, code)),
    };
    range.filter(|(first, last)| first <= last).ok_or_else(|| {
        TextError::new(format!("{} is not a status code", quoted(text)), "must be from 100 to 599, or such a range")
            .help("write, for example, 200 or \"200-399\"")
    })
}

/// What a program is run with.
pub fn argument(text: &str) -> Result<String, TextError> {
    if text.contains('\0') {
        return Err(TextError::new("an argument has a NUL byte", "cannot be handed over").help("leave it out"));
    }
    Ok(text.to_owned())
}

/// A time from 10 ms to a day: `"500ms"`, or as everywhere.
pub fn interval(text: &str) -> Result<Duration, TextError> {
    let duration = if is_zero(text) { Duration::ZERO } else { fine(text)? };
    if duration < MIN_INTERVAL {
        return Err(TextError::new(format!("{} is too short", quoted(text)), "less than 10 milliseconds")
            .help("the least is \"10ms\""));
    }
    if duration > MAX_INTERVAL {
        return Err(
            TextError::new(format!("{} is too long", quoted(text)), "more than a day").help("the most is \"1d\"")
        );
    }
    Ok(duration)
}

/// The same, and none.
pub fn jitter(text: &str) -> Result<Duration, TextError> {
    if is_zero(text) { Ok(Duration::ZERO) } else { interval(text) }
}

fn is_zero(text: &str) -> bool {
    matches!(text.trim(), "0s" | "0ms")
}

fn fine(text: &str) -> Result<Duration, TextError> {
    match text.trim().strip_suffix("ms").map(|number| digits(number.trim())) {
        Some(Some(milliseconds)) => Ok(Duration::from_millis(milliseconds.into())),
        _ => duration::parse(text),
    }
}

/// What is sent or expected, at the most.
const MAX_BYTES: usize = 4096;
/// Of a compiled expression.
const MAX_REGEX_BYTES: usize = 1 << 20;
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_secs(86_400);

fn too_long() -> TextError {
    TextError::new("the text is too long", "more than 4096 bytes").help("a check needs but a part of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_pairs_of_digits() {
        assert_eq!(hex("00ff 0D 0a"), Ok(vec![0, 255, 13, 10]));
        for text in ["", " ", "0", "0g", "00 f", "0x00", "ää"] {
            assert!(hex(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_may_be_shorter_than_a_second() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(jitter("0s"), Ok(Duration::ZERO));
        for text in ["", "ms", "9ms", "0s", "2d", "5", "-5ms", "1s500ms"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn status_codes_have_three_digits_and_ranges_an_order() {
        assert_eq!(status("204"), Ok((204, 204)));
        assert_eq!(status("200-399"), Ok((200, 399)));
        for text in ["", "99", "600", "399-200", "200-", "2xx", "200-300-400"] {
            assert!(status(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_is_what_a_request_can_carry() {
        for text in ["/", "/healthz?deep=1&x=%20"] {
            assert_eq!(path(text), Ok(text.to_owned()));
        }
        for text in ["", "healthz", "/a b", "/ä", "/a#b", "/a\r\nHost: b"] {
            assert!(path(text).is_err(), "{text}");
        }
        assert!(method("GET").is_ok() && method("G T").is_err() && method("").is_err());
        assert!(host("[fd00::1]:80").is_ok() && host("a\r\nb").is_err());
    }

    #[test]
    fn names_have_labels() {
        assert!(server_name("shop.example.com").is_ok() && server_name("fd00::1").is_ok());
        assert!(server_name("shop..com").is_err() && server_name("").is_err() && server_name("a b").is_err());
        assert!(dns_name(".").is_ok() && dns_name("example.com.").is_ok());
        assert!(dns_name("").is_err() && dns_name("a..b").is_err() && dns_name("..").is_err());
    }

    #[test]
    fn an_expression_must_compile_and_stay_small() {
        assert!(regex(r"^\+PONG\r\n").is_ok());
        for text in ["", "(", "[a-", "(a{1000}){1000}"] {
            assert!(regex(text).is_err(), "{text}");
        }
    }
}

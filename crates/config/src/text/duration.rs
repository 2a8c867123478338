//! Durations: `90s`, `5m`, `1h30m`, `2d`. Whole seconds, from [`MIN`] to [`MAX`].

use super::{TextError, digits};
use crate::diagnostic::quoted;
use std::time::Duration;

pub const MIN: Duration = Duration::from_secs(1);
/// As `ipvsadm` (`ipvsadm.c`, `MAX_TIMEOUT`).
pub const MAX: Duration = Duration::from_secs(31 * 86_400);

/// Reads `1h30m`: units from large to small, each at most once.
pub fn parse(text: &str) -> Result<Duration, TextError> {
    let whole = text.trim();
    if let Some(number) = digits(whole) {
        return Err(TextError::new(format!("{} has no unit", quoted(whole)), "seconds, minutes, hours or days?")
            .help(format!("write \"{number}s\" or \"{number}m\", or the number of seconds without quotes")));
    }
    let mut seconds = 0_u64;
    let mut units = UNITS.iter();
    let mut rest = whole;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (Some(number), Some((_, factor))) = (digits(number), units.find(|(name, _)| *name == unit.trim())) else {
            return Err(not_a_duration(unit.trim(), text));
        };
        seconds = seconds.saturating_add(u64::from(number) * factor);
        rest = tail;
    }
    if whole.is_empty() {
        return Err(not_a_duration("", text));
    }
    limited(seconds, quoted(whole))
}

/// A bare integer of the file, in seconds.
pub fn from_seconds(seconds: i64) -> Result<Duration, TextError> {
    limited(u64::try_from(seconds).unwrap_or(0), format!("{seconds} seconds"))
}

/// Prints what [`parse`] reads back. Fractions of a second, which no configuration has, are left out.
pub fn print(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut printed = String::new();
    for (unit, factor) in UNITS {
        if rest >= factor {
            printed.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    if printed.is_empty() { "0s".to_string() } else { printed }
}

/// Days, hours, minutes, seconds.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

fn limited(seconds: u64, shown: String) -> Result<Duration, TextError> {
    let duration = Duration::from_secs(seconds);
    if duration < MIN {
        return Err(TextError::new(format!("{shown} is too short"), "less than a second").help("the least is \"1s\""));
    }
    if duration > MAX {
        return Err(TextError::new(format!("{shown} is too long"), "more than 31 days").help("the most is \"31d\""));
    }
    Ok(duration)
}

fn not_a_duration(unit: &str, text: &str) -> TextError {
    let error = |label: &str| TextError::new(format!("{} is not a duration", quoted(text)), label);
    match unit {
        "ms" | "us" | "µs" | "ns" => error("finer than a second").help("durations are whole seconds: write \"1s\""),
        "d" | "h" | "m" | "s" => {
            error("units in this order, each once: d, h, m, s").help("write, for example, \"1h30m\"")
        }
        "min" | "mins" | "minute" | "minutes" => error("the unit is `m`").help("write, for example, \"5m\""),
        _ => error("must be numbers with the units d, h, m or s")
            .help("write, for example, \"90s\", \"5m\" or \"1h30m\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in
            [("1s", 1), ("90s", 90), ("5m", 300), ("1h30m", 5_400), ("1d2h3m4s", 93_784), (" 31d ", 2_678_400)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(from_seconds(300), Ok(Duration::from_secs(300)));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_next_step() {
        for (text, label) in [
            ("", "must be numbers with the units d, h, m or s"),
            ("5", "seconds, minutes, hours or days?"),
            ("m", "units in this order, each once: d, h, m, s"),
            ("m5", "units in this order, each once: d, h, m, s"),
            ("30m1h", "units in this order, each once: d, h, m, s"),
            ("5m5m", "units in this order, each once: d, h, m, s"),
            ("1h30", "must be numbers with the units d, h, m or s"),
            ("5 minutes", "the unit is `m`"),
            ("250ms", "finer than a second"),
            ("1.5h", "must be numbers with the units d, h, m or s"),
            ("-5m", "must be numbers with the units d, h, m or s"),
            ("0s", "less than a second"),
            ("31d1s", "more than 31 days"),
            ("99999999999999999999d", "more than 31 days"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.label, label, "{text}");
            assert!(error.help.is_some(), "{text}");
        }
        assert!(from_seconds(0).is_err());
        assert!(from_seconds(i64::MIN).is_err());
        assert!(from_seconds(i64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(seconds in MIN.as_secs()..=MAX.as_secs()) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&print(duration)), Ok(duration));
        }

        #[test]
        fn no_text_is_a_panic(text in "[0-9dhmsuµ. -]{0,24}") {
            let _ = parse(&text);
        }
    }
}

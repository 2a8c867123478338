//! Texts that were good, spoilt: what a hand that slips, a script that is wrong or a file that is cut makes of them.
//!
//! By a seed: the same one gives the same texts, so that what a test has found it finds again.

use std::ops::Range;

/// Makes one text after another.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The seed decides everything.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One of these.
    ///
    /// # Panics
    /// When there are none.
    pub fn choose<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// The text with one to four changes; a third of the texts have a single one, which may well be none that matters.
    pub fn spoil(&mut self, good: &str) -> String {
        if self.below(3) == 0 {
            return if self.below(4) == 0 { self.lines(good) } else { self.number(good) };
        }
        let mut text = good.to_owned();
        for _ in 0..1 + self.below(4) {
            text = match self.below(8) {
                0 => self.bytes(&text),
                1 | 2 => self.lines(&text),
                3 | 4 => self.tokens(&text),
                _ => self.value(&text),
            };
        }
        text
    }

    /// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Some bytes are others, or the file ends early. What is no UTF-8 then is replaced, as nobody reads it otherwise.
    fn bytes(&mut self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        if self.below(6) == 0 {
            bytes.truncate(self.below(text.len()));
        }
        for _ in 0..1 + self.below(8) {
            let (place, bit) = (self.below(bytes.len()), self.below(8));
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << bit;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A line is gone, there twice, elsewhere, or at another's place.
    fn lines(&mut self, text: &str) -> String {
        let mut lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return text.to_owned();
        }
        let (one, other) = (self.below(lines.len()), self.below(lines.len()));
        match self.below(4) {
            0 => drop(lines.remove(one)),
            1 => lines.insert(other, lines[one]),
            2 => lines.swap(one, other),
            _ => {
                let line = lines.remove(one);
                lines.insert(other.min(lines.len()), line);
            }
        }
        lines.join("\n") + "\n"
    }

    /// The same with words and signs, or one of them is something that the format knows elsewhere.
    fn tokens(&mut self, text: &str) -> String {
        let tokens = tokens(text);
        if tokens.is_empty() {
            return text.to_owned();
        }
        let one = self.choose(&tokens).clone();
        let other = self.choose(&tokens).clone();
        match self.below(5) {
            0 => replaced(text, &one, ""),
            1 => replaced(text, &one, &text[one.clone()].repeat(2)),
            2 => replaced(text, &one, &text[other]),
            3 => {
                let word = *self.choose(WORDS);
                replaced(text, &one, word)
            }
            _ => {
                let unicode = format!("{}{}", &text[one.clone()], self.choose(UNICODE));
                replaced(text, &one, &unicode)
            }
        }
    }

    /// A number is another one.
    fn number(&mut self, text: &str) -> String {
        let mut numbers = tokens(text);
        numbers.retain(|token| text[token.clone()].bytes().all(|letter| letter.is_ascii_digit()));
        if numbers.is_empty() {
            return self.value(text);
        }
        let (number, most) = (self.choose(&numbers).clone(), *self.choose(&[10, 255, 65_536, usize::MAX]));
        let other = self.below(most);
        replaced(text, &number, &other.to_string())
    }

    /// A key has another value: too large, too deep, of another type.
    fn value(&mut self, text: &str) -> String {
        let line_starts = text.match_indices('\n').map(|(index, _)| index + 1);
        let starts: Vec<usize> = std::iter::once(0).chain(line_starts).collect();
        let start = *self.choose(&starts);
        let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let Some(equals) = text[start..end].find('=') else { return self.tokens(text) };
        let value = start + equals + 1..end;
        let new = match self.below(8) {
            0 => format!("{}", self.next()),
            1 => {
                let depth = *self.choose(&[1, 2, 60, 300]);
                format!("{}{}{}", "[".repeat(depth), &text[value.clone()], "]".repeat(depth))
            }
            2 => {
                let depth = *self.choose(&[1, 2, 60, 300]);
                format!("{}{}{}", "{ a = ".repeat(depth), &text[value.clone()], " }".repeat(depth))
            }
            3 => format!("[{}]", vec![text[value.clone()].trim(); 1 + self.below(300)].join(", ")),
            4 => format!("'{}'", self.choose(UNICODE).repeat(1 + self.below(2000))),
            _ => (*self.choose(VALUES)).to_owned(),
        };
        replaced(text, &value, &format!(" {new}"))
    }
}

fn replaced(text: &str, range: &Range<usize>, with: &str) -> String {
    format!("{}{with}{}", &text[..range.start], &text[range.end..])
}

/// Words and single signs, without what is between them.
fn tokens(text: &str) -> Vec<Range<usize>> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    let mut tokens: Vec<Range<usize>> = Vec::new();
    let mut in_word = false;
    for (index, letter) in text.char_indices() {
        let end = index + letter.len_utf8();
        match tokens.last_mut() {
            Some(last) if in_word && is_word(letter) => last.end = end,
            _ if letter.is_whitespace() => {}
            _ => tokens.push(index..end),
        }
        in_word = is_word(letter);
    }
    tokens
}

const WORDS: &[&str] = &[
    "router",
    "service",
    "server",
    "mark",
    "check",
    "vip",
    "ports",
    "address",
    "weight",
    "forward",
    "nat",
    "dr",
    "tunnel",
    "local",
    "fullnat",
    "all",
    "tcp",
    "udp",
    "true",
    "false",
    "none",
    "=",
    "[[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "#",
    "\\",
    ",",
    ".",
    "->",
    "\n",
    "\0",
    "\r",
    "-1",
    "0",
    "65536",
    "4294967296",
    "18446744073709551616",
    "1e400",
    "nan",
    "-inf",
    "0x",
    "::",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "ff02::1",
    "::ffff:1.2.3.4",
    "/0",
    "/129",
    "1979-05-27T07:32:00Z",
];

const VALUES: &[&str] = &[
    "0",
    "-1",
    "1",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "1e308",
    "1e309",
    "nan",
    "inf",
    "-0.0",
    "true",
    "false",
    "''",
    "\"\"",
    "'\u{0}'",
    "[]",
    "{}",
    "[{}]",
    "[[]]",
    "['']",
    "[0, '', {}]",
    "1979-05-27",
    "07:32:00",
    "'0s'",
    "'-1s'",
    "'1ns'",
    "'18446744073709551615s'",
    "'99999999999999999999h'",
    "'1e9d'",
    "'all'",
    "'none'",
    "'tcp'",
    "'tcp/0'",
    "'tcp/65536'",
    "'tcp/1-65535'",
    "'tcp/9-1'",
    "'tcp/80 -> 0'",
    "'udp/1-65535 -> 1'",
    "['all', 'all']",
    "'0.0.0.0'",
    "'0.0.0.0/0'",
    "'::/0'",
    "'::'",
    "'127.0.0.1'",
    "'fe80::1%eth0'",
    "['10.0.0.1', '10.0.0.1']",
    "'10.0.0.0-10.255.255.255'",
    "['::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff']",
    "'10.0.0.0/8'",
    "'2001:db8::/32'",
    "'a'",
    "'../../etc/passwd'",
    "'%s%n'",
    "'$(reboot)'",
    "'(a*)*b'",
    "'['",
    "'a{1,1000}{1,1000}{1,1000}'",
    "\"\\u0000\"",
    "\"\\uD800\"",
    "'''",
    "\"\"\"",
    "{ a = 1, a = 2 }",
    "{ timeout = 0, netmask = '0.0.0.0', prefix_v6 = 0 }",
    "{ connections = 0, burst = 0 }",
    "{ connections = 4294967295, burst = 4294967295 }",
    "{ flows = 4294967295, half_open = 4294967295, templates = 4294967295 }",
    "{ flows = 0 }",
    "{ servers = 4294967295, hysteresis = 4294967295 }",
    "[{ tcp = true, interval = '1ns' }]",
    "[{ http = '' }]",
];

const UNICODE: &[&str] =
    &["é", "\u{301}", "\u{feff}", "\u{202e}", "\u{200b}", "𝟙", "🦀", "\u{10ffff}", "ß", "\u{2028}", "\u{85}", "名"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_spoils_a_text_in_the_same_ways_and_in_many() {
        let good = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\n";
        let spoilt = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..200).map(|_| mutator.spoil(good)).collect::<Vec<String>>()
        };
        assert_eq!(spoilt(7), spoilt(7));
        let mut different = spoilt(7);
        different.sort();
        different.dedup();
        assert!(different.len() > 180, "{}", different.len());
        assert!(Mutator::new(1).spoil("").len() < 10_000, "nothing is to be had from nothing");
    }

    #[test]
    fn words_and_signs_are_told_apart() {
        let text = "a_b = ['é-1']";
        let tokens: Vec<&str> = tokens(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(tokens, ["a_b", "=", "[", "'", "é-1", "'", "]"]);
    }
}

//! Another address in an answer to `PASV`, in as many bytes.
//!
//! `227 Entering Passive Mode (10,0,0,11,39,16)` becomes `227 Entering Passive Mo(192,0,2,110,39,16)`: the numbers end
//! where they ended; when they are longer they take from the text, which means nothing to anybody (RFC 959 §4.2), and
//! when they are shorter spaces fill the room.

use super::lines::Announcement;

/// Bytes that are written anew, up to the end of the numbers: the most that they can be, and to whole words.
pub const BLOCK: usize = 28;
/// `(255,255,255,255,255,255`
const LONGEST: u32 = 24;

/// Numbers as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The last byte is the lowest of the last word.
    words: [u64; 3],
    pub length: u32,
}

impl Text {
    /// `address` in memory order.
    #[inline(always)]
    pub fn numbers(address: u32, port: u16, bracket: bool) -> Self {
        let [a, b, c, d] = address.to_ne_bytes();
        let [p, q] = port.to_be_bytes();
        let mut text = Self::default();
        if bracket {
            text.push(b'(');
        }
        text.number(a);
        text.push(b',');
        text.number(b);
        text.push(b',');
        text.number(c);
        text.push(b',');
        text.number(d);
        text.push(b',');
        text.number(p);
        text.push(b',');
        text.number(q);
        text
    }

    #[inline(always)]
    fn number(&mut self, number: u8) {
        if number >= 100 {
            self.push(b'0' + number / 100);
        }
        if number >= 10 {
            self.push(b'0' + number / 10 % 10);
        }
        self.push(b'0' + number % 10);
    }

    #[inline(always)]
    fn push(&mut self, byte: u8) {
        let [a, b, c] = self.words;
        self.words = [a << 8 | b >> 56, b << 8 | c >> 56, c << 8 | u64::from(byte)];
        self.length += 1;
    }

    /// The byte at this place from the end, which is 1.
    #[inline(always)]
    fn byte(&self, place: usize) -> u8 {
        let [a, b, c] = self.words;
        let word = match (place - 1) / 8 {
            0 => c,
            1 => b,
            _ => a,
        };
        (word >> ((place - 1) % 8 * 8)) as u8
    }
}

/// Whether the new numbers have room in the line, and the old ones, `before` bytes, are no longer than numbers can be.
#[inline(always)]
pub fn fits(said: &Announcement, new: &Text, before: u32) -> bool {
    new.length <= said.last.wrapping_sub(said.start) && before <= LONGEST
}

/// The block that ends where the numbers end, with the new ones.
#[inline(always)]
pub fn compose(old: &[u8; BLOCK], new: &Text, before: u32) -> [u8; BLOCK] {
    let mut block = *old;
    let mut place = 1;
    while place <= LONGEST as usize {
        let at = BLOCK - place;
        block[at] = if place as u32 <= new.length {
            new.byte(place)
        } else if place as u32 <= before {
            b' '
        } else {
            old[at]
        };
        place += 1;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Kind, Reader};
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::{String, ToString};

    /// The segment with the VIP in its `227`; `None` when it has no room.
    fn rewritten(segment: &str, vip: [u8; 4]) -> Option<String> {
        let found = Reader::read(true, segment.as_bytes()).found;
        let bracket = found.first > 0 && segment.as_bytes()[found.first as usize - 1] == b'(';
        let new = Text::numbers(u32::from_ne_bytes(vip), found.port, bracket);
        let before = found.last - found.first + u32::from(bracket);
        if !fits(&found, &new, before) {
            return None;
        }
        // As in a packet, there are headers before it.
        let mut bytes = [&[0xa5; BLOCK], segment.as_bytes()].concat();
        let end = BLOCK + found.last as usize;
        let block = bytes[end - BLOCK..end].try_into().unwrap();
        bytes[end - BLOCK..end].copy_from_slice(&compose(&block, &new, before));
        assert_eq!(bytes[..BLOCK], [0xa5; BLOCK], "the headers stay as they are");
        Some(String::from_utf8(bytes[BLOCK..].to_vec()).unwrap())
    }

    #[test]
    fn text_makes_room_and_spaces_fill_it() {
        let vip = [192, 0, 2, 110];
        let is = |segment: &str, after: &str| assert_eq!(rewritten(segment, vip).as_deref(), Some(after));
        is("227 Entering Passive Mode (10,0,0,1,39,16).\r\n", "227 Entering Passive Mo(192,0,2,110,39,16).\r\n");
        is(
            "227 Entering Passive Mode (172,16,254,100,39,16).\r\n",
            "227 Entering Passive Mode    (192,0,2,110,39,16).\r\n",
        );
        is("227 Passive 10,0,0,11,39,16\n", "227 Passiv192,0,2,110,39,16\n");
        is("227 (192,168,100,200,9,9)\r\n", "227     (192,0,2,110,9,9)\r\n");
        assert_eq!(rewritten("227 (10,0,0,1,39,16)\r\n", vip), None);
    }

    proptest! {
        #[test]
        fn a_rewritten_line_says_the_vip_in_as_many_bytes(
            text in "[ -'*-/:-~]{0,30}", bracket: bool, from: [u8; 4], vip: [u8; 4], port: u16, rest in "[.)]{0,2}",
        ) {
            let [a, b, c, d] = from;
            let [p, q] = port.to_be_bytes();
            let open = if bracket { "(" } else { "" };
            // Neither does the text end in what belongs to numbers.
            let text = text.trim_end_matches(',').to_string();
            let segment = format!("227 {text}{open}{a},{b},{c},{d},{p},{q}{rest}\r\n");
            let Some(after) = rewritten(&segment, vip) else {
                let room = segment.len() - "227 \r\n".len() - rest.len();
                let [a, b, c, d] = vip;
                let numbers = format!("{open}{a},{b},{c},{d},{p},{q}");
                prop_assert!(numbers.len() > room);
                return Ok(());
            };
            let again = Reader::read(true, after.as_bytes()).found;
            prop_assert_eq!(again.kind, Kind::Passive);
            prop_assert_eq!((again.address, again.port), (u32::from_ne_bytes(vip), port));
            prop_assert_eq!(after.len(), segment.len());
            let end = format!("{rest}\r\n");
            prop_assert!(after.ends_with(&end));
        }
    }
}

//! FTP (RFC 959, RFC 2428) under NAT: what goes over a control connection is read, so that data connections find their
//! way. For services with `service_flags::FTP`.
//!
//! NAT rewrites the real server's address and leaves the client's alone. So `PORT` and `EPRT` hold what is right already,
//! and `229` (the answer to `EPSV`) holds no address: they only announce a connection, which is remembered among the
//! half-open connections until it comes. `227` (the answer to `PASV`) holds the real server's address, and gets the VIP
//! instead, in as many bytes as it had: no sequence number shifts, and a segment that is sent again is rewritten to the
//! same. See [`passive`].
//!
//! A segment is read by itself, its first [`SEGMENT`] bytes; of its announcements the last one counts. **Not supported:**
//! an announcement that is parted between two segments, `228` (RFC 1639), what is encrypted (RFC 4217), and data connections
//! between two servers: what a client announces is a port of its own.

pub mod lines;
pub mod passive;

use crate::commit;
use crate::decide::To;
use crate::flow::{Key, Record};
use crate::layout::{ANNOUNCED, Control, Service, V4, service_flags, state_bits};
use crate::packet::{Amendment, FURTHEST, Packet};
use crate::path::Work;
use crate::tables::{Scan, Step, Tables};
use crate::wire::checksum::Change;
use crate::wire::{Headers, word};
use lines::{Announcement, Kind, Reader};

/// Bytes of a segment that are read: a power of two. A line of interest has some 60.
pub const SEGMENT: usize = 512;
/// The shortest line of interest is longer.
const SHORTEST: u32 = 8;

/// A segment and its reader. Not on the stack, which has no room for the one; nor for the other: of what lies in a map the
/// verifier knows nothing, while of the stack it would follow every state that the reader can come to.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    bytes: [u8; SEGMENT],
    reader: Reader,
}

impl Lines {
    pub const NOTHING: Self = Self { bytes: [0; SEGMENT], reader: Reader::new(false) };
}

/// What a segment said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing of interest.
    Nothing,
    /// It announces a connection, which is expected now.
    Announced,
    /// It begins like an announcement, but is none that can be followed.
    Unfollowed,
}

/// Reads a packet that has just been rewritten, and is about to leave.
#[inline(always)]
pub fn overhear<P: Packet, T: Tables>(p: &mut P, t: &T, work: &Work, lines: &mut Lines) -> Heard {
    let Work { headers: h, decision: d, now } = work;
    let from_server = d.way.to == To::Client;
    let l4 = h.transport_at();
    let Some(b) = p.read::<14>(l4) else { return Heard::Nothing };
    let header = usize::from(b[12] >> 4) * 4;
    let payload = (l4 + header) & FURTHEST;
    let length = h.length.wrapping_sub((payload - h.network_at().min(payload)) as u32);
    // A packet of nothing but headers has no more, and one that is as long as none has not come so far.
    if !(SHORTEST..=u32::from(u16::MAX)).contains(&length) {
        return Heard::Nothing;
    }
    let read = (length.min(SEGMENT as u32).wrapping_sub(1) & (SEGMENT as u32 - 1)) + 1;
    if !p.copy(payload, read as usize, &mut lines.bytes) {
        return Heard::Nothing;
    }
    lines.reader = Reader::new(from_server);
    t.scan(read, &mut Listener { lines });
    let said = lines.reader.found;
    let fresh = if from_server {
        let ends = length == read && lines.bytes[(read as usize - 1) & (SEGMENT - 1)] == b'\n';
        let sequence = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        keep_up(t, work, sequence, length, ends) || said.start != lines::CODE
    } else {
        true
    };
    let (Some(control), Some(settings)) = (t.control(), t.service(d.service)) else { return Heard::Nothing };
    if settings.flags & service_flags::FTP == 0 {
        return Heard::Nothing;
    }
    if said.kind == Kind::Nothing {
        return if lines.reader.unclear { Heard::Unfollowed } else { Heard::Nothing };
    }
    if !is_allowed(&settings, &said) {
        return Heard::Unfollowed;
    }
    if said.kind == Kind::Passive && !rewrite(p, lines, work, &said, l4, payload) {
        return Heard::Unfollowed;
    }
    if !fresh {
        return Heard::Nothing;
    }
    expect(t, &control, h, work, &said, *now);
    Heard::Announced
}

/// One byte after the other.
struct Listener<'l> {
    lines: &'l mut Lines,
}

impl<T: Tables> Scan<T> for Listener<'_> {
    #[inline(always)]
    fn visit(&mut self, _: &T, at: u32) -> bool {
        let byte = self.lines.bytes[at as usize & (SEGMENT - 1)];
        self.lines.reader.take(at, byte);
        true
    }
}

/// Whether a real server's segment begins with a line; notes where its next line begins. A client that can make the server
/// say something might else, by small segments, make one begin in the middle of a line with what opens the server's
/// other ports (as `net/netfilter/nf_conntrack_ftp.c`, `find_nl_seq`).
#[inline(always)]
fn keep_up<T: Tables>(t: &T, work: &Work, sequence: u32, length: u32, ends: bool) -> bool {
    let change = &work.decision.change;
    let Some(cell) = t.cell(change.table, change.index) else { return false };
    let state = cell.state.get();
    let begins = (state >> state_bits::UPPER) as u32;
    let next = sequence.wrapping_add(length);
    // Not by a segment that is sent again.
    if ends && (begins == 0 || next.wrapping_sub(begins) < u32::MAX / 2) {
        // Fails when the connection is being closed by another processor: then no line follows.
        cell.state.replace(state, u64::from(state as u32) | u64::from(next) << state_bits::UPPER);
    }
    begins == 0 || begins == sequence
}

/// A port that data connections may have.
#[inline(always)]
fn is_allowed(settings: &Service, said: &Announcement) -> bool {
    let of_server = said.kind == Kind::Passive || said.kind == Kind::ExtendedPassive;
    let passive = said.port >= settings.passive_first && said.port <= settings.passive_last;
    said.port != 0 && (passive || !of_server)
}

/// Puts the VIP into a `227`, where the real server's own address is; false when it cannot be.
#[inline(always)]
fn rewrite<P: Packet>(p: &mut P, lines: &Lines, work: &Work, said: &Announcement, l4: usize, payload: usize) -> bool {
    let Work { headers: h, decision: d, .. } = work;
    let vip = d.way.vip.last();
    if h.family != V4 {
        return false;
    }
    if said.address == vip {
        return true;
    }
    let bracket = lines.bytes[said.first.wrapping_sub(1) as usize & (SEGMENT - 1)] == b'(';
    let new = passive::Text::numbers(vip, said.port, bracket);
    let before = said.last.wrapping_sub(said.first) + u32::from(bracket);
    if said.address != h.source.last() || !passive::fits(said, &new, before) {
        return false;
    }
    let end = payload + said.last as usize;
    if !(passive::BLOCK..=FURTHEST).contains(&end) {
        return false;
    }
    let at = end.wrapping_sub(passive::BLOCK) & FURTHEST;
    let Some(old) = p.read::<{ passive::BLOCK }>(at) else { return false };
    let block = passive::compose(&old, &new, before);
    let mut change = Change::default();
    let mut i = 0;
    while i < passive::BLOCK {
        change = change.word(word(&old, i), word(&block, i));
        i += 4;
    }
    let change = if (at ^ l4) & 1 != 0 { change.shifted() } else { change };
    // The block may begin in the TCP header: the checksum comes after it.
    p.write(at, block) && p.amend(l4 + 16, &Amendment { covered: change, ..Amendment::default() })
}

/// Lets the announced connection come: the client's to the VIP, or the real server's to the client.
#[inline(always)]
fn expect<T: Tables>(t: &T, control: &Control, h: &Headers, work: &Work, said: &Announcement, now: u32) {
    let d = &work.decision;
    let passive = d.way.to == To::Client;
    let (client, vip) = if passive { (h.destination, d.way.vip) } else { (h.source, h.destination) };
    let (client_port, vip_port) = if passive { (0, said.port) } else { (said.port, 0) };
    let key = Key { client, vip, client_port, vip_port, protocol: ANNOUNCED, family: h.family };
    let (of_client, of_server) =
        if passive { (h.destination_port, h.source_port) } else { (h.source_port, d.way.port) };
    let parent = u64::from(of_client) | u64::from(of_server) << 16;
    let state = u64::from(vip_port) | state_bits::ANNOUNCED | state_bits::HALF_OPEN | parent << state_bits::UPPER;
    t.note(Step::Announced { real: d.real_index, port: said.port, passive });
    commit::announce(t, control, &key, &Record { real: d.real_index, service: d.service, state, seen: now });
}

//! Fragments: the first one of a packet has ports and goes its way like a whole packet; where it went is remembered, and
//! the others, which have none, follow it (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! A table of its own, of [`limits::FRAGMENTS`] records: a new one takes the place of its packet's earlier one, of one past
//! its time, or of the oldest in its bucket, so that a flood of fragments costs only other fragments. Records are written
//! as those of connections are, see [`crate::flow`].
//!
//! **Not supported:** a fragment that comes before the first one of its packet. It is passed up, where the others do not
//! come, and so it is lost like one that the network has lost.

use crate::decide::{To, Way};
use crate::flow::{PHASE, TAKEN, VALID, WRITING, idle};
use crate::forward::fullnat::Peer;
use crate::hash;
use crate::layout::{Address, Control, Fragment, V4, limits};
use crate::tables::{Step, Tables};
use crate::wire::Headers;

/// Where a packet's first fragment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    pub real: u32,
    pub way: Way,
    pub peer: Peer,
}

/// The first fragment's way; to be called when it is decided.
#[inline(always)]
pub fn remember<T: Tables>(t: &T, control: &Control, h: &Headers, real: u32, way: &Way, peer: &Peer, now: u32) {
    let to_client = match way.to {
        To::Server => 0,
        To::Client => TO_CLIENT,
        To::Kernel | To::Sender | To::Nowhere => return,
    };
    let key = key(h);
    let hash = hash(control, &key);
    let bucket = bucket(hash);
    let (mut place, mut best) = (bucket, 0);
    let mut number = 0;
    while number < limits::FRAGMENT_WAYS {
        let Some(record) = t.fragment(bucket + number) else { return };
        let valid = record.stamp.get() & PHASE == VALID;
        // Free ones are older than all others, and one of the same packet is older than free.
        let age = if valid { u64::from(idle(now, record.seen.get())) } else { FREE };
        let age = if valid && is(record, &key) { SAME } else { age };
        // Of equally old ones not always the same: a flood within a tick would wear out one record of each bucket.
        let rank = age << 3 | u64::from((number ^ (hash >> TIE_SHIFT) as u32) & 7);
        if rank >= best {
            (place, best) = (bucket + number, rank);
        }
        number += 1;
    }
    let Some(record) = t.fragment(place) else { return };
    let stamp = record.stamp.get();
    let writing = (stamp & !PHASE).wrapping_add(TAKEN) | WRITING;
    // Who is slower than another processor leaves no record: its packet is lost.
    if stamp & PHASE == WRITING || !record.stamp.replace(stamp, writing) {
        return;
    }
    record.key[0].set(key[0]);
    record.key[1].set(key[1]);
    record.key[2].set(key[2]);
    record.key[3].set(key[3]);
    record.key[4].set(key[4]);
    let [high, low] = way.vip.words();
    record.vip[0].set(high);
    record.vip[1].set(low);
    let [high, low] = peer.address.words();
    record.peer[0].set(high);
    record.peer[1].set(low);
    let full = if peer.is_there { FULL } else { 0 };
    record.way.set(u64::from(real) | to_client | full);
    record.seen.set(now);
    record.stamp.swap(writing & !PHASE | VALID);
}

/// Three bits of the hash that no bucket's number has.
const TIE_SHIFT: u32 = 29;
const FREE: u64 = 1 << 32;
const SAME: u64 = 1 << 33;
/// Bits of [`Fragment::way`].
const TO_CLIENT: u64 = 1 << 32;
const FULL: u64 = 1 << 33;

/// Where the first fragment of this one's packet went, if that was a moment ago.
#[inline(always)]
pub fn find<T: Tables>(t: &T, control: &Control, h: &Headers, now: u32) -> Option<Followed> {
    let key = key(h);
    let bucket = bucket(hash(control, &key));
    let mut place = NOWHERE;
    let mut number = 0;
    while number < limits::FRAGMENT_WAYS {
        let record = t.fragment(bucket + number)?;
        if record.stamp.get() & PHASE == VALID && is(record, &key) {
            place = bucket + number;
            break;
        }
        number += 1;
    }
    let record = t.fragment(place)?;
    let stamp = record.stamp.get();
    let (way, seen) = (record.way.get(), record.seen.get());
    let [a, b] = [record.vip[0].get(), record.vip[1].get()];
    let [c, d] = [record.peer[0].get(), record.peer[1].get()];
    // Taken for another packet while it was read.
    if !is(record, &key) || record.stamp.get() != stamp || stamp & PHASE != VALID {
        return None;
    }
    if idle(now, seen) > control.fragment_ticks {
        return None;
    }
    let real = way as u32;
    let to_client = way & TO_CLIENT != 0;
    t.note(Step::Fragment { real, to_client });
    // Ports are not rewritten where there are none.
    let peer = Peer { is_there: way & FULL != 0, address: Address::of_words([c, d]), port: 0 };
    let way = if to_client { Way::to_client(Address::of_words([a, b]), 0) } else { Way::to_server(0) };
    Some(Followed { real, way, peer })
}

const NOWHERE: u32 = u32::MAX;

/// RFC 791 §3.2: source, destination, protocol and identification; RFC 8200 §4.5: without the protocol.
#[inline(always)]
fn key(h: &Headers) -> [u64; 5] {
    let ([a, b], [c, d]) = (h.source.words(), h.destination.words());
    let protocol = if h.family == V4 { h.protocol } else { 0 };
    [a, b, c, d, u64::from(h.identification) | u64::from(protocol) << 32 | u64::from(h.family) << 40]
}

#[inline(always)]
fn hash(control: &Control, key: &[u64; 5]) -> u64 {
    let [a, b, c, d, e] = *key;
    hash::address(hash::address(control.seed, &Address::of_words([a, b]), e), &Address::of_words([c, d]), 0)
}

/// The first record of a packet's bucket.
#[inline(always)]
fn bucket(hash: u64) -> u32 {
    (hash as u32 & (limits::FRAGMENTS / limits::FRAGMENT_WAYS - 1)) * limits::FRAGMENT_WAYS
}

#[inline(always)]
fn is(record: &Fragment, key: &[u64; 5]) -> bool {
    record.key[0].get() == key[0]
        && record.key[1].get() == key[1]
        && record.key[2].get() == key[2]
        && record.key[3].get() == key[3]
        && record.key[4].get() == key[4]
}

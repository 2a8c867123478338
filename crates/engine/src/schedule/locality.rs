//! `lblc` and `lblcr`: locality-based least connection, the latter with replication
//! (`net/netfilter/ipvs/ip_vs_lblc.c`, `ip_vs_lblcr.c`). For caches: clients of one destination meet the real server
//! that has served it before, or one of several, so long as that is not overloaded while another has little to do.
//!
//! What is remembered of a destination is a [`Cell`] of a table of its own, so that a flood of destinations displaces
//! only others: the real servers that have served it, [`REPLICAS`] at most, and when that changed. Its `seen` is the
//! tick of the last new connection; the daemon's sweep removes what has not been asked for during `Service::locality`.
//!
//! Three things differ from the kernel. Its sets are unlimited: here the most loaded member makes room. It asks
//! whether the real server has reached its threshold only where it chooses anew, and then of `lblcr`'s sets: here such a
//! one takes no new clients at all. And of equally loaded members it takes the one that was added last, not the first of
//! the configuration.

use super::least_connection::{Best, overhead};
use super::{CursorMove, Newcomer, Pick, Scheduler, threshold};
use crate::flow::{self, Found, Key, Match, NO_RECORD, Record, WhenFull};
use crate::layout::limits::REPLICAS;
use crate::layout::{Address, Cell, Control, NO_REAL, Service, limits};
use crate::tables::{CellTable, Scan, Step, Tables};

/// Numbers of real servers begin at 1.
const NOBODY: u32 = 0;

/// No place in a set.
const NO_PLACE: u32 = u32::MAX;

/// What becomes of a destination's record. Every field always has a value: see [`crate::decide::Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    /// The record, of [`Kind::Known`].
    at: u32,
    /// Places in its set: of the member that goes, and of the one that comes.
    drop: u32,
    put: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nothing,
    /// It is made.
    New,
    /// There is one.
    Known,
}

impl Change {
    pub const NOTHING: Self = Self { kind: Kind::Nothing, at: NO_RECORD, drop: NO_PLACE, put: NO_PLACE };
}

/// The real server for a destination, and what to remember.
#[inline(always)]
pub fn pick<T: Tables>(t: &T, control: &Control, service: u32, settings: &Service, newcomer: &Newcomer) -> Pick {
    let key = key(service, newcomer.family, newcomer.destination);
    let found = flow::find(t, control, CellTable::Localities, &Destination::new(&key, control.seed));
    let mut look = Look {
        servers: settings.servers,
        members: members(&found),
        present: 0,
        slack: false,
        least: Best::NOBODY,
        member: Best::NOBODY,
        member_active: 0,
        most: Best::NOBODY,
        most_place: NO_PLACE,
    };
    t.scan(settings.servers_len.min(limits::SERVERS), &mut look);
    t.note(Step::Locality { real: look.member.real });
    let mut change = Change { kind: Kind::New, ..Change::NOTHING };
    if found.exists() {
        change.kind = Kind::Known;
        change.at = found.index;
        let replicates = settings.scheduler == Scheduler::Lblcr as u8;
        let several = look.present & look.present.wrapping_sub(1) != 0;
        if replicates && several && flow::idle(newcomer.now, modified(&found)) > settings.locality {
            change.drop = look.most_place;
        }
        let overloaded = look.member_active > look.member.weight && look.slack;
        if look.member.real != NO_REAL && !overloaded {
            return Pick { real: look.member.real, cursor: CursorMove::NONE, locality: change };
        }
        change.put = if !replicates {
            0
        } else if is_member(&look, change.drop) {
            NO_PLACE
        } else {
            room(&look, change.drop)
        };
    }
    if look.least.real == NO_REAL {
        return Pick::NOBODY;
    }
    Pick { real: look.least.real, cursor: CursorMove::NONE, locality: change }
}

/// Whether the least loaded of all is in the set, and stays there.
#[inline(always)]
fn is_member(look: &Look, drop: u32) -> bool {
    let place = look.place(look.least.real);
    place != NO_PLACE && place != drop
}

/// The place for a new member: the one that becomes free, a free one, or the most loaded one's.
#[inline(always)]
fn room(look: &Look, drop: u32) -> u32 {
    if drop != NO_PLACE {
        return drop;
    }
    let mut place = 0;
    while place < REPLICAS as u32 {
        if look.present & 1 << place == 0 {
            return place;
        }
        place += 1;
    }
    // Where nobody has a weight nobody is chosen.
    look.most_place
}

/// Writes down what was decided: `real` has the destination's new connection.
#[inline(always)]
pub fn remember<T: Tables>(
    t: &T,
    control: &Control,
    change: &Change,
    (service, real): (u32, u32),
    family: u8,
    destination: &Address,
    now: u32,
) {
    match change.kind {
        Kind::Nothing => {}
        Kind::New => {
            let mut key = key(service, family, destination);
            key.vip = Address::new([service, now, real, NOBODY]);
            let record = Record { real: NOBODY, service: NOBODY, state: 0, seen: now };
            flow::insert(t, control, CellTable::Localities, &key, &record, WhenFull::Evict);
        }
        Kind::Known => {
            // Since it was looked up it may have become another destination's: that one has a member too many then.
            let Some(cell) = t.cell(CellTable::Localities, change.at) else { return };
            flow::touch(cell, now);
            if change.drop != NO_PLACE {
                set_member(cell, change.drop, NOBODY, now);
            }
            if change.put != NO_PLACE {
                set_member(cell, change.put, real, now);
            }
        }
    }
}

// How a set lies in a cell: the service in the low half of `key[3]`, the tick of its last change in the high half; two
// members in each of `key[4]`, `owner` and `state`.

#[inline(always)]
fn key(service: u32, family: u8, destination: &Address) -> Key {
    Key {
        client: *destination,
        vip: Address::new([service, 0, 0, 0]),
        client_port: 0,
        vip_port: 0,
        protocol: 0,
        family,
    }
}

#[inline(always)]
fn members(found: &Found) -> [u32; REPLICAS] {
    if !found.exists() {
        return [NOBODY; REPLICAS];
    }
    let [_, _, a, b] = found.vip.parts();
    [a, b, found.real, found.service, found.state as u32, (found.state >> 32) as u32]
}

#[inline(always)]
fn modified(found: &Found) -> u32 {
    found.vip.parts()[1]
}

/// If another processor writes at the same time, one of the two is not remembered.
#[inline(always)]
fn set_member(cell: &Cell, place: u32, real: u32, now: u32) {
    let word = match place / 2 {
        0 => &cell.key[4],
        1 => &cell.owner,
        _ => &cell.state,
    };
    let shift = place % 2 * 32;
    let before = word.get();
    word.replace(before, before & !(0xffff_ffff << shift) | u64::from(real) << shift);
    let before = cell.key[3].get();
    cell.key[3].replace(before, before & 0xffff_ffff | u64::from(now) << 32);
}

/// How a destination is held against a record.
struct Destination {
    words: [u64; 5],
    hash: u64,
}

impl Destination {
    #[inline(always)]
    fn new(key: &Key, seed: u64) -> Self {
        Self { words: key.words(), hash: key.hash(seed, 0) }
    }
}

impl<T> Match<T> for Destination {
    #[inline(always)]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline(always)]
    fn matches(&self, _: &T, cell: &Cell) -> bool {
        cell.key[0].get() == self.words[0]
            && cell.key[1].get() == self.words[1]
            && cell.key[2].get() == self.words[2]
            && cell.key[3].get() as u32 == self.words[3] as u32
    }
}

/// One look at every real server.
struct Look {
    servers: u32,
    members: [u32; REPLICAS],
    /// Places of members that are among the service's real servers.
    present: u32,
    /// Somebody has fewer active connections than half of its weight.
    slack: bool,
    /// The least loaded of those that take clients, and of the members among them.
    least: Best,
    member: Best,
    member_active: u64,
    /// The most loaded member of some weight.
    most: Best,
    most_place: u32,
}

impl Look {
    #[inline(always)]
    fn place(&self, real: u32) -> u32 {
        let mut place = 0;
        while place < REPLICAS {
            if self.members[place] == real {
                return place as u32;
            }
            place += 1;
        }
        NO_PLACE
    }
}

impl<T: Tables> Scan<T> for Look {
    #[inline(always)]
    fn visit(&mut self, t: &T, index: u32) -> bool {
        let Some(server) = t.server(self.servers.wrapping_add(index)) else { return false };
        let Some(load) = t.load(server.real) else { return true };
        let (active, weight) = (load.active.get(), u64::from(server.weight));
        if active.wrapping_mul(2) < weight {
            self.slack = true;
        }
        let place = self.place(server.real);
        if place != NO_PLACE {
            self.present |= 1 << (place & 31);
        }
        if weight == 0 {
            return true;
        }
        let here = Best { real: server.real, cost: overhead(load), weight };
        if place != NO_PLACE && (self.most.real == NO_REAL || here.costs_more(self.most.cost, self.most.weight)) {
            self.most = here;
            self.most_place = place;
        }
        if threshold::is_overloaded(load) {
            return true;
        }
        if self.least.real == NO_REAL || self.least.costs_more(here.cost, weight) {
            self.least = here;
        }
        if place != NO_PLACE && (self.member.real == NO_REAL || self.member.costs_more(here.cost, weight)) {
            self.member = here;
            self.member_active = active;
        }
        true
    }
}

//! Writes what was decided: records, templates, the scheduler's cursor, the real servers' loads.

use crate::decide::{self, Change, ChangeKind, Decision, RememberKind, To};
use crate::flow::{self, FromClient, Key, NO_RECORD, Place, Record, WhenFull, watch};
use crate::layout::{Control, NOBODY, Service, TCP, UDP, slot_bits, state_bits};
use crate::persist;
use crate::rate;
use crate::reason::Reason;
use crate::schedule::{self, locality, threshold};
use crate::tables::{CellTable, Tables};
use crate::wire::Headers;

/// A new connection's key and record are made of the packet's headers, and of where it goes. Of one that is refused
/// nothing is written.
#[inline(always)]
pub fn commit<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, now: u32) -> Result<(), Reason> {
    if d.change.kind == ChangeKind::Open
        && d.way.to == To::Server
        // Under fullnat that was asked before a source was lent.
        && d.source == 0
        && let Some(settings) = t.service(d.service)
        && !rate::admits(t, &settings, now)
    {
        return Err(Reason::RateLimited);
    }
    if d.release != NO_RECORD {
        release(t, d.release_table, d.release);
    }
    if d.announced != NO_RECORD {
        release(t, CellTable::HalfOpen, d.announced);
    }
    match d.change.kind {
        ChangeKind::None | ChangeKind::Once => {}
        ChangeKind::Touch => {
            if let Some(cell) = t.cell(d.change.table, d.change.index) {
                flow::touch(cell, now);
            }
        }
        ChangeKind::Update => update(t, control, h, d, now),
        ChangeKind::Promote => promote(t, control, h, d, now),
        ChangeKind::Open => open(t, control, h, d, now)?,
    }
    if d.cursor.moves
        && let Some(cursor) = t.cursor(d.service)
    {
        // Whoever was faster has moved it; moving it again would pass somebody over.
        cursor.replace(d.cursor.before, d.cursor.after);
    }
    if d.locality.kind != locality::Kind::Nothing {
        let ends = (d.service, d.real_index);
        locality::remember(t, control, &d.locality, ends, h.family, &h.destination, now);
    }
    if d.template.kind != RememberKind::Nothing
        && let Some(settings) = t.service(d.service)
    {
        remember(t, control, h, d, &settings, now);
    }
    Ok(())
}

#[inline(always)]
fn open<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, now: u32) -> Result<(), Reason> {
    let (table, state) = (d.change.table, d.change.to);
    // A slot that asks no records has none that differ from it: so first the slot, then the record.
    let key = decide::key_of(h, &d.way);
    let differs = d.table && differs(t, control, &key, d, state);
    let record = Record { real: d.real_index, service: d.service, state, seen: now };
    let when_full = if table == CellTable::HalfOpen { WhenFull::Evict } else { WhenFull::Refuse };
    let inserted = flow::insert(t, control, table, &key, &record, when_full);
    match inserted.place {
        Place::Free => {}
        Place::Evicted => gone(t, inserted.real, inserted.state),
        // The table still says where its packets go; and what goes past the VIP is not held up.
        // Only a record knows of a connection that the real server has opened, and that one's lines must be read.
        Place::Full if state & (state_bits::OUTBOUND | state_bits::CONTROL) != 0 || d.source != 0 => {
            return Err(Reason::TableFull);
        }
        Place::Full if d.table && (!differs || state & state_bits::DIRECT != 0) => return Ok(()),
        Place::Full => return Err(Reason::TableFull),
    }
    if let Some(load) = t.load(d.real_index) {
        if state & state_bits::DIRECT != 0 {
            // Not a connection of the service.
        } else if flow::is_active(state) {
            load.active.add(1);
        } else {
            load.inactive.add(1);
        }
        threshold::opened(load);
    }
    if d.table && table == CellTable::HalfOpen && h.protocol == TCP {
        watch::set(t, key.hash(control.seed, state as u16));
    }
    Ok(())
}

/// Whether the connection's record says something else than its slot; the slot's packets ask records then.
#[inline(always)]
fn differs<T: Tables>(t: &T, control: &Control, key: &Key, d: &Decision, state: u64) -> bool {
    if let Some(settings) = t.service(d.service)
        && let Some(view) = schedule::slot(t, control, &settings, key.family, &key.client, key.client_port)
        && (view.real != d.real_index || state & state_bits::DIRECT != 0)
        && let Some(slot) = t.slot(view.index)
    {
        slot.or(slot_bits::CONSULT | slot_bits::FRESH);
        return true;
    }
    false
}

#[inline(always)]
fn promote<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, now: u32) {
    let (index, state) = (d.change.index, d.change.to);
    let record = Record { real: d.real_index, service: d.service, state, seen: now };
    let inserted = flow::insert(t, control, CellTable::Flows, &decide::key_of(h, &d.way), &record, WhenFull::Refuse);
    // No room: it goes on as a half-open one, which is found as well but may be pushed out.
    if inserted.place == Place::Free {
        if let Some(load) = t.load(d.real_index)
            && flow::is_active(state)
        {
            load.active.add(1);
        } else if let Some(load) = t.load(d.real_index) {
            load.inactive.add(1);
        }
        release(t, CellTable::HalfOpen, index);
    } else if let Some(cell) = t.cell(CellTable::HalfOpen, index) {
        flow::touch(cell, now);
    }
}

#[inline(always)]
pub(crate) fn update<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, now: u32) {
    let Change { table, index, from, to, .. } = d.change;
    let Some(cell) = t.cell(table, index) else { return };
    flow::touch(cell, now);
    if !cell.state.replace(from, to) {
        // Another processor changed it first; the next segment of the close sets what is missing.
        return;
    }
    if flow::is_active(from)
        && !flow::is_active(to)
        && from & state_bits::DIRECT == 0
        && let Some(load) = t.load(d.real_index)
    {
        load.active.sub(1);
        load.inactive.add(1);
    }
    if d.table && matches!(d.way.to, To::Server | To::Client) {
        watch::set(t, decide::key_of(h, &d.way).hash(control.seed, to as u16));
    }
}

#[inline(always)]
fn remember<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, settings: &Service, now: u32) {
    let key = persist::key(settings, h.family, &h.source);
    let record = |seen, state| Record { real: d.real_index, service: d.service, state, seen };
    let template = d.template;
    if let Some(cell) = t.cell(CellTable::Templates, template.at) {
        if template.followed {
            cell.seen.set(template.expires);
            return;
        }
        flow::release(cell);
    } else {
        // The one that waited for a proof, or for a real server that is gone.
        let waiting = flow::find(t, control, CellTable::HalfOpen, &FromClient::new(&key, control.seed, 0));
        if let Some(cell) = t.cell(CellTable::HalfOpen, waiting.index) {
            flow::release(cell);
        }
    }
    if template.kind == RememberKind::Provisional {
        let state = state_bits::TEMPLATE | if h.protocol == UDP { 0 } else { state_bits::HALF_OPEN };
        let inserted = flow::insert(t, control, CellTable::HalfOpen, &key, &record(now, state), WhenFull::Evict);
        if inserted.place == Place::Evicted {
            gone(t, inserted.real, inserted.state);
        }
        return;
    }
    flow::insert(t, control, CellTable::Templates, &key, &record(template.expires, 0), WhenFull::Evict);
}

/// Remembers that a connection is announced; an announcement of the same that is there already is renewed.
#[inline(always)]
pub fn announce<T: Tables>(t: &T, control: &Control, key: &Key, record: &Record) {
    let before = flow::find(t, control, CellTable::HalfOpen, &FromClient::new(key, control.seed, record.state as u16));
    if let Some(cell) = t.cell(CellTable::HalfOpen, before.index) {
        if before.real == record.real && before.state == record.state {
            flow::touch(cell, record.seen);
            return;
        }
        flow::release(cell);
    }
    let inserted = flow::insert(t, control, CellTable::HalfOpen, key, record, WhenFull::Evict);
    if inserted.place == Place::Evicted {
        gone(t, inserted.real, inserted.state);
    }
}

/// Frees a record and takes it off its real server's load. Whoever frees it first counts it.
#[inline(always)]
pub fn release<T: Tables>(t: &T, table: CellTable, index: u32) {
    let Some(cell) = t.cell(table, index) else { return };
    let (real, state) = (cell.owner.get() as u32, cell.state.get());
    if flow::release(cell) && table != CellTable::Templates {
        gone(t, real, state);
    }
}

/// Ends a connection whose packets go to their slot's real server when there is no record: the record stays, with nobody as
/// the real server, who has failed, and the slot asks records. So the connection ends as with a real server that fails.
/// Whether it was there.
pub fn disown<T: Tables>(
    t: &T,
    control: &Control,
    (table, index): (CellTable, u32),
    key: &Key,
    record: &Record,
    now: u32,
) -> bool {
    let Some(cell) = t.cell(table, index) else { return false };
    let owner = |real: u32| u64::from(real) | u64::from(record.service) << 32;
    if !cell.owner.replace(owner(record.real), owner(NOBODY)) {
        return false;
    }
    gone(t, record.real, record.state);
    if let Some(load) = t.load(NOBODY) {
        let count = if flow::is_active(record.state) { &load.active } else { &load.inactive };
        count.add(1);
    }
    flow::touch(cell, now);
    if let Some(settings) = t.service(record.service)
        && let Some(view) = schedule::slot(t, control, &settings, key.family, &key.client, key.client_port)
        && let Some(slot) = t.slot(view.index)
    {
        slot.or(slot_bits::CONSULT | slot_bits::FRESH);
    }
    true
}

/// A connection is no more.
#[inline(always)]
pub(crate) fn gone<T: Tables>(t: &T, real: u32, state: u64) {
    if state & (state_bits::TEMPLATE | state_bits::DIRECT | state_bits::REVERSE | state_bits::ANNOUNCED) != 0 {
        return;
    }
    if let Some(load) = t.load(real) {
        if flow::is_active(state) {
            load.active.sub(1);
        } else {
            load.inactive.sub(1);
        }
        threshold::ended(load);
    }
}

//! Writes what was decided: records, templates, the scheduler's cursor, the real servers' loads.

use crate::decide::{self, Change, Decision, Remember, Way};
use crate::flow::{self, Inserted, Key, Record, WhenFull, watch};
use crate::layout::{Control, Service, slot_bits, state_bits};
use crate::persist::{self, Template};
use crate::reason::Reason;
use crate::schedule;
use crate::tables::{CellTable, Tables};
use crate::wire::Headers;

/// A new connection's key and record are made of the packet's headers, so `h` is the client's packet whenever the
/// decision opens or promotes.
#[inline(always)]
pub fn commit<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, now: u32) -> Result<(), Reason> {
    if let Some((table, index)) = d.release {
        release(t, table, index);
    }
    match d.change {
        Change::None => {}
        Change::Touch(table, index) => {
            if let Some(cell) = t.cell(table, index) {
                flow::touch(cell, now);
            }
        }
        Change::Update { table, index, from, to } => update(t, control, h, d, (table, index, from, to), now),
        Change::Promote { index, state } => promote(t, control, h, d, index, state, now),
        Change::Open(table, state) => open(t, control, h, d, table, state, now)?,
    }
    if let Some((before, after)) = d.cursor
        && let Some(cursor) = t.cursor(d.service)
    {
        // Whoever was faster has moved it; moving it again would pass somebody over.
        let _ = cursor.replace(before, after);
    }
    if d.template != Remember::Nothing
        && let Some(settings) = t.service(d.service)
    {
        remember(t, control, h, d, &settings, now);
    }
    Ok(())
}

#[inline(always)]
fn open<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    d: &Decision,
    table: CellTable,
    state: u64,
    now: u32,
) -> Result<(), Reason> {
    if state & state_bits::DIRECT != 0 {
        consult(t, control, h, d);
    }
    let key = decide::key(h);
    let record = Record { real: d.real_index, service: d.service, state, seen: now };
    let when_full = if table == CellTable::HalfOpen { WhenFull::Evict } else { WhenFull::Refuse };
    match flow::insert(t, control, table, &key, &record, when_full) {
        Inserted::Free => {}
        Inserted::Evicted { real, state } => gone(t, real, state),
        // The table still says where its packets go.
        Inserted::Full if d.table => return Ok(()),
        Inserted::Full => return Err(Reason::TableFull),
    }
    if let Some(load) = t.load(d.real_index) {
        if state & state_bits::DIRECT != 0 {
            // Not a connection of the service.
        } else if flow::is_active(state) {
            load.active.add(1);
        } else {
            load.inactive.add(1);
        }
    }
    if d.table && table == CellTable::HalfOpen {
        watch::set(t, key.hash(control.seed, state as u16));
    }
    Ok(())
}

/// From now on the packets of this client's slot ask their records.
#[inline(always)]
fn consult<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision) {
    if let Some(settings) = t.service(d.service)
        && let Some(view) = schedule::slot(t, control, &settings, h.family, &h.source, h.source_port)
        && let Some(slot) = t.slot(view.index)
    {
        slot.or(slot_bits::CONSULT);
    }
}

#[inline(always)]
fn promote<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, index: u32, state: u64, now: u32) {
    let record = Record { real: d.real_index, service: d.service, state, seen: now };
    // No room: it goes on as a half-open one, which is found as well but may be pushed out.
    if flow::insert(t, control, CellTable::Flows, &decide::key(h), &record, WhenFull::Refuse) == Inserted::Free {
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
fn update<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    d: &Decision,
    (table, index, from, to): (CellTable, u32, u64, u64),
    now: u32,
) {
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
    if d.table {
        let key = match d.way {
            Way::ToServer { .. } => decide::key(h),
            Way::ToClient { vip, port } => reply_key(h, vip, port),
            Way::Leave(_) => return,
        };
        watch::set(t, key.hash(control.seed, to as u16));
    }
}

/// The connection's key, of a packet from the real server.
#[inline(always)]
fn reply_key(h: &Headers, vip: crate::layout::Address, vip_port: u16) -> Key {
    Key {
        client: h.destination,
        vip,
        client_port: h.destination_port,
        vip_port,
        protocol: h.protocol,
        family: h.family,
    }
}

#[inline(always)]
fn remember<T: Tables>(t: &T, control: &Control, h: &Headers, d: &Decision, settings: &Service, now: u32) {
    let key = persist::key(d.service, settings, h.family, &h.source);
    let record = |seen, state| Record { real: d.real_index, service: d.service, state, seen };
    match d.template {
        Remember::Nothing => {}
        Remember::Template { at: Template::At(index), expires, followed: true } => {
            if let Some(cell) = t.cell(CellTable::Templates, index) {
                cell.seen.set(expires);
            }
        }
        Remember::Template { at, expires, .. } => {
            if let Template::At(index) = at
                && let Some(cell) = t.cell(CellTable::Templates, index)
            {
                flow::release(cell);
            }
            flow::insert(t, control, CellTable::Templates, &key, &record(expires, 0), WhenFull::Evict);
        }
        Remember::Provisional => {
            let state = state_bits::TEMPLATE | state_bits::HALF_OPEN;
            let inserted = flow::insert(t, control, CellTable::HalfOpen, &key, &record(now, state), WhenFull::Evict);
            if let Inserted::Evicted { real, state } = inserted {
                gone(t, real, state);
            }
        }
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

/// A connection is no more.
#[inline(always)]
fn gone<T: Tables>(t: &T, real: u32, state: u64) {
    if state & (state_bits::TEMPLATE | state_bits::DIRECT) != 0 {
        return;
    }
    if let Some(load) = t.load(real) {
        if flow::is_active(state) {
            load.active.sub(1);
        } else {
            load.inactive.sub(1);
        }
    }
}

//! Persistence: a client's template names its real server to every port and protocol of the service.
//!
//! A template is a [`crate::layout::Cell`] whose key is the masked client and the service, and whose `seen` is the tick
//! at which it expires. New connections renew it; the daemon's sweep removes it when its time is over and the client has
//! no connections left.
//!
//! Until a client has finished a handshake, or sent a second datagram of one flow, its template waits among the half-open
//! connections: its next connections already follow it, and a flood of forged clients displaces no template of a real one.

use crate::flow::{self, FromClient, Key, NO_RECORD};
use crate::layout::{Address, Control, NO_REAL, Service, real_flags};
use crate::tables::{CellTable, Step, Tables};

/// The template's key.
#[inline(always)]
pub fn key(service: u32, settings: &Service, family: u8, client: &Address) -> Key {
    Key {
        client: client.masked(&settings.mask),
        vip: Address([service, 0, 0, 0]),
        client_port: 0,
        vip_port: 0,
        protocol: 0,
        family,
    }
}

/// Looks the client up: the real server to follow or [`NO_REAL`], and the index of its template, or
/// [`NO_RECORD`]. A template past its time is followed
/// as long as it is there: only the daemon's sweep can tell whether the client still has connections.
#[inline(always)]
pub fn find<T: Tables>(t: &T, control: &Control, key: &Key, now: u32) -> (u32, u32) {
    let m = FromClient::new(key, control.seed, 0);
    let found = flow::find(t, control, CellTable::Templates, &m);
    if found.exists() {
        return (takes(t, key, found.real, found.seen.wrapping_sub(now)), found.index);
    }
    let found = flow::find(t, control, CellTable::HalfOpen, &m);
    if found.exists() {
        return (takes(t, key, found.real, 0), NO_RECORD);
    }
    t.note(Step::NoTemplate);
    (NO_REAL, NO_RECORD)
}

/// The real server, if it takes clients that come back and is still of this service; else [`NO_REAL`].
#[inline(always)]
fn takes<T: Tables>(t: &T, key: &Key, real: u32, ticks_left: u32) -> u32 {
    match t.real(real) {
        Some(r) if r.flags & real_flags::UP != 0 && r.service == key.vip.0[0] => {
            t.note(Step::Template { real, ticks_left });
            real
        }
        _ => {
            t.note(Step::TemplateStale { real });
            NO_REAL
        }
    }
}

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
pub fn key(settings: &Service, family: u8, client: &Address) -> Key {
    Key {
        client: client.masked(&settings.mask),
        vip: Address::new([settings.owner, 0, 0, 0]),
        client_port: 0,
        vip_port: 0,
        protocol: 0,
        family,
    }
}

/// What is known of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The real server to follow, or [`NO_REAL`].
    pub real: u32,
    /// The index of its template, or [`NO_RECORD`].
    pub template: u32,
    /// It stays with its real server, and goes elsewhere for this part of the service.
    pub elsewhere: bool,
}

/// Looks the client up. A template past its time is followed as long as it is there: only the daemon's sweep can tell
/// whether the client still has connections. `part` is the service's.
#[inline(always)]
pub fn find<T: Tables>(t: &T, control: &Control, key: &Key, part: u32, now: u32) -> Client {
    let m = FromClient::new(key, control.seed, 0);
    let found = flow::find(t, control, CellTable::Templates, &m);
    if found.exists() {
        let (real, elsewhere) = takes(t, key, found.real, part, found.seen.wrapping_sub(now));
        return Client { real, template: found.index, elsewhere };
    }
    let found = flow::find(t, control, CellTable::HalfOpen, &m);
    if found.exists() {
        let (real, elsewhere) = takes(t, key, found.real, part, 0);
        return Client { real, template: NO_RECORD, elsewhere };
    }
    t.note(Step::NoTemplate);
    Client { real: NO_REAL, template: NO_RECORD, elsewhere: false }
}

/// The real server, if it takes clients that come back and is still of this service; else [`NO_REAL`], and whether that is
/// for this part of the service only.
#[inline(always)]
fn takes<T: Tables>(t: &T, key: &Key, real: u32, part: u32, ticks_left: u32) -> (u32, bool) {
    match t.real(real) {
        Some(r) if r.flags & real_flags::UP != 0 && r.service == key.vip.parts()[0] => {
            if u32::from(r.closed) & part != 0 {
                t.note(Step::TemplateElsewhere { real });
                return (NO_REAL, true);
            }
            t.note(Step::Template { real, ticks_left });
            (real, false)
        }
        _ => {
            t.note(Step::TemplateStale { real });
            (NO_REAL, false)
        }
    }
}

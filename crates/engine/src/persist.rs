//! Persistence: a client's template names its real server to every port and protocol of the service.
//!
//! A template is a [`crate::layout::Cell`] whose key is the masked client and the service, and whose `seen` is the tick
//! at which it expires. New connections renew it; the daemon's sweep renews it while the client has connections.
//!
//! Until a client has finished a handshake its template waits among the half-open connections: its next connections
//! already follow it, and a flood of forged clients displaces no template of a real one.

use crate::flow::{self, FromClient, Key};
use crate::layout::{Address, Control, Service, real_flags};
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

/// What a client's template says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// The client has none, or it waits for a handshake.
    None,
    /// There is one, to be renewed; or to be overwritten, when it was not followed.
    At(u32),
}

/// Looks the client up: the real server to follow, and the place of its template. `now` in ticks.
#[inline(always)]
pub fn find<T: Tables>(t: &T, control: &Control, key: &Key, now: u32) -> (Option<u32>, Template) {
    let m = FromClient::new(key, control.seed, 0);
    if let Some(found) = flow::find(t, control, CellTable::Templates, &m) {
        let ticks_left = found.seen.wrapping_sub(now);
        // The half of the circle behind `now` is the past.
        let current = ticks_left != 0 && ticks_left <= u32::MAX / 2;
        let real = if current { takes(t, key, found.real, ticks_left) } else { None };
        return (real, Template::At(found.index));
    }
    if let Some(found) = flow::find(t, control, CellTable::HalfOpen, &m) {
        return (takes(t, key, found.real, 0), Template::None);
    }
    t.note(Step::NoTemplate);
    (None, Template::None)
}

/// The real server, if it takes clients that come back and is still of this service.
#[inline(always)]
fn takes<T: Tables>(t: &T, key: &Key, real: u32, ticks_left: u32) -> Option<u32> {
    match t.real(real) {
        Some(r) if r.flags & real_flags::UP != 0 && r.service == key.vip.0[0] => {
            t.note(Step::Template { real, ticks_left });
            Some(real)
        }
        _ => {
            t.note(Step::TemplateStale { real });
            None
        }
    }
}

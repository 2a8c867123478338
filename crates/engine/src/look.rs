//! A look at a packet: its headers are read, the classifier says whose it is, and what is known of its connection where it
//! goes. `look` is the short way's, `study` the long one's.

use crate::classify::{self, Class, Unique};
use crate::decide::{self, Decision, Way};
use crate::door;
use crate::flow::{self, FromClient, FromServer, NO_RECORD, watch};
use crate::forward::fullnat;
use crate::layout::{Control, NO_REAL, SCTP, TCP, UDP, Word64, service_flags, state_bits};
use crate::packet::Packet;
use crate::path::Stage;
use crate::reason::Reason;
use crate::schedule;
use crate::tables::{CellTable, Tables};
use crate::wire::{self, FIN, Headers, RST, SYN};

/// What a look found out.
pub(crate) struct Known {
    pub real: u32,
    pub way: Way,
    /// The record that was looked up; [`NO_RECORD`] when the slot decided.
    pub touch: u32,
    /// As in [`Decision`].
    pub source: u32,
}

/// Why a stage does not serve a packet: the stage that does, or the packet's end.
pub(crate) struct Other {
    pub stage: Stage,
    pub reason: Reason,
}

impl Other {
    #[inline(always)]
    fn to(stage: Stage) -> Self {
        Self { stage, reason: Reason::Inconsistent }
    }
}

impl From<Reason> for Other {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { stage: Stage::Done, reason }
    }
}

/// A packet that a short way serves, and how.
#[inline(always)]
pub(crate) fn look<P: Packet, T: Tables>(p: &P, t: &T) -> Result<(Headers, Known), Other> {
    let mut h = wire::network(p)?;
    let Some(control) = t.control() else { return Err(Reason::Inconsistent.into()) };
    let Some(party) = classify::party(t, &control, &h) else {
        return if wire::is_icmp(&h) || may_be_direct(p, t, &control, &h) {
            Err(Other::to(Stage::Judge))
        } else {
            Err(Reason::NotOurs.into())
        };
    };
    if party.is_source() {
        return Err(Other::to(Stage::Back));
    }
    // SCTP is rare, and the verifier would follow each of its chunks through all that comes after.
    if wire::has_extensions(&h) || h.fragment || h.protocol == SCTP {
        return Err(Other::to(Stage::Judge));
    }
    // Nor does it see that these are so.
    (h.fragment, h.later) = (false, false);
    match wire::transport(p, &mut h) {
        Err(Reason::Icmp) => return Err(Other::to(Stage::Judge)),
        done => done?,
    }
    if h.tcp_flags & (SYN | FIN | RST) != 0 {
        return Err(Other::to(Stage::Judge));
    }
    let class = classify::class(t, &control, &party, &h, p.interface())?;
    match known(t, &control, &h, &class, None) {
        Some(known) => {
            if P::IS_BYTES {
                door::lay(t, &control, &party, &h, &class, &known);
            }
            Ok((h, known))
        }
        None => Err(Other::to(Stage::Judge)),
    }
}

/// Where a data packet goes if that takes no more than a look. The slot is asked first; where it cannot say, the record
/// of an established connection.
#[inline(always)]
pub(crate) fn known<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    class: &Class,
    foreseen: Option<&Word64>,
) -> Option<Known> {
    let (service, port, expected) = match *class {
        Class::Request { service, port, expected, .. } => (service, port, expected),
        Class::Reply { unique, .. } => return known_reply(t, control, h, unique, foreseen),
    };
    let settings = t.service(service)?;
    let table = settings.flags & (service_flags::TABLE | service_flags::RECORDED) == service_flags::TABLE && !expected;
    let stateless = settings.flags & service_flags::UDP_STATELESS != 0 && !expected;
    let key = decide::key(h);
    if table && (h.protocol == TCP || (stateless && h.protocol == UDP)) {
        let slot = schedule::slot_foreseen(t, control, &settings, h.family, &h.source, h.source_port, foreseen)?;
        let watched = h.protocol == TCP && watch::is_set(t, control, key.hash(control.seed, port));
        if !slot.record && !watched && slot.real != NO_REAL {
            return Some(Known { real: slot.real, way: Way::to_server(port), touch: NO_RECORD, source: 0 });
        }
    }
    if decide::is_unrecorded(h, &settings, expected) {
        return None;
    }
    let found = flow::find(t, control, CellTable::Flows, &FromClient::new(&key, control.seed, port));
    if !found.exists() || found.state & state_bits::CONTROL != 0 {
        return None;
    }
    if h.protocol == UDP && flow::idle(t.now(), found.seen) > settings.udp {
        return None;
    }
    let source = fullnat::of_state(found.state);
    Some(Known { real: found.real, way: Way::to_server(found.state as u16), touch: found.index, source })
}

#[inline(always)]
pub(crate) fn known_reply<T: Tables>(
    t: &T,
    control: &Control,
    h: &Headers,
    unique: Option<Unique>,
    foreseen: Option<&Word64>,
) -> Option<Known> {
    if let Ok((real, way)) = decide::stateless_reply(t, control, h, unique, foreseen) {
        return Some(Known { real, way, touch: NO_RECORD, source: 0 });
    }
    let found = flow::find(t, control, CellTable::Flows, &FromServer::new(h, control.seed));
    if !found.exists() || found.state & (state_bits::DIRECT | state_bits::CONTROL) != 0 {
        return None;
    }
    Some(Known { real: found.real, way: Way::to_client(found.vip, found.vip_port), touch: found.index, source: 0 })
}

/// Whether it is a TCP SYN straight to a real server under NAT.
#[inline(always)]
fn may_be_direct<P: Packet, T: Tables>(p: &P, t: &T, control: &Control, h: &Headers) -> bool {
    if h.protocol != TCP || h.fragment {
        return false;
    }
    match p.read::<2>(usize::from(h.l4) + 12) {
        Some([_, flags]) if flags & SYN != 0 => classify::node(t, control, h.family, &h.destination).is_some(),
        _ => false,
    }
}

/// A packet that the long way serves: what becomes of it. Reads its headers into `h`.
#[inline(always)]
pub(crate) fn study<P: Packet, T: Tables>(p: &P, t: &T, h: &mut Headers, now: u32) -> Result<Decision, Other> {
    *h = wire::network(p)?;
    let Some(control) = t.control() else { return Err(Reason::Inconsistent.into()) };
    let Some(party) = classify::party(t, &control, h) else {
        return if wire::is_icmp(h) { Err(Reason::Icmp.into()) } else { Ok(direct(p, t, &control, h)?) };
    };
    if party.is_source() {
        return Err(Other::to(Stage::Back));
    }
    if wire::has_extensions(h) {
        wire::extensions(p, h)?;
    }
    wire::transport(p, h)?;
    let class = classify::class(t, &control, &party, h, p.interface())?;
    Ok(decide::decide(t, &control, h, &class, now)?)
}

/// A client's SYN past the VIP: see [`decide::direct`].
#[inline(always)]
fn direct<P: Packet, T: Tables>(p: &P, t: &T, control: &Control, h: &mut Headers) -> Result<Decision, Reason> {
    if h.protocol != TCP {
        return Err(Reason::NotOurs);
    }
    let Some(node) = classify::node(t, control, h.family, &h.destination) else { return Err(Reason::NotOurs) };
    if wire::transport(p, h).is_err() || !h.opens() {
        return Err(Reason::NotOurs);
    }
    let unique = classify::unique(t, control, node, h.protocol, h.destination_port);
    let Some(unique) = unique else { return Err(Reason::NotOurs) };
    decide::direct(t, control, h, unique)
}

//! Masquerading: one address and one port of a packet are replaced, checksums kept right (RFC 3022 §4.1, RFC 1624).

use super::write;
use crate::layout::{Address, SCTP, TCP, UDP, V4};
use crate::packet::{Amendment, Packet};
use crate::reason::Reason;
use crate::wire::Headers;
use crate::wire::checksum::Change;

/// What is put where.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// The source's address and port, else the destination's.
    pub source: bool,
    pub address: Address,
    pub port: u16,
}

/// How NAT changes a packet. A trait and not a function as a value: that one would not be inlined, and take 96 bytes of stack.
pub trait Rewriting {
    fn rewrite<P: Packet>(&self, p: &mut P, h: &Headers, edit: &Edit) -> Result<(), Reason>;
}

/// A connection's packet.
pub struct Plain;

impl Rewriting for Plain {
    #[inline(always)]
    fn rewrite<P: Packet>(&self, p: &mut P, h: &Headers, edit: &Edit) -> Result<(), Reason> {
        rewrite(p, h, edit)
    }
}

/// Also lowers the time to live. A fragment but the first has no ports and no checksum.
#[inline(always)]
pub fn rewrite<P: Packet>(p: &mut P, h: &Headers, edit: &Edit) -> Result<(), Reason> {
    change(p, h, edit, 1)
}

/// The other end of a packet that has been rewritten: `h` still says what was and, at this end, is there.
#[inline(always)]
pub fn replace<P: Packet>(p: &mut P, h: &Headers, edit: &Edit) -> Result<(), Reason> {
    change(p, h, edit, 0)
}

#[inline(always)]
fn change<P: Packet>(p: &mut P, h: &Headers, edit: &Edit, ages: u8) -> Result<(), Reason> {
    let l4 = h.transport_at();
    let addresses = network(p, h, edit, ages)?;
    if h.later {
        return Ok(());
    }
    let old_port = if edit.source { h.source_port } else { h.destination_port };
    // Both the IPv4 and the IPv6 pseudo-header hold the addresses (RFC 9293 §3.1, RFC 8200 §8.1).
    let ports = Change::default().half(old_port.to_be(), edit.port.to_be());
    let amendment = Amendment { pseudo_header: addresses, covered: ports, zero_is_none: h.protocol == UDP };
    match h.protocol {
        TCP => checksum(p, l4 + 16, &amendment)?,
        UDP => checksum(p, l4 + 6, &amendment)?,
        // RFC 9260 §6.8: its checksum covers no addresses, and the configuration keeps its ports.
        SCTP => {}
        _ => return Err(Reason::Inconsistent),
    }
    write(p, if edit.source { l4 } else { l4 + 2 }, edit.port.to_be_bytes())
}

/// The address and the time to live of the IP header; what the former changes for a pseudo-header.
#[inline(always)]
pub(crate) fn network<P: Packet>(p: &mut P, h: &Headers, edit: &Edit, ages: u8) -> Result<Change, Reason> {
    let l3 = h.network_at();
    let old = if edit.source { &h.source } else { &h.destination };
    let addresses = Change::default().address(old, &edit.address);
    if h.family == V4 {
        // Time to live, protocol and checksum, then the addresses, in one write: they lie side by side.
        let Some(mut b) = p.read::<12>(l3 + 8) else { return Err(Reason::Inconsistent) };
        let change = if ages == 0 { addresses } else { addresses.and(Change::aging()) };
        b[0] = b[0].wrapping_sub(ages);
        [b[2], b[3]] = change.apply(u16::from_ne_bytes([b[2], b[3]])).to_ne_bytes();
        let [a0, a1, a2, a3] = edit.address.octets_v4();
        if edit.source {
            [b[4], b[5], b[6], b[7]] = [a0, a1, a2, a3];
        } else {
            [b[8], b[9], b[10], b[11]] = [a0, a1, a2, a3];
        }
        write(p, l3 + 8, b)?;
    } else {
        if ages != 0 {
            super::lower_hop_limit(p, l3)?;
        }
        p.resum(addresses);
        write(p, if edit.source { l3 + 8 } else { l3 + 24 }, edit.address.octets_v6())?;
    }
    Ok(addresses)
}

/// RFC 768: a checksum of 0 means that the sender made none; a sum of 0 is sent as all ones.
#[inline(always)]
pub(crate) fn udp(old: [u8; 2], change: Change) -> [u8; 2] {
    match u16::from_ne_bytes(old) {
        0 => [0, 0],
        old => match change.apply(old) {
            0 => [0xff, 0xff],
            new => new.to_ne_bytes(),
        },
    }
}

#[inline(always)]
fn checksum<P: Packet>(p: &mut P, at: usize, amendment: &Amendment) -> Result<(), Reason> {
    if p.amend(at, amendment) { Ok(()) } else { Err(Reason::ShortTransport) }
}

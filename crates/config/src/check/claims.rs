//! Which service owns a (VIP, protocol, port).
//!
//! An exact port beats a range beats `all`, so only claims of the same rank can contradict each other.

use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{Located, MarkDraft, ServiceDraft, vips_of};
use crate::model::{MemberPort, PortMatch, PortRange, Protocol};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

/// Two services that claim the same packets.
pub(super) fn check(services: &[ServiceDraft], found: &mut Vec<Diagnostic>) {
    if let Some(diagnostic) = too_many(services) {
        found.push(diagnostic);
        return;
    }
    let mut by_vip: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (index, service) in services.iter().enumerate() {
        for vip in service.vips.values() {
            by_vip.entry(*vip).or_default().push(index);
        }
    }
    // Two services that share ten VIPs contradict each other once.
    let mut reported = HashSet::new();
    for (vip, mut indices) in by_vip {
        indices.dedup();
        let claims = indices
            .iter()
            .flat_map(|index| services[*index].ports.items.iter().map(|port| (port.value.matching, (*index, port))));
        for ((first_index, first), (index, again)) in collisions(claims.collect()) {
            if first_index == index || !reported.insert((first.span.start, again.span.start)) {
                continue;
            }
            found.push(claimed_twice(vip, &services[first_index], first, again));
        }
    }
}

/// Services whose common server opens connections from one port, as different VIPs.
pub(super) fn outbound(services: &[ServiceDraft], marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    /// Of services, with the VIP that the peers see.
    type Openers<'s> = BTreeMap<(IpAddr, PortMatch), (IpAddr, &'s ServiceDraft, &'s Located<PortMatch>)>;
    let mut openers: Openers<'_> = BTreeMap::new();
    let mut reported = HashSet::new();
    for service in services.iter().filter(|service| service.outbound.span.is_some()) {
        let vips = vips_of(service, marks);
        for server in service.reals().flat_map(|server| server.addresses.values()) {
            let Some(vip) = vips.iter().find(|vip| vip.value.is_ipv4() == server.is_ipv4()) else { continue };
            for port in &service.outbound.items {
                let opener = openers.entry((*server, port.value)).or_insert((vip.value, service, port));
                if opener.0 == vip.value || !reported.insert((opener.2.span.start, port.span.start)) {
                    continue;
                }
                let message =
                    format!("two services open connections from {} of {server}, as different VIPs", port.value);
                let diagnostic = Diagnostic::error(message)
                    .at(&port.span, format!("as {}", vip.value))
                    .also(&opener.2.span, format!("as {}, by {}", opener.0, quoted(&opener.1.name)))
                    .help("leave the port to one service, or let the servers use another address for each");
                found.push(diagnostic);
            }
        }
    }
}

/// Pairs of claims of the same rank that overlap, the earlier one first. Finds at least one pair for each claim that
/// overlaps an earlier one of its protocol.
pub(super) fn collisions<T: Copy>(claims: Vec<(PortMatch, T)>) -> Vec<(T, T)> {
    /// Ports, place among the claims, owner.
    type Claim<T> = (PortRange, usize, T);
    let mut ranked: BTreeMap<(Protocol, Rank), Vec<Claim<T>>> = BTreeMap::new();
    for (order, (matching, owner)) in claims.into_iter().enumerate() {
        ranked.entry((matching.protocol, Rank::of(matching.ports))).or_default().push((matching.ports, order, owner));
    }
    let mut pairs = Vec::new();
    for mut claims in ranked.into_values() {
        claims.sort_by_key(|(ports, order, _)| (ports.first, *order));
        // Of the claims so far, the one that reaches furthest overlaps the next one if any does.
        let mut furthest: Option<Claim<T>> = None;
        for claim in claims {
            match furthest {
                Some(other) if other.0.overlaps(claim.0) => {
                    let (first, again) = if other.1 < claim.1 { (other, claim) } else { (claim, other) };
                    pairs.push((first.2, again.2));
                    if claim.0.last > other.0.last {
                        furthest = Some(claim);
                    }
                }
                _ => furthest = Some(claim),
            }
        }
    }
    pairs
}

/// How exactly a claim names its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Exact,
    Range,
    All,
}

impl Rank {
    fn of(ports: PortRange) -> Self {
        match ports {
            PortRange::ALL => Rank::All,
            ports if ports.is_single() => Rank::Exact,
            _ => Rank::Range,
        }
    }
}

fn claimed_twice(
    vip: IpAddr,
    owner: &ServiceDraft,
    first: &Located<MemberPort>,
    again: &Located<MemberPort>,
) -> Diagnostic {
    let (one, other) = (first.value.matching, again.value.matching);
    let ports = PortRange { first: one.ports.first.max(other.ports.first), last: one.ports.last.min(other.ports.last) };
    let shared = PortMatch { protocol: one.protocol, ports };
    Diagnostic::error(format!("two services claim {shared} of {vip}"))
        .at(&again.span, "claimed again")
        .also(&first.span, format!("first claimed here, by {}", quoted(&owner.name)))
        .help("leave each port to one service; an exact port beats a range, and a range beats all ports")
}

/// VIPs times ports is what the data plane looks up. Beyond this the file is a mistake, and checking it takes long.
const MAX_CLAIMS: usize = 1 << 20;

fn too_many(services: &[ServiceDraft]) -> Option<Diagnostic> {
    let mut claims = 0_usize;
    for service in services {
        claims = claims.saturating_add(service.vips.items.len().saturating_mul(service.ports.items.len()));
        if claims > MAX_CLAIMS {
            let diagnostic = Diagnostic::error(format!("there are more than {MAX_CLAIMS} pairs of a VIP and a port"))
                .at(&service.header, "here it becomes too many")
                .help("write neighbouring ports as a range: \"tcp/10000-20000\"");
            return Some(diagnostic);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::ports;
    use proptest::prelude::*;

    fn colliding(texts: &[&str]) -> Vec<(usize, usize)> {
        let claims = texts
            .iter()
            .enumerate()
            .flat_map(|(index, text)| ports::matches(text).unwrap().into_iter().map(move |matching| (matching, index)));
        collisions(claims.collect())
    }

    #[test]
    fn only_claims_of_the_same_rank_collide() {
        assert_eq!(colliding(&["tcp/80", "tcp/80"]), [(0, 1)]);
        assert_eq!(colliding(&["tcp/80", "udp/80", "tcp/1-100", "tcp", "udp"]), []);
        assert_eq!(colliding(&["tcp/1-100", "tcp/101-200", "tcp/150-160"]), [(1, 2)]);
        assert_eq!(colliding(&["tcp/150-160", "tcp/100-200"]), [(0, 1)]);
        assert_eq!(colliding(&["all", "udp"]), [(0, 1)]);
        assert_eq!(colliding(&["all", "all"]), [(0, 1), (0, 1), (0, 1)]);
        assert_eq!(colliding(&["tcp", "tcp/1-65535"]), []);
    }

    proptest! {
        #[test]
        fn a_claim_that_overlaps_is_in_a_pair(ranges in prop::collection::vec((1..60_u16, 1..9_u16), 0..12)) {
            let ranges: Vec<PortRange> =
                ranges.into_iter().map(|(first, length)| PortRange { first, last: first + length }).collect();
            let claims = ranges.iter().map(|ports| PortMatch { protocol: Protocol::Tcp, ports: *ports });
            let pairs = collisions(claims.enumerate().map(|(index, matching)| (matching, index)).collect());
            for (first, again) in &pairs {
                prop_assert!(first < again && ranges[*first].overlaps(ranges[*again]));
            }
            let any = (0..ranges.len()).any(|i| (0..i).any(|j| ranges[i].overlaps(ranges[j])));
            prop_assert_eq!(any, !pairs.is_empty());
        }
    }
}

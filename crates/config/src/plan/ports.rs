//! The ports of one destination: who gets a packet, settled for every port once and for all.
//!
//! The ports of rules and services overlap. They are cut where any of them begins or ends; within a piece, the same
//! rules apply to each port.

use super::services::part;
use super::{Candidate, Condition, Family, MAX_CONDITIONS, Outcome, PlanError, PortPlan};
use crate::model::{MarkRule, PortMatch, PortRange, Protocol};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A port of a service by address and port.
pub(super) struct Member {
    pub matching: PortMatch,
    pub outcome: Outcome,
}

/// A mark rule as packets of one family meet it.
pub(super) struct Rule<'c> {
    /// Empty: all.
    ports: &'c [PortMatch],
    /// One of them must hold. Never empty.
    conditions: Vec<Condition>,
    /// What its mark leads to; None if nobody's.
    outcome: Option<Outcome>,
    /// Those of the service that it leads to.
    parts: &'c [PortMatch],
}

impl<'c> Rule<'c> {
    /// None: no packet of this family can match.
    pub fn of(rule: &'c MarkRule, family: Family, outcome: Option<Outcome>, parts: &'c [PortMatch]) -> Option<Self> {
        let mut sources = vec![None];
        if !rule.from.is_empty() {
            let of_family = rule.from.iter().filter(|from| Family::of(from.addr()) == family);
            // 0.0.0.0/0 is no condition.
            sources = of_family.map(|from| (from.prefix_len() > 0).then(|| from.trunc())).collect();
        }
        let mut interfaces = vec![None];
        if !rule.interfaces.is_empty() {
            interfaces = rule.interfaces.iter().cloned().map(Some).collect();
        }
        let pairs = sources.iter().flat_map(|from| interfaces.iter().map(move |interface| (*from, interface.clone())));
        let conditions: Vec<_> = pairs.map(|(from, interface)| Condition { from, interface }).collect();
        (!conditions.is_empty()).then_some(Self { ports: &rule.ports, conditions, outcome, parts })
    }
}

/// The ports of a destination. The rules are those that match all of it, in the order of the file; the members those of
/// the services that have it as a VIP.
pub(super) fn compile(net: IpNet, rules: &[Rule<'_>], members: &[Member]) -> Result<Vec<PortPlan>, PlanError> {
    let mut plans = Vec::new();
    for protocol in Protocol::ALL {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut claims: BTreeSet<Claim> = BTreeSet::new();
        let mut edges = edges(protocol, rules, members).into_iter().peekable();
        while let Some(first) = edges.peek().map(|edge| edge.at) {
            let mut listed = false;
            while let Some(edge) = edges.next_if(|edge| edge.at == first) {
                if edge.opens {
                    claims.insert(edge.claim);
                    listed |= edge.single;
                } else {
                    claims.remove(&edge.claim);
                }
            }
            let ports = PortRange { first, last: edges.peek().map_or(u16::MAX, |next| next.at - 1) };
            let candidates = candidates(&claims, rules, members);
            if candidates.len() > MAX_CONDITIONS {
                return Err(PlanError::TooManyConditions {
                    destination: net,
                    protocol: protocol.name(),
                    port: first,
                    count: candidates.len(),
                    limit: MAX_CONDITIONS,
                });
            }
            if !candidates.is_empty() {
                Piece { ports, listed, candidates }.add_to(&mut pieces);
            }
        }
        plans.extend(pieces.into_iter().map(|piece| PortPlan {
            protocol,
            ports: piece.ports,
            candidates: piece.candidates,
        }));
    }
    Ok(plans)
}

/// Neighbouring ports for which the same is claimed.
struct Piece {
    ports: PortRange,
    /// One port, written by itself: it stays by itself, where the data plane finds it at once.
    listed: bool,
    candidates: Vec<Candidate>,
}

impl Piece {
    /// Grows the last of the pieces when nothing tells this one apart from it.
    fn add_to(self, pieces: &mut Vec<Piece>) {
        match pieces.last_mut() {
            Some(before)
                if !before.listed
                    && !self.listed
                    && before.ports.last.checked_add(1) == Some(self.ports.first)
                    && before.candidates == self.candidates =>
            {
                before.ports.last = self.ports.last;
            }
            _ => pieces.push(self),
        }
    }
}

/// Who wants the packets of some ports, in ascending order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// What a service says of its connections' ports, and not of its own: every member beats it.
    Expected { narrowness: u16, index: usize },
    /// Exact beats range beats all. Of ranges that overlap the loader leaves none, so the narrowest is the one that
    /// beats the others.
    Member { narrowness: u16, index: usize },
    /// The last one wins. A rule claims by each of its entries, and these may overlap.
    Rule { index: usize, entry: usize },
}

/// Where a claim begins, or the port after its last one.
struct Edge {
    at: u16,
    opens: bool,
    /// Of a claim to one port.
    single: bool,
    claim: Claim,
}

/// In ascending order.
fn edges(protocol: Protocol, rules: &[Rule<'_>], members: &[Member]) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut add = |ports: PortRange, claim: Claim| {
        let single = ports.is_single();
        edges.push(Edge { at: ports.first, opens: true, single, claim });
        edges.extend(ports.last.checked_add(1).map(|at| Edge { at, opens: false, single, claim }));
    };
    for (index, Member { matching, outcome }) in members.iter().enumerate() {
        if matching.protocol == protocol {
            let narrowness = u16::MAX - (matching.ports.last - matching.ports.first);
            let claim = if outcome.expected {
                Claim::Expected { narrowness, index }
            } else {
                Claim::Member { narrowness, index }
            };
            add(matching.ports, claim);
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        if rule.ports.is_empty() {
            add(PortRange::ALL, Claim::Rule { index, entry: 0 });
        }
        for (entry, matching) in rule.ports.iter().enumerate() {
            if matching.protocol == protocol {
                add(matching.ports, Claim::Rule { index, entry });
            }
        }
    }
    edges.sort_by_key(|edge| edge.at);
    edges
}

/// What the claims amount to.
fn candidates(claims: &BTreeSet<Claim>, rules: &[Rule<'_>], members: &[Member]) -> Vec<Candidate> {
    let by_port = match claims.range(..Claim::Rule { index: 0, entry: 0 }).next_back() {
        Some(Claim::Member { index, .. } | Claim::Expected { index, .. }) => Some(members[*index].outcome),
        Some(Claim::Rule { .. }) | None => None,
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    for claim in claims.iter().rev() {
        let Claim::Rule { index, entry } = claim else { break };
        let rule = &rules[*index];
        let part = rule.ports.get(*entry).and_then(|port| part(rule.parts, port));
        // As in IPVS, which looks up address and port when no service has the mark.
        let outcome = rule.outcome.map(|outcome| Outcome { part, ..outcome }).or(by_port);
        for condition in &rule.conditions {
            if candidates.iter().all(|earlier| !earlier.condition.covers(condition)) {
                candidates.push(Candidate { condition: condition.clone(), outcome });
            }
            if condition.is_always() {
                return shortened(candidates);
            }
        }
    }
    if by_port.is_some() {
        candidates.push(Candidate { condition: Condition::ALWAYS, outcome: by_port });
    }
    shortened(candidates)
}

/// Without the conditions at the end that change nothing. A packet for which none holds is nobody's, as is one with the
/// outcome None.
fn shortened(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    let always = candidates.pop_if(|last| last.condition.is_always());
    let otherwise = always.as_ref().and_then(|last| last.outcome);
    while candidates.pop_if(|last| last.outcome == otherwise).is_some() {}
    candidates.extend(always.filter(|last| last.outcome.is_some()));
    candidates
}

//! What one plan has that another has not: so that a change of one service among thousands is the work of one.

use super::{Candidate, DestinationPlan, Family, Plan, ServiceIndex, ServicePlan};
use crate::model::Udp;
use std::collections::{BTreeSet, HashMap};

/// From one plan to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Services of the new plan that are new or otherwise, with their former selves in the old one; in ascending order.
    pub changed: Vec<(Option<ServiceIndex>, ServiceIndex)>,
    /// Services that are as they were and have another place: in the old plan, in the new one.
    pub moved: Vec<(ServiceIndex, ServiceIndex)>,
    /// Services of the old plan that are not in the new one.
    pub gone: Vec<ServiceIndex>,
    /// Something is different where packets are told apart: destinations, replies, or the services that they name.
    pub classifier: bool,
    /// Services of the new plan that have packets which may have been another's before.
    pub gained: BTreeSet<ServiceIndex>,
}

impl Difference {
    /// Services are the same if name and family are.
    pub fn of(old: &Plan, new: &Plan) -> Self {
        let mut difference = Self::default();
        let mut others: Option<HashMap<(&str, Family), ServiceIndex>> = None;
        let mut met = vec![false; old.services.len()];
        let mut former_places = Vec::with_capacity(new.services.len());
        for (index, service) in new.services.iter().enumerate() {
            // Nearly always it is where it was.
            let before = match old.services.get(index) {
                Some(former) if is_same(former, service) => Some(index),
                _ => {
                    let others = others.get_or_insert_with(|| by_name(old));
                    others.get(&(service.name.as_str(), service.family)).copied()
                }
            };
            former_places.push(before);
            let former = before.map(|before| (before, &old.services[before]));
            before.into_iter().for_each(|before| met[before] = true);
            match former {
                Some((before, former)) if former == service && before == index => {}
                Some((before, former)) if former == service => difference.moved.push((before, index)),
                _ => difference.changed.push((before, index)),
            }
        }
        difference.gone = (0..met.len()).filter(|&index| !met[index]).collect();
        // Destinations and replies name services by their place; replies to single datagrams are told apart by their port.
        let single = |service: &ServicePlan| service.udp == Udp::OnePacket;
        let places = old.services.len() == new.services.len()
            && old.services.iter().zip(&new.services).all(|(old, new)| is_same(old, new));
        if !places || old.destinations != new.destinations {
            difference.classifier = true;
            difference.gained = gained(old, new, &former_places);
        }
        difference.classifier |= old.services.iter().zip(&new.services).any(|(old, new)| single(old) != single(new))
            || old.replies != new.replies
            || old.outbound != new.outbound
            || old.range_nodes != new.range_nodes
            || old.sources != new.sources;
        difference
    }

    /// Whether the plans are one and the same to packets.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The services of destinations that are not as they were. `former`: where each service of the new plan was in the old one.
fn gained(old: &Plan, new: &Plan, former: &[Option<ServiceIndex>]) -> BTreeSet<ServiceIndex> {
    let was: HashMap<_, &DestinationPlan> = old.destinations.iter().map(|each| (each.net, each)).collect();
    let is_as_it_was = |now: &DestinationPlan| {
        was.get(&now.net).is_some_and(|was| {
            was.ports.len() == now.ports.len()
                && std::iter::zip(&was.ports, &now.ports).all(|(was, now)| {
                    (was.protocol, was.ports, was.candidates.len()) == (now.protocol, now.ports, now.candidates.len())
                        && std::iter::zip(&was.candidates, &now.candidates).all(|(was, now)| leads(was, now, former))
                })
        })
    };
    let others = new.destinations.iter().filter(|now| !is_as_it_was(now));
    let candidates = others.flat_map(|now| &now.ports).flat_map(|ports| &ports.candidates);
    candidates.filter_map(|candidate| candidate.outcome).map(|outcome| outcome.service).collect()
}

/// Whether a candidate leads where it did.
fn leads(was: &Candidate, now: &Candidate, former: &[Option<ServiceIndex>]) -> bool {
    let outcome = match (was.outcome, now.outcome) {
        (Some(was), Some(now)) => former[now.service] == Some(was.service) && was.target == now.target,
        (was, now) => was.is_none() && now.is_none(),
    };
    outcome && was.condition == now.condition
}

fn is_same(one: &ServicePlan, other: &ServicePlan) -> bool {
    one.name == other.name && one.family == other.family
}

fn by_name(plan: &Plan) -> HashMap<(&str, Family), ServiceIndex> {
    plan.services.iter().enumerate().map(|(index, service)| ((service.name.as_str(), service.family), index)).collect()
}

//! What one plan has that another has not: so that a change of one service among thousands is the work of one.

use super::{Family, Plan, ServiceIndex, ServicePlan};
use std::collections::HashMap;

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
}

impl Difference {
    /// Services are the same if name and family are.
    pub fn of(old: &Plan, new: &Plan) -> Self {
        let mut difference = Self::default();
        let mut others: Option<HashMap<(&str, Family), ServiceIndex>> = None;
        let mut met = vec![false; old.services.len()];
        for (index, service) in new.services.iter().enumerate() {
            // Nearly always it is where it was.
            let before = match old.services.get(index) {
                Some(former) if is_same(former, service) => Some(index),
                _ => {
                    let others = others.get_or_insert_with(|| by_name(old));
                    others.get(&(service.name.as_str(), service.family)).copied()
                }
            };
            let former = before.map(|before| (before, &old.services[before]));
            before.into_iter().for_each(|before| met[before] = true);
            match former {
                Some((before, former)) if former == service && before == index => {}
                Some((before, former)) if former == service => difference.moved.push((before, index)),
                _ => difference.changed.push((before, index)),
            }
        }
        difference.gone = (0..met.len()).filter(|&index| !met[index]).collect();
        // Destinations and replies name services by their place.
        let places = old.services.len() == new.services.len()
            && old.services.iter().zip(&new.services).all(|(old, new)| is_same(old, new));
        difference.classifier = !places
            || old.destinations != new.destinations
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

fn is_same(one: &ServicePlan, other: &ServicePlan) -> bool {
    one.name == other.name && one.family == other.family
}

fn by_name(plan: &Plan) -> HashMap<(&str, Family), ServiceIndex> {
    plan.services.iter().enumerate().map(|(index, service)| ((service.name.as_str(), service.family), index)).collect()
}

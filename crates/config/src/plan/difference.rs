//! What one plan has that another has not: so that a change of one service among thousands is the work of one.

use super::{Candidate, DestinationPlan, Family, Outcome, Plan, Reply, ReplyPort, ServiceIndex, ServicePlan};
use crate::model::{Protocol, Udp};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// From one plan to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Services of the new plan that are new or otherwise, with their former selves in the old one; in ascending order.
    pub changed: Vec<(Option<ServiceIndex>, ServiceIndex)>,
    /// Services that are as they were and have another place: in the old plan, in the new one.
    pub moved: Vec<(ServiceIndex, ServiceIndex)>,
    /// Services of the old plan that are not in the new one.
    pub gone: Vec<ServiceIndex>,
    /// Where packets are told apart.
    pub classifier: Touched,
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
        let former = Former { old, new, places: &former_places };
        difference.classifier = former.touched();
        if !difference.classifier.destinations.is_empty() {
            difference.gained = gained(old, new, &former_places);
        }
        difference
    }

    /// Whether the plans are one and the same to packets.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to be written anew where packets are told apart, since it is new or gone, or means something else: which is told
/// by services' names, and not by their places in the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub destinations: BTreeSet<IpNet>,
    pub replies: BTreeSet<ReplyPort>,
    /// Addresses of real servers and of fullnat, that have come or gone as such.
    pub hosts: BTreeSet<IpAddr>,
}

impl Touched {
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.replies.is_empty() && self.hosts.is_empty()
    }

    pub fn extend(&mut self, other: &Self) {
        self.destinations.extend(&other.destinations);
        self.replies.extend(&other.replies);
        self.hosts.extend(&other.hosts);
    }

    /// Takes out the first so many of each.
    pub fn take(&mut self, limit: usize) -> Self {
        Self {
            destinations: first(&mut self.destinations, limit),
            replies: first(&mut self.replies, limit),
            hosts: first(&mut self.hosts, limit),
        }
    }
}

fn first<T: Ord + Copy>(set: &mut BTreeSet<T>, limit: usize) -> BTreeSet<T> {
    match set.iter().nth(limit).copied() {
        Some(end) => {
            let rest = set.split_off(&end);
            std::mem::replace(set, rest)
        }
        None => std::mem::take(set),
    }
}

/// Two plans, and where each service of the new one was in the old one.
struct Former<'a> {
    old: &'a Plan,
    new: &'a Plan,
    places: &'a [Option<ServiceIndex>],
}

impl Former<'_> {
    fn touched(&self) -> Touched {
        let Self { old, new, .. } = self;
        let mut touched = Touched::default();
        if old.destinations.len() == new.destinations.len()
            && std::iter::zip(&old.destinations, &new.destinations).all(|(was, now)| was.net == now.net)
        {
            let both = std::iter::zip(&old.destinations, &new.destinations);
            touched.destinations =
                both.filter(|(was, now)| !self.same_ports(was, now)).map(|(_, now)| now.net).collect();
        } else {
            let was: HashMap<_, &DestinationPlan> = old.destinations.iter().map(|each| (each.net, each)).collect();
            let is_new = |now: &&DestinationPlan| was.get(&now.net).is_none_or(|was| !self.same_ports(was, now));
            touched.destinations = new.destinations.iter().filter(is_new).map(|now| now.net).collect();
            let left: HashSet<IpNet> = new.destinations.iter().map(|now| now.net).collect();
            touched.destinations.extend(old.destinations.iter().map(|was| was.net).filter(|net| !left.contains(net)));
        }
        for (from, is_common) in differing(&old.replies, &new.replies, |from, was, now| self.same_reply(from, was, now))
        {
            touched.replies.insert(from);
            if !is_common {
                touched.hosts.insert(from.address);
            }
        }
        let same_outbound = |_: &ReplyPort, was: &super::Outbound, now: &super::Outbound| {
            self.places[now.service] == Some(was.service) && was.vip == now.vip
        };
        touched
            .replies
            .extend(differing(&old.outbound, &new.outbound, same_outbound).into_iter().map(|(from, _)| from));
        touched.hosts.extend(old.range_nodes.symmetric_difference(&new.range_nodes));
        touched.hosts.extend(old.sources.symmetric_difference(&new.sources));
        touched
    }

    fn same_ports(&self, was: &DestinationPlan, now: &DestinationPlan) -> bool {
        let same_outcome = |was: &Outcome, now: &Outcome| {
            self.places[now.service] == Some(was.service)
                && (was.part, was.target, was.expected) == (now.part, now.target, now.expected)
        };
        let same_candidate = |was: &Candidate, now: &Candidate| {
            let outcome = match (&was.outcome, &now.outcome) {
                (Some(was), Some(now)) => same_outcome(was, now),
                (was, now) => was.is_none() && now.is_none(),
            };
            outcome && was.condition == now.condition
        };
        was.ports.len() == now.ports.len()
            && std::iter::zip(&was.ports, &now.ports).all(|(was, now)| {
                (was.protocol, was.ports, was.candidates.len()) == (now.protocol, now.ports, now.candidates.len())
                    && std::iter::zip(&was.candidates, &now.candidates).all(|(was, now)| same_candidate(was, now))
            })
    }

    /// Replies to single datagrams are told apart by their port.
    fn same_reply(&self, from: &ReplyPort, was: &Reply, now: &Reply) -> bool {
        let single = |plan: &Plan, service: ServiceIndex| {
            from.protocol == Protocol::Udp && plan.services[service].udp == Udp::OnePacket
        };
        match (was, now) {
            (Reply::Ambiguous, Reply::Ambiguous) => true,
            (
                Reply::Unique { service: was, part: was_part, vip: was_vip, port: was_port },
                Reply::Unique { service: now, part: now_part, vip: now_vip, port: now_port },
            ) => {
                self.places[*now] == Some(*was)
                    && (was_part, was_vip, was_port) == (now_part, now_vip, now_port)
                    && single(self.old, *was) == single(self.new, *now)
            }
            _ => false,
        }
    }
}

/// Keys that only one of the maps has, or whose values are not the same; and whether both have it.
fn differing<K: Ord + Copy, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    is_same: impl Fn(&K, &V, &V) -> bool,
) -> Vec<(K, bool)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut differing = Vec::new();
    loop {
        let (was, now) = (old.peek().copied(), new.peek().copied());
        let key = match (was, now) {
            (Some((was, _)), Some((now, _))) => was.min(now),
            (Some((key, _)), None) | (None, Some((key, _))) => key,
            (None, None) => return differing,
        };
        let was = was.filter(|(was, _)| *was == key).and_then(|_| old.next());
        let now = now.filter(|(now, _)| *now == key).and_then(|_| new.next());
        match (was, now) {
            (Some((_, was)), Some((_, now))) if is_same(key, was, now) => {}
            (was, now) => differing.push((*key, was.is_some() && now.is_some())),
        }
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
        (Some(was), Some(now)) => {
            former[now.service] == Some(was.service) && (was.part, was.target) == (now.part, now.target)
        }
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

//! How real servers stand, beside what the configuration says of them: who has failed, by hand or by checks, who waits for
//! a first verdict, whose time to drain runs; and which services are below their quorum for it. A plan and its standings
//! together are what the tables get.
//!
//! No clock and no tables: times since boot come in, plans and what is due go out. It outlives the daemon as a file, so
//! that a deadline is a deadline, and what is down stays down.

mod health;
mod meant;
#[cfg(test)]
mod tests;

pub use health::{Failure, Health, HealthPort};
pub use meant::Meant;

use marca_config::model::{BelowQuorum, Measure, PortMatch, Start};
use marca_config::plan::{Plan, RealPlan, Role, ServicePlan, Standing};
use marca_tables::ids::{Ids, real_key, service_key};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// Real servers by the keys of their numbers ([`real_key`]), services by theirs ([`service_key`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standings {
    /// By hand.
    failed: BTreeSet<String>,
    /// By their checks.
    #[serde(default)]
    down: BTreeSet<String>,
    /// What their checks say beside that; those that serve as the configuration says are left out.
    #[serde(default)]
    health: BTreeMap<String, Health>,
    /// For their checks' first verdict, and until then without new clients.
    #[serde(default)]
    waiting: BTreeSet<String>,
    /// Services below their quorum.
    #[serde(default)]
    below_quorum: BTreeSet<String>,
    draining: BTreeMap<String, Draining>,
}

/// A real server that has a deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// What it is called, or was.
    pub name: String,
    /// Since boot: when it came to weight 0 or was removed, and the last moment.
    began: Duration,
    deadline: Duration,
    /// From the configuration.
    removed: bool,
    /// The deadline has passed, and what follows from that has been done.
    over: bool,
}

impl Draining {
    /// Zero when the time is over.
    pub fn left(&self, now: Duration) -> Duration {
        self.deadline.saturating_sub(now)
    }
}

/// A real server whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub key: String,
    pub removed: bool,
}

/// What takes a real server's clients away, or keeps them away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody has said so.
    ByHand,
    ByChecks,
    /// There is no first verdict yet.
    Waiting,
}

/// What of a service is up, and what its quorum makes of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strength {
    /// In the quorum's measure.
    pub up: u64,
    pub is_below: bool,
}

impl Standings {
    /// Another plan: real servers that have weight 0 begin to drain; those that are something else again, or gone, are
    /// forgotten, but for [`part`](Self::part). Real servers that `before` did not have begin as their services say; without
    /// `before`, as when a daemon starts, all of them do.
    pub fn settle(&mut self, plan: &Plan, before: Option<&Plan>, now: Duration) {
        let mut next = Self::default();
        let concerned = self.services();
        let known = Known::of(plan, before);
        for service in &plan.services {
            let is_concerned = is_among(&concerned, service);
            for real in &service.reals {
                let drain = real.drain.filter(|_| real.weight == 0 && real.role == Role::Regular);
                if drain.is_none() && !is_concerned && service.start != Start::Down {
                    continue;
                }
                let key = key_of(service, real);
                if let Some(drain) = drain {
                    let known = self.draining.get(&key).filter(|known| !known.removed);
                    let began = known.map_or(now, |known| known.began);
                    let deadline = began + drain;
                    let over = known.is_some_and(|known| known.over) && deadline <= now;
                    let entry = Draining { name: real.name.clone(), began, deadline, removed: false, over };
                    next.draining.insert(key.clone(), entry);
                }
                if self.failed.contains(&key) {
                    next.failed.insert(key.clone());
                }
                if real.role == Role::Regular {
                    let (down, waiting) = match (service.start, known.has(&key)) {
                        // Nobody would ever say that it is up.
                        _ if service.checks.is_empty() => (false, false),
                        (Start::Up, false) => (false, false),
                        (Start::Down, false) => (false, true),
                        _ => {
                            let health = self.health.get(&key).map(|health| (key.clone(), health.clone()));
                            next.health.extend(health);
                            (self.down.contains(&key), self.waiting.contains(&key))
                        }
                    };
                    next.down.extend(down.then(|| key.clone()));
                    next.waiting.extend(waiting.then_some(key));
                }
            }
        }
        let mut removed = std::mem::take(&mut self.draining);
        removed.retain(|_, entry| entry.removed);
        removed.extend(std::mem::take(&mut next.draining));
        let below_quorum = std::mem::take(&mut self.below_quorum);
        *self = Self { draining: removed, ..next };
        let concerned = self.services();
        for service in &plan.services {
            // Only a name costs.
            let was = || below_quorum.contains(&service_key(&service.name, service.family));
            let strength = self.strength(service, is_among(&concerned, service), !below_quorum.is_empty() && was());
            if strength.is_below {
                self.below_quorum.insert(service_key(&service.name, service.family));
            }
        }
    }

    /// Real servers that have left begin to drain as their service says; `before` knows their names, and whose time was
    /// another one. Those whose last connections are gone are forgotten.
    pub fn part(&mut self, plan: &Plan, before: &Plan, ids: &Ids, now: Duration) {
        let leaving: HashSet<&str> = ids.leaving().map(|(key, _)| key).collect();
        self.draining.retain(|key, entry| entry.removed == leaving.contains(key.as_str()));
        let unknown: Vec<&str> = leaving.into_iter().filter(|key| !self.draining.contains_key(*key)).collect();
        if unknown.is_empty() {
            return;
        }
        let services = plan.services.iter().map(|s| (service_key(&s.name, s.family), s.drain));
        let services: BTreeMap<String, Option<Duration>> = services.collect();
        for key in unknown {
            let Some(common) = service_of(key).and_then(|service| services.get(service)) else { continue };
            let (name, own) = name_and_drain(before, key);
            let Some(drain) = own.or(*common) else { continue };
            let entry = Draining { name, began: now, deadline: now + drain, removed: true, over: false };
            self.draining.insert(key.to_owned(), entry);
        }
    }

    /// After a reboot: connections are gone, and with them the real servers that had nothing else; times are others, as
    /// `now_is` tells.
    pub fn rebooted(mut self, now_is: impl Fn(Duration) -> Duration) -> Self {
        self.draining.retain(|_, entry| !entry.removed);
        for entry in self.draining.values_mut() {
            (entry.began, entry.deadline) = (now_is(entry.began), now_is(entry.deadline));
        }
        let failures = self.health.values_mut().flat_map(|health| &mut health.failures);
        failures.for_each(|failure| failure.since = now_is(failure.since));
        self
    }

    /// Services of which a real server has a standing of its own, or that are below their quorum.
    fn services(&self) -> HashSet<String> {
        let reals = [&self.failed, &self.down, &self.waiting].into_iter().flatten();
        let reals = reals.chain(self.health.keys()).chain(self.draining.keys());
        let services = reals.filter_map(|key| service_of(key)).map(str::to_owned);
        services.chain(self.below_quorum.iter().cloned()).collect()
    }

    /// By hand. Whether anything has changed.
    pub fn set_failed(&mut self, service: &ServicePlan, real: &RealPlan, failed: bool) -> bool {
        let key = key_of(service, real);
        if failed { self.failed.insert(key) } else { self.failed.remove(&key) }
    }

    /// By its checks. Whether anything has changed. A sorry server is nobody's to judge.
    pub fn judge(&mut self, service: &ServicePlan, real: &RealPlan, up: bool) -> bool {
        if real.role == Role::Sorry {
            return false;
        }
        let key = key_of(service, real);
        let waited = self.waiting.remove(&key);
        let changed = if up { self.down.remove(&key) } else { self.down.insert(key) };
        changed || waited
    }

    /// All that its checks say; answers what they have said before, and whether anything has changed.
    pub fn set_health(&mut self, service: &ServicePlan, real: &RealPlan, health: Health) -> (Health, bool) {
        if real.role == Role::Sorry {
            return (Health::default(), false);
        }
        let judged = self.judge(service, real, !health.is_down);
        let key = key_of(service, real);
        let former = if health == Health::default() {
            self.health.remove(&key)
        } else {
            self.health.insert(key, health.clone())
        };
        let former = former.unwrap_or_default();
        let changed = judged || former != health;
        (former, changed)
    }

    /// What checks say of real servers that do not serve as the configuration says, by key.
    pub fn healths(&self) -> &BTreeMap<String, Health> {
        &self.health
    }

    /// None: by its checks it serves as the configuration says.
    pub fn health(&self, service: &ServicePlan, real: &RealPlan) -> Option<&Health> {
        self.health.get(&key_of(service, real))
    }

    /// Real servers, by key, that wait for their checks' first verdict.
    pub fn waiting(&self) -> &BTreeSet<String> {
        &self.waiting
    }

    /// Looks at a service's quorum again: whether it is below it now, and was not before, or the other way round.
    pub fn weigh(&mut self, service: &ServicePlan) -> Option<Strength> {
        let key = service_key(&service.name, service.family);
        let was = self.below_quorum.contains(&key);
        let strength = self.strength(service, true, was);
        match strength.is_below {
            true => _ = self.below_quorum.insert(key),
            false => _ = self.below_quorum.remove(&key),
        }
        (strength.is_below != was).then_some(strength)
    }

    /// Services that were below their quorum and are not, or the other way round, of a plan.
    pub fn quorums_since<'p>(
        &'p self,
        before: &'p Self,
        plan: &'p Plan,
    ) -> impl Iterator<Item = (&'p ServicePlan, Strength)> {
        let changed: HashSet<&String> = self.below_quorum.symmetric_difference(&before.below_quorum).collect();
        let key = |service: &ServicePlan| service_key(&service.name, service.family);
        let services = plan.services.iter().filter(move |s| !changed.is_empty() && changed.contains(&key(s)));
        services.map(|service| (service, self.strength_of(service)))
    }

    /// How much of a service is up, and whether it is below its quorum.
    pub fn strength_of(&self, service: &ServicePlan) -> Strength {
        let is_below = self.below_quorum.contains(&service_key(&service.name, service.family));
        Strength { is_below, ..self.strength(service, true, is_below) }
    }

    /// `concerned`: some real server of it has a standing of its own; `was`: it has been below its quorum.
    fn strength(&self, service: &ServicePlan, concerned: bool, was: bool) -> Strength {
        let regular = service.reals.iter().filter(|real| real.role == Role::Regular);
        let serving = regular.filter(|real| !concerned || self.standing(service, real) == Standing::Serving);
        let weights = serving.map(|real| if concerned { self.weight(service, real) } else { real.weight });
        let up = weights.map(|weight| match service.quorum.measure {
            Measure::Weight => u64::from(weight),
            Measure::Servers => u64::from(weight > 0),
        });
        let up = up.sum();
        Strength { up, is_below: service.quorum.is_lost(up, was) }
    }

    /// Everything that keeps clients from a real server, but its weight.
    pub fn causes(&self, service: &ServicePlan, real: &RealPlan) -> Vec<Cause> {
        let key = key_of(service, real);
        let causes =
            [(&self.failed, Cause::ByHand), (&self.down, Cause::ByChecks), (&self.waiting, Cause::Waiting)].into_iter();
        causes.filter(|(keys, _)| keys.contains(&key)).map(|(_, cause)| cause).collect()
    }

    /// The deadline of a real server of the plan.
    pub fn draining(&self, service: &ServicePlan, real: &RealPlan) -> Option<&Draining> {
        self.draining.get(&key_of(service, real)).filter(|entry| !entry.removed)
    }

    /// The deadline of one that has left.
    pub fn removed(&self, key: &str) -> Option<&Draining> {
        self.draining.get(key).filter(|entry| entry.removed)
    }

    /// As the configuration has it, an operator, or its checks. Whom the first two give no clients, no check does.
    fn weight(&self, service: &ServicePlan, real: &RealPlan) -> u16 {
        let said = self.health(service, real).and_then(|health| health.weight).filter(|_| real.weight > 0);
        said.unwrap_or(real.weight)
    }

    /// The parts of the service that it takes no new flows to.
    fn closed(&self, service: &ServicePlan, real: &RealPlan) -> u16 {
        let Some(health) = self.health(service, real) else { return 0 };
        let is_closed = |part: &PortMatch| health.ports.contains(&HealthPort::from(*part));
        let closed = service.parts.iter().enumerate().filter(|(_, part)| is_closed(part));
        closed.fold(0, |bits, (number, _)| bits | 1 << number)
    }

    /// Of a regular real server.
    fn standing(&self, service: &ServicePlan, real: &RealPlan) -> Standing {
        let key = key_of(service, real);
        if self.failed.contains(&key) || self.down.contains(&key) {
            Standing::Failed
        } else if self.waiting.contains(&key) {
            Standing::Waiting
        } else if self.draining.get(&key).is_some_and(|entry| entry.over && !entry.removed) {
            Standing::Drained
        } else {
            // As an operator's hand has it.
            real.standing
        }
    }

    /// A service of the configuration as it is to be in force. Below its quorum its real servers keep who comes back to
    /// them, and new clients go to the sorry server, or to nobody.
    pub fn of(&self, service: &ServicePlan) -> ServicePlan {
        let is_below_quorum = self.below_quorum.contains(&service_key(&service.name, service.family));
        let (has_sorry, serves) = (service.sorry().is_some(), service.below_quorum == BelowQuorum::Serve);
        let reals = service.reals.iter().map(|real| match real.role {
            Role::Sorry if self.failed.contains(&key_of(service, real)) => real.standing(Standing::Failed),
            Role::Sorry if is_below_quorum && real.standing != Standing::Drained => {
                RealPlan { weight: 1, standing: Standing::Serving, ..real.clone() }
            }
            Role::Sorry => RealPlan { weight: 0, standing: Standing::Waiting, ..real.clone() },
            Role::Regular => {
                let takes_none = is_below_quorum && (has_sorry || !serves);
                let weight = if takes_none { 0 } else { self.weight(service, real) };
                let closed = self.closed(service, real);
                RealPlan { weight, closed, ..real.clone() }.standing(self.standing(service, real))
            }
        });
        let mut scheduler_flags = service.scheduler_flags;
        // Whoever has a slot of another one, too.
        scheduler_flags.fallback |= is_below_quorum && has_sorry;
        ServicePlan { reals: reals.collect(), is_below_quorum, scheduler_flags, ..service.clone() }
    }

    /// Whether they make a plan another one.
    pub fn alter(&self) -> bool {
        let none = [&self.failed, &self.down, &self.waiting, &self.below_quorum].into_iter().all(BTreeSet::is_empty);
        !none || !self.health.is_empty() || self.draining.values().any(|entry| entry.over && !entry.removed)
    }

    /// The same for all services.
    pub fn apply(&self, plan: &Plan) -> Plan {
        let concerned = self.services();
        let mut plan = plan.clone();
        for service in &mut plan.services {
            if is_among(&concerned, service) {
                *service = self.of(service);
            }
        }
        plan
    }

    /// Whose time has come to its end since the last call.
    pub fn due(&mut self, now: Duration) -> Vec<Due> {
        let due = self.draining.iter_mut().filter(|(_, entry)| !entry.over && entry.deadline <= now);
        due.map(|(key, entry)| {
            entry.over = true;
            Due { key: key.clone(), removed: entry.removed }
        })
        .collect()
    }
}

/// The real servers of a former plan, where that matters.
struct Known(Option<HashSet<String>>);

impl Known {
    fn of(plan: &Plan, before: Option<&Plan>) -> Self {
        let Some(before) = before else { return Self(Some(HashSet::new())) };
        if plan.services.iter().all(|service| service.start == Start::Last) {
            return Self(None);
        }
        let all =
            before.services.iter().flat_map(|service| service.reals.iter().map(move |real| key_of(service, real)));
        Self(Some(all.collect()))
    }

    fn has(&self, key: &str) -> bool {
        self.0.as_ref().is_none_or(|known| known.contains(key))
    }
}

fn is_among(services: &HashSet<String>, service: &ServicePlan) -> bool {
    !services.is_empty() && services.contains(&service_key(&service.name, service.family))
}

fn key_of(service: &ServicePlan, real: &RealPlan) -> String {
    real_key(&service.name, service.family, real.address)
}

/// Of a real server's key, its service's.
fn service_of(key: &str) -> Option<&str> {
    key.rsplit_once('/').map(|(service, _)| service)
}

/// What a plan calls a real server, else its address; and its time to drain.
fn name_and_drain(plan: &Plan, key: &str) -> (String, Option<Duration>) {
    let service = service_of(key).unwrap_or_default();
    let mut services = plan.services.iter().filter(|s| service_key(&s.name, s.family) == service);
    match services.find_map(|s| s.reals.iter().find(|real| key_of(s, real) == key)) {
        Some(real) => (real.name.clone(), real.drain),
        None => (key.rsplit('/').next().unwrap_or_default().to_owned(), None),
    }
}

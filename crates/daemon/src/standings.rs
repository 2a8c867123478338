//! Which real servers have failed, and whose time to drain runs. What happened to them, that is, beside what the
//! configuration says; a plan and its standings together are what the tables get.
//!
//! No clock and no tables: times since boot come in, plans and what is due go out. It outlives the daemon as a file, so
//! that a deadline is a deadline.

use marca_config::plan::{Plan, RealPlan, ServicePlan, Standing};
use marca_tables::ids::{Ids, real_key, service_key};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Real servers by the keys of their numbers ([`real_key`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standings {
    failed: BTreeSet<String>,
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

impl Standings {
    /// Real servers of another plan that have weight 0 begin to drain; those that are something else again, or gone,
    /// are forgotten, but for [`part`](Self::part).
    pub fn settle(&mut self, plan: &Plan, now: Duration) {
        let mut draining = BTreeMap::new();
        let mut failed = BTreeSet::new();
        let concerned = self.services();
        for service in &plan.services {
            let is_concerned = !concerned.is_empty() && concerned.contains(&service_key(&service.name, service.family));
            for real in &service.reals {
                let drain = service.drain.filter(|_| real.weight == 0);
                if drain.is_none() && !is_concerned {
                    continue;
                }
                let key = key_of(service, real);
                if let Some(drain) = drain {
                    let known = self.draining.get(&key).filter(|known| !known.removed);
                    let began = known.map_or(now, |known| known.began);
                    let deadline = began + drain;
                    let over = known.is_some_and(|known| known.over) && deadline <= now;
                    let entry = Draining { name: real.name.clone(), began, deadline, removed: false, over };
                    draining.insert(key.clone(), entry);
                }
                if self.failed.contains(&key) {
                    failed.insert(key);
                }
            }
        }
        let mut removed = std::mem::take(&mut self.draining);
        removed.retain(|_, entry| entry.removed);
        removed.extend(draining);
        (self.failed, self.draining) = (failed, removed);
    }

    /// Real servers that have left begin to drain as their service says; `before` knows their names. Those whose last
    /// connections are gone are forgotten.
    pub fn part(&mut self, plan: &Plan, before: &Plan, ids: &Ids, now: Duration) {
        let leaving: HashSet<&str> = ids.leaving().map(|(key, _)| key).collect();
        self.draining.retain(|key, entry| entry.removed == leaving.contains(key.as_str()));
        let drains = plan.services.iter().filter_map(|s| Some((service_key(&s.name, s.family), s.drain?)));
        let drains: BTreeMap<String, Duration> = drains.collect();
        for key in leaving {
            let Some(drain) = service_of(key).and_then(|service| drains.get(service)) else { continue };
            if self.draining.contains_key(key) {
                continue;
            }
            let entry =
                Draining { name: name_of(before, key), began: now, deadline: now + *drain, removed: true, over: false };
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
        self
    }

    /// Services of which a real server has a standing of its own.
    fn services(&self) -> HashSet<String> {
        self.failed.iter().chain(self.draining.keys()).filter_map(|key| service_of(key)).map(str::to_owned).collect()
    }

    /// Whether anything has changed.
    pub fn set_failed(&mut self, service: &ServicePlan, real: &RealPlan, failed: bool) -> bool {
        let key = key_of(service, real);
        if failed { self.failed.insert(key) } else { self.failed.remove(&key) }
    }

    pub fn has_failed(&self, service: &ServicePlan, real: &RealPlan) -> bool {
        self.failed.contains(&key_of(service, real))
    }

    /// The deadline of a real server of the plan.
    pub fn draining(&self, service: &ServicePlan, real: &RealPlan) -> Option<&Draining> {
        self.draining.get(&key_of(service, real)).filter(|entry| !entry.removed)
    }

    /// The deadline of one that has left.
    pub fn removed(&self, key: &str) -> Option<&Draining> {
        self.draining.get(key).filter(|entry| entry.removed)
    }

    fn standing(&self, service: &ServicePlan, real: &RealPlan) -> Standing {
        let key = key_of(service, real);
        if self.failed.contains(&key) {
            Standing::Failed
        } else if self.draining.get(&key).is_some_and(|entry| entry.over && !entry.removed) {
            Standing::Drained
        } else {
            // As an operator's hand has it.
            real.standing
        }
    }

    /// A service of the configuration as it is to be in force.
    pub fn of(&self, service: &ServicePlan) -> ServicePlan {
        let reals = service.reals.iter().map(|real| real.standing(self.standing(service, real))).collect();
        ServicePlan { reals, ..service.clone() }
    }

    /// Whether they make a plan another one.
    pub fn alter(&self) -> bool {
        !self.failed.is_empty() || self.draining.values().any(|entry| entry.over && !entry.removed)
    }

    /// The same for all services.
    pub fn apply(&self, plan: &Plan) -> Plan {
        let concerned = self.services();
        let mut plan = plan.clone();
        for service in &mut plan.services {
            if !concerned.is_empty() && concerned.contains(&service_key(&service.name, service.family)) {
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

fn key_of(service: &ServicePlan, real: &RealPlan) -> String {
    real_key(&service.name, service.family, real.address)
}

/// Of a real server's key, its service's.
fn service_of(key: &str) -> Option<&str> {
    key.rsplit_once('/').map(|(service, _)| service)
}

/// What a plan calls a real server; else its address.
fn name_of(plan: &Plan, key: &str) -> String {
    let service = service_of(key).unwrap_or_default();
    let mut services = plan.services.iter().filter(|s| service_key(&s.name, s.family) == service);
    let name = services.find_map(|s| s.reals.iter().find(|real| key_of(s, real) == key).map(|real| real.name.clone()));
    name.unwrap_or_else(|| key.rsplit('/').next().unwrap_or_default().to_owned())
}

/// Which real servers somebody means: `shop/web1` that of a service, `web1` or `10.0.0.11` those of all services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    service: Option<String>,
    server: String,
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}/{}", self.server),
            None => f.write_str(&self.server),
        }
    }
}

impl Meant {
    pub fn of(text: &str) -> Self {
        match text.split_once('/') {
            Some((service, server)) => Self { service: Some(service.to_owned()), server: server.to_owned() },
            None => Self { service: None, server: text.to_owned() },
        }
    }

    /// Whether this is one of them.
    pub fn is(&self, service: &ServicePlan, real: &RealPlan) -> bool {
        let address: Option<IpAddr> = self.server.parse().ok();
        self.service.as_ref().is_none_or(|name| *name == service.name)
            && (real.name == self.server || (address.is_some() && real.address == address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 3] = ["web1", "web2", "web3"];

    /// A shop with these weights; `None`: not in the configuration.
    fn plan(drain: &str, weights: [Option<u16>; 3]) -> Plan {
        let mut text = format!(
            "[router]\noutside = 'eth0'\n[service.shop]\nvip = ['192.0.2.10', '2001:db8::10']\nports = 'tcp/80'\n{drain}\n"
        );
        for (number, weight) in weights.into_iter().enumerate() {
            let (name, last) = (SERVERS[number], number + 11);
            let Some(weight) = weight else { continue };
            text.push_str(&format!(
                "[[service.shop.server]]\nname = '{name}'\naddress = ['10.0.0.{last}', 'fd00::{last}']\nweight = {weight}\n"
            ));
        }
        Plan::of(&marca_config::load("marca.toml", &text).unwrap().config).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The standings of the IPv4 service's servers.
    fn standings(standings: &Standings, plan: &Plan) -> Vec<Standing> {
        standings.apply(plan).services[0].reals.iter().map(|real| real.standing).collect()
    }

    fn keys(due: Vec<Due>) -> Vec<(String, bool)> {
        due.into_iter().map(|due| (due.key, due.removed)).collect()
    }

    #[test]
    fn a_server_that_has_failed_has_no_weight_until_it_is_restored() {
        let configured = plan("", [Some(3), Some(1), None]);
        let mut standings = Standings::default();
        standings.settle(&configured, seconds(1));
        assert_eq!(standings.apply(&configured), configured);
        let (shop, web1) = (&configured.services[0], &configured.services[0].reals[0]);
        assert!(standings.set_failed(shop, web1, true));
        assert!(!standings.set_failed(shop, web1, true), "it has failed already");
        let plan = standings.apply(&configured);
        assert_eq!((plan.services[0].reals[0].weight, plan.services[0].reals[0].standing), (0, Standing::Failed));
        assert_eq!(plan.services[1], configured.services[1], "the other family is another server");
        standings.settle(&configured, seconds(2));
        assert!(standings.has_failed(shop, web1), "a reload changes nothing");
        assert!(standings.set_failed(shop, web1, false));
        assert_eq!(standings.apply(&configured), configured);
    }

    #[test]
    fn one_that_leaves_the_configuration_is_forgotten_to_have_failed() {
        let (with, without) = (plan("", [Some(1), Some(1), None]), plan("", [None, Some(1), None]));
        let mut standings = Standings::default();
        standings.set_failed(&with.services[0], &with.services[0].reals[0], true);
        standings.settle(&without, seconds(1));
        standings.settle(&with, seconds(2));
        assert_eq!(standings, Standings::default());
    }

    #[test]
    fn weight_0_lasts_for_the_time_to_drain() {
        let (served, drained) = ([Some(1), Some(1), None], [Some(0), Some(1), None]);
        let mut of = Standings::default();
        of.settle(&plan("drain = '10m'", served), seconds(100));
        assert_eq!(of, Standings::default());
        let configured = plan("drain = '10m'", drained);
        of.settle(&configured, seconds(200));
        let left = |of: &Standings, now| {
            of.draining(&configured.services[0], &configured.services[0].reals[0]).map(|d| d.left(seconds(now)))
        };
        assert_eq!(left(&of, 260), Some(seconds(540)));
        assert!(of.due(seconds(799)).is_empty());
        // Another time, counted from the same moment; and back again.
        of.settle(&plan("drain = '5m'", drained), seconds(300));
        assert_eq!(left(&of, 300), Some(seconds(200)));
        of.settle(&configured, seconds(310));
        assert_eq!(left(&of, 310), Some(seconds(490)));
        assert_eq!(standings(&of, &configured), [Standing::Serving; 2]);
        let both = [("shop/4/10.0.0.11".to_owned(), false), ("shop/6/fd00::11".to_owned(), false)];
        assert_eq!(keys(of.due(seconds(800))), both);
        assert_eq!(keys(of.due(seconds(801))), [], "once");
        assert_eq!(standings(&of, &configured), [Standing::Drained, Standing::Serving]);
        of.settle(&configured, seconds(900));
        assert_eq!(standings(&of, &configured), [Standing::Drained, Standing::Serving]);
        of.settle(&plan("", drained), seconds(900));
        assert_eq!(of, Standings::default(), "without a deadline clients may stay");
        of.settle(&plan("drain = '0s'", drained), seconds(1000));
        assert_eq!(of.due(seconds(1000)).len(), 2, "at once");
    }

    #[test]
    fn a_removed_server_has_a_time_of_its_own() {
        let (with, without) =
            (plan("drain = '1m'", [Some(0), Some(1), Some(1)]), plan("drain = '1m'", [None, Some(1), Some(1)]));
        let mut ids = Ids::default();
        ids.assign(&with, 64, 64).unwrap();
        let mut of = Standings::default();
        of.settle(&with, seconds(0));
        of.part(&with, &Plan::default(), &ids, seconds(0));
        assert_eq!(of.due(seconds(60)).len(), 2);
        ids.assign(&without, 64, 64).unwrap();
        of.settle(&without, seconds(70));
        of.part(&without, &with, &ids, seconds(70));
        let entry = of.removed("shop/4/10.0.0.11").unwrap();
        assert_eq!((entry.name.as_str(), entry.left(seconds(80))), ("web1", seconds(50)));
        // Reloads, and a new daemon, which has the file and does not know the former plan.
        let text = serde_json::to_string(&of).unwrap();
        let mut of: Standings = serde_json::from_str(&text).unwrap();
        of.settle(&without, seconds(90));
        of.part(&without, &Plan::default(), &ids, seconds(90));
        assert_eq!(of.removed("shop/4/10.0.0.11").unwrap().left(seconds(90)), seconds(40));
        let both = [("shop/4/10.0.0.11".to_owned(), true), ("shop/6/fd00::11".to_owned(), true)];
        assert_eq!(keys(of.due(seconds(130))), both);
        // It comes back.
        ids.assign(&with, 64, 64).unwrap();
        let with = plan("drain = '1m'", [Some(1), Some(1), Some(1)]);
        of.settle(&with, seconds(140));
        of.part(&with, &without, &ids, seconds(140));
        assert_eq!(of, Standings::default());
    }

    #[test]
    fn servers_are_meant_by_service_by_name_and_by_address() {
        let plan = plan("", [Some(1), Some(1), None]);
        let meant = |text: &str| -> Vec<Option<IpAddr>> {
            let meant = Meant::of(text);
            let all = plan.services.iter().flat_map(|service| service.reals.iter().map(move |real| (service, real)));
            all.filter(|(service, real)| meant.is(service, real)).map(|(_, real)| real.address).collect()
        };
        let both = [Some("10.0.0.12".parse().unwrap()), Some("fd00::12".parse().unwrap())];
        assert_eq!(meant("shop/web2"), both);
        assert_eq!(meant("web2"), both);
        assert_eq!(meant("10.0.0.12"), both[..1]);
        assert_eq!(meant("shop/fd00::12"), both[1..]);
        assert_eq!(meant("files/web2"), []);
        assert_eq!(meant("web4"), []);
    }

    #[test]
    fn a_reboot_ends_what_only_had_connections_and_moves_deadlines() {
        let (with, without) =
            (plan("drain = '10m'", [Some(0), Some(1), Some(1)]), plan("drain = '10m'", [Some(0), Some(1), None]));
        let mut ids = Ids::default();
        ids.assign(&with, 64, 64).unwrap();
        let mut of = Standings::default();
        of.settle(&with, seconds(1000));
        of.set_failed(&with.services[0], &with.services[0].reals[1], true);
        ids.assign(&without, 64, 64).unwrap();
        of.settle(&without, seconds(1000));
        of.part(&without, &with, &ids, seconds(1000));
        assert!(of.removed("shop/4/10.0.0.13").is_some());
        let of = of.rebooted(|time| time.saturating_sub(seconds(1100)));
        let (shop, reals) = (&without.services[0], &without.services[0].reals);
        assert!(of.has_failed(shop, &reals[1]));
        assert_eq!(of.draining(shop, &reals[0]).map(|drain| drain.left(seconds(100))), Some(seconds(400)));
        assert_eq!(of.removed("shop/4/10.0.0.13"), None);
    }
}

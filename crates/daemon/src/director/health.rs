//! Real servers that fail, serve again, or have drained.

use super::{Director, DirectorError};
use crate::checkers::health::{Matter, Said};
use crate::checkers::probe::passage::Ground;
use crate::checkers::{Report, health};
use crate::linux::data_plane::{DataPlaneError, Maps, since_boot};
use crate::place::PlaceError;
use crate::settling::Settling;
use crate::standings::{Health, Meant, Standings, Strength};
use marca_config::model::BelowQuorum;
use marca_config::plan::{Difference, Family, Plan, ServicePlan, Standing};
use marca_tables::ids::{Ids, real_key, service_key};
use marca_tables::services::{self, Prepared};
use marca_tables::sweep::forget_clients;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Director {
    /// Somebody says that real servers have failed, or serve again; answers what that changed, a line for each. One that
    /// is restored serves if its checks have nothing against it.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn health(&mut self, servers: &[Meant], up: bool) -> Result<Vec<Said>, DirectorError> {
        let mut standings = self.standings.clone();
        let (mut services, mut told) = (BTreeSet::new(), BTreeMap::new());
        for meant in servers {
            let mut is_known = false;
            for (index, service) in self.configured.services.iter().enumerate() {
                for real in service.reals.iter().filter(|real| meant.is(service, real)) {
                    is_known = true;
                    let became = match (standings.set_failed(service, real, !up), up) {
                        (true, true) => "serves again",
                        (true, false) => "has failed",
                        (false, true) => "had not failed",
                        (false, false) => "had failed already",
                    };
                    services.insert(index);
                    told.insert((&*service.name, &*real.name), became);
                }
            }
            if !is_known {
                return Err(DirectorError::NoServer(meant.to_string()));
            }
        }
        let told = told.into_iter().map(|((service, server), became)| Said {
            matter: Matter::Server,
            service: service.to_owned(),
            server: Some(server.to_owned()),
            line: format!("{service}/{server} {became}"),
        });
        let told: Vec<Said> = told.collect();
        let quorums = self.put_standings(standings, &services)?;
        Ok(told.into_iter().chain(quorums).collect())
    }

    /// Standings that are other ones for these services; answers whose quorum is lost or there again.
    fn put_standings(
        &mut self,
        mut standings: Standings,
        services: &BTreeSet<usize>,
    ) -> Result<Vec<Said>, DirectorError> {
        let mut told = Vec::new();
        for &index in services {
            let service = &self.configured.services[index];
            if let Some(strength) = standings.weigh(service) {
                told.push(quorum(service, &strength));
            }
        }
        // Whoever comes after a crash must know.
        let before = std::mem::replace(&mut self.standings, standings);
        self.save_standings();
        if let Err(error) = self.restand(services) {
            self.standings = before;
            self.save_standings();
            return Err(error);
        }
        Ok(told)
    }

    /// Health checks have another opinion of real servers; answers what follows from that, a line for each check. Servers
    /// that have left meanwhile are passed over.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn checked(&mut self, reports: Vec<Report>) -> Result<Vec<Said>, DirectorError> {
        let mut standings = self.standings.clone();
        let (mut services, mut told) = (BTreeSet::new(), Vec::new());
        let mut newest: HashMap<String, Health> = HashMap::new();
        newest.extend(reports.into_iter().map(|report| (report.key, report.health)));
        for (index, service) in self.configured.services.iter().enumerate() {
            if newest.is_empty() {
                break;
            }
            if service.checks.is_empty() {
                continue;
            }
            for real in &service.reals {
                let key = real_key(&service.name, service.family, real.address);
                let Some(health) = newest.remove(&key) else { continue };
                let (former, changed) = standings.set_health(service, real, health.clone());
                if !changed {
                    continue;
                }
                services.insert(index);
                told.extend(health::said(&service.name, &real.name, real.address, &former, &health));
            }
        }
        if !services.is_empty() {
            told.extend(self.put_standings(standings, &services)?);
        }
        Ok(told)
    }

    /// As the configuration has it.
    pub fn configured(&self) -> Arc<Plan> {
        Arc::clone(&self.configured)
    }

    /// The tables once more, for another thread.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn open_maps(&self) -> Result<Maps, DataPlaneError> {
        Maps::open(&self.place.pin_dir)
    }

    /// What checks must know that go through the data path of this plan, which is the configured one.
    pub fn ground(&self, maps: Arc<Maps>, plan: &Plan) -> Ground {
        let through = |service: &&ServicePlan| service.checks.iter().any(|planned| planned.vip.is_some());
        let reals = plan.services.iter().filter(through).flat_map(|service| {
            service.reals.iter().filter_map(|real| {
                let number = self.state.ids.real(&service.name, service.family, real.address)?;
                Some((real_key(&service.name, service.family, real.address), number))
            })
        });
        Ground {
            maps,
            clock: self.plane.clock,
            interfaces: self.state.attached.iter().map(|attached| attached.interface.clone()).collect(),
            lent: plan.vips.union(&plan.sources).copied().collect(),
            numbers: reals.collect(),
        }
    }

    /// What checks have said so far.
    pub fn healths(&self) -> &BTreeMap<String, Health> {
        self.standings.healths()
    }

    /// Real servers, by key, that wait for the first verdict on them.
    pub fn waiting(&self) -> &BTreeSet<String> {
        self.standings.waiting()
    }

    /// Real servers of these services stand otherwise.
    pub(super) fn restand(&mut self, services: &BTreeSet<usize>) -> Result<(), DirectorError> {
        let (memory, ids) = (&self.plane.maps.memory, &self.state.ids);
        let mut difference = Difference::default();
        let mut plan = Arc::clone(&self.plan);
        for &index in services {
            let service = self.standings.of(&self.configured.services[index]);
            if service != plan.services[index] {
                difference.changed.push((Some(index), index));
                Arc::make_mut(&mut plan).services[index] = service;
            }
        }
        self.settling.finish(memory);
        let prepared = Prepared::new(memory, &plan, Some(&difference), ids, self.plane.clock)?;
        prepared.write_reals(memory);
        self.settling = Settling::of(prepared.switch(memory));
        drop(prepared);
        let changed = difference.changed.iter().map(|&(_, index)| (&self.plan.services[index], &plan.services[index]));
        let gone: HashSet<u32> = changed.flat_map(|(before, service)| gone(ids, before, service)).collect();
        if !gone.is_empty() {
            forget_clients(memory, &gone);
        }
        self.plan = plan;
        Ok(())
    }

    /// Writes down how real servers stand. A disk that is full holds nobody's packets up: it is said once, and tried
    /// again.
    pub(super) fn save_standings(&mut self) {
        let saved = self.place.save_standings(&self.standings);
        self.saved(saved);
    }

    /// One file was written down, or was not.
    pub(super) fn saved(&mut self, saved: Result<(), PlaceError>) {
        let failed_before = self.save_again.is_some();
        let Some(why) = self.unwritten() else {
            if failed_before {
                tracing::info!("what is known of real servers is written down again");
            }
            self.save_again = None;
            return;
        };
        if !failed_before {
            tracing::error!("{why}");
        }
        // Of the two files one may have been written meanwhile.
        if saved.is_err() || !failed_before {
            self.save_again = Some(Instant::now() + SAVE_AGAIN);
        }
    }

    /// Tries again what could not be written.
    pub(super) fn save_again(&mut self) {
        self.save_standings();
        self.save_overrides();
    }

    /// What is in force and not written down, and why; it is tried again.
    pub fn unwritten(&self) -> Option<String> {
        self.place.live.unwritten()
    }

    /// One line for whoever looks at many services of a host.
    pub fn summary(&self) -> String {
        let services: HashSet<&str> = self.plan.services.iter().map(|service| service.name.as_str()).collect();
        let reals = || self.plan.services.iter().flat_map(|s| s.reals.iter().map(move |real| (s.name.as_str(), real)));
        let servers: HashSet<(&str, &str)> = reals().map(|(service, real)| (service, real.name.as_str())).collect();
        let failed: HashSet<(&str, &str)> = reals()
            .filter(|(_, real)| real.standing == Standing::Failed)
            .map(|(service, real)| (service, real.name.as_str()))
            .collect();
        format!("{} services, {} real servers, {} failed", services.len(), servers.len(), failed.len())
    }

    /// Deadlines of real servers that drain.
    pub(super) fn end_drains(&mut self) -> Result<(), DirectorError> {
        let due = self.standings.due(since_boot()?);
        if due.is_empty() {
            return Ok(());
        }
        self.save_standings();
        let (mut services, mut removed) = (BTreeSet::new(), HashSet::new());
        for due in due {
            tracing::info!("the time to drain of {} is over", due.key);
            if due.removed {
                removed.extend(self.state.ids.real_by_key(&due.key));
                continue;
            }
            let is_its = |service: &ServicePlan| due.key.starts_with(&service_key(&service.name, service.family));
            services.extend((0..self.plan.services.len()).filter(|&index| is_its(&self.plan.services[index])));
        }
        let memory = &self.plane.maps.memory;
        removed.iter().for_each(|&real| services::end_connections(memory, real));
        forget_clients(memory, &removed);
        self.restand(&services)
    }
}

/// The real servers of a service that serve no more and have served before.
fn gone(ids: &Ids, before: &ServicePlan, service: &ServicePlan) -> Vec<u32> {
    let pairs = std::iter::zip(&before.reals, &service.reals);
    let gone = pairs.filter(|(was, is)| was.standing == Standing::Serving && is.standing != Standing::Serving);
    gone.filter_map(|(_, real)| ids.real(&service.name, service.family, real.address)).collect()
}

/// What its quorum makes of a service now.
pub(super) fn quorum(service: &ServicePlan, strength: &Strength) -> Said {
    let line = line_of_quorum(service, strength);
    Said { matter: Matter::Quorum, service: service.name.clone(), server: None, line }
}

fn line_of_quorum(service: &ServicePlan, strength: &Strength) -> String {
    let (name, needed, measure) = (&service.name, service.quorum.needed, service.quorum.measure.name());
    let family = match service.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let up = strength.up;
    if !strength.is_below {
        return format!("{name} has its quorum again for {family}: {up} of {needed} ({measure})");
    }
    let sorry = service.sorry().filter(|sorry| sorry.standing != Standing::Drained);
    let then = match (sorry, service.below_quorum) {
        (Some(sorry), _) => format!("new clients go to {}", sorry.name),
        (None, BelowQuorum::Refuse) => "new clients are refused".into(),
        (None, BelowQuorum::Drop) => "new clients are dropped".into(),
        (None, BelowQuorum::Serve) => "the servers that are left take new clients".into(),
    };
    format!("{name} is below its quorum for {family}, {up} of {needed} ({measure}): {then}")
}

/// When what could not be written is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

//! Another configuration in the place of the running one: what has to be done, in an order in which packets meet each
//! service as it was or as it will be.

use super::health::quorum;
use super::interfaces::{attach, kept, wishes};
use super::{Classified, Director, DirectorError};
use crate::checkers::health::Said;
use crate::extras::Extras;
use crate::linux::attach::Wish;
use crate::linux::data_plane::since_boot;
use crate::linux::network::Interface;
use crate::settling::Settling;
use crate::steps::{self, Phase, Step, Way};
use marca_config::model::{Config, Limits, Metrics};
use marca_config::plan::{Difference, Plan};
use marca_tables::ids::{Ids, Renumbered};
use marca_tables::memory::Capacity;
use marca_tables::services::{self, Prepared};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of a new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Services, by address family, that are new or otherwise; that are no more; that there are.
    pub changed: usize,
    pub gone: usize,
    pub services: usize,
    /// Until the tables had it.
    pub took: Duration,
    pub findings: Vec<String>,
    /// Services that are below their quorum now or no longer; among the findings, too.
    pub quorums: Vec<Said>,
    pub warnings: String,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changed, gone, services, took, .. } = self;
        write!(f, "{services} services, {changed} new or changed, {gone} gone, in {:.1} ms", took.as_secs_f64() * 1e3)
    }
}

/// A configuration that has been read and can be put in force. Making it takes no kernel, and with ten thousand services
/// some time.
pub struct Wanted {
    pub(crate) config: Arc<Config>,
    pub(crate) plan: Arc<Plan>,
    /// From this plan; to be found out while packets are not waiting for it.
    difference: Option<(Arc<Plan>, Difference)>,
    pub(crate) warnings: String,
    text: String,
}

impl Wanted {
    /// `file` is the name to print.
    ///
    /// # Errors
    /// The file's faults, or that no tables can hold it.
    pub fn of(file: &str, text: &str) -> Result<Self, DirectorError> {
        let loaded = marca_config::load(file, text).map_err(DirectorError::Config)?;
        let plan = Arc::new(Plan::of(&loaded.config)?);
        let warnings = if loaded.warnings.is_empty() { String::new() } else { loaded.warnings.render(false) };
        Ok(Self { config: Arc::new(loaded.config), plan, difference: None, warnings, text: text.to_owned() })
    }

    /// Holds it against the plan that is in force and probably will be when it is put in its place.
    pub fn against(self, plan: Arc<Plan>) -> Self {
        let difference = Difference::of(&plan, &self.plan);
        Self { difference: Some((plan, difference)), ..self }
    }

    /// What it says about metrics.
    pub fn metrics(&self) -> Metrics {
        self.config.metrics
    }

    fn take_difference(&mut self, plan: &Arc<Plan>) -> Difference {
        match self.difference.take() {
            Some((known, difference)) if Arc::ptr_eq(&known, plan) => difference,
            _ => Difference::of(plan, &self.plan),
        }
    }
}

impl Director {
    /// Puts another configuration in the place of the running one. Packets meet each service as it was or as it will be,
    /// and those that are the same are not touched.
    ///
    /// # Errors
    /// A bad configuration changes nothing.
    pub async fn replace(&mut self, file: &str, text: &str) -> Result<Replaced, DirectorError> {
        self.put(Wanted::of(file, text)?).await
    }

    /// [`replace`](Self::replace) for one that has been read elsewhere.
    pub async fn put(&mut self, mut wanted: Wanted) -> Result<Replaced, DirectorError> {
        let _way = Way::begin(Phase::Reload);
        let began = Instant::now();
        let (mut standings, now) = (self.standings.clone(), since_boot()?);
        let file = Arc::clone(&wanted.plan);
        let overrides = self.overrides.kept(&file);
        let configured = overrides.apply(&file);
        standings.settle(&configured, Some(&self.configured), now);
        wanted.plan = if standings.alter() { Arc::new(standings.apply(&configured)) } else { Arc::clone(&configured) };
        if !Arc::ptr_eq(&wanted.plan, &file) {
            wanted.difference = None;
        }
        let interfaces = self.known_interfaces(&wanted.config).await?;
        let capacity = self.plane.maps.memory.capacity;
        if !capacity.holds(&wanted.plan) {
            return Err(DirectorError::TooSmall);
        }
        let difference = wanted.take_difference(&self.plan);
        let unknown: Vec<usize> =
            difference.changed.iter().filter(|(before, _)| before.is_none()).map(|&(_, index)| index).collect();
        let plans = (&*self.plan, &*wanted.plan);
        let renumbered = self.state.ids.replace(plans, &difference, capacity.services, capacity.reals)?;
        let put = self.put_tables(&wanted, &difference, &interfaces, (&renumbered, &unknown)).await;
        if let Err(error) = put {
            // Numbers that were there find room again.
            let (plans, back) = ((&*wanted.plan, &*self.plan), Difference::of(&wanted.plan, &self.plan));
            let renumbered = self.state.ids.replace(plans, &back, capacity.services, capacity.reals)?;
            self.place.save_renumbered(&self.state, &renumbered)?;
            return Err(error);
        }
        let took = began.elapsed();
        standings.part(&configured, &self.plan, &self.state.ids, now);
        self.plan = wanted.plan;
        let quorums = standings.quorums_since(&self.standings, &configured);
        let quorums: Vec<Said> = quorums.map(|(service, strength)| quorum(service, &strength)).collect();
        (self.configured, self.standings) = (configured, standings);
        (self.file, self.overrides) = (file, overrides);
        // Who asks for what is in force reads the one or the other.
        let saved = self.place.save_running(&wanted.text).map_err(DirectorError::from);
        self.tell_running(&wanted.config);
        (self.api, self.reload_when) = (wanted.config.api.clone(), wanted.config.router.reload);
        let mut replaced = Replaced {
            changed: difference.changed.len(),
            gone: difference.gone.len(),
            services: self.plan.services.len(),
            took,
            findings: quorums.iter().map(|said| said.line.clone()).collect(),
            quorums,
            warnings: wanted.warnings,
        };
        replaced.findings.extend(limits_that_wait(&wanted.config.router.limits, &capacity));
        // The tables have it; what fails now is told, and tried again by the next reload or start.
        let mut failed = |what: Result<(), DirectorError>| {
            what.err().into_iter().for_each(|error| replaced.findings.push(format!("in force, but: {error}")));
        };
        failed(saved);
        self.save_overrides();
        self.save_standings();
        failed(self.set_sysctls(&wanted.config));
        let wishes = wishes(&wanted.config, &interfaces);
        if !self.is_attached(&wishes) {
            failed(self.attach(&wishes).map(drop));
        }
        failed(self.put_vips(&wanted.config, &interfaces).await);
        replaced.findings.extend(self.findings(&interfaces));
        replaced.findings.extend(self.unwritten());
        Ok(replaced)
    }

    /// Everything that may fail comes first; then the tables, as [`Prepared`] says.
    async fn put_tables(
        &mut self,
        wanted: &Wanted,
        difference: &Difference,
        interfaces: &[Interface],
        (renumbered, unknown): (&Renumbered, &[usize]),
    ) -> Result<(), DirectorError> {
        let Self { plane, state, place, network, hops, classifier, settling, .. } = self;
        let ids = &state.ids;
        settling.finish(&plane.maps.memory);
        plane.extend(Extras::of(&wanted.plan))?;
        let prepared = Prepared::new(&plane.maps.memory, &wanted.plan, Some(difference), ids, plane.clock)?;
        let classified = Classified::of(&plane.maps.memory, ids, interfaces);
        let half = if !difference.classifier.is_empty() || self.classified != classified {
            let (memory, interfaces) = (&plane.maps.memory, &classified.interfaces);
            let half = classifier.write(memory, &wanted.plan, ids, interfaces, Some(&difference.classifier))?;
            steps::taken(Step::Half);
            plane.maps.write_prefixes(half.half, &half.prefixes)?;
            steps::taken(Step::Prefixes);
            Some(half)
        } else {
            None
        };
        // Nobody counts for them yet.
        plane.maps.clear_traffic(&renumbered.reals());
        plane.maps.clear_refused(&numbers(ids, &wanted.plan, unknown))?;
        steps::taken(Step::Counters);
        // Whoever comes after a crash must know what carries a number.
        place.save_renumbered(state, renumbered)?;
        let attached = kept(&state.attached);
        let is_new = |wish: &Wish| !attached.iter().any(|attached| attached.interface == wish.interface);
        let new: Vec<Wish> = wishes(&wanted.config, interfaces).into_iter().filter(is_new).collect();
        if !new.is_empty() {
            let both: Vec<Wish> = attached.iter().chain(&new).cloned().collect();
            if let Err(error) = attach(plane, (state, place), &both) {
                attach(plane, (state, place), &attached)?;
                return Err(error.into());
            }
        }
        prepared.write_reals(&plane.maps.memory);
        steps::taken(Step::Reals);
        let silent: BTreeSet<(u32, IpAddr)> = hops.unresolved().into_iter().collect();
        hops.replace(network, (&*self.plan, &*wanted.plan), difference, &state.ids, interfaces).await;
        hops.write_changed(&plane.maps.memory, &wanted.plan, difference, &state.ids);
        steps::taken(Step::Hops);
        self.wait_for_neighbours(NEIGHBOUR_PATIENCE_OF_RELOADS, &silent).await;
        let memory = &self.plane.maps.memory;
        let left = prepared.switch_each(memory, || steps::taken(Step::Service));
        if let Some(half) = half {
            self.classifier.switch(memory, half);
            steps::taken(Step::Classifier);
            self.classified = classified;
        }
        services::end_leaving(memory, &self.state.ids);
        steps::taken(Step::Leaving);
        self.settling = Settling::of(left);
        Ok(())
    }
}

/// How long a reload waits for those that are new.
const NEIGHBOUR_PATIENCE_OF_RELOADS: Duration = Duration::from_millis(40);

pub(super) fn numbers(ids: &Ids, plan: &Plan, services: &[usize]) -> Vec<u32> {
    let services = services.iter().map(|&index| &plan.services[index]);
    services.filter_map(|service| ids.service(&service.name, service.family)).collect()
}

/// Limits that the tables, being there, do not follow.
fn limits_that_wait(limits: &Limits, capacity: &Capacity) -> Vec<String> {
    let limits = [
        ("flows", limits.flows, capacity.flows),
        ("half_open", limits.half_open, capacity.half_open),
        ("templates", limits.templates, capacity.templates),
    ];
    let differing = limits.into_iter().filter(|(_, wanted, is)| wanted.next_power_of_two() != *is);
    differing
        .map(|(name, wanted, is)| {
            format!("limits.{name} is {is} in the running tables; {wanted} takes `marca stop --detach` and a new start")
        })
        .collect()
}

//! The first configuration of a process, put on a data plane that is new or adopted; and its end.

use super::health::quorum;
use super::interfaces::{interfaces, wishes};
use super::replace::{Wanted, numbers};
use super::{Classified, Director, DirectorError, Started};
use crate::extras::Extras;
use crate::forwarding;
use crate::hops::{self, Hops};
use crate::linux::data_plane::{self, DataPlane, DataPlaneError, since_boot};
use crate::linux::network::{Interface, Network};
use crate::overrides::Overrides;
use crate::place::Place;
use crate::routes::Routes;
use crate::settling::Settling;
use crate::standings::Standings;
use crate::steps::{self, Phase, Step, Way};
use crate::vips;
use marca_config::model::Limits;
use marca_config::plan::{Plan, ServicePlan};
use marca_tables::classifier::Classifier;
use marca_tables::ids::Ids;
use marca_tables::memory::Capacity;
use marca_tables::services::{self, Prepared};
use marca_tables::slots::Left;
use marca_tables::sweep::{RESET_SECONDS, Sweep};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Director {
    /// Puts a configuration in force, in the network namespace of the calling thread. A data plane that is there is
    /// adopted with its connections.
    ///
    /// # Errors
    /// A bad configuration changes nothing.
    pub async fn start(place: Place, file: &str, text: &str) -> Result<(Self, Started), DirectorError> {
        let wanted = Wanted::of(file, text)?;
        let _way = Way::begin(Phase::Start);
        let network = Network::open()?;
        let interfaces = interfaces(&network, &wanted.config).await?;
        let mut state = place.state()?;
        let mut plane = load(&place, &wanted.plan, &wanted.config.router.limits)?;
        let wishes = wishes(&wanted.config, &interfaces);
        if plane.adopted {
            // A kernel that refuses them leaves all as it was.
            plane.prepare(&wishes)?;
        } else {
            // Nobody sees the tables yet, which are written meanwhile; and nobody has a connection.
            plane.restrict(Extras::of(&wanted.plan));
            plane.begin_to_prepare(&wishes)?;
        }
        let capacity = plane.maps.memory.capacity;
        if !capacity.holds(&wanted.plan) {
            return Err(DirectorError::TooSmall);
        }
        let unknown = without_number(&state.ids, &wanted.plan);
        let new = state.ids.assign(&wanted.plan, capacity.services, capacity.reals)?;
        if plane.adopted {
            plane.maps.clear_traffic(&new);
            plane.maps.clear_refused(&numbers(&state.ids, &wanted.plan, &unknown))?;
            steps::taken(Step::Counters);
        }
        state.hz = plane.clock.hz;
        let overrides = place.overrides().unwrap_or_else(|error| {
            tracing::error!("{error}; nothing that was said by hand holds any more");
            Overrides::default()
        });
        let overrides = overrides.kept(&wanted.plan);
        let configured = overrides.apply(&wanted.plan);
        let (mut standings, now) = (remembered(&place)?, since_boot()?);
        standings.settle(&configured, None, now);
        standings.part(&configured, &Plan::default(), &state.ids, now);
        let adopted = plane.adopted;
        let reset = plane.clock.ticks(Duration::from_secs(RESET_SECONDS));
        let mut director = Self {
            place,
            network,
            plane,
            plan: match standings.alter() {
                true => Arc::new(standings.apply(&configured)),
                false => Arc::clone(&configured),
            },
            api: wanted.config.api.clone(),
            reload_when: wanted.config.router.reload,
            file: wanted.plan,
            configured,
            overrides,
            standings,
            state,
            hops: Hops::default(),
            routes: Routes::default(),
            announcements: Vec::new(),
            sweep: Sweep::new(reset),
            look_again: None,
            copy_again: None,
            refreshed: Instant::now(),
            classifier: Classifier::default(),
            classified: Classified::default(),
            // Another daemon may have changed them.
            settling: Settling::of(Left::default()),
            interfaces: Vec::new(),
            save_again: None,
        };
        // Numbers before anything carries them; and everything to be undone before it is done.
        director.place.save_state(&director.state)?;
        director.save_overrides();
        director.save_standings();
        director.write(&interfaces).await?;
        director.plane.prepare(&wishes)?;
        director.set_sysctls(&wanted.config)?;
        let attached = director.attach(&wishes)?;
        director.put_vips(&wanted.config, &interfaces).await?;
        director.copy_routes().await;
        steps::taken(Step::Routes);
        director.place.save_running(text)?;
        director.tell_running(&wanted.config);
        let mut findings = director.findings(&interfaces);
        let none = Standings::default();
        let quorums = director.standings.quorums_since(&none, &director.configured);
        findings.extend(quorums.map(|(service, strength)| quorum(service, &strength).line));
        let services = wanted.config.services.len();
        let metrics = wanted.config.metrics;
        let started = Started { adopted, services, attached, findings, warnings: wanted.warnings, metrics };
        Ok((director, started))
    }

    /// Tables first for what packets meet last: real servers, services, then the classifier that leads to them.
    pub(super) async fn write(&mut self, interfaces: &[Interface]) -> Result<(), DirectorError> {
        let Self { plane, state, plan, classifier, settling, .. } = self;
        let plan = Arc::clone(plan);
        settling.finish(&plane.maps.memory);
        let prepared = Prepared::new(&plane.maps.memory, &plan, None, &state.ids, plane.clock)?;
        let classified = Classified::of(&plane.maps.memory, &state.ids, interfaces);
        let half = classifier.write(&plane.maps.memory, &plan, &state.ids, &classified.interfaces, None)?;
        steps::taken(Step::Half);
        plane.maps.write_prefixes(half.half, &half.prefixes)?;
        steps::taken(Step::Prefixes);
        prepared.write_reals(&plane.maps.memory);
        steps::taken(Step::Reals);
        self.hops = Hops::look_up(&self.network, &plan, &state.ids, interfaces).await;
        self.hops.ask_for_unresolved(&self.network).await;
        self.hops.write(&plane.maps.memory);
        steps::taken(Step::Hops);
        self.wait_for_neighbours(NEIGHBOUR_PATIENCE, &BTreeSet::new()).await;
        let memory = &self.plane.maps.memory;
        let left = prepared.switch_each(memory, || steps::taken(Step::Service));
        self.classifier.switch(memory, half);
        steps::taken(Step::Classifier);
        services::end_leaving(memory, &self.state.ids);
        steps::taken(Step::Leaving);
        self.classified = classified;
        self.settling = Settling::of(left);
        Ok(())
    }

    /// Real servers that answer are known before the first packet; those that are off, or have been `silent` before, do not
    /// hold it up.
    pub(super) async fn wait_for_neighbours(&mut self, patience: Duration, silent: &BTreeSet<(u32, IpAddr)>) {
        let deadline = Instant::now() + patience;
        while self.hops.unresolved().iter().any(|neighbour| !silent.contains(neighbour)) && Instant::now() < deadline {
            tokio::time::sleep(patience / 20).await;
            if let Err(error) = self.hops.look_for_unresolved(&self.network, &self.plane.maps.memory).await {
                tracing::warn!("{error}");
                return;
            }
        }
        let silent: Vec<_> =
            self.hops.unresolved().into_iter().filter(|neighbour| !silent.contains(neighbour)).collect();
        for (_, address) in silent.iter().take(hops::MOST_LINES) {
            tracing::warn!("{address} does not answer for its MAC address yet; its packets are dropped until it does");
        }
        if silent.len() > hops::MOST_LINES {
            tracing::warn!("nor do {} others", silent.len() - hops::MOST_LINES);
        }
    }
}

/// How long a start waits for real servers to answer for their MAC addresses.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(1500);

/// Places of the services that have no number yet.
fn without_number(ids: &Ids, plan: &Plan) -> Vec<usize> {
    let has_none = |service: &ServicePlan| ids.service(&service.name, service.family).is_none();
    (0..plan.services.len()).filter(|&index| has_none(&plan.services[index])).collect()
}

/// A director that does not know how real servers stood is better than none.
fn remembered(place: &Place) -> Result<Standings, DirectorError> {
    place.standings().or_else(|error| {
        let aside = place.set_standings_aside()?;
        tracing::error!("{error}; it is {} now, and every real server serves again", aside.display());
        Ok(Standings::default())
    })
}

fn load(place: &Place, plan: &Plan, limits: &Limits) -> Result<DataPlane, DirectorError> {
    let mut seed = [0; 8];
    random_bytes(&mut seed).map_err(DirectorError::Random)?;
    let capacity = Capacity::for_plan(plan, limits);
    Ok(DataPlane::load(&place.pin_dir, &capacity, u64::from_ne_bytes(seed))?)
}

fn random_bytes(bytes: &mut [u8]) -> io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

/// Takes everything away that a director put on this host: attachments, programs, tables, VIPs, sysctls. What that is, is
/// forgotten last: whoever does it again after a failure finishes it.
///
/// # Errors
/// When something cannot be taken away.
pub async fn detach(place: &Place) -> Result<Vec<String>, DirectorError> {
    let _way = Way::begin(Phase::Detach);
    let state = place.state()?;
    let network = Network::open()?;
    let mut done = Vec::new();
    data_plane::detach(&place.pin_dir)
        .map_err(|cause| DataPlaneError::Io { doing: format!("take away {}", place.pin_dir.display()), cause })?;
    done.extend(state.attached.iter().map(|a| format!("detached from {}", a.interface)));
    for interface in &state.qdiscs {
        match network.remove_idle_clsact(interface).await {
            Ok(true) => done.push(format!("took the qdisc clsact off {interface}")),
            Ok(false) => done.push(format!("left the qdisc clsact on {interface}: others use it")),
            Err(error) => tracing::warn!("{error}"),
        }
        steps::taken(Step::QdiscGone);
    }
    vips::take(&network, &state.vips).await?;
    steps::taken(Step::VipsTaken);
    done.extend(state.vips.iter().map(|vip| format!("took {} off {}", vip.address, vip.interface)));
    for error in forwarding::restore(&state.sysctls) {
        tracing::warn!("{error}");
    }
    steps::taken(Step::SysctlsBack);
    done.extend(state.sysctls.iter().map(|s| format!("set {} back to {}", s.name, s.before)));
    place.clear()?;
    Ok(done)
}

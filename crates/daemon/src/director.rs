//! From a configuration to a running data plane, and what has to be kept up while it runs.

use crate::forwarding;
use crate::hops::{self, Hops};
use crate::linux::attach::{Attachment, Mode, Wish};
use crate::linux::data_plane::{self, DataPlane, DataPlaneError, since_boot};
use crate::linux::network::{Change, Interface, Network, NetworkError};
use crate::linux::offload;
use crate::linux::sysctl::SysctlError;
use crate::place::{Attached, Place, PlaceError, PlacedVip, State};
use crate::routes::Routes;
use crate::standings::{Meant, Standings};
use crate::vips::{self, Announcements};
use marca_config::Diagnostics;
use marca_config::model::{Attach, Config, Limits};
use marca_config::plan::{Difference, Plan, PlanError, ServicePlan, Standing};
use marca_tables::classifier::{self, WriteError};
use marca_tables::ids::{IdKind, Ids, NoNumber, service_key};
use marca_tables::memory::{Capacity, Memory};
use marca_tables::services::{self, NoRoom, Prepared};
use marca_tables::sweep::{RESET_SECONDS, Sweep, forget_clients};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Why a configuration is not in force.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    #[error("{0}")]
    Config(Diagnostics),
    #[error("read {file}: {cause}")]
    Read { file: String, cause: io::Error },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    NoNumber(#[from] NoNumber),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Packet(#[from] crate::linux::announce::PacketError),
    #[error(
        "the tables of the running data plane are too small for this configuration: `marca stop --detach`, which ends \
         its connections, and start again"
    )]
    TooSmall,
    #[error("no service has a real server `{0}`: `marca status` lists them")]
    NoServer(String),
    #[error("listen for requests: {0}")]
    Control(io::Error),
    #[error("draw a random number: {0}")]
    Random(io::Error),
    #[error("listen for signals: {0}")]
    Signal(io::Error),
}

/// What to know once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub adopted: bool,
    /// As the file counts them.
    pub services: usize,
    pub attached: Vec<Attachment>,
    pub findings: Vec<String>,
    pub warnings: String,
}

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
    config: Config,
    plan: Arc<Plan>,
    /// From this plan; to be found out while packets are not waiting for it.
    difference: Option<(Arc<Plan>, Difference)>,
    warnings: String,
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
        Ok(Self { config: loaded.config, plan, difference: None, warnings, text: text.to_owned() })
    }

    /// Holds it against the plan that is in force and probably will be when it is put in its place.
    pub fn against(self, plan: Arc<Plan>) -> Self {
        let difference = Difference::of(&plan, &self.plan);
        Self { difference: Some((plan, difference)), ..self }
    }

    fn take_difference(&mut self, plan: &Arc<Plan>) -> Difference {
        match self.difference.take() {
            Some((known, difference)) if Arc::ptr_eq(&known, plan) => difference,
            _ => Difference::of(plan, &self.plan),
        }
    }
}

/// A running director.
pub struct Director {
    place: Place,
    network: Network,
    plane: DataPlane,
    /// As the configuration has it, and as it is in force: with the real servers' standings.
    configured: Arc<Plan>,
    plan: Arc<Plan>,
    standings: Standings,
    state: State,
    hops: Hops,
    routes: Routes,
    announcements: Vec<Announcements>,
    sweep: Sweep,
    /// When the ways to real servers are looked up again, after a change.
    look_again: Option<Instant>,
    /// The same for the copy of the routes.
    copy_again: Option<Instant>,
    /// When gateways were last made sure of.
    refreshed: Instant,
    classified: Classified,
    /// The interfaces as they were when last looked at; none after a change of the network. With thousands of VIPs on
    /// them a look takes longer than a reload.
    interfaces: Vec<Interface>,
}

impl Director {
    /// Puts a configuration in force, in the network namespace of the calling thread. A data plane that is there is
    /// adopted with its connections.
    ///
    /// # Errors
    /// A bad configuration changes nothing.
    pub async fn start(place: Place, file: &str, text: &str) -> Result<(Self, Started), DirectorError> {
        let wanted = Wanted::of(file, text)?;
        let network = Network::open()?;
        let interfaces = interfaces(&network, &wanted.config).await?;
        let mut state = place.state()?;
        let mut plane = load(&place, &wanted.plan, &wanted.config.router.limits)?;
        let wishes = wishes(&wanted.config, &interfaces);
        plane.prepare(&wishes)?;
        let capacity = plane.maps.memory.capacity;
        if !capacity.holds(&wanted.plan) {
            return Err(DirectorError::TooSmall);
        }
        let unknown = without_number(&state.ids, &wanted.plan);
        let new = state.ids.assign(&wanted.plan, capacity.services, capacity.reals)?;
        if plane.adopted {
            plane.maps.clear_traffic(&new)?;
            plane.maps.clear_refused(&numbers(&state.ids, &wanted.plan, &unknown))?;
        }
        state.hz = plane.clock.hz;
        let (mut standings, now) = (place.standings()?, since_boot()?);
        standings.settle(&wanted.plan, now);
        standings.part(&wanted.plan, &Plan::default(), &state.ids, now);
        let adopted = plane.adopted;
        let reset = plane.clock.ticks(Duration::from_secs(RESET_SECONDS));
        let mut director = Self {
            place,
            network,
            plane,
            plan: match standings.alter() {
                true => Arc::new(standings.apply(&wanted.plan)),
                false => Arc::clone(&wanted.plan),
            },
            configured: wanted.plan,
            standings,
            state,
            hops: Hops::default(),
            routes: Routes::default(),
            announcements: Vec::new(),
            sweep: Sweep::new(reset),
            look_again: None,
            copy_again: None,
            refreshed: Instant::now(),
            classified: Classified::default(),
            interfaces: Vec::new(),
        };
        // Numbers before anything carries them; and everything to be undone before it is done.
        director.place.save_state(&director.state)?;
        director.place.save_standings(&director.standings)?;
        director.write(&interfaces).await?;
        director.set_sysctls(&wanted.config)?;
        let attached = director.attach(&wishes)?;
        director.put_vips(&wanted.config, &interfaces).await?;
        director.copy_routes().await;
        director.place.save_running(text)?;
        let findings = director.findings(&interfaces);
        let services = wanted.config.services.len();
        let started = Started { adopted, services, attached, findings, warnings: wanted.warnings };
        Ok((director, started))
    }

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
        let began = Instant::now();
        let (mut standings, now) = (self.standings.clone(), since_boot()?);
        standings.settle(&wanted.plan, now);
        let configured = Arc::clone(&wanted.plan);
        if standings.alter() {
            wanted.plan = Arc::new(standings.apply(&configured));
            wanted.difference = None;
        }
        let interfaces = self.known_interfaces(&wanted.config).await?;
        let capacity = self.plane.maps.memory.capacity;
        if !capacity.holds(&wanted.plan) {
            return Err(DirectorError::TooSmall);
        }
        let difference = wanted.take_difference(&self.plan);
        let leaving = leaving(&self.state.ids);
        let unknown: Vec<usize> =
            difference.changed.iter().filter(|(before, _)| before.is_none()).map(|&(_, index)| index).collect();
        let plans = (&*self.plan, &*wanted.plan);
        let new = self.state.ids.replace(plans, &difference, capacity.services, capacity.reals)?;
        if let Err(error) = self.put_tables(&wanted, &difference, &interfaces, &new).await {
            // Numbers that were there find room again.
            let (plans, back) = ((&*wanted.plan, &*self.plan), Difference::of(&wanted.plan, &self.plan));
            self.state.ids.replace(plans, &back, capacity.services, capacity.reals)?;
            return Err(error);
        }
        let took = began.elapsed();
        standings.part(&configured, &self.plan, &self.state.ids, now);
        self.plan = wanted.plan;
        (self.configured, self.standings) = (configured, standings);
        let mut replaced = Replaced {
            changed: difference.changed.len(),
            gone: difference.gone.len(),
            services: self.plan.services.len(),
            took,
            findings: Vec::new(),
            warnings: wanted.warnings,
        };
        replaced.findings.extend(limits_that_wait(&wanted.config.router.limits, &capacity));
        // The tables have it; what fails now is told, and tried again by the next reload or start.
        let mut failed = |what: Result<(), DirectorError>| {
            what.err().into_iter().for_each(|error| replaced.findings.push(format!("in force, but: {error}")));
        };
        let numbers = numbers(&self.state.ids, &self.plan, &unknown);
        failed(self.plane.maps.clear_refused(&numbers).map_err(DirectorError::from));
        failed(self.place.save_standings(&self.standings).map_err(DirectorError::from));
        if leaving != self::leaving(&self.state.ids) {
            failed(self.place.save_state(&self.state).map_err(DirectorError::from));
        }
        failed(self.set_sysctls(&wanted.config));
        let wishes = wishes(&wanted.config, &interfaces);
        if !self.is_attached(&wishes) {
            failed(self.attach(&wishes).map(drop));
        }
        failed(self.put_vips(&wanted.config, &interfaces).await);
        failed(self.place.save_running(&wanted.text).map_err(DirectorError::from));
        replaced.findings.extend(self.findings(&interfaces));
        Ok(replaced)
    }

    /// Everything that may fail comes first; then the tables, as [`Prepared`] says.
    async fn put_tables(
        &mut self,
        wanted: &Wanted,
        difference: &Difference,
        interfaces: &[Interface],
        new: &[u32],
    ) -> Result<(), DirectorError> {
        let Self { plane, state, network, hops, .. } = self;
        let (ids, clock) = (&state.ids, plane.clock);
        let prepared = Prepared::new(&plane.maps.memory, &wanted.plan, Some(difference), ids, clock)?;
        let classified = Classified::of(&plane.maps.memory, ids, interfaces);
        let half = if difference.classifier || self.classified != classified {
            let half = classifier::write(&plane.maps.memory, &wanted.plan, ids, &classified.interfaces)?;
            plane.maps.write_prefixes(half.half, &half.prefixes)?;
            Some(half)
        } else {
            None
        };
        plane.maps.clear_traffic(new)?;
        // Whoever comes after a crash must know what carries a number.
        if !new.is_empty() {
            self.place.save_state(state)?;
        }
        let wishes = wishes(&wanted.config, interfaces);
        let is_new = |wish: &&Wish| !state.attached.iter().any(|attached| attached.interface == wish.interface);
        if wishes.iter().any(|wish| is_new(&wish)) {
            let attached = kept(&state.attached);
            let both = attached.iter().chain(wishes.iter().filter(is_new)).cloned();
            if let Err(error) = plane.attach(&both.collect::<Vec<_>>()) {
                plane.attach(&attached)?;
                return Err(error.into());
            }
        }
        prepared.write_reals(&plane.maps.memory);
        let silent: BTreeSet<(u32, IpAddr)> = hops.unresolved().into_iter().collect();
        hops.replace(network, (&*self.plan, &*wanted.plan), difference, ids, interfaces).await;
        hops.write_changed(&plane.maps.memory, &wanted.plan, difference, ids);
        self.wait_for_neighbours(NEIGHBOUR_PATIENCE_OF_RELOADS, &silent).await;
        let memory = &self.plane.maps.memory;
        prepared.switch(memory);
        if let Some(half) = half {
            classifier::switch(memory, &half);
            self.classified = classified;
        }
        services::end_leaving(memory, &self.state.ids);
        Ok(())
    }

    /// Tables first for what packets meet last: real servers, services, then the classifier that leads to them.
    async fn write(&mut self, interfaces: &[Interface]) -> Result<(), DirectorError> {
        let Self { plane, state, plan, .. } = self;
        let plan = Arc::clone(plan);
        let prepared = Prepared::new(&plane.maps.memory, &plan, None, &state.ids, plane.clock)?;
        let classified = Classified::of(&plane.maps.memory, &state.ids, interfaces);
        let half = classifier::write(&plane.maps.memory, &plan, &state.ids, &classified.interfaces)?;
        plane.maps.write_prefixes(half.half, &half.prefixes)?;
        prepared.write_reals(&plane.maps.memory);
        self.hops = Hops::look_up(&self.network, &plan, &state.ids, interfaces).await;
        self.hops.ask_for_unresolved(&self.network).await;
        self.hops.write(&plane.maps.memory);
        self.wait_for_neighbours(NEIGHBOUR_PATIENCE, &BTreeSet::new()).await;
        let memory = &self.plane.maps.memory;
        prepared.switch(memory);
        classifier::switch(memory, &half);
        services::end_leaving(memory, &self.state.ids);
        self.classified = classified;
        Ok(())
    }

    /// Real servers that answer are known before the first packet; those that are off, or have been `silent` before, do not
    /// hold it up.
    async fn wait_for_neighbours(&mut self, patience: Duration, silent: &BTreeSet<(u32, IpAddr)>) {
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

    /// The interfaces that a configuration names; looked at again only after a change of the network, which also has
    /// everything looked up again that depends on them.
    async fn known_interfaces(&mut self, config: &Config) -> Result<Vec<Interface>, NetworkError> {
        let names = interface_names(config);
        if !names.iter().map(|name| name.as_str()).eq(self.interfaces.iter().map(|known| known.name.as_str())) {
            self.interfaces = interfaces(&self.network, config).await?;
        }
        Ok(self.interfaces.clone())
    }

    fn is_attached(&self, wishes: &[Wish]) -> bool {
        let attached =
            self.state.attached.iter().map(|attached| (attached.interface.as_str(), attached.asked.as_str()));
        attached.eq(wishes.iter().map(|wish| (wish.interface.as_str(), wish.attach.name())))
    }

    fn set_sysctls(&mut self, config: &Config) -> Result<(), DirectorError> {
        let replies = if config.router.inside.is_empty() { &config.router.outside } else { &config.router.inside };
        let before = self.state.sysctls.len();
        for changed in forwarding::set(&forwarding::wanted(&self.plan, replies))? {
            // A value that an earlier run changed has its first value on record.
            if !self.state.sysctls.iter().any(|known| known.name == changed.name) {
                self.state.sysctls.push(changed);
            }
        }
        if self.state.sysctls.len() != before {
            self.place.save_state(&self.state)?;
        }
        Ok(())
    }

    fn attach(&mut self, wishes: &[Wish]) -> Result<Vec<Attachment>, DirectorError> {
        let attachments = self.plane.attach(wishes)?;
        let both = wishes.iter().zip(&attachments);
        self.state.attached = both.map(|(wish, attachment)| attached(wish, attachment)).collect();
        let made = attachments.iter().filter(|attachment| attachment.made_qdisc);
        self.state.qdiscs.extend(made.map(|attachment| attachment.interface.clone()));
        self.place.save_state(&self.state)?;
        Ok(attachments)
    }

    /// What about the interfaces breaks or weakens how packets are met there, each with what mends it.
    fn findings(&self, interfaces: &[Interface]) -> Vec<String> {
        let mode = |name: &str| self.state.attached.iter().find(|a| a.interface == name).map(|a| a.mode);
        let modes = interfaces.iter().filter_map(|interface| Some((interface, mode(&interface.name)?)));
        findings(&modes.collect::<Vec<_>>())
    }

    async fn put_vips(&mut self, config: &Config, interfaces: &[Interface]) -> Result<(), DirectorError> {
        let outside: Vec<Interface> =
            interfaces.iter().filter(|i| config.router.outside.contains(&i.name)).cloned().collect();
        let mut places = vips::places(&self.plan.vips, &outside);
        // What real servers answer to stands on the side where they are.
        let inside: Vec<Interface> =
            interfaces.iter().filter(|i| config.router.inside.contains(&i.name)).cloned().collect();
        let inside = if inside.is_empty() { &outside } else { &inside };
        places.extend(vips::places(&self.plan.sources, inside));
        let sides: Vec<Interface> = interfaces
            .iter()
            .filter(|i| outside.contains(i) || (inside.contains(i) && !self.plan.sources.is_empty()))
            .cloned()
            .collect();
        let wanted: BTreeSet<&PlacedVip> = places.iter().collect();
        let gone: Vec<PlacedVip> = self.state.vips.iter().filter(|vip| !wanted.contains(vip)).cloned().collect();
        vips::take(&self.network, &gone).await?;
        self.state.vips.retain(|vip| wanted.contains(vip));
        let missing = vips::missing(&places, &self.network.addresses().await?);
        let known: BTreeSet<PlacedVip> = self.state.vips.iter().cloned().collect();
        self.state.vips.extend(missing.iter().filter(|vip| !known.contains(vip)).cloned());
        if self.state.vips.len() != known.len() || !gone.is_empty() {
            self.place.save_state(&self.state)?;
        }
        vips::put(&self.network, &missing, &sides).await?;
        self.announce(&sides, &places, &missing)
    }

    /// All VIPs, or on interfaces that have been there before those that are new.
    fn announce(
        &mut self,
        sides: &[Interface],
        places: &[PlacedVip],
        missing: &[PlacedVip],
    ) -> Result<(), DirectorError> {
        let kept: BTreeSet<IpAddr> = self.plan.vips.union(&self.plan.sources).copied().collect();
        let mut before = std::mem::take(&mut self.announcements);
        let now = Instant::now();
        for interface in sides {
            let known = before.iter().position(|announcements| announcements.is_of(interface));
            let (mut announcements, new) = match known {
                Some(index) => (before.swap_remove(index), missing),
                None => (Announcements::open(interface)?, places),
            };
            announcements.keep(&kept);
            for vip in new.iter().filter(|vip| vip.interface == interface.name) {
                announcements.add(vip.address.addr(), now);
            }
            self.announcements.push(announcements);
        }
        Ok(())
    }

    /// What is in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }

    /// Something in the network changed.
    pub async fn change(&mut self, change: Change) {
        match change {
            Change::Neighbour { interface, address, mac } => {
                if self.routes.neighbour(&self.plane.maps, interface, address, mac) {
                    self.copy_again.get_or_insert(Instant::now() + SETTLE);
                }
                let concerned = self.hops.neighbour(&self.plane.maps.memory, interface, address, mac);
                if concerned && mac.is_none() {
                    hops::ask(&self.network, interface, address).await;
                }
            }
            // They come in bursts; one look is enough.
            Change::Link { .. } | Change::Route | Change::Address | Change::Missed => {
                self.interfaces.clear();
                self.routes.distrust(&self.plane.maps);
                self.copy_again.get_or_insert(Instant::now() + SETTLE);
                self.look_again.get_or_insert(Instant::now() + SETTLE);
            }
        }
    }

    /// Real servers have failed, or serve again; answers what that changed, a line for each. The event of operators'
    /// commands, and of health checks.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn health(&mut self, servers: &[Meant], up: bool) -> Result<Vec<String>, DirectorError> {
        let mut standings = self.standings.clone();
        let (mut services, mut told) = (BTreeSet::new(), BTreeSet::new());
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
                    told.insert(format!("{}/{} {became}", service.name, real.name));
                }
            }
            if !is_known {
                return Err(DirectorError::NoServer(meant.to_string()));
            }
        }
        // Whoever comes after a crash must know.
        self.place.save_standings(&standings)?;
        let before = std::mem::replace(&mut self.standings, standings);
        if let Err(error) = self.restand(&services) {
            self.standings = before;
            self.place.save_standings(&self.standings)?;
            return Err(error);
        }
        Ok(told.into_iter().collect())
    }

    /// Real servers of these services stand otherwise.
    fn restand(&mut self, services: &BTreeSet<usize>) -> Result<(), DirectorError> {
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
        let prepared = Prepared::new(memory, &plan, Some(&difference), ids, self.plane.clock)?;
        prepared.write_reals(memory);
        prepared.switch(memory);
        drop(prepared);
        let changed = difference.changed.iter().map(|&(_, index)| &plan.services[index]);
        let gone = changed.flat_map(|service| {
            let gone = service.reals.iter().filter(|real| real.standing != Standing::Serving);
            gone.filter_map(|real| ids.real(&service.name, service.family, real.address))
        });
        forget_clients(memory, &gone.collect());
        self.plan = plan;
        Ok(())
    }

    /// Deadlines of real servers that drain.
    fn end_drains(&mut self) -> Result<(), DirectorError> {
        let due = self.standings.due(since_boot()?);
        if due.is_empty() {
            return Ok(());
        }
        self.place.save_standings(&self.standings)?;
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

    /// What is due: announcements, neighbours that packets ask for, a piece of the sweep, and whatever has changed.
    pub async fn tick(&mut self) -> Result<(), DirectorError> {
        let now = Instant::now();
        self.announcements.iter_mut().for_each(|a| a.poll(now));
        self.wanted().await;
        self.end_drains()?;
        self.sweep_piece()?;
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            self.look_up_again().await;
        }
        if self.copy_again.is_some_and(|at| at <= now) {
            self.copy_again = None;
            self.copy_routes().await;
        }
        let until = self.plane.now()?.wrapping_add(self.plane.clock.ticks(LEASE));
        self.routes.renew(&self.plane.maps, until);
        self.hops.refresh(&self.network, REFRESH_TICKS).await;
        if now - self.refreshed > REFRESH {
            self.refreshed = now;
            self.routes.refresh(&self.network).await;
        }
        Ok(())
    }

    /// Without a copy packets ask the kernel: slower, and right.
    async fn copy_routes(&mut self) {
        if let Err(error) = self.routes.look_up(&self.network, &mut self.plane.maps).await {
            tracing::warn!("replies are slower, because the routes cannot be copied: {error}");
        }
    }

    async fn look_up_again(&mut self) {
        let mut known = Vec::new();
        for attached in &self.state.attached {
            match self.network.interface(&attached.interface).await {
                Ok(interface) => known.push(interface),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        self.hops = Hops::look_up(&self.network, &self.plan, &self.state.ids, &known).await;
        self.interfaces = known;
        self.hops.write(&self.plane.maps.memory);
        self.hops.ask_for_unresolved(&self.network).await;
    }

    /// Neighbours that packets asked for in vain.
    async fn wanted(&mut self) {
        let memory = &self.plane.maps.memory;
        let mut asked = Vec::new();
        for index in 0..memory.neighbours.len() {
            let Some(wanted) = memory.neighbours.at(index) else { break };
            if wanted.asked.get() == 0 {
                continue;
            }
            wanted.asked.set(0);
            let family = wanted.family.get();
            let [a, b] = [wanted.address[0].get(), wanted.address[1].get()];
            let address = marca_engine::layout::Address([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]);
            asked.push((wanted.interface.get(), classifier::ip(family as u8, &address)));
        }
        for (interface, address) in asked {
            match self.network.route_to(address).await {
                Ok(route) => hops::ask(&self.network, interface, route.gateway.unwrap_or(address)).await,
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }

    fn sweep_piece(&mut self) -> Result<(), DirectorError> {
        let now = self.plane.now()?;
        let memory = &self.plane.maps.memory;
        let (_, complete) = self.sweep.step(memory, now, sweep_piece(memory));
        if complete {
            let sweep = &self.sweep;
            let released = self.state.ids.release(|id| match id {
                IdKind::Real(real) => sweep.has_records(memory, *real),
                IdKind::Service(_) => false,
            });
            if released {
                self.place.save_state(&self.state)?;
                self.standings.part(&self.configured, &self.configured, &self.state.ids, since_boot()?);
                self.place.save_standings(&self.standings)?;
                self.classify_again()?;
            }
        }
        Ok(())
    }

    /// Real servers whose last connections have ended answer for nobody any more: their addresses are themselves again,
    /// and those that share a port with them need no records.
    fn classify_again(&mut self) -> Result<(), DirectorError> {
        let maps = &mut self.plane.maps;
        let leaving = classifier::leaving(&maps.memory, &self.state.ids);
        if leaving == self.classified.leaving {
            return Ok(());
        }
        let half = classifier::write(&maps.memory, &self.plan, &self.state.ids, &self.classified.interfaces)?;
        maps.write_prefixes(half.half, &half.prefixes)?;
        classifier::switch(&maps.memory, &half);
        self.classified.leaving = leaving;
        Ok(())
    }
}

/// How many cells one call of [`Director::tick`] looks at. A whole pass takes two seconds, and longer with more than two
/// million cells.
pub fn sweep_piece(memory: &Memory) -> u32 {
    ((memory.flows.len() + memory.half_open.len()) / PASS_TICKS).clamp(1, MAX_PIECE)
}

/// How often [`Director::tick`] is called.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks in a pass of the sweep.
const PASS_TICKS: u32 = 20;
/// Cells that one tick looks at, at the most: about a millisecond's work.
const MAX_PIECE: u32 = 100_000;
/// How long a start waits for real servers to answer for their MAC addresses.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a reload waits for those that are new.
const NEIGHBOUR_PATIENCE_OF_RELOADS: Duration = Duration::from_millis(40);
/// Changes of the network come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// How long packets use the copied routes after the daemon has ended, or hangs.
const LEASE: Duration = Duration::from_secs(2);
/// How often the kernel is asked to make sure of neighbours: it would find out about dead ones only by sending, and
/// packets that XDP sends are not its own.
const REFRESH: Duration = Duration::from_secs(15);
/// The same in calls of [`Director::tick`].
const REFRESH_TICKS: usize = (REFRESH.as_millis() / TICK.as_millis()) as usize;

/// What a half of the classifier was written from, beside the plan.
#[derive(Default, PartialEq, Eq)]
struct Classified {
    /// By name.
    interfaces: HashMap<String, u32>,
    leaving: BTreeSet<IpAddr>,
}

impl Classified {
    fn of(memory: &Memory, ids: &Ids, interfaces: &[Interface]) -> Self {
        Self {
            interfaces: interfaces.iter().map(|i| (i.name.clone(), i.index)).collect(),
            leaving: classifier::leaving(memory, ids),
        }
    }
}

/// Places of the services that have no number yet.
fn without_number(ids: &Ids, plan: &Plan) -> Vec<usize> {
    let has_none = |service: &ServicePlan| ids.service(&service.name, service.family).is_none();
    (0..plan.services.len()).filter(|&index| has_none(&plan.services[index])).collect()
}

fn numbers(ids: &Ids, plan: &Plan, services: &[usize]) -> Vec<u32> {
    let services = services.iter().map(|&index| &plan.services[index]);
    services.filter_map(|service| ids.service(&service.name, service.family)).collect()
}

/// Real servers that are no longer in the plan, for whoever asks for the director's state.
fn leaving(ids: &Ids) -> BTreeSet<String> {
    ids.leaving().map(|(key, _)| key.to_owned()).collect()
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

/// Outside and inside, each once.
fn attached_interfaces(config: &Config) -> Vec<String> {
    let mut names = config.router.outside.clone();
    names.extend(config.router.inside.iter().filter(|name| !config.router.outside.contains(name)).cloned());
    names
}

/// The director's own, and others that rules name.
fn interface_names(config: &Config) -> Vec<String> {
    let mut names = attached_interfaces(config);
    for name in config.marks.iter().flat_map(|rule| &rule.interfaces) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

async fn interfaces(network: &Network, config: &Config) -> Result<Vec<Interface>, NetworkError> {
    let mut interfaces = Vec::new();
    for name in interface_names(config) {
        interfaces.push(network.interface(&name).await?);
    }
    Ok(interfaces)
}

/// How the interfaces' packets are to be met.
fn wishes(config: &Config, interfaces: &[Interface]) -> Vec<Wish> {
    let kind = |name: &str| interfaces.iter().find(|interface| interface.name == name)?.kind.clone();
    let wish = |name: String| Wish { attach: config.router.attach(&name), kind: kind(&name), interface: name };
    attached_interfaces(config).into_iter().map(wish).collect()
}

/// Wishes for what there is.
fn kept(attached: &[Attached]) -> Vec<Wish> {
    let wish = |attached: &Attached| Wish {
        interface: attached.interface.clone(),
        attach: if attached.mode == Mode::Tc { Attach::Tc } else { Attach::Xdp },
        kind: None,
    };
    attached.iter().map(wish).collect()
}

fn attached(wish: &Wish, attachment: &Attachment) -> Attached {
    Attached {
        interface: wish.interface.clone(),
        mode: attachment.mode,
        asked: wish.attach.name().to_owned(),
        why: attachment.why.clone(),
    }
}

fn findings(interfaces: &[(&Interface, Mode)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (interface, mode) in interfaces {
        match offload::findings(&interface.name, interface.kind.as_deref(), *mode) {
            Ok(findings) => {
                lines.extend(findings.iter().map(|f| format!("{}: {}. Mend it with: {}", f.what, f.why, f.mend)))
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let named = |wanted| interfaces.iter().find(|(_, mode)| *mode == wanted).map(|(interface, _)| &interface.name);
    if let (Some(xdp), Some(tc)) = (named(Mode::Native), named(Mode::Tc)) {
        lines.push(format!(
            "{xdp} has native XDP and {tc} has TC: what {xdp} hands to {tc} is lost unless the driver of {tc} takes frames from \
             XDP. Mend it with: attach = \"tc\" for both"
        ));
    }
    lines
}

/// Takes everything away that a director put on this host: attachments, programs, tables, VIPs, sysctls.
pub async fn detach(place: &Place) -> Result<Vec<String>, DirectorError> {
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
    }
    vips::take(&network, &state.vips).await?;
    done.extend(state.vips.iter().map(|vip| format!("took {} off {}", vip.address, vip.interface)));
    for error in forwarding::restore(&state.sysctls) {
        tracing::warn!("{error}");
    }
    done.extend(state.sysctls.iter().map(|s| format!("set {} back to {}", s.name, s.before)));
    place.clear()?;
    Ok(done)
}

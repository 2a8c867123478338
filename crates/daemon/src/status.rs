//! What a director counts, as a value: read from its maps and files, whether its daemon runs or not.

mod told;

use crate::linux::data_plane::{DataPlaneError, Maps, since_boot};
use crate::live::{Asked, Live};
use crate::overrides::{Duty, Now, Override, Overrides, Until};
use crate::place::{Place, PlaceError, State};
use crate::standings::{Cause, Draining, Health, Standings};
use jiff::Timestamp;
use marca_config::model::{Config, Selector, Service};
use marca_config::plan::{Family, Plan, RealPlan, Role, ServicePlan, Standing};
use marca_engine::layout::{Traffic, real_flags};
use marca_engine::schedule::threshold;
use marca_tables::classifier;
use marca_tables::ids::{Ids, service_key};
use marca_tables::memory::Memory;
use marca_tables::services::Clock;
use marca_tables::sweep::Counted;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub use told::*;

/// A director that runs, or whose data plane does, opened for reading. A clone is the same one.
#[derive(Clone)]
pub struct Running {
    pub maps: Arc<Maps>,
    pub config: Arc<Config>,
    /// As operators have it: the configuration, with what they have said by hand.
    pub plan: Arc<Plan>,
    /// As the configuration has it.
    pub file: Arc<Plan>,
    pub state: Arc<State>,
    pub overrides: Arc<Overrides>,
    pub standings: Arc<Standings>,
    /// Whether a daemon looks after it.
    pub daemon: Option<u32>,
    /// If it is this process.
    live: Live,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("the data plane runs, but {0} is gone: what it runs is not known; `marca run` writes it anew")]
    NoConfig(String),
    #[error("{0}")]
    Config(String),
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct RunningConfig {
    pub config: Arc<Config>,
    pub plan: Arc<Plan>,
}

impl RunningConfig {
    /// As the daemon of this process has it; else from its file, which takes long with thousands of services.
    ///
    /// # Errors
    /// When there is no such file, or it is not a configuration.
    pub fn of(place: &Place) -> Result<Self, ReadError> {
        if let Some(running) = place.live.running() {
            return Ok(running);
        }
        let Some(text) = place.running()? else {
            return Err(ReadError::NoConfig(place.run_dir.join("running.toml").display().to_string()));
        };
        let loaded = marca_config::load("running.toml", &text).map_err(|e| ReadError::Config(e.render(false)))?;
        let plan = Plan::of(&loaded.config).map_err(|e| ReadError::Config(e.to_string()))?;
        Ok(Self { config: Arc::new(loaded.config), plan: Arc::new(plan) })
    }
}

impl Running {
    /// Opens the director that has this place.
    pub fn open(place: &Place) -> Result<Self, ReadError> {
        let maps = Arc::new(Maps::open(&place.pin_dir)?);
        Self::with(place, maps)
    }

    /// The same with its maps, which are open already.
    pub fn with(place: &Place, maps: Arc<Maps>) -> Result<Self, ReadError> {
        let RunningConfig { config, plan: file } = RunningConfig::of(place)?;
        let (state, standings, daemon) = (place.state()?, place.standings()?, place.running_daemon()?);
        let overrides = place.overrides()?.kept(&file);
        let plan = overrides.apply(&file);
        let live = place.live.clone();
        let (state, overrides, standings) = (Arc::new(state), Arc::new(overrides), Arc::new(standings));
        Ok(Self { maps, config, plan, file, state, overrides, standings, daemon, live })
    }

    /// The plan with the real servers' standings, as packets have it.
    pub fn in_force(&self) -> Plan {
        self.standings.apply(&self.plan)
    }

    pub fn clock(&self) -> Clock {
        Clock { hz: self.state.hz.max(1) }
    }

    /// Everything that is counted.
    pub fn status(&self) -> Status {
        self.told(None, Depth::Servers)
    }

    /// The same of all services or one, and down to its real servers or not.
    pub fn told(&self, only: Option<&str>, depth: Depth) -> Status {
        let memory = &self.maps.memory;
        // Once for all of them: there may be ten thousand.
        let mut plans: HashMap<&str, Vec<&ServicePlan>> = HashMap::new();
        self.plan.services.iter().for_each(|plan| plans.entry(&plan.name).or_default().push(plan));
        let of = |service: &Service| plans.get(service.name.as_str()).map_or(&[][..], Vec::as_slice);
        let services = self.config.services.iter().filter(|service| only.is_none_or(|name| service.name == name));
        Status {
            daemon: self.daemon,
            unwritten: self.live.unwritten(),
            interfaces: self
                .state
                .attached
                .iter()
                .map(|a| InterfaceStatus {
                    name: a.interface.clone(),
                    attached: a.mode.name().into(),
                    why: a.why.clone(),
                })
                .collect(),
            services: services.map(|service| self.service(service, of(service), depth)).collect(),
            tables: tables(memory, self.live.counted()),
            checks: self.checks(),
            reasons: self
                .maps
                .reasons()
                .into_iter()
                .map(|(reason, packets)| (reason.label().into(), packets))
                .collect(),
        }
    }

    fn checks(&self) -> ChecksStatus {
        let [good, bad, unasked] = Asked::ALL.map(|asked| self.live.asked(asked));
        ChecksStatus { good, bad, unasked }
    }

    /// `plans` are those of the service's families.
    fn service(&self, service: &Service, plans: &[&ServicePlan], depth: Depth) -> ServiceStatus {
        let mut servers: Vec<ServerStatus> = Vec::new();
        let mut looks: Vec<Look> = Vec::new();
        let mut leaving = Vec::new();
        let mut rate_limited = 0;
        let mut quorum = QuorumStatus::of(service);
        for plan in plans {
            leaving.extend(self.leaving(plan));
            let strength = self.standings.strength_of(plan);
            quorum.up = quorum.up.map_or(Some(strength.up), |up| Some(up.min(strength.up)));
            quorum.below |= strength.is_below;
            rate_limited += self.state.ids.service(&plan.name, plan.family).map_or(0, |n| self.maps.refused(n));
            for real in &plan.reals {
                let look = self.look(plan, real);
                if depth == Depth::Servers {
                    let status = self.server(plan, real, &look);
                    match servers.iter_mut().find(|known| known.name == real.name) {
                        Some(known) => known.add(&status),
                        None => servers.push(status),
                    }
                }
                match looks.iter_mut().find(|known| known.name == look.name) {
                    Some(known) => known.add(&look),
                    None => looks.push(look),
                }
            }
        }
        let (selector, vips) = match &service.selector {
            Selector::Ports { ports, .. } => (ports.iter().map(ToString::to_string).collect(), &service.selector),
            Selector::Mark { mark, .. } => (vec![format!("mark {mark}")], &service.selector),
        };
        let mut traffic = TrafficStatus::default();
        looks.iter().for_each(|look| traffic.add(&look.traffic));
        let mut states: BTreeMap<&str, u32> = BTreeMap::new();
        looks.iter().for_each(|look| *states.entry(look.state).or_default() += 1);
        ServiceStatus {
            name: service.name.clone(),
            vips: vips.vips().to_vec(),
            ports: selector,
            scheduler: service.scheduler.name().into(),
            scheduler_flags: flags(service),
            udp: service.udp.name().into(),
            persist_seconds: service.persistence.map(|p| p.timeout.as_secs()),
            forward: service.forward.name().into(),
            quorum,
            rate_limited,
            pool: looks.iter().filter(|look| look.role == Role::Regular).count() as u32,
            states: states.into_iter().map(|(state, count)| (state.to_owned(), count)).collect(),
            active: looks.iter().map(|look| look.active).sum(),
            inactive: looks.iter().map(|look| look.inactive).sum(),
            traffic,
            checks: checks(plans),
            servers,
            leaving,
        }
    }

    /// Real servers that have left the service, while they have connections.
    fn leaving(&self, service: &ServicePlan) -> Vec<LeavingStatus> {
        let of = format!("{}/", service_key(&service.name, service.family));
        let leaving = self.state.ids.leaving().filter(|(key, _)| key.starts_with(&of));
        leaving
            .filter_map(|(key, number)| {
                let real = self.maps.memory.reals.get(number)?;
                let removed = self.standings.removed(key);
                let (active, inactive) = self.load(Some(number));
                let address = (real.family != 0).then(|| classifier::ip(real.family, &real.address));
                let called = || address.map_or_else(|| "local".into(), |address| address.to_string());
                Some(LeavingStatus {
                    name: removed.map_or_else(called, |removed| removed.name.clone()),
                    address,
                    state: if real.flags & real_flags::DOWN != 0 { "ending" } else { "leaving" }.into(),
                    seconds_left: removed.and_then(seconds_left),
                    active,
                    inactive,
                })
            })
            .filter(|leaving| leaving.active + leaving.inactive > 0)
            .collect()
    }

    /// Active and inactive connections of a number.
    fn load(&self, number: Option<u32>) -> (u64, u64) {
        let load = number.and_then(|n| self.maps.memory.loads.at(n));
        // Two processors may count one connection's end and another's begin in between: never below nothing.
        let count = |word: u64| (word as i64).max(0) as u64;
        load.map_or((0, 0), |l| (count(l.active.get()), count(l.inactive.get())))
    }

    /// What an operator has said of a real server.
    fn by_hand(&self, service: &ServicePlan, real: &RealPlan, said: &Override) -> HandStatus {
        let mut services = self.file.services.iter().filter(|file| is_same(file, service));
        let configured = services.find_map(|file| file.reals.iter().find(|known| known.address == real.address));
        let now = since_boot().map(|boot| Now { boot, clock: Timestamp::now() });
        let moment = |until: Until| until.moment(*now.as_ref().ok()?);
        HandStatus {
            duty: said.duty.map(|(duty, _)| duty.name().into()),
            duty_until: said.duty.and_then(|(_, until)| moment(until)),
            weight: said.weight.map(|(weight, _)| weight),
            weight_until: said.weight.and_then(|(_, until)| moment(until)),
            configured_weight: configured.map_or(0, |real| real.weight),
        }
    }

    fn look<'a>(&'a self, service: &ServicePlan, real: &'a RealPlan) -> Look<'a> {
        let number = number(&self.state.ids, &service.name, service.family, real);
        let traffic = number.map_or(Traffic::default(), |n| self.maps.traffic(n));
        let (active, inactive) = self.load(number);
        // As packets have it, whether a daemon sees to deadlines or not.
        let flags = number.and_then(|n| self.maps.memory.reals.get(n)).map_or(real_flags::UP, |real| real.flags);
        let said = self.overrides.of(service, real);
        let (causes, checked) = (self.standings.causes(service, real), self.standings.health(service, real));
        let mut only_ports = Vec::new();
        let state = match flags {
            _ if flags & real_flags::DOWN != 0 => "down",
            _ if said.is_some_and(|said| said.duty.is_some_and(|(duty, _)| duty == Duty::Disabled)) => "disabled",
            _ if real.role == Role::Sorry && real.standing == Standing::Drained => "drained",
            _ if flags & real_flags::UP != 0 && real.role == Role::Sorry => "serving",
            _ if flags & real_flags::UP == 0 && real.role == Role::Sorry => {
                // Where a port is closed at all real servers it serves that port alone.
                only_ports.extend(self.standings.of(service).left().map(ToString::to_string));
                if only_ports.is_empty() { "standby" } else { "serving" }
            }
            _ if flags & real_flags::UP == 0 && causes.contains(&Cause::Waiting) => "waiting",
            _ if flags & real_flags::UP == 0 => "drained",
            _ if real.weight == 0 || checked.is_some_and(|health| health.weight == Some(0)) => "draining",
            _ => "up",
        };
        Look {
            name: &real.name,
            role: real.role,
            number,
            state,
            said,
            causes,
            checked,
            only_ports,
            active,
            inactive,
            traffic: TrafficStatus::from(traffic),
        }
    }

    fn server(&self, service: &ServicePlan, real: &RealPlan, look: &Look) -> ServerStatus {
        let Look { number, state, said, ref causes, checked, active, inactive, traffic, .. } = *look;
        // Whom an operator has taken out of service nobody asks.
        let is_out = real.standing == Standing::Drained;
        let is_checked = !service.checks.is_empty() && real.role == Role::Regular && !is_out;
        let draining = self.standings.draining(service, real).filter(|_| state == "draining");
        ServerStatus {
            name: real.name.clone(),
            addresses: real.address.into_iter().collect(),
            forward: real.forward.name().into(),
            weight: real.weight,
            by_hand: said.map(|said| self.by_hand(service, real, said)),
            upper: real.upper,
            lower: real.lower,
            overloaded: number.and_then(|n| self.maps.memory.loads.at(n)).is_some_and(threshold::is_overloaded),
            state: state.into(),
            sorry: real.role == Role::Sorry,
            only_ports: look.only_ports.clone(),
            causes: causes.iter().map(|cause| cause_name(*cause).to_owned()).collect(),
            seconds_left: draining.and_then(seconds_left),
            health: is_checked.then(|| health(service, checked)),
            active,
            inactive,
            traffic,
        }
    }
}

/// How much is told of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its real servers, counted: with ten thousand services that is a tenth of what there is to tell.
    Services,
    Servers,
}

/// What is counted of a real server, and how it stands.
struct Look<'a> {
    name: &'a str,
    role: Role,
    number: Option<u32>,
    state: &'static str,
    said: Option<&'a Override>,
    causes: Vec<Cause>,
    checked: Option<&'a Health>,
    only_ports: Vec<String>,
    active: u64,
    inactive: u64,
    traffic: TrafficStatus,
}

impl Look<'_> {
    /// The same real server of the other family.
    fn add(&mut self, other: &Self) {
        self.state = of_both(self.state, other.state);
        self.active += other.active;
        self.inactive += other.inactive;
        self.traffic.add(&other.traffic);
    }
}

/// The state of a real server that has one in each family.
fn of_both<'s>(one: &'s str, other: &'s str) -> &'s str {
    if other == "down" || matches!(one, "up" | "standby") { other } else { one }
}

/// What the real servers of a service are asked.
fn checks(plans: &[&ServicePlan]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for planned in plans.iter().flat_map(|plan| plan.checks.iter()) {
        let name = planned.check.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn is_same(one: &ServicePlan, other: &ServicePlan) -> bool {
    one.name == other.name && one.family == other.family
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::ByHand => "by hand",
        Cause::ByChecks => "checks",
        Cause::Waiting => "no verdict yet",
    }
}

/// What its checks say.
fn health(service: &ServicePlan, health: Option<&Health>) -> HealthStatus {
    let now = since_boot().unwrap_or_default();
    let none = Health::default();
    let health = health.unwrap_or(&none);
    let failures = health.failures.iter().map(|failure| FailureStatus {
        check: failure.check.clone(),
        why: failure.why.clone(),
        seconds: now.saturating_sub(failure.since).as_secs(),
    });
    HealthStatus {
        checks: service.checks.len(),
        down: health.is_down,
        failures: failures.collect(),
        without_ports: health.ports.iter().map(ToString::to_string).collect(),
        weight: health.weight,
    }
}

/// Until a deadline.
fn seconds_left(draining: &Draining) -> Option<u64> {
    let left = draining.left(since_boot().ok()?);
    // What has begun counts.
    Some(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

fn flags(service: &Service) -> Vec<String> {
    let flags = service.scheduler_flags;
    [(flags.port, "port"), (!flags.fallback, "no-fallback")]
        .into_iter()
        .filter(|f| f.0)
        .map(|f| f.1.to_owned())
        .collect()
}

fn number(ids: &Ids, service: &str, family: Family, real: &RealPlan) -> Option<u32> {
    ids.real(service, family, real.address)
}

/// Somebody else has counted the records, or they are counted now.
fn tables(memory: &Memory, counted: Option<(Counted, Duration)>) -> BTreeMap<String, TableStatus> {
    let (counted, age) = match counted {
        Some((counted, age)) => (counted, Some(age.as_secs())),
        None => (Counted::now(memory), None),
    };
    let table = |used, size| TableStatus { used, size, seconds_old: age.unwrap_or(0) };
    [
        ("flows", table(counted.flows, memory.flows.len())),
        ("half_open", table(counted.half_open, memory.half_open.len())),
        ("templates", table(counted.templates, memory.templates.len())),
    ]
    .into_iter()
    .map(|(name, table)| (name.to_owned(), table))
    .collect()
}

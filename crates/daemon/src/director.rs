//! From a configuration to a running data plane, and what has to be kept up while it runs.

use crate::forwarding;
use crate::hops::{self, Hops};
use crate::linux::data_plane::{self, DataPlane, DataPlaneError, Mode};
use crate::linux::network::{Change, Interface, Network, NetworkError};
use crate::linux::offload;
use crate::linux::sysctl::SysctlError;
use crate::place::{Attached, Place, PlaceError, PlacedVip, State};
use crate::routes::Routes;
use crate::vips::{self, Announcements};
use marca_config::Diagnostics;
use marca_config::model::{Config, Limits};
use marca_config::plan::{Plan, PlanError};
use marca_tables::classifier::{self, WriteError};
use marca_tables::ids::{IdKind, NoNumber};
use marca_tables::memory::Capacity;
use marca_tables::services::{self, NoRoom};
use marca_tables::sweep::{RESET_SECONDS, Sweep};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// Why a configuration is not in force.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    #[error("{0}")]
    Config(Diagnostics),
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
    #[error("draw a random number: {0}")]
    Random(io::Error),
    #[error("listen for signals: {0}")]
    Signal(io::Error),
}

/// What to know once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub adopted: bool,
    pub attached: Vec<(String, Mode)>,
    pub findings: Vec<String>,
    pub warnings: String,
}

/// A running director.
pub struct Director {
    place: Place,
    network: Network,
    plane: DataPlane,
    plan: Plan,
    state: State,
    hops: Hops,
    routes: Routes,
    announcements: Vec<Announcements>,
    sweep: Sweep,
    /// When the ways to real servers are looked up again, after a change.
    look_again: Option<Instant>,
    /// The same for the copy of the routes.
    copy_again: Option<Instant>,
    refreshed: Instant,
}

impl Director {
    /// Puts a configuration in force, in the network namespace of the calling thread. A data plane that is there is
    /// adopted with its connections.
    ///
    /// # Errors
    /// A bad configuration changes nothing.
    pub async fn start(place: Place, file: &str, text: &str) -> Result<(Self, Started), DirectorError> {
        let loaded = marca_config::load(file, text).map_err(DirectorError::Config)?;
        let plan = Plan::of(&loaded.config)?;
        let network = Network::open()?;
        let interfaces = interfaces(&network, &loaded.config).await?;
        let mut state = place.state()?;
        let mut plane = load(&place, &plan, &loaded.config.router.limits)?;
        let capacity = plane.maps.memory.capacity;
        if !capacity.holds(&plan) {
            return Err(DirectorError::TooSmall);
        }
        for number in state.ids.assign(&plan, capacity.services, capacity.reals)? {
            // The number may have been somebody else's.
            plane.maps.clear_traffic(number)?;
        }
        state.hz = plane.clock.hz;
        let adopted = plane.adopted;
        let reset = plane.clock.ticks(Duration::from_secs(RESET_SECONDS));
        let mut director = Self {
            place,
            network,
            plane,
            plan,
            state,
            hops: Hops::default(),
            routes: Routes::default(),
            announcements: Vec::new(),
            sweep: Sweep::new(reset),
            look_again: None,
            copy_again: None,
            refreshed: Instant::now(),
        };
        // Numbers before anything carries them; and everything to be undone before it is done.
        director.place.save_state(&director.state)?;
        director.write(&interfaces).await?;
        director.set_sysctls(&loaded.config)?;
        let attached = director.attach(&loaded.config)?;
        director.put_vips(&loaded.config, &interfaces).await?;
        director.copy_routes().await;
        director.place.save_running(text)?;
        let started = Started {
            adopted,
            attached,
            findings: findings(&interfaces),
            warnings: if loaded.warnings.is_empty() { String::new() } else { loaded.warnings.render(false) },
        };
        Ok((director, started))
    }

    /// Tables first for what packets meet last: real servers, services, then the classifier that leads to them.
    async fn write(&mut self, interfaces: &[Interface]) -> Result<(), DirectorError> {
        let clock = self.plane.clock;
        services::write(&self.plane.maps.memory, &self.plan, &self.state.ids, clock)?;
        self.hops = Hops::look_up(&self.network, &self.plan, &self.state.ids, interfaces).await;
        self.hops.refresh(&self.network).await;
        self.wait_for_neighbours().await?;
        self.hops.write(&self.plane.maps.memory);
        let indices: HashMap<String, u32> = interfaces.iter().map(|i| (i.name.clone(), i.index)).collect();
        let written = classifier::write(&self.plane.maps.memory, &self.plan, &self.state.ids, &indices)?;
        self.plane.maps.write_prefixes(written.half, &written.prefixes)?;
        classifier::switch(&self.plane.maps.memory, &written);
        Ok(())
    }

    /// Real servers that answer are known before the first packet; those that are off do not hold up the start.
    async fn wait_for_neighbours(&mut self) -> Result<(), DirectorError> {
        let deadline = Instant::now() + NEIGHBOUR_PATIENCE;
        while !self.hops.unresolved().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            for (interface, address) in self.hops.unresolved() {
                let mac = self.network.neighbour(interface, address).await?;
                self.hops.neighbour(&self.plane.maps.memory, interface, address, mac);
            }
        }
        for (_, address) in self.hops.unresolved() {
            tracing::warn!("{address} does not answer for its MAC address yet; its packets are dropped until it does");
        }
        Ok(())
    }

    fn set_sysctls(&mut self, config: &Config) -> Result<(), DirectorError> {
        let replies = if config.router.inside.is_empty() { &config.router.outside } else { &config.router.inside };
        for changed in forwarding::set(&forwarding::wanted(&self.plan, replies))? {
            // A value that an earlier run changed has its first value on record.
            if !self.state.sysctls.iter().any(|known| known.name == changed.name) {
                self.state.sysctls.push(changed);
            }
        }
        self.place.save_state(&self.state)?;
        Ok(())
    }

    fn attach(&mut self, config: &Config) -> Result<Vec<(String, Mode)>, DirectorError> {
        let attached = self.plane.attach(&attached_interfaces(config))?;
        self.state.attached = attached.iter().map(|(name, mode)| Attached::new(name.clone(), *mode)).collect();
        self.place.save_state(&self.state)?;
        Ok(attached)
    }

    async fn put_vips(&mut self, config: &Config, interfaces: &[Interface]) -> Result<(), DirectorError> {
        let outside: Vec<Interface> =
            interfaces.iter().filter(|i| config.router.outside.contains(&i.name)).cloned().collect();
        let places = vips::places(&self.plan.vips, &outside);
        let gone: Vec<PlacedVip> = self.state.vips.iter().filter(|vip| !places.contains(vip)).cloned().collect();
        for vip in &gone {
            vips::take(&self.network, vip).await?;
        }
        self.state.vips.retain(|vip| !gone.contains(vip));
        let present = self.network.addresses().await?;
        let missing = vips::missing(&places, &present);
        self.state
            .vips
            .extend(missing.iter().filter(|vip| !self.state.vips.contains(vip)).cloned().collect::<Vec<_>>());
        self.place.save_state(&self.state)?;
        for vip in &missing {
            vips::put(&self.network, vip).await?;
        }
        self.announcements = outside.iter().map(Announcements::open).collect::<Result<_, _>>()?;
        let now = Instant::now();
        for vip in &places {
            let here = self.announcements.iter_mut().filter(|a| a.interface() == vip.interface);
            here.for_each(|announcements| announcements.add(vip.address.addr(), now));
        }
        Ok(())
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
                self.routes.distrust(&self.plane.maps);
                self.copy_again.get_or_insert(Instant::now() + SETTLE);
                self.look_again.get_or_insert(Instant::now() + SETTLE);
            }
        }
    }

    /// What is due: announcements, neighbours that packets ask for, a piece of the sweep, and whatever has changed.
    pub async fn tick(&mut self) -> Result<(), DirectorError> {
        let now = Instant::now();
        self.announcements.iter_mut().for_each(|a| a.poll(now));
        self.wanted().await;
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
        if now - self.refreshed > REFRESH {
            self.refreshed = now;
            self.hops.refresh(&self.network).await;
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
        self.hops.write(&self.plane.maps.memory);
        for (interface, address) in self.hops.unresolved() {
            hops::ask(&self.network, interface, address).await;
        }
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
        let cells = memory.flows.len() + memory.half_open.len();
        // A whole pass takes two seconds, and longer with more than two million cells.
        let piece = (cells / PASS_TICKS).clamp(1, MAX_PIECE);
        let (_, complete) = self.sweep.step(memory, now, piece);
        if complete {
            let before = self.state.ids.clone();
            let sweep = &self.sweep;
            self.state.ids.release(|id| match id {
                IdKind::Real(real) => sweep.has_records(memory, *real),
                IdKind::Service(_) => false,
            });
            if self.state.ids != before {
                self.place.save_state(&self.state)?;
            }
        }
        Ok(())
    }
}

/// How often [`Director::tick`] is called.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks in a pass of the sweep.
const PASS_TICKS: u32 = 20;
/// Cells that one tick looks at, at the most: about a millisecond's work.
const MAX_PIECE: u32 = 100_000;
/// How long a start waits for real servers to answer for their MAC addresses.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(1500);
/// Changes of the network come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// How long packets use the copied routes after the daemon has ended, or hangs.
const LEASE: Duration = Duration::from_secs(2);
/// How often the kernel is asked to make sure of neighbours: it would find out about dead ones only by sending, and
/// packets that XDP sends are not its own.
const REFRESH: Duration = Duration::from_secs(15);

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

async fn interfaces(network: &Network, config: &Config) -> Result<Vec<Interface>, NetworkError> {
    let mut interfaces = Vec::new();
    for name in attached_interfaces(config) {
        interfaces.push(network.interface(&name).await?);
    }
    // Rules may name others.
    for name in config.marks.iter().flat_map(|rule| &rule.interfaces) {
        if !interfaces.iter().any(|known| known.name == *name) {
            interfaces.push(network.interface(name).await?);
        }
    }
    Ok(interfaces)
}

/// Settings of the interfaces that break XDP, each with the command that mends it.
fn findings(interfaces: &[Interface]) -> Vec<String> {
    let mut lines = Vec::new();
    for interface in interfaces {
        match offload::findings(&interface.name, interface.kind.as_deref()) {
            Ok(findings) => {
                lines.extend(findings.iter().map(|f| format!("{}: {}. Mend it with: {}", f.what, f.why, f.mend)))
            }
            Err(error) => tracing::warn!("{error}"),
        }
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
    for vip in &state.vips {
        vips::take(&network, vip).await?;
        done.push(format!("took {} off {}", vip.address, vip.interface));
    }
    for error in forwarding::restore(&state.sysctls) {
        tracing::warn!("{error}");
    }
    done.extend(state.sysctls.iter().map(|s| format!("set {} back to {}", s.name, s.before)));
    place.clear()?;
    Ok(done)
}

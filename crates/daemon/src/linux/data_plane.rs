//! The data plane in the kernel: loads the programs, pins them and their maps, attaches them, and adopts what an earlier
//! daemon left running.
//!
//! Below one folder of the BPF file system:
//!
//! | pin | what |
//! |---|---|
//! | `maps/NAME` | each map |
//! | `links/INTERFACE` | the attachment to an interface by native XDP |
//! | `links-generic/INTERFACE` | the same by generic XDP: a link does not tell how it is attached |
//! | `links-tc/INTERFACE`, `filters-tc/INTERFACE` | the same by TC: see [`tc`](super::tc) |
//! | `entry`, `entry-tc` | the entry programs |
//! | `programs-N`, `programs-tc-N` | the tail calls of load N; the entry of that load reaches them only through it |
//!
//! What is attached to what, [`super::attach`] decides.

use crate::extras::Extras;
use crate::linux::object::Object;
use crate::linux::{attach, bpffs};
use crate::steps::{self, Step};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapError, PerCpuArray, ProgramArray};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use ipnet::IpNet;
use marca_engine::layout::{Control, LAYOUT_VERSION, NextHop, Traffic, V4, limits};
use marca_engine::reason::Reason;
use marca_tables::classifier::{address, ip};
use marca_tables::memory::{Capacity, Memory, Prefix, WATCH_WORDS};
use marca_tables::region::Region;
use marca_tables::services::Clock;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// What went wrong with the data plane, and with which part of it.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    #[error("{doing}: {cause}")]
    Io { doing: String, cause: io::Error },
    #[error("{doing}: {cause}")]
    Map { doing: String, cause: MapError },
    #[error("{doing}: {cause}")]
    Program { doing: String, cause: Box<ProgramError> },
    #[error("the kernel refuses the program {name}: {cause}; its verifier says at the end:\n{log}")]
    Refused { name: String, cause: io::Error, log: String },
    #[error("load the BPF object: {0}")]
    Load(#[from] Box<aya::EbpfError>),
    #[error("no director runs here: {0} has no maps (start one with `marca run`)")]
    NotRunning(PathBuf),
    #[error(
        "the tables in {dir} have layout {found}, this program has {LAYOUT_VERSION}: \
         `marca stop --detach` takes them away, with the connections in them"
    )]
    Layout { dir: PathBuf, found: u32 },
    #[error("the BPF object lacks {0}")]
    Lacks(&'static str),
}

/// The maps of a director, whether this process loaded them or not.
pub struct Maps {
    pub memory: Memory,
    /// A part for each processor.
    traffic: Region<Traffic>,
    refused: PerCpuArray<MapData, u64>,
    prefixes: LpmTrie<MapData, [u32; 6], u32>,
    routes: LpmTrie<MapData, [u32; 6], Words<3>>,
    /// What was last written to `routes`.
    next_hops: BTreeMap<IpNet, Option<NextHop>>,
}

/// A value of 64-bit words, as the kernel copies it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Words<const N: usize>([u64; N]);
// SAFETY: an array of plain integers.
unsafe impl<const N: usize> Pod for Words<N> {}

impl Maps {
    /// Opens the maps that are pinned below `dir`.
    ///
    /// # Errors
    /// When there are none, or they are of another version.
    pub fn open(dir: &Path) -> Result<Self, DataPlaneError> {
        if !dir.join("maps/CONTROL").exists() {
            return Err(DataPlaneError::NotRunning(dir.to_owned()));
        }
        let len = |name: &str| pinned_len(dir, name);
        let capacity = Capacity {
            addresses: len("ADDRESSES")? / 2,
            ports: len("PORTS")? / 2,
            half: len("DESTINATIONS")? / 2,
            services: len("SERVICES")?,
            slots: len("SLOTS")?,
            servers: len("SERVERS")?,
            reals: len("REALS")?,
            flows: len("FLOWS")?,
            half_open: len("HALF_OPEN")?,
            templates: len("TEMPLATES")?,
        };
        let memory = Memory {
            capacity,
            control: region(dir, "CONTROL", 1)?,
            addresses: region(dir, "ADDRESSES", capacity.addresses * 2)?,
            ports: region(dir, "PORTS", capacity.ports * 2)?,
            ranges: region(dir, "RANGES", capacity.half * 2)?,
            conditions: region(dir, "CONDITIONS", capacity.half * 2)?,
            destinations: region(dir, "DESTINATIONS", capacity.half * 2)?,
            vips: region(dir, "VIPS", capacity.half * 2)?,
            sources: region(dir, "SOURCES", limits::SOURCES)?,
            services: region(dir, "SERVICES", capacity.services)?,
            cursors: region(dir, "CURSORS", capacity.services)?,
            rates: region(dir, "RATES", capacity.services)?,
            slots: region(dir, "SLOTS", capacity.slots)?,
            servers: region(dir, "SERVERS", capacity.servers)?,
            reals: region(dir, "REALS", capacity.reals)?,
            loads: region(dir, "LOADS", capacity.reals)?,
            flows: region(dir, "FLOWS", capacity.flows)?,
            half_open: region(dir, "HALF_OPEN", capacity.half_open)?,
            templates: region(dir, "TEMPLATES", capacity.templates)?,
            localities: region(dir, "LOCALITIES", limits::LOCALITIES)?,
            watch: region(dir, "WATCH", WATCH_WORDS)?,
            neighbours: region(dir, "NEIGHBOURS", limits::NEIGHBOURS)?,
            fragments: region(dir, "FRAGMENTS", limits::FRAGMENTS)?,
            answers: region(dir, "ANSWERS", limits::ANSWERS)?,
            processors: region(dir, "PROCESSORS", len("PROCESSORS")?)?,
            prefixes: Vec::new(),
        };
        let found = memory.control().version;
        // 0: made, and not yet written.
        if found != LAYOUT_VERSION && found != 0 {
            return Err(DataPlaneError::Layout { dir: dir.to_owned(), found });
        }
        let mut maps = Self {
            memory,
            traffic: region(dir, "TRAFFIC", len("TRAFFIC")?)?,
            refused: typed(dir, "REFUSED")?,
            prefixes: typed(dir, "PREFIXES")?,
            routes: typed(dir, "ROUTES")?,
            next_hops: BTreeMap::new(),
        };
        maps.memory.prefixes = maps.read_prefixes();
        Ok(maps)
    }

    /// Puts the prefixes of a half into their table, and takes out what was there before for it.
    pub fn write_prefixes(&mut self, half: u32, prefixes: &[Prefix]) -> Result<(), DataPlaneError> {
        let doing = || "write the prefixes of mark rules".to_owned();
        let stale: Vec<Prefix> = self.memory.prefixes.iter().filter(|p| p.half == half).copied().collect();
        let wanted: HashSet<IpNet> = prefixes.iter().map(|prefix| prefix.net).collect();
        for prefix in stale.iter().filter(|old| !wanted.contains(&old.net)) {
            self.prefixes.remove(&key(prefix)).map_err(|cause| DataPlaneError::Map { doing: doing(), cause })?;
        }
        // There may be thousands, and few that have changed.
        let known: HashSet<(IpNet, u32)> = stale.iter().map(|prefix| (prefix.net, prefix.destination)).collect();
        for prefix in prefixes.iter().filter(|prefix| !known.contains(&(prefix.net, prefix.destination))) {
            self.prefixes
                .insert(&key(prefix), prefix.destination, 0)
                .map_err(|cause| DataPlaneError::Map { doing: doing(), cause })?;
        }
        self.memory.prefixes.retain(|p| p.half != half);
        self.memory.prefixes.extend(prefixes);
        Ok(())
    }

    /// Makes the copied routes these. To be called while packets do not use them; what they remember of others is outdated.
    pub fn write_next_hops(&mut self, wanted: &BTreeMap<IpNet, Option<NextHop>>) -> Result<(), DataPlaneError> {
        let failed = |cause| DataPlaneError::Map { doing: "write the copied routes".into(), cause };
        let is_new = self.next_hops.is_empty() || self.next_hops != *wanted;
        if self.next_hops.is_empty() {
            // Another daemon's, or none.
            let stale: Vec<Key<[u32; 6]>> = self.routes.keys().filter_map(Result::ok).collect();
            stale.iter().try_for_each(|key| self.routes.remove(key)).map_err(failed)?;
        }
        for net in self.next_hops.keys().filter(|net| !wanted.contains_key(net)) {
            self.routes.remove(&route_key(net)).map_err(failed)?;
        }
        for (net, hop) in wanted.iter().filter(|(net, hop)| self.next_hops.get(net) != Some(hop)) {
            let value = Words(zerocopy::transmute!(hop.unwrap_or_default()));
            self.routes.insert(&route_key(net), value, 0).map_err(failed)?;
        }
        if is_new {
            self.memory.outdate_shortcuts();
        }
        self.next_hops.clone_from(wanted);
        Ok(())
    }

    fn read_prefixes(&self) -> Vec<Prefix> {
        self.prefixes
            .iter()
            .filter_map(|entry| {
                let (key, destination) = entry.ok()?;
                let [half, family, a, b, c, d] = key.data();
                let family = family as u8;
                let words = if family == V4 { [0, 0, 0, a] } else { [a, b, c, d] };
                let ip = ip(family, &marca_engine::layout::Address::new(words));
                let net = IpNet::new(ip, key.prefix_len().checked_sub(64)? as u8).ok()?;
                Some(Prefix { half, net, destination })
            })
            .collect()
    }

    /// Traffic of a real server, over all processors.
    pub fn traffic(&self, real: u32) -> Traffic {
        let mut sum = [0u64; 5];
        for part in self.traffic_of(real).filter_map(|place| self.traffic.get(place)) {
            let part: [u64; 5] = zerocopy::transmute!(part);
            sum = std::array::from_fn(|i| sum[i].wrapping_add(part[i]));
        }
        zerocopy::transmute!(sum)
    }

    /// Packets by reason, over all processors, in the order of [`Reason::ALL`].
    pub fn reasons(&self) -> Vec<(Reason, u64)> {
        Reason::ALL.iter().map(|&reason| (reason, self.reason(reason))).collect()
    }

    /// Packets of one reason, over all processors.
    pub fn reason(&self, reason: Reason) -> u64 {
        let processors = &self.memory.processors;
        let each = (0..processors.len()).filter_map(|number| processors.at(number));
        each.map(|processor| processor.reasons[reason as usize].get()).sum()
    }

    /// New connections of a service beyond its rate limit, over all processors.
    pub fn refused(&self, service: u32) -> u64 {
        self.refused.get(&service, 0).map_or(0, |values| values.iter().sum())
    }

    /// Begins services' counters anew; for numbers that go to somebody else.
    pub fn clear_refused(&mut self, services: &[u32]) -> Result<(), DataPlaneError> {
        for &service in services {
            let zeros = aya::maps::PerCpuValues::try_from(vec![0; processors()? as usize])
                .map_err(|cause| DataPlaneError::Io { doing: "clear counters".into(), cause })?;
            self.refused.set(service, zeros, 0).map_err(|cause| DataPlaneError::Map {
                doing: format!("clear the counter of service {service}"),
                cause,
            })?;
        }
        Ok(())
    }

    /// Begins real servers' counters anew; for numbers that go to somebody else.
    pub fn clear_traffic(&self, reals: &[u32]) {
        for place in reals.iter().flat_map(|&real| self.traffic_of(real)) {
            self.traffic.clear(place..place + 1);
        }
    }

    /// The places of a real server's counters, one for each processor.
    fn traffic_of(&self, real: u32) -> impl Iterator<Item = u32> + use<> {
        (real..self.traffic.len()).step_by(self.memory.capacity.reals as usize)
    }
}

/// The key of a prefix: half, family, address.
fn key(prefix: &Prefix) -> Key<[u32; 6]> {
    let (family, address) = address(prefix.net.network());
    let [a, b, c, d] = address.parts();
    let data = if family == V4 {
        [prefix.half, u32::from(family), d, 0, 0, 0]
    } else {
        [prefix.half, u32::from(family), a, b, c, d]
    };
    Key::new(64 + u32::from(prefix.net.prefix_len()), data)
}

/// The key of a copied route: family, address, nothing.
fn route_key(net: &IpNet) -> Key<[u32; 6]> {
    let (family, address) = address(net.network());
    let [a, b, c, d] = address.parts();
    let data = if family == V4 { [u32::from(family), d, 0, 0, 0, 0] } else { [u32::from(family), a, b, c, d, 0] };
    Key::new(32 + u32::from(net.prefix_len()), data)
}

fn pinned(dir: &Path, name: &str) -> Result<MapData, DataPlaneError> {
    let path = dir.join("maps").join(name);
    MapData::from_pin(&path).map_err(|cause| DataPlaneError::Map { doing: format!("open {}", path.display()), cause })
}

fn pinned_len(dir: &Path, name: &str) -> Result<u32, DataPlaneError> {
    let info = pinned(dir, name)?.info();
    let info = info.map_err(|cause| DataPlaneError::Map { doing: format!("look at the map {name}"), cause })?;
    Ok(info.max_entries())
}

fn region<T>(dir: &Path, name: &str, len: u32) -> Result<Region<T>, DataPlaneError> {
    let map = pinned(dir, name)?;
    Region::map(map.fd(), len)
        .map_err(|cause| DataPlaneError::Io { doing: format!("map {name} into memory"), cause: cause.into() })
}

fn typed<M: TryFrom<Map, Error = MapError>>(dir: &Path, name: &str) -> Result<M, DataPlaneError> {
    let failed = |cause| DataPlaneError::Map { doing: format!("open the map {name}"), cause };
    let map = Map::from_map_data(pinned(dir, name)?).map_err(failed)?;
    M::try_from(map).map_err(failed)
}

/// The two places where programs are attached: each has its own set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    fn entry(self) -> &'static str {
        match self {
            Self::Xdp => marca_bpf::ENTRY,
            Self::Tc => marca_bpf::ENTRY_TC,
        }
    }

    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Xdp => marca_bpf::TAIL_CALLS,
            Self::Tc => marca_bpf::TAIL_CALLS_TC,
        }
    }

    fn programs(self, extras: Extras) -> Vec<&'static str> {
        let all = [self.entry()].into_iter().chain(self.calls().iter().copied());
        all.filter(|name| extras.include(name)).collect()
    }

    /// The map of the tail calls.
    fn map(self) -> &'static str {
        match self {
            Self::Xdp => "PROGRAMS",
            Self::Tc => "PROGRAMS_TC",
        }
    }

    /// The pin of the entry.
    pub fn entry_pin(self) -> &'static str {
        match self {
            Self::Xdp => "entry",
            Self::Tc => "entry-tc",
        }
    }

    /// The pins of the tail calls, but for the load's number.
    fn calls_pin(self) -> &'static str {
        match self {
            Self::Xdp => "programs-",
            Self::Tc => "programs-tc-",
        }
    }
}

/// A loaded data plane.
pub struct DataPlane {
    pub maps: Maps,
    /// Whether its maps were there before.
    pub adopted: bool,
    pub clock: Clock,
    pub(super) dir: PathBuf,
    object: Object,
    extras: Extras,
    /// Whose programs are loaded.
    loaded: Vec<Hook>,
}

/// A group of clients gets an ICMP error each so often, after a burst: 10 a second, not far from what a host's kernel
/// gives one peer. All groups together cannot be made to send more than a few thousand a second.
const ANSWERS_EACH: Duration = Duration::from_millis(100);

/// A fragmented packet is remembered so long. Its fragments leave their sender together. Hosts wait for the last one much
/// longer (Linux 30 s, `ipfrag_time`), by when a quick sender's identifications have come round (RFC 4963 §2).
const FRAGMENTS: Duration = Duration::from_secs(5);

impl DataPlane {
    /// Loads the programs with the maps below `dir`, which are made when they are not there; `capacity` and `seed` are
    /// for that case. What is attached goes on as it was until [`DataPlane::attach`].
    pub fn load(dir: &Path, capacity: &Capacity, seed: u64) -> Result<Self, DataPlaneError> {
        let io = |doing: String| move |cause| DataPlaneError::Io { doing, cause };
        let dir = bpffs::ensure(dir).map_err(|e| DataPlaneError::Io {
            doing: "prepare the BPF file system".into(),
            cause: io::Error::other(e.to_string()),
        })?;
        for folder in ["maps"].into_iter().chain(attach::FOLDERS) {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).map_err(io(format!("create {}", folder.display())))?;
        }
        let adopted = has_tables(&dir)?;
        let capacity = if adopted {
            // Refuses another layout before anything is touched.
            Maps::open(&dir)?.memory.capacity
        } else {
            // Whoever began to make them was killed before a packet met them; some may be missing, or of other sizes.
            clear(&dir.join("maps"), |pin| fs::remove_file(pin)).map_err(io("remove half a set of maps".into()))?;
            *capacity
        };
        let ebpf = object(&dir.join("maps"), &capacity)?;
        steps::taken(Step::Maps);
        let maps = Maps::open(&dir)?;
        if maps.memory.control().version == 0 {
            maps.memory.initialise(seed);
            steps::taken(Step::Tables);
        }
        // What earlier programs have laid was right for them.
        maps.memory.outdate_shortcuts();
        let object = Object::of(ebpf);
        let mut plane =
            Self { maps, adopted, clock: Clock { hz: 250 }, dir, object, extras: Extras::ALL, loaded: Vec::new() };
        plane.object.load(&[marca_bpf::CLOCK])?;
        plane.clock = plane.measure_clock()?;
        plane.maps.memory.set_answer_ticks(plane.clock.ticks(ANSWERS_EACH));
        plane.maps.memory.set_fragment_ticks(plane.clock.ticks(FRAGMENTS));
        Ok(plane)
    }

    /// Leaves out of what will be loaded all extras but these, until [`DataPlane::extend`].
    pub fn restrict(&mut self, extras: Extras) {
        self.extras = extras;
    }

    /// Loads these extras, too, wherever there are programs already. Packets may need them from then on.
    pub fn extend(&mut self, extras: Extras) -> Result<(), DataPlaneError> {
        let extras = self.extras | extras;
        if extras == self.extras {
            return Ok(());
        }
        for &hook in &self.loaded {
            self.object.load(&hook.programs(extras))?;
            set_calls(hook, extras, self.object.ebpf()?)?;
            steps::taken(Step::Calls);
        }
        self.extras = extras;
        Ok(())
    }

    /// Has the programs of these places loaded by a thread beside, which whoever needs one waits for.
    pub(super) fn begin(&mut self, hooks: &[Hook]) -> Result<(), DataPlaneError> {
        let names = hooks.iter().filter(|hook| !self.loaded.contains(hook)).flat_map(|hook| hook.programs(self.extras));
        self.object.begin(names.collect())
    }

    /// Loads the programs of one place, if they are not yet.
    pub(super) fn need(&mut self, hook: Hook) -> Result<(), DataPlaneError> {
        if self.loaded.contains(&hook) {
            return Ok(());
        }
        self.object.load(&hook.programs(self.extras))?;
        let number = self.calls(hook).iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let ebpf = self.object.ebpf()?;
        set_calls(hook, self.extras, ebpf)?;
        // The kernel empties a program array when neither a process nor a pin holds it.
        let pin = self.dir.join(format!("{}{number}", hook.calls_pin()));
        ebpf.map(hook.map()).ok_or(DataPlaneError::Lacks(hook.map()))?.pin(&pin).map_err(|cause| {
            DataPlaneError::Io { doing: format!("pin {}", pin.display()), cause: io::Error::other(cause.to_string()) }
        })?;
        steps::taken(Step::Calls);
        self.loaded.push(hook);
        Ok(())
    }

    pub(super) fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, DataPlaneError> {
        match self.object.ebpf()?.program_mut(name) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(DataPlaneError::Lacks(name)),
        }
    }

    pub(super) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, DataPlaneError> {
        match self.object.ebpf()?.program_mut(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(DataPlaneError::Lacks(name)),
        }
    }

    /// The pinned tail calls, and their loads' numbers.
    fn calls(&self, hook: Hook) -> Vec<(u32, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(hook.calls_pin())?.parse().ok();
        entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect()
    }

    /// Pins the entries of the programs that are loaded, in the place of earlier ones.
    pub(super) fn pin_entries(&mut self) -> Result<(), DataPlaneError> {
        let loaded = self.loaded.clone();
        loaded.into_iter().try_for_each(|hook| self.pin_entry(hook))
    }

    /// Loads the programs of one place and pins their entry, attached to nothing: for measurements and tests.
    pub fn pin_entry(&mut self, hook: Hook) -> Result<(), DataPlaneError> {
        self.need(hook)?;
        let (pin, new) = (self.dir.join(hook.entry_pin()), self.dir.join(format!("{}-new", hook.entry_pin())));
        let _ = fs::remove_file(&new);
        let entry = self.object.ebpf()?.program_mut(hook.entry()).ok_or(DataPlaneError::Lacks(hook.entry()))?;
        entry.pin(&new).map_err(|cause| DataPlaneError::Io {
            doing: format!("pin {}", new.display()),
            cause: io::Error::other(cause.to_string()),
        })?;
        steps::taken(Step::EntryBeside);
        fs::rename(&new, &pin)
            .map_err(|cause| DataPlaneError::Io { doing: format!("rename {}", new.display()), cause })?;
        steps::taken(Step::EntryInPlace);
        Ok(())
    }

    /// Lets go of earlier loads' tail calls, and of those that nothing attached needs.
    pub(super) fn forget_calls(&self) -> Result<(), DataPlaneError> {
        for hook in Hook::ALL {
            let mut calls = self.calls(hook);
            calls.sort_unstable();
            if self.loaded.contains(&hook) {
                calls.pop();
            }
            for path in calls.into_iter().map(|(_, path)| path) {
                fs::remove_file(&path)
                    .map_err(|cause| DataPlaneError::Io { doing: format!("remove {}", path.display()), cause })?;
                steps::taken(Step::Ended);
            }
        }
        Ok(())
    }

    /// Now, in the engine's ticks.
    pub fn now(&mut self) -> Result<u32, DataPlaneError> {
        let frame = [0u8; 64];
        let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..Default::default() };
        let clock = self.xdp(marca_bpf::CLOCK)?;
        let result = clock.test_run(options).map_err(|cause| DataPlaneError::Program {
            doing: "read the kernel's clock".into(),
            cause: Box::new(cause),
        })?;
        Ok(result.return_value)
    }

    /// `CONFIG_HZ` is told to nobody; ticks since boot give it away.
    fn measure_clock(&mut self) -> Result<Clock, DataPlaneError> {
        let ticks = self.now()?;
        Ok(Clock { hz: hz(ticks, since_boot()?) })
    }
}

/// The router's object, its maps made and pinned in the folder `maps`, or those taken that are there. None of its programs is
/// loaded.
pub fn object(maps: &Path, capacity: &Capacity) -> Result<Ebpf, DataPlaneError> {
    let mut loader = EbpfLoader::new();
    // Nothing in the object depends on the kernel's types, which take a while to read.
    loader.btf(None);
    for (name, len) in capacity.maps(processors()?) {
        loader.map_max_entries(name, len);
    }
    loader.override_global("TRAFFIC_STRIDE", &capacity.reals, true);
    for name in marca_bpf::MAPS {
        loader.map_pin_path(name, maps.join(name));
    }
    Ok(loader.load(marca_bpf::router()).map_err(Box::new)?)
}

/// Those that the kernel may ever have.
fn processors() -> Result<u32, DataPlaneError> {
    let count = aya::util::nr_cpus();
    let count =
        count.map_err(|(what, cause)| DataPlaneError::Io { doing: format!("count processors ({what})"), cause })?;
    Ok(count as u32)
}

/// `CLOCK_MONOTONIC`.
pub fn since_boot() -> Result<Duration, DataPlaneError> {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    let now = nix::time::clock_gettime(clock)
        .map_err(|cause| DataPlaneError::Io { doing: "read the clock".into(), cause: cause.into() })?;
    Ok(Duration::from(now))
}

/// Sets the tail calls to the programs that are loaded with these extras. The map stays the object's: programs that are loaded
/// later name it by its descriptor.
fn set_calls(hook: Hook, extras: Extras, ebpf: &mut Ebpf) -> Result<(), DataPlaneError> {
    let mut programs = Vec::new();
    for (place, name) in hook.calls().iter().enumerate().filter(|(_, name)| extras.include(name)) {
        let program = ebpf.program(name).ok_or(DataPlaneError::Lacks(name))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|cause| DataPlaneError::Program {
            doing: format!("take the program {name}"),
            cause: Box::new(cause),
        })?;
        programs.push((place as u32, fd));
    }
    let failed = |cause| DataPlaneError::Map { doing: "set the tail calls".into(), cause };
    let map = ebpf.map_mut(hook.map()).ok_or(DataPlaneError::Lacks(hook.map()))?;
    let mut calls: ProgramArray<&mut MapData> = map.try_into().map_err(failed)?;
    programs.iter().try_for_each(|(place, fd)| calls.set(*place, fd, 0)).map_err(failed)
}

/// Values of `CONFIG_HZ` that `kernel/Kconfig.hz` offers, and those of other architectures.
const HZ: [u32; 7] = [100, 128, 250, 256, 300, 1000, 1024];

/// The one that comes nearest to these ticks after this time since boot.
fn hz(ticks: u32, up: Duration) -> u32 {
    let distance = |&hz: &u32| {
        let d = ticks.wrapping_sub(Clock { hz }.at(up));
        d.min(d.wrapping_neg())
    };
    HZ.iter().copied().min_by_key(distance).unwrap_or(250)
}

/// Takes everything below `dir` away: attachments first, then programs and maps.
pub fn detach(dir: &Path) -> io::Result<()> {
    attach::detach(dir)?;
    take_away(&dir.join("maps"), |pin| fs::remove_file(pin))?;
    steps::taken(Step::MapsGone);
    take_away(dir, |pin| fs::remove_file(pin))
}

/// A folder and what is in it, if it is there.
fn take_away(folder: &Path, take: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    if clear(folder, take)? { fs::remove_dir(folder) } else { Ok(()) }
}

/// What is in a folder; false if that is not there.
fn clear(folder: &Path, take: impl Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(cause),
    };
    for entry in entries {
        take(&entry?.path())?;
    }
    Ok(true)
}

/// Whether there are tables that packets may have met: they are written to when all of them are there.
fn has_tables(dir: &Path) -> Result<bool, DataPlaneError> {
    if !dir.join("maps/CONTROL").exists() {
        return Ok(false);
    }
    let control: Region<Control> = region(dir, "CONTROL", 1)?;
    Ok(control.get(0).is_some_and(|control| control.version != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_hz_is_found_by_its_ticks_since_boot() {
        for up in [1, 299, 301, 3600, 400 * 24 * 3600u64] {
            for hz_then in [100, 250, 300, 1000] {
                let jiffies = (1u64 << 32) - 300 * hz_then + up * hz_then;
                let ticks = (jiffies >> marca_engine::layout::TICK_SHIFT) as u32;
                // Five minutes after boot all of them read the same.
                if up.abs_diff(300) > 30 {
                    assert_eq!(hz(ticks, Duration::from_secs(up)), hz_then as u32, "up {up}");
                }
            }
        }
    }
}

//! Writes services: their real servers, their slots, their settings; each switched by one store.

use crate::classifier::{address, family_number};
use crate::ids::{Ids, parts};
use crate::memory::Memory;
use crate::room::{Sources, Spans};
use crate::slots::{self, Left};
use marca_config::model::{BelowQuorum, Forward, OnFailure, PortRange, RateLimit, Reuse, Scheduler as Name, Udp};
use marca_config::plan::{Difference, Family, Plan, RealPlan, Role, ServicePlan, Standing};
use marca_engine::forward::Method;
use marca_engine::layout::{
    Address, Macs, Real, Server, Service, ServiceCell, V6, real_flags, service_flags, slot_bits,
};
use marca_engine::rate;
use marca_engine::schedule::{Scheduler, maglev, threshold};
use std::net::IpAddr;
use std::time::Duration;

/// Seconds to ticks and back; a kernel's `CONFIG_HZ` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Jiffies a second.
    pub hz: u32,
}

impl Clock {
    /// At least one tick.
    pub fn ticks(self, duration: Duration) -> u32 {
        let jiffies = duration.as_millis() * u128::from(self.hz) / 1000;
        u32::try_from(jiffies >> marca_engine::layout::TICK_SHIFT).unwrap_or(u32::MAX / 4).max(1)
    }

    /// The engine's clock at a time since boot (`CLOCK_MONOTONIC`), to a few ticks: jiffies began five minutes before
    /// they overflow 32 bits (`include/linux/jiffies.h`, `INITIAL_JIFFIES`).
    pub fn at(self, since_boot: Duration) -> u32 {
        let hz = u64::from(self.hz);
        let jiffies = (1u64 << 32).wrapping_sub(300 * hz)
            + since_boot.as_secs() * hz
            + u64::from(since_boot.subsec_millis()) * hz / 1000;
        (jiffies >> marca_engine::layout::TICK_SHIFT) as u32
    }

    /// What of a service's bucket a new connection takes, and how much fits into it (see [`marca_engine::rate`]). What
    /// comes within two ticks fits always: the clock does not see it come.
    fn rate(self, limit: RateLimit) -> (u64, u64) {
        let second = (u64::from(self.hz) << rate::FRACTION) >> marca_engine::layout::TICK_SHIFT;
        let each = (second / u64::from(limit.connections)).max(1);
        let most = u128::from(each) * u128::from(limit.burst);
        (each, (most as u64).clamp(each.max(2 << rate::FRACTION), MOST_RATE))
    }

    pub fn duration(self, ticks: u32) -> Duration {
        let jiffies = u64::from(ticks) << marca_engine::layout::TICK_SHIFT;
        Duration::from_millis(jiffies * 1000 / u64::from(self.hz.max(1)))
    }
}

/// Half of the clock's circle, less some: what lies further ahead is past.
const MOST_RATE: u64 = 1 << 62;

/// How long a real server must go on answering a client's one datagram until the flow is told from a flood's
/// (`net/netfilter/nf_conntrack_proto_udp.c`, `nf_conntrack_udp_packet`: two seconds).
const ASSURED: Duration = Duration::from_secs(2);

/// There is no room for a service's new self beside its old one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for service `{service}`: its {count} {what} do not fit beside what is in force")]
pub struct NoRoom {
    service: String,
    what: &'static str,
    count: u32,
}

/// Writes every service of the plan that differs from what is in force, one after the other, while no packet is on its way.
///
/// # Errors
/// Nothing has changed.
pub fn write(memory: &Memory, plan: &Plan, ids: &Ids, clock: Clock) -> Result<(), NoRoom> {
    let prepared = Prepared::new(memory, plan, None, ids, clock)?;
    prepared.write_reals(memory);
    prepared.switch(memory).follow(memory);
    end_leaving(memory, ids);
    Ok(())
}

/// What is to be written, and where: everything that can fail has been done, and nothing has been written.
///
/// A running director does it in this order: [`write_reals`](Self::write_reals), the ways to those that are new,
/// [`switch`](Self::switch), the classifier, [`end_leaving`]. No packet meets a real server without a way then, nor a
/// service that is gone.
///
/// A packet that was on its way before the switch may look on where its service was before. That is written again by the next
/// change, which must not begin before all such packets are gone.
pub struct Prepared<'p> {
    changes: Vec<Changed<'p>>,
    leaving: Vec<u32>,
    /// Fullnat's addresses, with their numbers.
    sources: Vec<(u32, Address)>,
    /// Services whose packets may be of connections that another service has recorded: see [`crate::sweep`].
    gained: Vec<u32>,
}

/// A service, and what of it is new.
struct Changed<'p> {
    number: u32,
    /// Connections to its failed servers.
    keeps: bool,
    new: Service,
    /// None: only its place in the plan is new, or it is a part of a service.
    reals: Option<(&'p ServicePlan, Vec<u32>)>,
    servers: Option<Vec<Server>>,
    slots: Option<Vec<u32>>,
}

impl<'p> Prepared<'p> {
    /// `known`: the plan that is in force, and what is different in the new one; without it, all services are held
    /// against the tables.
    ///
    /// # Errors
    /// When the services' new selves do not fit beside what is in force.
    pub fn new(
        memory: &Memory,
        plan: &'p Plan,
        known: Option<&Difference>,
        ids: &Ids,
        clock: Clock,
    ) -> Result<Self, NoRoom> {
        let sources = Sources::default();
        let mut writer = Writer { memory, ids, clock, slots: Spans::default(), servers: Spans::default(), sources };
        let mut changes = Vec::new();
        let mut gained = Vec::new();
        match known {
            Some(difference) => {
                if !difference.changed.is_empty() {
                    writer.look();
                }
                for &(_, index) in &difference.changed {
                    changes.extend(writer.service(&plan.services[index], index as u32)?);
                }
                changes.extend(difference.moved.iter().flat_map(|&(_, index)| writer.moved(plan, index)));
                let services = difference.gained.iter().map(|&index| &plan.services[index]);
                gained.extend(services.flat_map(|service| ids.numbers(service)));
            }
            None => {
                writer.look();
                for (index, service) in plan.services.iter().enumerate() {
                    changes.extend(writer.service(service, index as u32)?);
                }
                let numbers = || changes.iter().map(|changed| changed.number);
                if numbers().any(|number| writer.is_known(number)) {
                    gained.extend(numbers().filter(|&number| !writer.is_known(number)));
                }
            }
        }
        Ok(Self { changes, leaving: ids.leaving_reals().collect(), sources: writer.sources.new, gained })
    }

    /// Real servers that are new, or reached otherwise, and those that leave.
    pub fn write_reals(&self, memory: &Memory) {
        for &index in &self.leaving {
            let Some(mut real) = memory.reals.get(index) else { continue };
            real.flags = (real.flags | real_flags::LEAVING) & !real_flags::UP;
            memory.reals.set(index, &real);
        }
        for changed in &self.changes {
            let Some((plan, reals)) = &changed.reals else { continue };
            for (plan, &index) in plan.reals.iter().zip(reals) {
                real(memory, plan, index, changed);
            }
        }
        memory.outdate_shortcuts();
    }

    /// Puts the services in force, one after the other, each by one store.
    pub fn switch(&self, memory: &Memory) -> Left {
        self.switch_each(memory, || {})
    }

    /// The same, and says after each of them that it is.
    pub fn switch_each(&self, memory: &Memory, done: impl Fn()) -> Left {
        let mut left = Left::default();
        for (number, address) in &self.sources {
            memory.sources.set(*number, address);
        }
        for Changed { number, new, servers, slots, .. } in &self.changes {
            let Some(cell) = memory.services.get(*number) else { continue };
            let old = cell.versions[(cell.current & 1) as usize];
            for (place, server) in (new.servers..).zip(servers.iter().flatten()) {
                memory.servers.set(place, server);
            }
            if let Some(slots) = slots {
                slots::write(memory, slots, &old, new);
                left.add(&old, new);
            }
            if *new != old {
                switch(memory, *number, cell, *new);
            }
            done();
        }
        for cell in self.gained.iter().filter_map(|number| memory.services.get(*number)) {
            let service = cell.versions[(cell.current & 1) as usize];
            for slot in (0..service.slots_len).filter_map(|number| memory.slots.at(service.slots + number)) {
                slot.or(slot_bits::CONSULT | slot_bits::FRESH);
            }
        }
        memory.outdate_shortcuts();
        left
    }
}

/// Services that are gone take nobody; their connections are known by their records. To be called when the classifier
/// leads no packet to them any more.
pub fn end_leaving(memory: &Memory, ids: &Ids) {
    for number in ids.leaving_services() {
        let Some(cell) = memory.services.get(number) else { continue };
        let old = cell.versions[(cell.current & 1) as usize];
        let new = Service { servers_len: 0, slots_len: 0, persist: 0, flags: 0, ..old };
        if new != old {
            switch(memory, number, cell, new);
            memory.outdate_shortcuts();
        }
    }
}

/// A real server that has left the configuration counts as failed from now on: its time to drain is over.
pub fn end_connections(memory: &Memory, real: u32) {
    let Some(mut record) = memory.reals.get(real) else { return };
    record.flags |= real_flags::DOWN;
    memory.reals.set(real, &record);
    memory.outdate_shortcuts();
}

/// The next hop to a real server, as the daemon found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub interface: u32,
    pub source_mac: [u8; 6],
    /// None: not known yet.
    pub destination_mac: Option<[u8; 6]>,
    /// The outer source of tunnels.
    pub source: Option<IpAddr>,
    pub mtu: u16,
}

/// Tells packets the way to a real server.
pub fn set_hop(memory: &Memory, real: u32, hop: &Hop) {
    let Some(before) = memory.reals.get(real) else { return };
    let mut record = before;
    record.interface = hop.interface;
    record.mtu = hop.mtu;
    if let Some(source) = hop.source {
        record.source = address(source).1;
    }
    record.macs = Macs::new(hop.destination_mac.unwrap_or(before.macs.destination()), hop.source_mac);
    record.flags = match hop.destination_mac {
        Some(_) => record.flags | real_flags::RESOLVED,
        None => record.flags & !real_flags::RESOLVED,
    };
    if record != before {
        memory.reals.set(real, &record);
        memory.outdate_shortcuts();
    }
}

struct Writer<'a> {
    memory: &'a Memory,
    ids: &'a Ids,
    clock: Clock,
    slots: Spans,
    servers: Spans,
    sources: Sources,
}

impl Writer<'_> {
    /// What the services in force have of servers and slots.
    fn look(&mut self) {
        for number in 0..self.memory.services.len() {
            let Some(cell) = self.memory.services.get(number) else { break };
            let service = cell.versions[(cell.current & 1) as usize];
            self.slots.take(service.slots, service.slots_len);
            self.servers.take(service.servers, service.servers_len);
        }
    }

    /// Whether it has been written before.
    fn is_known(&self, number: u32) -> bool {
        self.memory.services.get(number).is_some_and(|cell| cell != ServiceCell::default())
    }

    fn moved(&self, plan: &Plan, index: usize) -> Vec<Changed<'static>> {
        let service = &plan.services[index];
        let moved = |part| {
            let number = self.ids.part(service, part)?;
            let cell = self.memory.services.get(number)?;
            let new = Service { config: index as u32, ..cell.versions[(cell.current & 1) as usize] };
            Some(Changed { number, keeps: false, new, reals: None, servers: None, slots: None })
        };
        parts(service).filter_map(moved).collect()
    }

    /// The service with its real servers, and each of its parts, which has its own choice of them and shares all else.
    fn service<'p>(&mut self, plan: &'p ServicePlan, config: u32) -> Result<Vec<Changed<'p>>, NoRoom> {
        let mut changes = Vec::with_capacity(1 + plan.parts.len());
        changes.extend(self.part(plan, config, None)?);
        for changed in &mut changes {
            changed.reals = Some((plan, self.reals(plan)));
        }
        for part in parts(plan).flatten() {
            changes.extend(self.part(&part_of(plan, part), config, Some(part))?);
        }
        Ok(changes)
    }

    fn reals(&self, plan: &ServicePlan) -> Vec<u32> {
        plan.reals.iter().filter_map(|real| self.ids.real(&plan.name, plan.family, real.address)).collect()
    }

    /// The service itself, or a part of it; without its real servers.
    fn part<'p>(&mut self, plan: &ServicePlan, config: u32, part: Option<u8>) -> Result<Option<Changed<'p>>, NoRoom> {
        let Some(owner) = self.ids.service(&plan.name, plan.family) else { return Ok(None) };
        let Some(number) = self.ids.part(plan, part) else { return Ok(None) };
        let Some(cell) = self.memory.services.get(number) else { return Ok(None) };
        let old = cell.versions[(cell.current & 1) as usize];
        let reals = self.reals(plan);
        let servers: Vec<Server> = plan
            .reals
            .iter()
            .zip(&reals)
            .map(|(plan, &real)| Server { real, weight: u32::from(plan.weight) })
            .collect();
        let mut new = self.settings(plan, config);
        (new.owner, new.part) = (owner, part.map_or(0, |part| 1 << part));
        new.servers_len = servers.len() as u32;
        let shares: Vec<u32> = plan.reals.iter().zip(&reals).map(|(p, &r)| self.table_weight(p, r, owner)).collect();
        let table = slots::table(plan, &reals, &shares, &old);
        new.slots_len = table.len() as u32;
        if matches!(plan.scheduler, Name::Sh | Name::Dh) {
            new.sh_bits = table.len().trailing_zeros() as u8;
        }
        let sources: Vec<Address> = plan.sources.iter().map(|source| address(*source).1).collect();
        new.sources_len = sources.len() as u32;
        if !sources.is_empty() {
            let number = self.sources.number(self.memory, &sources);
            let no_room = || NoRoom { service: plan.name.clone(), what: "source addresses", count: new.sources_len };
            new.sources = number.ok_or_else(no_room)?;
        }
        let same_servers = old.servers_len == new.servers_len
            && servers.iter().enumerate().all(|(i, s)| self.memory.servers.get(old.servers + i as u32) == Some(*s));
        let same_slots = slots::same_mapping(&old, &new)
            && table.iter().enumerate().all(|(i, &real)| self.slot(old.slots + i as u32) == Some(real));
        new.servers = match same_servers {
            true => old.servers,
            false => self.room(plan, "real servers", new.servers_len)?,
        };
        new.slots = match same_slots {
            true => old.slots,
            false => self.room(plan, "slots", new.slots_len)?,
        };
        // The others may have what it leaves: they are switched after it.
        if !same_servers {
            self.servers.free(old.servers, old.servers_len);
        }
        if !same_slots {
            self.slots.free(old.slots, old.slots_len);
        }
        Ok(Some(Changed {
            number,
            keeps: plan.on_failure == OnFailure::Keep,
            new,
            reals: None,
            servers: (!same_servers).then_some(servers),
            slots: (!same_slots).then_some(table),
        }))
    }

    fn settings(&self, plan: &ServicePlan, config: u32) -> Service {
        let ticks = |duration| self.clock.ticks(duration);
        let weights = || plan.reals.iter().map(|r| u32::from(r.weight));
        let table = matches!(plan.scheduler, Name::Sh | Name::Maglev);
        let mut flags = 0;
        if table {
            flags |= service_flags::TABLE;
        }
        if plan.udp == Udp::Stateless {
            flags |= service_flags::UDP_STATELESS;
        }
        let passive = plan.ftp.map_or(PortRange { first: 0, last: 0 }, |ftp| ftp.passive);
        if !plan.sources.is_empty() || plan.ftp.is_some() {
            flags |= service_flags::RECORDED;
        }
        if plan.reuse == Reuse::Keep {
            flags |= service_flags::REUSE_KEEPS;
        }
        if plan.ftp.is_some() {
            flags |= service_flags::FTP;
        }
        if plan.on_failure == OnFailure::Drop {
            flags |= service_flags::SILENT;
        }
        if plan.below_quorum == BelowQuorum::Drop {
            flags |= service_flags::UNSERVED_DROPPED;
        }
        if plan.udp == Udp::OnePacket {
            flags |= service_flags::ONE_PACKET;
        }
        if plan.scheduler_flags.port {
            flags |= service_flags::HASH_PORT;
        }
        if !plan.scheduler_flags.fallback {
            flags |= service_flags::NO_FALLBACK;
        }
        if plan.reals.iter().any(|real| real.upper != 0) {
            flags |= service_flags::THRESHOLDS;
        }
        let (rate_each, rate_most) = plan.rate_limit.map_or((0, 0), |limit| self.clock.rate(limit));
        Service {
            mask: mask(plan),
            persist: plan.persistence.map_or(0, |p| ticks(p.timeout)),
            half_open: ticks(plan.timeouts.half_open),
            established: ticks(plan.timeouts.established),
            closing: ticks(plan.timeouts.closing),
            udp: ticks(plan.timeouts.udp),
            sctp: ticks(plan.timeouts.sctp),
            sctp_closing: ticks(plan.timeouts.sctp_closing),
            assured: ticks(ASSURED),
            rate_each,
            rate_most,
            locality: ticks(plan.timeouts.locality),
            max_weight: weights().max().unwrap_or(0),
            gcd_weight: weights().fold(0, maglev::gcd),
            scheduler: scheduler(plan.scheduler) as u8,
            flags,
            passive_first: passive.first,
            passive_last: passive.last,
            config,
            ..Service::default()
        }
    }

    /// What a real server counts in its service's table. With `maglev` one of weight 0 whose clients are refused keeps
    /// the share that it had, so that no others move (`ip_vs_mh.c` uses `last_weight`).
    fn table_weight(&self, plan: &RealPlan, index: u32, service: u32) -> u32 {
        match self.memory.reals.get(index) {
            Some(real) if plan.weight == 0 && is_same(&real, plan, service) => u32::from(real.last_weight),
            _ => u32::from(plan.weight),
        }
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.memory.slots.at(index).map(|slot| slot.get() as u32)
    }

    fn room(&mut self, plan: &ServicePlan, what: &'static str, count: u32) -> Result<u32, NoRoom> {
        let (spans, len) = match what {
            "slots" => (&mut self.slots, self.memory.slots.len()),
            _ => (&mut self.servers, self.memory.servers.len()),
        };
        spans.find(count, len).ok_or_else(|| NoRoom { service: plan.name.clone(), what, count })
    }
}

/// A part of a service: real servers that are closed to it have no weight. Where that leaves nobody, the sorry server stands
/// in, as below the quorum.
fn part_of(plan: &ServicePlan, part: u8) -> ServicePlan {
    let mut plan = plan.clone();
    for real in plan.reals.iter_mut().filter(|real| real.closed & 1 << part != 0) {
        real.weight = 0;
    }
    if plan.reals.iter().all(|real| real.weight == 0)
        && let Some(sorry) = plan.reals.last_mut().filter(|real| real.role == Role::Sorry && stands_by(real))
    {
        sorry.weight = 1;
        // Whoever has a slot of another one, too.
        plan.scheduler_flags.fallback = true;
    }
    plan
}

/// Whether nobody has taken the sorry server out.
fn stands_by(sorry: &RealPlan) -> bool {
    matches!(sorry.standing, Standing::Waiting | Standing::Serving)
}

/// The other version, then the one store that puts it in force.
fn switch(memory: &Memory, number: u32, mut cell: ServiceCell, new: Service) {
    let next = (cell.current & 1) ^ 1;
    cell.versions[next as usize] = new;
    memory.services.set(number, &cell);
    cell.current = next;
    memory.services.set(number, &cell);
}

fn real(memory: &Memory, plan: &RealPlan, index: u32, changed: &Changed) {
    let service = changed.number;
    let old = memory.reals.get(index).unwrap_or_default();
    let (family, address) = plan.address.map_or((0, Address::default()), address);
    let method = method(plan.forward) as u8;
    // The way to it is kept while it is the same host reached by the same method.
    let kept = if is_same(&old, plan, service) { old } else { Real::default() };
    let last_weight = if plan.weight == 0 { kept.last_weight } else { plan.weight };
    let standing = match plan.standing {
        Standing::Serving => real_flags::UP,
        Standing::Drained | Standing::Waiting => 0,
        Standing::Failed => real_flags::DOWN,
    };
    let mut flags = (kept.flags & real_flags::RESOLVED) | standing;
    if changed.keeps {
        flags |= real_flags::KEEP;
    }
    if plan.forward == Forward::FullNat {
        flags |= real_flags::FULL;
    }
    let mut tunnel_port = 0;
    if let Forward::Gue(gue) = plan.forward {
        tunnel_port = gue.port;
        if gue.checksum.unwrap_or(family == V6) {
            flags |= real_flags::CHECKSUM;
        }
    }
    let closed = plan.closed;
    let real = Real { address, family, service, method, flags, tunnel_port, last_weight, closed, ..kept };
    memory.reals.set(index, &real);
    if let Some(load) = memory.loads.at(index) {
        threshold::set(load, plan.upper, plan.lower);
    }
}

/// Whether the record is of this real server of this service.
fn is_same(real: &Real, plan: &RealPlan, service: u32) -> bool {
    let (family, address) = plan.address.map_or((0, Address::default()), address);
    real.address == address && real.family == family && real.service == service
}

fn mask(plan: &ServicePlan) -> Address {
    match (plan.family, plan.persistence) {
        (Family::V4, Some(p)) => Address::v4(p.netmask.octets()),
        (Family::V6, Some(p)) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(p.prefix_len_v6)).unwrap_or(0);
            Address::v6(bits.to_be_bytes())
        }
        (Family::V4, None) => Address::v4([0xff; 4]),
        (Family::V6, None) => Address::v6([0xff; 16]),
    }
}

fn scheduler(name: Name) -> Scheduler {
    match name {
        Name::Rr => Scheduler::Rr,
        Name::Wrr => Scheduler::Wrr,
        Name::Lc => Scheduler::Lc,
        Name::Wlc => Scheduler::Wlc,
        Name::Sh => Scheduler::Sh,
        Name::Maglev => Scheduler::Maglev,
        Name::Sed => Scheduler::Sed,
        Name::Nq => Scheduler::Nq,
        Name::Fo => Scheduler::Fo,
        Name::Ovf => Scheduler::Ovf,
        Name::Dh => Scheduler::Dh,
        Name::Twos => Scheduler::Twos,
        Name::Lblc => Scheduler::Lblc,
        Name::Lblcr => Scheduler::Lblcr,
    }
}

/// The engine's number of a forwarding method.
pub fn method(forward: Forward) -> Method {
    match forward {
        Forward::Nat | Forward::FullNat => Method::Nat,
        Forward::Dr => Method::DirectRouting,
        Forward::Tunnel => Method::Tunnel,
        Forward::Gue(_) => Method::Gue,
        Forward::Gre => Method::Gre,
        Forward::Local => Method::Local,
    }
}

/// Whether the family that packets have is the one of this number.
pub fn is_family(family: Family, number: u8) -> bool {
    family_number(family) == number
}

/// The plan's service for a number, for whoever names things to people.
pub fn plan_of<'a>(memory: &Memory, plan: &'a Plan, service: u32) -> Option<&'a ServicePlan> {
    let cell = memory.services.get(service)?;
    plan.services.get(cell.versions[(cell.current & 1) as usize].config as usize)
}

//! Writes destinations, ports and marks into the half of the classifier that is not in force, and puts it in force.

use crate::ids::Ids;
use crate::memory::{Memory, Prefix};
use crate::region::Region;
use ipnet::IpNet;
use marca_config::model::{Protocol, Udp};
use marca_config::plan::{Candidate, Family, Outbound, Outcome, Plan, PortPlan, Reply};
use marca_engine::forward::Method;
use marca_engine::hash;
use marca_engine::layout::{
    Address, AddressCell, Condition, Control, Destination, PortCell, RangeCell, Target, V4, V6, Vip, control_flags,
    limits, node_flags, node_port_key, port_key, target_flags,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("the {table} table has room for {capacity} entries and the configuration needs more")]
    Full { table: &'static str, capacity: u32 },
    #[error("a mark rule names interface `{0}`, which this host does not have")]
    NoInterface(String),
    #[error("service `{0}` has no number")]
    NoNumber(String),
}

/// The engine's form of an address.
pub fn address(ip: IpAddr) -> (u8, Address) {
    match ip {
        IpAddr::V4(ip) => (V4, Address::v4(ip.octets())),
        IpAddr::V6(ip) => (V6, Address::v6(ip.octets())),
    }
}

/// The usual form of an engine's address.
pub fn ip(family: u8, address: &Address) -> IpAddr {
    if family == V4 { address.octets_v4().into() } else { address.octets_v6().into() }
}

/// Writes the plan into the other half. The prefixes are not in mapped memory: the caller puts the ones that are
/// returned into their table, then calls [`switch`].
///
/// # Errors
/// Nothing that is in force has changed.
pub fn write(
    memory: &Memory,
    plan: &Plan,
    ids: &Ids,
    interfaces: &HashMap<String, u32>,
) -> Result<Written, WriteError> {
    let control = memory.control();
    let half = (control.half & 1) ^ 1;
    let mut writer = Writer {
        memory,
        plan,
        ids,
        interfaces,
        control,
        half,
        services: plan.services.iter().map(|service| ids.service(&service.name, service.family)).collect(),
        addresses: BTreeMap::new(),
        next: Next::default(),
        prefixes: Vec::new(),
    };
    writer.clear();
    for destination in &plan.destinations {
        writer.destination(destination.net, &destination.ports)?;
    }
    writer.replies()?;
    for &source in &plan.sources {
        writer.cell(source).flags |= node_flags::SOURCE;
    }
    writer.addresses()?;
    Ok(Written { half, prefixes: writer.prefixes })
}

/// A half of the classifier, complete but for its prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub half: u32,
    pub prefixes: Vec<Prefix>,
}

/// Puts the half in force, for all services at once.
pub fn switch(memory: &Memory, written: &Written) {
    let mut control = memory.control();
    // The flag first when prefixes come, last when they go: the half itself is one store.
    if !written.prefixes.is_empty() {
        control.flags |= control_flags::PREFIXES;
        memory.control.set(0, &control);
    }
    control.half = written.half;
    if control.written == 0 {
        // There was none before, and no connection.
        control.swept = 1;
    }
    control.written = control.written.wrapping_add(1);
    memory.control.set(0, &control);
    if written.prefixes.is_empty() {
        control.flags &= !control_flags::PREFIXES;
        memory.control.set(0, &control);
    }
}

struct Writer<'a> {
    memory: &'a Memory,
    plan: &'a Plan,
    ids: &'a Ids,
    interfaces: &'a HashMap<String, u32>,
    control: Control,
    half: u32,
    /// Their numbers, in the plan's order.
    services: Vec<Option<u32>>,
    addresses: BTreeMap<IpAddr, AddressCell>,
    next: Next,
    prefixes: Vec<Prefix>,
}

/// Next free places, counted within the half.
#[derive(Default)]
struct Next {
    destination: u32,
    range: u32,
    condition: u32,
    vip: u32,
}

impl Writer<'_> {
    fn clear(&self) {
        let base = |len: u32| self.half * len..(self.half + 1) * len;
        base(self.control.address_mask + 1).for_each(|i| _ = self.memory.addresses.set(i, &AddressCell::default()));
        base(self.control.port_mask + 1).for_each(|i| _ = self.memory.ports.set(i, &PortCell::default()));
    }

    /// The next place in a table of this half, as an index into the whole table. Place 0 stays empty: 0 means nobody.
    fn place(&self, next: u32, table: &'static str) -> Result<u32, WriteError> {
        let place = next + 1;
        if place >= self.control.half_len {
            return Err(WriteError::Full { table, capacity: self.control.half_len - 1 });
        }
        Ok(self.half * self.control.half_len + place)
    }

    fn destination(&mut self, net: IpNet, ports: &[PortPlan]) -> Result<(), WriteError> {
        let number = self.place(self.next.destination, "destination")?;
        self.next.destination += 1;
        let mut record = Destination { ranges: self.place(self.next.range, "range")?, ..Destination::default() };
        for plan in ports {
            let target = self.target(&plan.candidates)?;
            if plan.ports.is_single() {
                let key = port_key(number, plan.protocol.number(), plan.ports.first);
                self.port(PortCell { key, target })?;
                continue;
            }
            let index = self.place(self.next.range, "range")?;
            self.next.range += 1;
            let range = RangeCell { first: plan.ports.first, last: plan.ports.last, spare: 0, target };
            self.memory.ranges.set(index, &range);
            match plan.protocol {
                marca_config::model::Protocol::Tcp => record.tcp += 1,
                marca_config::model::Protocol::Udp => record.udp += 1,
                marca_config::model::Protocol::Sctp => record.sctp += 1,
            }
        }
        self.memory.destinations.set(number, &record);
        if net.prefix_len() == net.max_prefix_len() {
            self.cell(net.addr()).destination = number;
        } else {
            self.prefixes.push(Prefix { half: self.half, net, destination: number });
        }
        Ok(())
    }

    fn cell(&mut self, ip: IpAddr) -> &mut AddressCell {
        let (family, address) = address(ip);
        self.addresses.entry(ip).or_insert(AddressCell { address, family, ..AddressCell::default() })
    }

    fn target(&mut self, candidates: &[Candidate]) -> Result<Target, WriteError> {
        if let [only] = candidates
            && only.condition == Default::default()
            && let Some(outcome) = &only.outcome
        {
            return self.outcome(outcome);
        }
        let mut first = 0;
        for candidate in candidates {
            let index = self.place(self.next.condition, "condition")?;
            self.next.condition += 1;
            if first == 0 {
                first = index;
            }
            let record = self.condition(candidate)?;
            self.memory.conditions.set(index, &record);
        }
        Ok(Target {
            owner: first,
            conditions: candidates.len() as u16,
            flags: target_flags::CONDITIONAL,
            ..Target::default()
        })
    }

    fn condition(&self, candidate: &Candidate) -> Result<Condition, WriteError> {
        let mut record = Condition::default();
        if let Some(from) = candidate.condition.from {
            (record.family, record.from) = address(from.network());
            (_, record.mask) = address(from.netmask());
        }
        if let Some(name) = &candidate.condition.interface {
            let index = self.interfaces.get(name).ok_or_else(|| WriteError::NoInterface(name.clone()))?;
            record.interface = *index;
        }
        match &candidate.outcome {
            Some(outcome) => record.target = self.outcome(outcome)?,
            None => record.absent = 1,
        }
        Ok(record)
    }

    fn outcome(&self, outcome: &Outcome) -> Result<Target, WriteError> {
        let flags = if outcome.expected { target_flags::EXPECTED } else { 0 };
        Ok(Target {
            owner: self.service(outcome.service)?,
            port: outcome.target.unwrap_or(0),
            flags,
            ..Target::default()
        })
    }

    fn service(&self, index: usize) -> Result<u32, WriteError> {
        self.services[index].ok_or_else(|| WriteError::NoNumber(self.plan.services[index].name.clone()))
    }

    fn real(&self, service: usize, server: IpAddr) -> Result<u32, WriteError> {
        let service = &self.plan.services[service];
        let number = self.ids.real(&service.name, service.family, Some(server));
        number.ok_or_else(|| WriteError::NoNumber(server.to_string()))
    }

    /// Real servers under NAT, and what their ports mean.
    fn replies(&mut self) -> Result<(), WriteError> {
        let leaving = leaving(self.memory, self.ids);
        let mut vips: HashMap<IpAddr, u32> = HashMap::new();
        let mut last = None;
        for (from, reply) in &self.plan.replies {
            // They are in the order of addresses.
            let node = match last {
                Some((address, node)) if address == from.address => node,
                _ => self.node(from.address, 0)?,
            };
            last = Some((from.address, node));
            let target = match reply {
                Reply::Ambiguous => match self.plan.outbound.get(from) {
                    Some(outbound) => self.outbound(from.address, outbound, &mut vips)?,
                    None => Target::default(),
                },
                Reply::Unique { service, vip, port } => {
                    let vip = self.vip(*vip, &mut vips)?;
                    // A connection that the plan does not know any more may have the same port.
                    let later = leaving.contains(&from.address);
                    let mut flags = if later { target_flags::UNIQUE_LATER } else { target_flags::UNIQUE };
                    let single = self.plan.services[*service].udp == Udp::OnePacket && from.protocol == Protocol::Udp;
                    let owner = if single {
                        flags |= target_flags::SINGLE;
                        self.real(*service, from.address)?
                    } else {
                        self.service(*service)?
                    };
                    Target { owner, vip, port: *port, flags, ..Target::default() }
                }
            };
            self.port(PortCell { key: node_port_key(node, from.protocol.number(), from.port), target })?;
        }
        for &ip in self.plan.range_nodes.iter().chain(&leaving) {
            self.node(ip, node_flags::RANGES)?;
        }
        Ok(())
    }

    /// Packets from this real server's port may open connections.
    fn outbound(
        &mut self,
        server: IpAddr,
        outbound: &Outbound,
        vips: &mut HashMap<IpAddr, u32>,
    ) -> Result<Target, WriteError> {
        let owner = self.real(outbound.service, server)?;
        let vip = self.vip(outbound.vip, vips)?;
        Ok(Target { owner, vip, flags: target_flags::OUTBOUND, ..Target::default() })
    }

    /// The VIP's place in the table of VIPs.
    fn vip(&mut self, vip: IpAddr, vips: &mut HashMap<IpAddr, u32>) -> Result<u32, WriteError> {
        if let Some(&index) = vips.get(&vip) {
            return Ok(index);
        }
        let index = self.place(self.next.vip, "VIP")?;
        self.next.vip += 1;
        self.memory.vips.set(index, &Vip { address: address(vip).1 });
        vips.insert(vip, index);
        Ok(index)
    }

    fn node(&mut self, ip: IpAddr, flags: u8) -> Result<u32, WriteError> {
        let number = self.ids.node(ip).ok_or_else(|| WriteError::NoNumber(ip.to_string()))?;
        let cell = self.cell(ip);
        cell.node = number;
        cell.flags |= flags;
        Ok(number)
    }

    fn addresses(&self) -> Result<(), WriteError> {
        let home = |cell: &AddressCell| hash::address(self.control.seed, &cell.address, u64::from(cell.family)) as u32;
        for cell in self.addresses.values() {
            let mask = self.control.address_mask;
            if !settle(&self.memory.addresses, self.half, mask, *cell, home, |cell| cell.family == 0) {
                return Err(WriteError::Full { table: "address", capacity: mask + 1 });
            }
        }
        Ok(())
    }

    fn port(&self, cell: PortCell) -> Result<(), WriteError> {
        let mask = self.control.port_mask;
        let home = |cell: &PortCell| hash::word(self.control.seed, cell.key) as u32;
        if settle(&self.memory.ports, self.half, mask, cell, home, |cell| cell.key == 0) {
            return Ok(());
        }
        Err(WriteError::Full { table: "port", capacity: mask + 1 })
    }
}

/// Real servers under NAT that are no longer in the plan: their live connections still send replies.
pub fn leaving(memory: &Memory, ids: &Ids) -> BTreeSet<IpAddr> {
    let reals = ids.leaving_reals().filter_map(|index| memory.reals.get(index));
    let reals = reals.filter(|real| real.family != 0 && real.method == Method::Nat as u8);
    reals.map(|real| ip(real.family, &real.address)).collect()
}

/// Puts a cell into a half of a table of open addressing. Who is further from home takes the place (Celis, "Robin Hood
/// Hashing", 1986): among a million cells a quarter full, the greatest distance is then 5 or 6 and not 9 to 14, and a
/// packet looks at [`limits::PROBES`] cells. False when somebody would be too far.
fn settle<T: FromBytes + IntoBytes + Immutable>(
    table: &Region<T>,
    half: u32,
    mask: u32,
    mut cell: T,
    home: impl Fn(&T) -> u32,
    is_free: impl Fn(&T) -> bool,
) -> bool {
    let mut at = home(&cell) & mask;
    let mut distance = 0;
    while distance < limits::PROBES {
        let place = half * (mask + 1) + at;
        let Some(resident) = table.get(place) else { return false };
        if is_free(&resident) {
            return table.set(place, &cell);
        }
        let residents = at.wrapping_sub(home(&resident)) & mask;
        if residents < distance {
            table.set(place, &cell);
            (cell, distance) = (resident, residents);
        }
        at = (at + 1) & mask;
        distance += 1;
    }
    false
}

/// The engine's number for a family.
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

//! One half of the classifier: written whole, or brought up to date where a plan is different from the one before.

use super::cells::Cells;
use super::{WriteError, address};
use crate::ids::Ids;
use crate::memory::{Memory, Prefix};
use ipnet::IpNet;
use marca_config::model::{Protocol, Udp};
use marca_config::plan::{Candidate, DestinationPlan, Outbound, Outcome, Plan, PortPlan, Reply, ReplyPort, Touched};
use marca_engine::layout::{
    AddressCell, Condition, Control, Destination, PortCell, RangeCell, Target, Vip, node_flags, node_port_key,
    port_key, target_flags,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// What there is to be written.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub memory: &'a Memory,
    pub plan: &'a Plan,
    pub ids: &'a Ids,
    /// Numbers by name.
    pub interfaces: &'a HashMap<String, u32>,
    /// Real servers that are no longer in the plan: see [`super::leaving`].
    pub leaving: &'a BTreeSet<IpAddr>,
}

/// A half, and what is known of it.
#[derive(Debug)]
pub(super) struct Half {
    pub number: u32,
    next: Next,
    vips: HashMap<IpAddr, u32>,
    destinations: HashMap<IpNet, Known>,
    prefixes: BTreeMap<IpNet, u32>,
    pub interfaces: HashMap<String, u32>,
    pub leaving: BTreeSet<IpAddr>,
}

/// A destination that is in the tables.
#[derive(Debug)]
struct Known {
    number: u32,
    /// Of its exact ports.
    keys: Vec<u64>,
}

/// Next free places, counted within the half. What is replaced leaves its places unused until the half is written whole.
#[derive(Debug, Default)]
struct Next {
    destination: u32,
    range: u32,
    condition: u32,
    vip: u32,
}

impl Half {
    /// An empty one.
    pub fn clear(number: u32, wanted: &Wanted) -> Self {
        let half = Self {
            number,
            next: Next::default(),
            vips: HashMap::new(),
            destinations: HashMap::new(),
            prefixes: BTreeMap::new(),
            interfaces: wanted.interfaces.clone(),
            leaving: BTreeSet::new(),
        };
        let control = wanted.memory.control();
        half.addresses(wanted, &control).clear();
        half.ports(wanted, &control).clear();
        half
    }

    /// The whole plan.
    pub fn write(number: u32, wanted: &Wanted) -> Result<Self, WriteError> {
        let mut half = Self::clear(number, wanted);
        half.leaving.clone_from(wanted.leaving);
        let mut writer = Writer::new(&mut half, wanted);
        for destination in &wanted.plan.destinations {
            writer.destination(destination)?;
        }
        for (from, reply) in &wanted.plan.replies {
            writer.reply(from, reply)?;
        }
        for host in hosts(wanted) {
            writer.host(host)?;
        }
        Ok(half)
    }

    /// Makes it what the plan wants where it may be otherwise: in what has been `touched` since it was written, and where real
    /// servers have left or are gone.
    pub fn bring(&mut self, wanted: &Wanted, touched: &Touched) -> Result<(), WriteError> {
        let left = std::mem::replace(&mut self.leaving, wanted.leaving.clone());
        let departed: BTreeSet<IpAddr> = left.symmetric_difference(wanted.leaving).copied().collect();
        let mut writer = Writer::new(self, wanted);
        for net in &touched.destinations {
            writer.take_destination(net);
        }
        // There are thousands of them, and few that have been touched.
        let destinations = wanted.plan.destinations.iter();
        for destination in destinations.filter(|destination| touched.destinations.contains(&destination.net)) {
            writer.destination(destination)?;
        }
        for from in &touched.replies {
            match wanted.plan.replies.get(from) {
                Some(reply) => writer.reply(from, reply)?,
                None => writer.take_reply(from),
            }
        }
        // A port there may have one meaning now, or may not yet.
        for (from, reply) in departed.iter().flat_map(|address| replies_of(wanted.plan, *address)) {
            writer.reply(from, reply)?;
        }
        for host in touched.hosts.union(&departed).copied() {
            writer.host(host)?;
        }
        let nets = touched.destinations.iter();
        for host in nets.filter(|net| is_host(net)).map(IpNet::addr).filter(|host| !touched.hosts.contains(host)) {
            writer.host(host)?;
        }
        Ok(())
    }

    pub fn prefixes(&self) -> Vec<Prefix> {
        self.prefixes.iter().map(|(net, &destination)| Prefix { half: self.number, net: *net, destination }).collect()
    }

    fn addresses<'m>(&self, wanted: &Wanted<'m>, control: &Control) -> Cells<'m, AddressCell> {
        let (half, mask, seed) = (self.number, control.address_mask, control.seed);
        Cells { table: &wanted.memory.addresses, half, mask, seed }
    }

    fn ports<'m>(&self, wanted: &Wanted<'m>, control: &Control) -> Cells<'m, PortCell> {
        let (half, mask, seed) = (self.number, control.port_mask, control.seed);
        Cells { table: &wanted.memory.ports, half, mask, seed }
    }
}

/// All addresses that have a cell.
pub(super) fn hosts(wanted: &Wanted) -> BTreeSet<IpAddr> {
    let Wanted { plan, leaving, .. } = wanted;
    let mut hosts: Vec<IpAddr> = plan.replies.keys().map(|from| from.address).collect();
    hosts.dedup();
    let destinations = plan.destinations.iter().map(|destination| &destination.net);
    hosts.extend(destinations.filter(|net| is_host(net)).map(IpNet::addr));
    hosts.extend(plan.range_nodes.iter().chain(*leaving).chain(&plan.sources));
    hosts.into_iter().collect()
}

fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// What the ports of a real server mean.
fn replies_of(plan: &Plan, address: IpAddr) -> impl Iterator<Item = (&ReplyPort, &Reply)> {
    let first = ReplyPort { address, protocol: Protocol::ALL[0], port: 0 };
    plan.replies.range(first..).take_while(move |(from, _)| from.address == address)
}

struct Writer<'a, 'w> {
    half: &'a mut Half,
    wanted: &'a Wanted<'w>,
    control: Control,
    addresses: Cells<'w, AddressCell>,
    ports: Cells<'w, PortCell>,
    /// Whose number was asked for last: replies come in the order of addresses.
    node: Option<(IpAddr, u32)>,
}

impl<'a, 'w> Writer<'a, 'w> {
    fn new(half: &'a mut Half, wanted: &'a Wanted<'w>) -> Self {
        let control = wanted.memory.control();
        let (addresses, ports) = (half.addresses(wanted, &control), half.ports(wanted, &control));
        Self { half, wanted, control, addresses, ports, node: None }
    }

    /// The next place in a table of this half, as an index into the whole table. Place 0 stays empty: 0 means nobody.
    fn place(&self, next: u32, table: &'static str) -> Result<u32, WriteError> {
        let place = next + 1;
        if place >= self.control.half_len {
            return Err(WriteError::Full { table, capacity: self.control.half_len - 1 });
        }
        Ok(self.half.number * self.control.half_len + place)
    }

    /// One that is not there. Its address's cell comes later.
    fn destination(&mut self, plan: &DestinationPlan) -> Result<(), WriteError> {
        let number = self.place(self.half.next.destination, "destination")?;
        self.half.next.destination += 1;
        let mut record = Destination { ranges: self.place(self.half.next.range, "range")?, ..Destination::default() };
        let mut keys = Vec::new();
        for PortPlan { protocol, ports, candidates } in &plan.ports {
            let target = self.target(candidates)?;
            if ports.is_single() {
                let key = port_key(number, protocol.number(), ports.first);
                self.port(PortCell { key, target })?;
                keys.push(key);
                continue;
            }
            let index = self.place(self.half.next.range, "range")?;
            self.half.next.range += 1;
            let range = RangeCell { first: ports.first, last: ports.last, spare: 0, target };
            self.wanted.memory.ranges.set(index, &range);
            match protocol {
                Protocol::Tcp => record.tcp += 1,
                Protocol::Udp => record.udp += 1,
                Protocol::Sctp => record.sctp += 1,
            }
        }
        self.wanted.memory.destinations.set(number, &record);
        if !is_host(&plan.net) {
            self.half.prefixes.insert(plan.net, number);
        }
        self.half.destinations.insert(plan.net, Known { number, keys });
        Ok(())
    }

    fn take_destination(&mut self, net: &IpNet) {
        let Some(known) = self.half.destinations.remove(net) else { return };
        known.keys.iter().for_each(|&key| self.ports.take(&PortCell { key, ..PortCell::default() }));
        self.half.prefixes.remove(net);
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
            let index = self.place(self.half.next.condition, "condition")?;
            self.half.next.condition += 1;
            if first == 0 {
                first = index;
            }
            let record = self.condition(candidate)?;
            self.wanted.memory.conditions.set(index, &record);
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
            let index = self.wanted.interfaces.get(name).ok_or_else(|| WriteError::NoInterface(name.clone()))?;
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
            owner: self.service(outcome.service, outcome.part)?,
            port: outcome.target.unwrap_or(0),
            flags,
            ..Target::default()
        })
    }

    /// The number of a service, or of a part of it.
    fn service(&self, index: usize, part: Option<u8>) -> Result<u32, WriteError> {
        let service = &self.wanted.plan.services[index];
        let number = self.wanted.ids.part(service, part);
        number.ok_or_else(|| WriteError::NoNumber(service.name.clone()))
    }

    fn real(&self, service: usize, server: IpAddr) -> Result<u32, WriteError> {
        let service = &self.wanted.plan.services[service];
        let number = self.wanted.ids.real(&service.name, service.family, Some(server));
        number.ok_or_else(|| WriteError::NoNumber(server.to_string()))
    }

    /// What a port of a real server under NAT means.
    fn reply(&mut self, from: &ReplyPort, reply: &Reply) -> Result<(), WriteError> {
        let node = match self.node {
            Some((address, node)) if address == from.address => node,
            _ => self.node(from.address)?,
        };
        self.node = Some((from.address, node));
        let target = match reply {
            Reply::Ambiguous => match self.wanted.plan.outbound.get(from) {
                Some(outbound) => self.outbound(from.address, outbound)?,
                None => Target::default(),
            },
            Reply::Unique { service, part, vip, port } => {
                let vip = self.vip(*vip)?;
                // A connection that the plan does not know any more may have the same port.
                let later = self.wanted.leaving.contains(&from.address);
                let mut flags = if later { target_flags::UNIQUE_LATER } else { target_flags::UNIQUE };
                let single =
                    self.wanted.plan.services[*service].udp == Udp::OnePacket && from.protocol == Protocol::Udp;
                let owner = if single {
                    flags |= target_flags::SINGLE;
                    self.real(*service, from.address)?
                } else {
                    self.service(*service, *part)?
                };
                Target { owner, vip, port: *port, flags, ..Target::default() }
            }
        };
        self.port(PortCell { key: node_port_key(node, from.protocol.number(), from.port), target })
    }

    fn take_reply(&mut self, from: &ReplyPort) {
        let Some(node) = self.wanted.ids.node(from.address) else { return };
        let key = node_port_key(node, from.protocol.number(), from.port);
        self.ports.take(&PortCell { key, ..PortCell::default() });
    }

    /// Packets from this real server's port may open connections.
    fn outbound(&mut self, server: IpAddr, outbound: &Outbound) -> Result<Target, WriteError> {
        let owner = self.real(outbound.service, server)?;
        let vip = self.vip(outbound.vip)?;
        Ok(Target { owner, vip, flags: target_flags::OUTBOUND, ..Target::default() })
    }

    /// The VIP's place in the table of VIPs.
    fn vip(&mut self, vip: IpAddr) -> Result<u32, WriteError> {
        if let Some(&index) = self.half.vips.get(&vip) {
            return Ok(index);
        }
        let index = self.place(self.half.next.vip, "VIP")?;
        self.half.next.vip += 1;
        self.wanted.memory.vips.set(index, &Vip { address: address(vip).1 });
        self.half.vips.insert(vip, index);
        Ok(index)
    }

    fn node(&self, ip: IpAddr) -> Result<u32, WriteError> {
        self.wanted.ids.node(ip).ok_or_else(|| WriteError::NoNumber(ip.to_string()))
    }

    /// What an address is, once destinations have their numbers.
    fn host(&mut self, ip: IpAddr) -> Result<(), WriteError> {
        let Wanted { plan, leaving, .. } = self.wanted;
        let (family, address) = address(ip);
        let mut cell = AddressCell { address, family, ..AddressCell::default() };
        cell.destination = self.half.destinations.get(&IpNet::from(ip)).map_or(0, |known| known.number);
        let ranges = plan.range_nodes.contains(&ip) || leaving.contains(&ip);
        if ranges || replies_of(plan, ip).next().is_some() {
            cell.node = self.node(ip)?;
        }
        if ranges {
            cell.flags |= node_flags::RANGES;
        }
        if plan.sources.contains(&ip) {
            cell.flags |= node_flags::SOURCE;
        }
        if cell.destination == 0 && cell.node == 0 && cell.flags == 0 {
            self.addresses.take(&cell);
            return Ok(());
        }
        if self.addresses.put(cell) {
            return Ok(());
        }
        Err(WriteError::Full { table: "address", capacity: self.control.address_mask + 1 })
    }

    fn port(&self, cell: PortCell) -> Result<(), WriteError> {
        if self.ports.put(cell) {
            return Ok(());
        }
        Err(WriteError::Full { table: "port", capacity: self.control.port_mask + 1 })
    }
}

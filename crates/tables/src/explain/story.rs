//! The decision's steps, and what is done, in sentences.

use super::Director;
use super::headers::{end, protocol};
use super::names::Names;
use crate::classifier::{family_number, ip};
use crate::memory::Memory;
use ipnet::IpNet;
use marca_config::model::BelowQuorum;
use marca_config::plan::{DestinationPlan, Family, PortPlan, ServicePlan};
use marca_engine::decide::{Change, ChangeKind, Decision, RememberKind, To};
use marca_engine::forward::Method;
use marca_engine::forward::fullnat::Peer;
use marca_engine::layout::{Condition, NO_REAL, Real, Server, Service, real_flags, state_bits};
use marca_engine::reason::{Action, Reason};
use marca_engine::schedule::{Scheduler, locality, threshold};
use marca_engine::tables::{CellTable, Step};
use marca_engine::wire::Headers;
use marca_engine::{Outcome, Work};
use std::net::SocketAddr;
use std::time::Duration;

/// What has been told so far.
pub(super) struct Story<'a> {
    pub lines: Vec<String>,
    pub service: Option<String>,
    pub real: Option<String>,
    director: &'a Director<'a>,
    names: &'a Names<'a>,
    /// Next hops are made up.
    pretend: bool,
    /// The number of `service`.
    member: Option<u32>,
}

impl<'a> Story<'a> {
    pub fn new(director: &'a Director<'a>, names: &'a Names<'a>, pretend: bool) -> Self {
        Self { lines: Vec::new(), service: None, real: None, director, names, pretend, member: None }
    }

    fn memory(&self) -> &'a Memory {
        self.director.memory
    }

    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    pub fn step(&mut self, step: &Step) {
        let line = match *step {
            Step::Condition { index, holds } => self.condition(index, holds),
            Step::Member { service, port, expected } => self.is_member(service, port, expected),
            Step::Outbound { real } => self.opens(real),
            Step::Announced { real, port, passive } => self.announced(real, port, passive),
            Step::Expected { real } => {
                format!("An FTP control connection between the two has announced it: of {}.", self.names.real(real))
            }
            Step::FromServer { node } => self.server_of(node),
            Step::Slot { index, real, record } => self.slot(index, real, record),
            Step::Flow { table, real, state } => {
                format!("Its connection is known, to {}: {}.", self.names.real(real), state_in_words(table, state))
            }
            Step::NoFlow => "There is no record of its connection.".into(),
            Step::Again { real } => {
                format!("The closed connection of the same addresses and ports was on {}.", self.names.real(real))
            }
            Step::Template { real, ticks_left } => self.template(real, ticks_left),
            Step::TemplateStale { real } => format!(
                "Persistence: the client was on {}, which takes nobody any more; it moves.",
                self.names.real(real)
            ),
            Step::TemplateElsewhere { real } => format!(
                "Persistence: the client stays on {}, which fails a check of this port; for this connection it goes \
                 elsewhere.",
                self.names.real(real)
            ),
            Step::NoTemplate => "Persistence: the client is not known yet.".into(),
            Step::Scheduled { real } => self.scheduled(real),
            Step::Source { number, port, free } => {
                format!(
                    "Fullnat: the source {} is {}.",
                    self.source(number, port),
                    if free { "free" } else { "in use" }
                )
            }
            Step::Back { real, client, port, vip, vip_port, family } => {
                let (client, vip) = (ip(family, &client), ip(family, &vip));
                self.back(real, SocketAddr::new(client, port), SocketAddr::new(vip, vip_port))
            }
            Step::Quote { packet } => {
                format!(
                    "It is about a packet of {} from {} to {}.",
                    protocol(packet.protocol),
                    end(&packet, true),
                    end(&packet, false)
                )
            }
            Step::Fragment { real, to_client } => self.follows(real, to_client),
            Step::Overloaded { real } => {
                format!("{} has reached its upper threshold, and takes no new clients.", self.names.real(real))
            }
            Step::Locality { real: NO_REAL } => {
                "No real server that takes clients has served this destination lately.".into()
            }
            Step::Locality { real } => format!("{} has served this destination lately.", self.names.real(real)),
        };
        self.say(line);
    }

    fn source(&self, number: u32, port: u16) -> SocketAddr {
        let address = self.memory().sources.get(number).unwrap_or_default();
        // IPv4 addresses have the last word only, and no IPv6 address is among `::/96`.
        let family = if matches!(address.parts(), [0, 0, 0, _]) { Family::V4 } else { Family::V6 };
        SocketAddr::new(ip(family_number(family), &address), port)
    }

    fn back(&mut self, real: u32, client: SocketAddr, vip: SocketAddr) -> String {
        self.real = Some(self.names.real(real));
        let number = self.memory().reals.get(real).map_or(0, |real| real.service);
        self.service = self.names.service_plan(number).map(|plan| plan.name.clone());
        format!(
            "Fullnat: {} answers the client {client}: the destination becomes that, and the source {vip}.",
            self.names.real_in_full(real)
        )
    }

    fn condition(&self, index: u32, holds: bool) -> String {
        let condition = self.memory().conditions.get(index).unwrap_or_default();
        let mut of = String::new();
        if condition.family != 0 {
            of += &format!(" for sources in {}", source(&condition));
        }
        if condition.interface != 0 {
            of += &format!(" on {}", self.names.interface(condition.interface));
        }
        if of.is_empty() {
            of += " for everybody else";
        }
        let held = match (holds, condition.absent != 0) {
            (true, false) => "holds",
            (true, true) => "holds, and its mark is no service's",
            (false, _) => "does not hold",
        };
        format!("The rule{of} {held}.")
    }

    fn announced(&self, real: u32, port: u16, passive: bool) -> String {
        let name = self.names.real(real);
        if passive {
            format!("It announces a data connection: the client's next one to port {port} of the VIP goes to {name}.")
        } else {
            format!("It announces a data connection: {name}'s next one to port {port} of the client leaves as the VIP.")
        }
    }

    fn opens(&self, real: u32) -> String {
        format!("{} opens a connection from a port of the service's `outbound`.", self.names.real_in_full(real))
    }

    fn is_member(&mut self, service: u32, port: u16, expected: bool) -> String {
        let name = self.names.service(service);
        let line = if expected {
            format!("Port {port} is service `{name}`'s for connections that its real servers open or announce.")
        } else {
            format!("It is a packet of service `{name}`, whose real servers take it at port {port}.")
        };
        let line = match self.names.service_plan(service) {
            Some(plan) if plan.is_below_quorum => format!("{line} {}", below_quorum(plan)),
            _ => line,
        };
        self.service = Some(name);
        self.member = Some(service);
        line
    }

    fn server_of(&self, node: u32) -> String {
        let cells = (0..self.memory().addresses.len()).filter_map(|i| self.memory().addresses.get(i));
        let cell = cells.filter(|cell| cell.family != 0).find(|cell| cell.node == node);
        match cell.map(|cell| ip(cell.family, &cell.address)) {
            Some(address) => format!("It is from a real server under NAT: {address}, {}.", self.names.host(address)),
            None => "It is from a real server under NAT.".into(),
        }
    }

    fn slot(&self, index: u32, real: u32, record: bool) -> String {
        let start = self.settings().map_or(0, |settings| settings.slots);
        let whose = if real == NO_REAL { "nobody's".into() } else { format!("{}'s", self.names.real(real)) };
        let asked = if record { "; it has changed lately, so that records have the last word" } else { "" };
        format!("The client's slot in the {} table is {}, {whose}{asked}.", self.scheduler(), index.wrapping_sub(start))
    }

    fn template(&self, real: u32, ticks_left: u32) -> String {
        let name = self.names.real(real);
        if ticks_left == 0 {
            return format!("Persistence: the client is going to {name}, and has not proved to be there yet.");
        }
        if ticks_left > u32::MAX / 2 {
            return format!(
                "Persistence: the client stays on {name}; its time is over, but its record is still there."
            );
        }
        format!("Persistence: the client stays on {name} for another {}.", self.seconds(ticks_left))
    }

    fn scheduled(&self, real: u32) -> String {
        let cursor = match self.settings() {
            Some(settings) if settings.scheduler <= Scheduler::Wrr as u8 => {
                let cursor = self.member.and_then(|service| self.memory().cursors.at(service)).map_or(0, |c| c.get());
                // The cursor is the next place to ask; past the last it is the first.
                let place = cursor as u32;
                format!(", at place {} of its round,", if place < settings.servers_len { place } else { 0 })
            }
            _ => String::new(),
        };
        format!("The scheduler {}{cursor} chooses {}.", self.scheduler(), self.names.real_in_full(real))
    }

    fn follows(&mut self, real: u32, to_client: bool) -> String {
        let name = self.names.real(real);
        let line = if to_client {
            format!("The first fragment of its packet came from {name}, and went to the client as the VIP's.")
        } else {
            format!("The first fragment of its packet went to {name}.")
        };
        self.service = self.service_of(real);
        self.real = Some(name);
        line
    }

    fn settings(&self) -> Option<Service> {
        let cell = self.memory().services.get(self.member?)?;
        Some(cell.versions[(cell.current & 1) as usize])
    }

    fn scheduler(&self) -> &'static str {
        let plan = self.member.and_then(|service| self.names.service_plan(service));
        plan.map_or("unknown", |plan| plan.scheduler.name())
    }

    fn seconds(&self, ticks: u32) -> String {
        let duration = self.director.clock.duration(ticks);
        if duration < Duration::from_secs(1) {
            return "less than a second".into();
        }
        marca_config::text::duration::print(Duration::from_secs(duration.as_secs()))
    }

    /// What the reason alone leaves open.
    pub fn why_not(&mut self, reason: Reason, h: &Headers, steps: &[Step]) {
        let destination = ip(h.family, &h.destination);
        match reason {
            Reason::NotOurs if steps.is_empty() => self.say(format!(
                "{destination} is no VIP and in no mark rule's destinations, and {} is no real server under NAT.",
                ip(h.family, &h.source)
            )),
            Reason::NotMember => {
                let line = match self.destination(h) {
                    Some(plan) => format!("Members at {}: {}.", named(plan.net), self.members(plan)),
                    None => format!("{destination} is a VIP that no packet to a port of it belongs to."),
                };
                self.say(line);
            }
            Reason::NotAReply => {
                self.say(format!("No connection of {} with {} goes through the director.", end(h, true), end(h, false)))
            }
            Reason::OtherProtocol => {
                self.say(format!("Services take TCP, UDP and SCTP, and this is {}.", protocol(h.protocol)))
            }
            Reason::RateLimited => {
                let plan = self.member.and_then(|service| self.names.service_plan(service));
                if let Some(limit) = plan.and_then(|plan| plan.rate_limit) {
                    self.say(format!(
                        "The service takes {} new connections in a second, {} at once.",
                        limit.connections, limit.burst
                    ));
                }
            }
            Reason::Icmp if steps.iter().any(|step| matches!(step, Step::Quote { .. })) => {
                self.say("No such connection goes through the director.".into());
            }
            Reason::NoServer | Reason::Refused => {
                let line = self.nobody();
                self.say(line);
            }
            _ => {}
        }
    }

    /// Why no real server takes a client.
    fn nobody(&self) -> String {
        let Some(settings) = self.settings() else { return "The service is not known.".into() };
        let servers = settings.servers..settings.servers.wrapping_add(settings.servers_len);
        let servers: Vec<Server> = servers.filter_map(|index| self.memory().servers.get(index)).collect();
        let idle = servers.iter().filter(|server| server.weight == 0).count();
        let load = |server: &&Server| self.memory().loads.at(server.real).is_some_and(threshold::is_overloaded);
        let full = servers.iter().filter(|server| server.weight != 0).filter(load).count();
        let real = |server: &&Server| self.memory().reals.get(server.real);
        let is_closed = |server: &&Server| real(server).is_some_and(|real| u32::from(real.closed) & settings.part != 0);
        let (closed, count) = (servers.iter().filter(is_closed).count(), servers.len());
        if count == 0 {
            "The service has no real servers.".into()
        } else if closed > 0 && idle == count {
            let others = if closed < count { "; the others have weight 0 or have failed" } else { "" };
            format!(
                "Of the service's {count} real servers {closed} fail a check of this port, and take no new connections \
                 to it{others}."
            )
        } else if idle == count {
            format!("All of the service's real servers ({count}) have weight 0 or have failed.")
        } else if idle + full == count {
            format!(
                "Of the service's {count} real servers {idle} have weight 0 or have failed, {full} have reached their upper threshold."
            )
        } else if settings.scheduler == Scheduler::Ovf as u8 {
            "Every real server has more active connections than its weight.".into()
        } else {
            "The real server that its slot belongs to takes no new clients, and the service does not fall back.".into()
        }
    }

    fn destination(&self, h: &Headers) -> Option<&'a DestinationPlan> {
        let address = ip(h.family, &h.destination);
        let holding = self.director.plan.destinations.iter().filter(|plan| plan.net.contains(&address));
        holding.max_by_key(|plan| plan.net.prefix_len())
    }

    fn members(&self, destination: &DestinationPlan) -> String {
        let mut shown: Vec<String> =
            destination.ports.iter().take(MEMBERS_SHOWN).map(|port| self.member_port(port)).collect();
        if destination.ports.len() > MEMBERS_SHOWN {
            shown.push(format!("and {} more", destination.ports.len() - MEMBERS_SHOWN));
        }
        if shown.is_empty() { "none".into() } else { shown.join(", ") }
    }

    fn member_port(&self, port: &PortPlan) -> String {
        let (protocol, ports) = (port.protocol, port.ports);
        let mut names: Vec<&str> = port
            .candidates
            .iter()
            .filter_map(|candidate| candidate.outcome)
            .map(|outcome| self.director.plan.services[outcome.service].name.as_str())
            .collect();
        names.dedup();
        let expected = port.candidates.iter().any(|candidate| candidate.outcome.is_some_and(|o| o.expected));
        let expected = if expected { " (connections that it knows)" } else { "" };
        format!("{} of `{}`{expected}", marca_config::model::PortMatch { protocol, ports }, names.join("` or `"))
    }

    /// What the decision writes and where it sends the packet.
    pub fn work(&mut self, work: &Work, outcome: &Outcome) {
        let Work { headers: h, decision: d, .. } = work;
        let real = self.names.real(d.real_index);
        if d.way.to != To::Kernel {
            self.real = Some(real);
        }
        if self.service.is_none() {
            self.service = self.service_of(d.real_index);
        }
        if outcome.reason == Reason::RateLimited {
            return;
        }
        if outcome.reason != Reason::TableFull {
            self.records(d);
        }
        if matches!(outcome.reason, Reason::Reset | Reason::TimeExceeded | Reason::FragmentationNeeded) {
            self.say("It becomes an answer to its sender, and goes back the way it came.".into());
        }
        match d.way.to {
            To::Server => self.forwarded(h, d, outcome),
            To::Client => self.replied(h, d, outcome),
            To::Sender => self.say(format!(
                "{} has failed: the client is told that its connection is over, and the record goes.",
                self.names.real(d.real_index)
            )),
            To::Nowhere => self.say(format!("{} has failed.", self.names.real(d.real_index))),
            To::Kernel => self.say(format!(
                "It is of a client's connection straight to {}, past the VIP; it is recorded, lest replies be taken for \
                 the service's.",
                self.names.real(d.real_index)
            )),
        }
    }

    /// An ICMP error: where it goes, and as what.
    pub fn related(&mut self, work: &Work, peer: &Peer, outcome: &Outcome) {
        let Work { headers: h, decision: d, .. } = work;
        self.real = Some(self.names.real(d.real_index));
        if self.service.is_none() {
            self.service = self.service_of(d.real_index);
        }
        let name = self.names.real_in_full(d.real_index);
        let Some(real) = self.memory().reals.get(d.real_index) else { return };
        let nat = real.method == NAT;
        let end = SocketAddr::new(ip(real.family, &real.address), d.way.port);
        let other = SocketAddr::new(ip(h.family, &peer.address), peer.port);
        self.say(match outcome.reason {
            Reason::FragmentationNeeded | Reason::TooBig => {
                format!("That was in the tunnel to {name}: the client is told what fits there.")
            }
            _ if d.way.to == To::Client => {
                let vip = SocketAddr::new(ip(h.family, &d.way.vip), d.way.port);
                let from = if peer.is_there { format!(" from {other}") } else { String::new() };
                format!("It goes to the client as the VIP's, and what it quotes becomes a packet{from} to {vip}.")
            }
            _ if nat && peer.is_there => format!(
                "It goes to {name} as one from {}, and what it quotes becomes a packet from {end} to {other}.",
                other.ip()
            ),
            _ if nat => format!("It goes to {name}, and what it quotes becomes a packet from {end}."),
            _ => format!("It goes to {name} as its connection's packets do."),
        });
    }

    fn service_of(&self, real: u32) -> Option<String> {
        let number = self.memory().reals.get(real)?.service;
        self.names.service_plan(number).map(|plan| plan.name.clone())
    }

    fn records(&mut self, d: &Decision) {
        if let Some(line) = change_in_words(&d.change) {
            self.say(line);
        }
        let name = self.names.real(d.real_index);
        if d.locality.kind != locality::Kind::Nothing {
            self.say(format!("It is remembered that {name} has served this destination."));
        }
        let time = self.settings().map_or_else(String::new, |settings| self.seconds(settings.persist));
        match d.template.kind {
            RememberKind::Nothing => {}
            RememberKind::Template => {
                self.say(format!("Persistence: from now on the client stays on {name} for {time}."))
            }
            RememberKind::Provisional => self.say(format!(
                "Persistence: the client goes to {name}, and stays for {time} once it has proved to be there."
            )),
        }
    }

    fn forwarded(&mut self, h: &Headers, d: &Decision, outcome: &Outcome) {
        let Some(real) = self.memory().reals.get(d.real_index) else { return };
        let to = SocketAddr::new(ip(real.family, &real.address), d.way.port);
        let name = self.names.real_in_full(d.real_index);
        let how = match real.method {
            NAT => format!("by NAT: the destination {} becomes {to}", end(h, false)),
            DIRECT_ROUTING => "by direct routing: the packet keeps its addresses".into(),
            TUNNEL | GUE | GRE => self.tunnel(&real),
            LOCAL => "by the director itself: its own sockets get it".into(),
            other => format!("by method {other}, which does not exist"),
        };
        self.say(format!("To {name} {how}."));
        if d.source != 0 && real.method == NAT {
            self.say(format!("Fullnat: its source becomes {}.", self.source(d.source >> 16, d.source as u16)));
        }
        if real.method == LOCAL {
            return;
        }
        if outcome.action() == Action::Send && outcome.interface == real.interface && !self.pretend {
            self.say(format!(
                "It leaves on {} to {}.",
                self.names.interface(real.interface),
                mac(&real.macs.destination())
            ));
        } else if real.flags & real_flags::RESOLVED == 0 {
            self.say(if self.pretend {
                "The MAC address of its next hop is a running director's to find; here it is taken to be known.".into()
            } else {
                format!("The MAC address of {} is not known yet.", ip(real.family, &real.address))
            });
        }
    }

    fn tunnel(&self, real: &Real) -> String {
        let to = ip(real.family, &real.address);
        let protocol = if real.family == family_number(Family::V4) { "IPv4" } else { "IPv6" };
        let mtu = if real.mtu == 0 { String::new() } else { format!(", {} bytes at most", real.mtu) };
        let headers = match real.method {
            GUE => format!("an outer {protocol} header, UDP to port {} and GUE,", real.tunnel_port),
            GRE => format!("an outer {protocol} header and GRE,"),
            _ => format!("an outer {protocol} header"),
        };
        if self.pretend {
            return format!("in a tunnel: with {headers} to {to}{mtu}");
        }
        format!("in a tunnel: with {headers} from {} to {to}{mtu}", ip(real.family, &real.source))
    }

    fn replied(&mut self, h: &Headers, d: &Decision, outcome: &Outcome) {
        let vip = SocketAddr::new(ip(h.family, &d.way.vip), d.way.port);
        self.say(format!("Back to the client {}: the source {} becomes {vip}.", end(h, false), end(h, true)));
        if self.director.route.is_none() {
            self.say(
                "The kernel's routing table is asked for the way to the client; here it is taken to know one.".into(),
            );
        } else if outcome.action() == Action::Send {
            self.say(format!("It leaves on {}.", self.names.interface(outcome.interface)));
        }
    }
}

/// What becomes of new clients of a service that has too few real servers.
fn below_quorum(plan: &ServicePlan) -> String {
    let then = match (plan.sorry(), plan.below_quorum) {
        (Some(sorry), _) => format!("new clients go to its sorry server {}", sorry.name),
        (None, BelowQuorum::Refuse) => "new clients are refused".into(),
        (None, BelowQuorum::Drop) => "new clients are dropped".into(),
        (None, BelowQuorum::Serve) => "the real servers that are left take new clients".into(),
    };
    format!("It is below its quorum of {} ({}): {then}.", plan.quorum.needed, plan.quorum.measure.name())
}

/// Ports of a destination that are listed before the rest is counted.
const MEMBERS_SHOWN: usize = 16;

const NAT: u8 = Method::Nat as u8;
const DIRECT_ROUTING: u8 = Method::DirectRouting as u8;
const TUNNEL: u8 = Method::Tunnel as u8;
const LOCAL: u8 = Method::Local as u8;
const GUE: u8 = Method::Gue as u8;
const GRE: u8 = Method::Gre as u8;

/// What the record says of its connection.
fn state_in_words(table: CellTable, state: u64) -> &'static str {
    let fin = state & (state_bits::FIN_CLIENT | state_bits::FIN_SERVER);
    if state & state_bits::RESET != 0 {
        "reset"
    } else if fin == state_bits::FIN_CLIENT {
        "closing, the client has finished"
    } else if fin == state_bits::FIN_SERVER {
        "closing, the real server has finished"
    } else if fin != 0 {
        "closing, both sides have finished"
    } else if state & state_bits::DIRECT != 0 {
        "made past the VIP"
    } else if table == CellTable::HalfOpen && state & state_bits::HALF_OPEN == 0 {
        "of one datagram so far"
    } else if table == CellTable::HalfOpen {
        "half-open"
    } else {
        "established"
    }
}

fn change_in_words(change: &Change) -> Option<String> {
    match change.kind {
        ChangeKind::None | ChangeKind::Touch => None,
        ChangeKind::Once => Some("The datagram is a connection by itself: nothing is recorded of it.".into()),
        ChangeKind::Update => Some(format!("The record changes: {}.", state_in_words(change.table, change.to))),
        ChangeKind::Promote if change.from & state_bits::HALF_OPEN == 0 => {
            Some("It is more than one datagram: the record becomes that of an established connection.".into())
        }
        ChangeKind::Promote => {
            Some("The handshake is finished: the record becomes that of an established connection.".into())
        }
        ChangeKind::Open if change.table == CellTable::HalfOpen => {
            Some("A record of the half-open connection is made.".into())
        }
        ChangeKind::Open => Some("A record of the connection is made.".into()),
    }
}

fn source(condition: &Condition) -> String {
    let net = ip(condition.family, &condition.from);
    let mask = ip(condition.family, &condition.mask);
    IpNet::with_netmask(net, mask).map_or_else(|_| format!("{net}/{mask}"), named)
}

/// A prefix; a host without its length.
fn named(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn mac(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

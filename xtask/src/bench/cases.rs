//! What is measured: services, frames, what must become of them, and what they may cost.

use marca_engine::Reason;
use std::fmt;

/// Flows: one, so that everything is cached; as many as fill a second-level cache many times; as many as no cache holds.
pub const FLOWS: [u32; 3] = [1, 1 << 16, 1 << 20];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Data of established connections.
    Tcp4,
    Tcp6,
    /// Datagrams, recorded.
    Udp4,
    /// Datagrams of a service with `udp = "stateless"`.
    Stateless4,
    /// Connection requests, never followed by anything.
    Syn4,
    /// Packets that concern no service.
    NotOurs4,
    NotOurs6,
    /// TCP data to whatever program was named (`--pin`).
    Pinned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    DirectRouting,
    Tunnel,
    Gue,
    Gre,
    /// From the client, with an address of the director's own for the client's.
    Fullnat,
    /// From the client.
    Nat,
    /// From the real server, under NAT.
    Reply,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    Maglev,
    Wlc,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub traffic: Traffic,
    pub way: Way,
    pub scheduler: Scheduler,
    pub flows: u32,
}

/// What a case may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// In units of the lookup.
    Lookups(f64),
    /// In units of the same case with one flow.
    OfOneFlow(f64),
    None,
}

impl Case {
    /// All of them.
    pub fn all() -> Vec<Case> {
        let mut cases = Vec::new();
        for flows in FLOWS {
            let mut add = |traffic, way, scheduler| cases.push(Case { traffic, way, scheduler, flows });
            for traffic in [Traffic::NotOurs4, Traffic::NotOurs6] {
                add(traffic, Way::None, Scheduler::None);
            }
            for scheduler in [Scheduler::Maglev, Scheduler::Wlc] {
                add(Traffic::Syn4, Way::DirectRouting, scheduler);
                for traffic in [Traffic::Tcp4, Traffic::Tcp6, Traffic::Udp4, Traffic::Stateless4] {
                    if traffic == Traffic::Stateless4 && scheduler == Scheduler::Wlc {
                        continue;
                    }
                    for way in [Way::DirectRouting, Way::Tunnel, Way::Nat, Way::Reply] {
                        add(traffic, way, scheduler);
                    }
                    if traffic == Traffic::Tcp4 {
                        add(traffic, Way::Gue, scheduler);
                        add(traffic, Way::Gre, scheduler);
                    }
                    // It keeps a record of each connection, whatever the scheduler.
                    if traffic == Traffic::Tcp4 && scheduler == Scheduler::Wlc {
                        add(traffic, Way::Fullnat, scheduler);
                    }
                }
            }
        }
        cases
    }

    /// Without the flows.
    pub fn name(&self) -> String {
        let traffic = match self.traffic {
            Traffic::Tcp4 => "tcp4",
            Traffic::Tcp6 => "tcp6",
            Traffic::Udp4 => "udp4",
            Traffic::Stateless4 => "udp4-stateless",
            Traffic::Syn4 => "syn4",
            Traffic::NotOurs4 => return "not-ours4".into(),
            Traffic::NotOurs6 => return "not-ours6".into(),
            Traffic::Pinned => return "pinned".into(),
        };
        let way = match self.way {
            Way::DirectRouting => "dr",
            Way::Tunnel => "ipip",
            Way::Gue => "gue",
            Way::Gre => "gre",
            Way::Fullnat => "fullnat",
            Way::Nat => "nat",
            Way::Reply => "nat-reply",
            Way::None => "none",
        };
        format!("{traffic} {way} {}", self.scheduler())
    }

    pub fn scheduler(&self) -> &'static str {
        match self.scheduler {
            Scheduler::Maglev | Scheduler::None => "maglev",
            Scheduler::Wlc => "wlc",
        }
    }

    pub fn is_v6(&self) -> bool {
        matches!(self.traffic, Traffic::Tcp6 | Traffic::NotOurs6)
    }

    /// Whether the service's table alone says where its packets go.
    pub fn by_table(&self) -> bool {
        self.scheduler == Scheduler::Maglev
            && matches!(self.traffic, Traffic::Tcp4 | Traffic::Tcp6 | Traffic::Stateless4)
    }

    /// Cases of the same name share tables: those that touch no records all do, and so does everything with one flow.
    pub fn world(&self) -> String {
        if matches!(self.traffic, Traffic::NotOurs4 | Traffic::NotOurs6) {
            return "1".into();
        }
        match self.traffic {
            // Half-open connections set bits of the watch filter.
            Traffic::Syn4 => self.to_string(),
            _ if self.flows == 1 => "1".into(),
            _ if self.by_table() => format!("tables {}", self.flows),
            _ => self.to_string(),
        }
    }

    pub fn target(&self) -> Target {
        let one = match self.way {
            Way::DirectRouting => 2.2,
            Way::Tunnel | Way::Nat | Way::Reply => 2.8,
            // What came later has no target of its own.
            Way::Gue | Way::Gre | Way::Fullnat => return Target::None,
            Way::None => 1.2,
        };
        match self.traffic {
            Traffic::NotOurs4 | Traffic::NotOurs6 => Target::Lookups(one),
            Traffic::Syn4 | Traffic::Pinned => Target::None,
            _ if self.by_table() && self.flows == 1 => Target::Lookups(one),
            _ if self.by_table() => Target::OfOneFlow(1.5),
            _ if self.flows == 1 => Target::Lookups(one + 1.2),
            _ if self.flows == 1 << 16 => Target::Lookups(9.0),
            _ => Target::None,
        }
    }

    /// Why the packets must leave the engine.
    pub fn reason(&self) -> Reason {
        match self.way {
            Way::DirectRouting => Reason::DirectRouting,
            Way::Tunnel | Way::Gue | Way::Gre => Reason::Tunnel,
            Way::Fullnat => Reason::FullNat,
            Way::Nat => Reason::Nat,
            Way::Reply => Reason::Reply,
            Way::None => Reason::NotOurs,
        }
    }

    /// The service, as configuration. `number` from 1 to 199 tells it from others.
    pub fn service(&self, number: usize) -> String {
        if self.way == Way::None {
            return String::new();
        }
        let (port, target) = if self.is_udp() { ("udp/53", " -> 5353") } else { ("tcp/80", " -> 8080") };
        let (forward, target) = match self.way {
            Way::DirectRouting => ("dr", ""),
            Way::Tunnel => ("tunnel", ""),
            Way::Gue => ("gue", ""),
            Way::Gre => ("gre", ""),
            // 64 addresses with 60,000 ports each, towards every real server.
            Way::Fullnat => ("fullnat", target),
            _ => ("nat", target),
        };
        let more = match (self.traffic, self.way) {
            (Traffic::Stateless4, _) => "udp = \"stateless\"\n".to_owned(),
            (_, Way::Fullnat) => format!("source = \"10.3.{number}.0/26\"\n"),
            _ => String::new(),
        };
        let mut text = format!(
            "[service.case{number}]\nvip = \"{}\"\nports = [\"{port}{target}\"]\nscheduler = \"{}\"\nforward = \
             \"{forward}\"\n{more}timeouts = {{ established = \"24h\", udp = \"24h\", half_open = \"24h\" }}\n",
            self.vip(number),
            self.scheduler()
        );
        for server in 1..=SERVERS {
            // All replies come from one real server: so it has all clients.
            let weight = u8::from(self.way != Way::Reply || server == 1);
            text += &format!(
                "[[service.case{number}.server]]\naddress = \"{}\"\nweight = {weight}\n",
                self.server(number, server)
            );
        }
        text
    }

    /// The frame that is measured, and where its 32 bits are that tell flows apart.
    pub fn frame(&self, number: usize) -> (String, u32) {
        if self.way != Way::Reply {
            return (
                self.client_frame(number, if self.traffic == Traffic::Syn4 { "S" } else { "A" }),
                self.client_at(),
            );
        }
        let (ip, server, client, port) = (self.ip(), self.server(number, 1), self.client(), client_port(number));
        let transport = if self.is_udp() { format!("udp 5353 > {port}") } else { format!("tcp 8080 > {port} A") };
        let at = if self.is_v6() { 14 + 36 } else { 14 + 16 };
        (format!("{ip} {server} > {client} / {transport} / data 10"), at)
    }

    /// A frame from the client, with these TCP flags.
    pub fn client_frame(&self, number: usize, flags: &str) -> String {
        let to = match (self.traffic, self.is_v6()) {
            (Traffic::NotOurs4, _) => "192.0.2.250".into(),
            (Traffic::NotOurs6, _) => "2001:db8::fafa".into(),
            _ => self.vip(number),
        };
        let port = client_port(number);
        let transport = if self.is_udp() { format!("udp {port} > 53") } else { format!("tcp {port} > 80 {flags}") };
        format!("{} {} > {to} / {transport} / data 10", self.ip(), self.client())
    }

    /// Where the low 32 bits of the source address are.
    pub fn client_at(&self) -> u32 {
        if self.is_v6() { 14 + 20 } else { 14 + 12 }
    }

    pub fn is_udp(&self) -> bool {
        matches!(self.traffic, Traffic::Udp4 | Traffic::Stateless4)
    }

    fn ip(&self) -> &'static str {
        if self.is_v6() { "ip6" } else { "ip4" }
    }

    /// The first client; the others differ from it in the lowest twenty bits.
    fn client(&self) -> &'static str {
        if self.is_v6() { "2001:db8:c::" } else { "10.32.0.0" }
    }

    fn vip(&self, number: usize) -> String {
        if self.is_v6() { format!("2001:db8::{number:x}") } else { format!("192.0.2.{number}") }
    }

    fn server(&self, number: usize, server: usize) -> String {
        if self.is_v6() { format!("fd00::{number:x}:{server:x}") } else { format!("10.1.{number}.{server}") }
    }
}

/// Not the same for all services: what a client has open to several of them would share buckets.
fn client_port(number: usize) -> usize {
    4000 + number
}

/// Real servers of a service.
const SERVERS: usize = 10;

/// With the flows, as `--filter` sees it.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.flows)
    }
}

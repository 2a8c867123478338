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
    /// The same of a service with a rate limit, which they don't reach.
    Limited4,
    /// ICMP errors about what real servers have sent to the clients.
    Error4,
    /// Later fragments of a datagram, whose first one is known.
    Fragment4,
    /// What a client says on an FTP control connection, which is read.
    Ftp4,
    /// Data of a data connection that a real server has announced there.
    FtpData4,
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
    /// By its name: only who is chosen for a new connection is up to it.
    Other(&'static str),
    None,
}

/// The other schedulers.
const OTHERS: [&str; 12] = ["rr", "wrr", "lc", "sed", "nq", "fo", "ovf", "twos", "sh", "dh", "lblc", "lblcr"];

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
            for traffic in [Traffic::Error4, Traffic::Ftp4, Traffic::FtpData4] {
                add(traffic, Way::Nat, Scheduler::Wlc);
            }
        }
        let [one, many, _] = FLOWS;
        // There is room for 16,384 packets in pieces.
        let fragments = Case { traffic: Traffic::Fragment4, way: Way::Nat, scheduler: Scheduler::Wlc, flows: one };
        let syn = Case { traffic: Traffic::Syn4, way: Way::DirectRouting, scheduler: Scheduler::Wlc, flows: many };
        cases.extend([fragments, Case { traffic: Traffic::Limited4, ..syn }]);
        cases.extend(OTHERS.map(|name| Case { scheduler: Scheduler::Other(name), ..syn }));
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
            Traffic::Limited4 => "syn4-limited",
            Traffic::Error4 => "icmp-error4",
            Traffic::Fragment4 => "fragment4",
            Traffic::Ftp4 => "ftp4",
            Traffic::FtpData4 => "ftp4-data",
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
            Scheduler::Other(name) => name,
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
            Traffic::Syn4 | Traffic::Limited4 => self.to_string(),
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
            Traffic::Syn4 | Traffic::Limited4 | Traffic::Pinned => Target::None,
            Traffic::Error4 | Traffic::Fragment4 | Traffic::Ftp4 | Traffic::FtpData4 => Target::None,
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
            Way::Nat if self.traffic == Traffic::Error4 => Reason::ErrorToServer,
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
        let (port, target) = match self.traffic {
            _ if self.is_udp() => ("udp/53", " -> 5353"),
            Traffic::Ftp4 | Traffic::FtpData4 => ("tcp/21", ""),
            _ => ("tcp/80", " -> 8080"),
        };
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
            (Traffic::Limited4, _) => "rate_limit = { connections = 10_000_000 }\n".to_owned(),
            (Traffic::Ftp4 | Traffic::FtpData4, _) => "protocol = \"ftp\"\n".to_owned(),
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
            // All replies come from one real server, and all announcements: so it has all clients.
            let has_all = self.way == Way::Reply || self.is_ftp();
            let weight = u8::from(!has_all || server == 1);
            text += &format!(
                "[[service.case{number}.server]]\naddress = \"{}\"\nweight = {weight}\n",
                self.server(number, server)
            );
        }
        text
    }

    /// The frame that is measured, and where its 32 bits are that tell flows apart.
    pub fn frame(&self, number: usize) -> (String, u32) {
        let (client, vip, port) = (self.client(), self.vip(number), client_port(number));
        match self.traffic {
            Traffic::Syn4 | Traffic::Limited4 => return (self.client_frame(number, "S"), self.client_at()),
            Traffic::Error4 => {
                let error = format!("ip4 203.0.113.9 > {vip} / icmp unreachable code=4 mtu=1400");
                // The client is who the quoted packet goes to.
                let quoted = format!("ip4 {vip} > {client} df len=1500 ttl=62 / tcp 80 > {port} seq=77 cut=8");
                return (format!("{error} / {quoted}"), 14 + 20 + 8 + 16);
            }
            Traffic::Fragment4 => return (format!("ip4 {client} > {vip} frag=9 proto=17 / data 30"), self.client_at()),
            Traffic::Ftp4 => {
                let line = "data \"TYPE I\\r\\n\"";
                return (format!("ip4 {client} > {vip} / tcp {port} > 21 PA / {line}"), self.client_at());
            }
            Traffic::FtpData4 => {
                let transport = format!("tcp {} > {FTP_PORT} A / data 10", port + FTP_MORE);
                return (format!("ip4 {client} > {vip} / {transport}"), self.client_at());
            }
            _ if self.way != Way::Reply => return (self.client_frame(number, "A"), self.client_at()),
            _ => {}
        }
        let (ip, server) = (self.ip(), self.server(number, 1));
        let transport = if self.is_udp() { format!("udp 5353 > {port}") } else { format!("tcp 8080 > {port} A") };
        let at = if self.is_v6() { 14 + 36 } else { 14 + 16 };
        (format!("{ip} {server} > {client} / {transport} / data 10"), at)
    }

    /// The frames that open a flow, and where their 32 bits are that tell flows apart.
    pub fn opening(&self, number: usize) -> Vec<(String, u32)> {
        let from_client = |text| (text, self.client_at());
        match self.traffic {
            Traffic::Tcp4 | Traffic::Tcp6 | Traffic::Error4 => {
                ["S", "A"].map(|flags| from_client(self.client_frame(number, flags))).into()
            }
            // The second makes it a flow.
            Traffic::Udp4 => vec![from_client(self.client_frame(number, "")); 2],
            Traffic::Fragment4 => {
                let (client, vip, port) = (self.client(), self.vip(number), client_port(number));
                let first = format!("ip4 {client} > {vip} mf / udp {port} > 53 len=100 / data 64");
                // Again, after the sweep has forgotten it as a flow of a single datagram.
                vec![from_client(first); 2]
            }
            Traffic::Ftp4 | Traffic::FtpData4 => {
                let (client, vip, port) = (self.client(), self.vip(number), client_port(number));
                let control = |flags| from_client(format!("ip4 {client} > {vip} / tcp {port} > 21 {flags}"));
                let mut opening = ["S", "A"].map(control).to_vec();
                if self.traffic == Traffic::FtpData4 {
                    let said = format!("data \"229 x (|||{FTP_PORT}|)\\r\\n\"");
                    let server = self.server(number, 1);
                    opening.push((format!("ip4 {server} > {client} / tcp 21 > {port} PA / {said}"), 14 + 16));
                    let data = |flags| format!("ip4 {client} > {vip} / tcp {} > {FTP_PORT} {flags}", port + FTP_MORE);
                    opening.extend(["S", "A"].map(|flags| from_client(data(flags))));
                }
                opening
            }
            _ => Vec::new(),
        }
    }

    /// How many records a flow has.
    pub fn records(&self) -> u32 {
        match self.traffic {
            Traffic::Tcp4 | Traffic::Tcp6 | Traffic::Udp4 | Traffic::Error4 | Traffic::Fragment4 | Traffic::Ftp4 => 1,
            Traffic::FtpData4 => 2,
            _ => 0,
        }
    }

    /// Whether its packets leave the short way, which alone the verifier is quick with.
    pub fn long_way(&self) -> bool {
        let short = matches!(
            self.traffic,
            Traffic::Tcp4
                | Traffic::Tcp6
                | Traffic::Udp4
                | Traffic::Stateless4
                | Traffic::NotOurs4
                | Traffic::NotOurs6
                | Traffic::Pinned
        );
        !short || self.way == Way::Fullnat
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
        matches!(self.traffic, Traffic::Udp4 | Traffic::Stateless4 | Traffic::Fragment4)
    }

    fn is_ftp(&self) -> bool {
        matches!(self.traffic, Traffic::Ftp4 | Traffic::FtpData4)
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

/// The port that real servers announce, and by how much the client's differs from that of its control connection.
const FTP_PORT: usize = 30_000;
const FTP_MORE: usize = 1000;

/// Real servers of a service.
const SERVERS: usize = 10;

/// With the flows, as `--filter` sees it.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.flows)
    }
}

//! A director with clients, an operator and a daemon, and a model that only remembers where each connection went. Every
//! packet of a live connection is held against the model as it is sent.
//!
//! Live is: not closed by FIN or RST, and not silent for longer than the service's timeout. Stateless UDP is exempt. Of
//! a service that is taken away, connections are not live; of a server that fails, those that its service keeps.

use crate::configuration::{addresses, check, config, mapped, persistence, range, sctp, server, service, tcp, udp};
use crate::director::{CLOCK, Director, SECOND, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{CheckPolicy, Config, Forward, OnFailure, Protocol, Scheduler, Timeouts, Udp};
use marca_engine::Reason;
use marca_tables::sweep::Sweep;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// What stays the same during a run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub scheduler: Scheduler,
    /// Seconds.
    pub persist: Option<u64>,
    /// Clients of a /24 or /64 are one.
    pub nets: bool,
    pub stateless: bool,
    pub direct_routing: bool,
    /// The service also has a range of ports.
    pub ranges: bool,
    /// What becomes of connections to servers that fail.
    pub on_failure: OnFailure,
    /// Servers may lose the first of their TCP ports, or the second, and go on with the others.
    pub per_port: bool,
    pub start: u32,
}

/// Numbers are taken modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A new connection. `slow`: it sends a packet one second before each timeout and none besides.
    Open {
        port: u8,
        client: u8,
        v6: bool,
        finish: bool,
        slow: bool,
    },
    /// The client's ACK.
    Finish(u16),
    Send {
        flow: u16,
        from_server: bool,
    },
    Close {
        flow: u16,
        from_server: bool,
        reset: bool,
    },
    /// A SYN on the four-tuple of a closed connection.
    Reopen(u16),
    /// A client's connection to a real server's own address.
    Direct {
        client: u8,
        v6: bool,
        server: u8,
        mapped: bool,
        slow: bool,
    },
    Weight {
        server: u8,
        weight: u8,
    },
    /// Adds a server or removes it.
    Toggle(u8),
    /// A server of the configuration fails, or serves again.
    Health {
        server: u8,
        up: bool,
    },
    /// A server takes no new connections to some ports: a bit for each of [`PARTS`].
    Ports {
        server: u8,
        parts: u8,
    },
    Schedule(u8),
    /// Another service on the same hosts; 0: none.
    Neighbour(u8),
    Wait(u16),
    Sweep(u16),
    Pass,
    RestartDaemon,
    ReleaseNumbers,
}

impl Op {
    /// Of any number, the frequent ones more often.
    pub fn of(word: u64) -> Self {
        let byte = |n: u32| (word >> (8 * n)) as u8;
        let short = |n: u32| (word >> (8 * n)) as u16;
        match byte(0) {
            0..=29 => Op::Open {
                port: byte(1),
                client: byte(2),
                v6: byte(3) & 1 != 0,
                finish: byte(3) & 14 != 0,
                slow: byte(3) & 48 == 0,
            },
            30..=44 => Op::Finish(short(1)),
            45..=184 => Op::Send { flow: short(1), from_server: byte(3) & 1 != 0 },
            185..=199 => Op::Close { flow: short(1), from_server: byte(3) & 1 != 0, reset: byte(3) & 6 == 0 },
            200..=203 => Op::Reopen(short(1)),
            204..=206 => Op::Direct {
                client: byte(1),
                v6: byte(2) & 1 != 0,
                server: byte(3),
                mapped: byte(2) & 2 != 0,
                slow: byte(2) & 12 == 0,
            },
            207..=211 => Op::Weight { server: byte(1), weight: byte(2) },
            212..=216 => Op::Toggle(byte(1)),
            217 => Op::Schedule(byte(1)),
            218 => Op::Neighbour(byte(1) & byte(2)),
            // Mostly short, now and then longer than every timeout.
            219..=234 => Op::Wait(short(1) % 50),
            235..=238 => Op::Wait(short(1) % 600),
            239 => Op::Wait(short(1) % 5000),
            240..=247 => Op::Sweep(short(1) % 4000),
            248..=252 => Op::Pass,
            253 => Op::RestartDaemon,
            254 if byte(2) & 2 == 0 => Op::Ports { server: byte(1), parts: byte(3) & byte(4) },
            254 => Op::Health { server: byte(1), up: byte(2) & 1 != 0 },
            _ => Op::ReleaseNumbers,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    HalfOpen,
    /// TCP and SCTP after the handshake.
    Established,
    /// UDP of one datagram, and of more.
    Datagram,
    Datagrams,
    /// To a real server, past the VIP.
    Direct,
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// From the client.
    way: Way,
    neighbours: bool,
    server: (IpAddr, u16),
    state: State,
    opened: u32,
    /// When its handshake was finished.
    proved: u32,
    /// Of its last packet that the director saw.
    last: u32,
    slow: bool,
}

/// Where a client must go, as far as that is certain.
#[derive(Clone, Copy, Debug)]
struct Template {
    server: IpAddr,
    until: u32,
    /// Not provisional: connections hold it beyond its time.
    lasting: bool,
    /// False where the engine may have forgotten it already, or not yet.
    sure: bool,
}

/// What is checked port by port.
const PARTS: [u16; 2] = [80, 443];

/// Real servers that there may be.
const SERVERS: u8 = 12;
const MOST_FLOWS: usize = 250;
const TIMEOUTS: Timeouts = Timeouts {
    established: Duration::from_secs(60),
    closing: Duration::from_secs(20),
    half_open: Duration::from_secs(15),
    udp: Duration::from_secs(30),
    sctp: Duration::from_secs(45),
    sctp_closing: Duration::from_secs(10),
    locality: Duration::from_secs(90),
};

/// How long a real server must go on answering one datagram.
const ASSURED: u32 = 2 * SECOND;

pub struct Simulation {
    setup: Setup,
    director: Director,
    /// Weights; `None`: not in the configuration.
    pool: Vec<Option<u16>>,
    /// Of the pool.
    failed: Vec<bool>,
    /// Bits of [`PARTS`].
    closed: Vec<u8>,
    scheduler: Scheduler,
    /// Bits: which servers the other service has.
    neighbour: u8,
    flows: Vec<Flow>,
    templates: HashMap<IpAddr, Template>,
    next_port: u16,
    /// Packets whose way the model knew.
    pub judged: u64,
}

impl Simulation {
    pub fn new(setup: Setup) -> Self {
        let mut director = Director::new(SMALL);
        director.now = setup.start;
        let pool = (0..SERVERS).map(|number| (number < 4).then_some(1)).collect();
        let scheduler = setup.scheduler;
        let (flows, templates) = (Vec::new(), HashMap::new());
        let mut simulation = Self {
            setup,
            director,
            pool,
            failed: vec![false; SERVERS.into()],
            closed: vec![0; SERVERS.into()],
            scheduler,
            neighbour: 0,
            flows,
            templates,
            next_port: 1024,
            judged: 0,
        };
        simulation.apply();
        simulation
    }

    fn configuration(&self) -> Config {
        let setup = self.setup;
        let mut ports = vec![tcp(80), udp(53), sctp(5000)];
        ports.push(if setup.direct_routing { tcp(443) } else { mapped(443, 8443) });
        if setup.ranges {
            ports.push(range(Protocol::Tcp, 10000, 10003));
        }
        let mut shop = service("shop", &["192.0.2.10", "2001:db8::10"], &ports);
        shop.scheduler = self.scheduler;
        shop.timeouts = TIMEOUTS;
        shop.on_failure = setup.on_failure;
        shop.udp = if setup.stateless { Udp::Stateless } else { Udp::Tracked };
        shop.persistence = setup.persist.and_then(|seconds| {
            let (mask, bits) = if setup.nets { ([255, 255, 255, 0], 64) } else { ([255; 4], 128) };
            persistence(seconds, mask.into(), bits)
        });
        if setup.per_port {
            shop.check_policy = CheckPolicy::PerPort;
            shop.checks = PARTS.map(|port| check(self.target(port))).into();
        }
        let pool = self.pool.iter().zip(0..).filter_map(|(weight, number)| weight.map(|w| server(number, w)));
        shop.servers = pool.collect();
        let mut other = service("other", &["192.0.2.20", "2001:db8::20"], &[tcp(80)]);
        other.scheduler = Scheduler::Maglev;
        other.timeouts = TIMEOUTS;
        other.servers = (0..8).filter(|n| self.neighbour >> n & 1 != 0).map(|n| server(n, 1)).collect();
        for each in shop.servers.iter_mut().chain(&mut other.servers) {
            each.forward = if setup.direct_routing { Forward::Dr } else { Forward::Nat };
        }
        if self.neighbour == 0 { config([shop]) } else { config([other, shop]) }
    }

    fn apply(&mut self) {
        self.director.apply(&self.configuration());
    }

    pub fn run(&mut self, op: Op) {
        match op {
            Op::Open { port, client, v6, finish, slow } => self.open(port, client, v6, finish, slow),
            Op::Finish(flow) => self.pick(flow, |f| f.state == State::HalfOpen, |s, i| s.send(i)),
            Op::Send { flow, from_server } => {
                let live = |f: &Flow| f.state != State::Closed && f.state != State::HalfOpen;
                self.pick(flow, live, |s, i| if from_server { s.reply(i) } else { s.send(i) });
            }
            Op::Close { flow, from_server, reset } => {
                let closes = |f: &Flow| f.way.protocol != 17 && f.state != State::Closed;
                self.pick(flow, closes, |s, i| s.close(i, from_server, reset));
            }
            Op::Reopen(flow) => {
                let closed = |f: &Flow| f.state == State::Closed;
                self.pick(flow, closed, Self::reopen);
            }
            Op::Direct { client, v6, server, mapped, slow } => self.direct(client, v6, server, mapped, slow),
            Op::Weight { server, weight } => {
                let weight = if weight < 50 { 0 } else { u16::from(weight) % 20 };
                if let Some(old) = &mut self.pool[usize::from(server % SERVERS)] {
                    *old = weight;
                    self.apply();
                }
            }
            Op::Toggle(server) => {
                let number = server % SERVERS;
                if std::mem::take(&mut self.failed[usize::from(number)]) {
                    for address in addresses(number.into()) {
                        self.director.failed.remove(&("shop".to_owned(), address));
                    }
                    self.forget(number);
                }
                let place = &mut self.pool[usize::from(number)];
                *place = if place.is_some() { None } else { Some(1 + u16::from(server / 64)) };
                self.apply();
            }
            Op::Health { server, up } => self.health(server % SERVERS, up),
            Op::Ports { server, parts } => self.close_ports(server % SERVERS, parts),
            Op::Schedule(number) => {
                let known = if self.setup.stateless { &Scheduler::ALL[4..6] } else { &Scheduler::ALL[..] };
                self.scheduler = known[usize::from(number) % known.len()];
                self.apply();
            }
            Op::Neighbour(bits) => {
                self.neighbour = bits;
                self.apply();
                if bits == 0 {
                    self.flows.retain(|flow| !flow.neighbours);
                }
            }
            Op::Wait(ticks) => self.wait(u32::from(ticks)),
            Op::Sweep(cells) => {
                let Director { sweep, memory, now, .. } = &mut self.director;
                sweep.step(memory, *now, u32::from(cells) + 1);
            }
            Op::Pass => self.director.pass(),
            Op::RestartDaemon => self.director.sweep = Sweep::new(10 * SECOND),
            Op::ReleaseNumbers => self.director.release_numbers(),
        }
    }

    /// Does something to one of the flows that are such.
    fn pick(&mut self, number: u16, such: impl Fn(&Flow) -> bool, then: impl FnOnce(&mut Self, usize)) {
        let count = self.flows.iter().filter(|flow| such(flow)).count();
        if count > 0 {
            let chosen = usize::from(number) % count;
            let index = self.flows.iter().enumerate().filter(|(_, flow)| such(flow)).nth(chosen).map(|(i, _)| i);
            then(self, index.unwrap());
        }
    }

    fn client(&mut self, client: u8, v6: bool) -> (IpAddr, u16) {
        let (net, host) = (client & 1, client >> 1 & 15);
        let address: IpAddr = if v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0xff, u16::from(net), 0, 0, 0, u16::from(host)).into()
        } else {
            Ipv4Addr::new(198, 51, 100 + net, host).into()
        };
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        (address, self.next_port)
    }

    fn now(&self) -> u32 {
        self.director.now
    }

    fn since(&self, tick: u32) -> u32 {
        self.now().wrapping_sub(tick)
    }

    fn open(&mut self, port: u8, client: u8, v6: bool, finish: bool, slow: bool) {
        if self.flows.len() >= MOST_FLOWS {
            self.flows.swap_remove(usize::from(client) % MOST_FLOWS);
        }
        let from = self.client(client, v6);
        let kinds = if self.setup.ranges { 8 } else { 7 };
        let (protocol, port) = match port % kinds {
            0 | 1 => (6, 80),
            2 => (6, 443),
            3 => (17, 53),
            4 => (132, 5000),
            5 | 6 => (6, 80),
            _ => (6, 10000 + u16::from(port / 64)),
        };
        let neighbours = self.neighbour != 0 && client & 64 != 0;
        let (protocol, port) = if neighbours { (6, 80) } else { (protocol, port) };
        let vip: IpAddr = match (neighbours, v6) {
            (false, false) => Ipv4Addr::new(192, 0, 2, 10).into(),
            (true, false) => Ipv4Addr::new(192, 0, 2, 20).into(),
            (false, true) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
            (true, true) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20).into(),
        };
        let way = Way { protocol, from, to: (vip, port) };
        self.begin(way, neighbours, finish, slow);
    }

    fn reopen(&mut self, index: usize) {
        let flow = self.flows.swap_remove(index);
        self.begin(flow.way, flow.neighbours, true, flow.slow);
    }

    /// The first packet of a connection.
    fn begin(&mut self, way: Way, neighbours: bool, finish: bool, slow: bool) {
        let seen = self.director.request(&way, Segment::Syn);
        let stateless = way.protocol == 17 && self.setup.stateless;
        let key = self.key(&way, neighbours);
        let part = self.part(&way, neighbours);
        // A client whose server has closed the port goes anywhere, and comes back for other ports.
        let is_closed = |server: &IpAddr| self.is_closed(*server, part);
        let must = key.and_then(|key| self.sure(key)).filter(|server| !is_closed(server));
        let elsewhere = key.and_then(|key| self.templates.get(&key)).is_some_and(|known| is_closed(&known.server));
        let server = match seen {
            Seen::Server(address, port) => {
                assert_eq!(port, self.target(way.to.1), "{way:?}");
                (address, port)
            }
            Seen::Not(Reason::Refused) => {
                assert_eq!(must, None, "{way:?}");
                let takes = |number: u16| {
                    let [address, _] = addresses(number);
                    self.weight(address).is_some_and(|weight| weight > 0) && !self.is_closed(address, part)
                };
                let full = self.scheduler == Scheduler::Ovf;
                assert!(neighbours || full || !(0..SERVERS.into()).any(takes), "{way:?}");
                return;
            }
            seen => panic!("{seen:?} of {way:?}"),
        };
        if let Some(must) = must {
            self.judged += 1;
            assert_eq!(server.0, must, "a client goes where its template says: {way:?}");
        } else if key.is_none() && !neighbours {
            assert!(self.weight(server.0).is_some_and(|weight| weight > 0), "{way:?} at {server:?}");
        }
        assert!(!self.is_closed(server.0, part), "{way:?} at {server:?}");
        if let Some(template) = key.and_then(|key| self.templates.get_mut(&key)).filter(|_| elsewhere) {
            // It may be over, and there.
            template.sure = false;
        }
        if let Some(key) = key {
            self.remember(key, server.0, must.is_some(), way.protocol == 17, stateless);
        }
        if stateless {
            return;
        }
        let state = if way.protocol == 17 { State::Datagram } else { State::HalfOpen };
        let now = self.now();
        self.flows.push(Flow { way, neighbours, server, state, opened: now, proved: now, last: now, slow });
        if finish && state == State::HalfOpen {
            let index = self.flows.len() - 1;
            self.reply(index);
            self.send(index);
        }
    }

    fn health(&mut self, number: u8, up: bool) {
        if self.pool[usize::from(number)].is_none() {
            return;
        }
        self.failed[usize::from(number)] = !up;
        let config = self.configuration();
        self.director.health(&config, "shop", addresses(number.into()), up);
        if !up {
            self.forget(number);
        }
    }

    fn close_ports(&mut self, number: u8, parts: u8) {
        if !self.setup.per_port || self.pool[usize::from(number)].is_none() {
            return;
        }
        self.closed[usize::from(number)] = parts & 3;
        let config = self.configuration();
        self.director.close(&config, "shop", addresses(number.into()), u16::from(parts & 3));
        // What has not begun, and is tried again, is tried elsewhere.
        let mut flows = std::mem::take(&mut self.flows);
        flows.retain(|flow| {
            let part = self.part(&flow.way, flow.neighbours);
            flow.state != State::HalfOpen || !self.is_closed(flow.server.0, part)
        });
        self.flows = flows;
    }

    /// Which of [`PARTS`] a connection goes to.
    fn part(&self, way: &Way, neighbours: bool) -> Option<usize> {
        let checked = self.setup.per_port && !neighbours && way.protocol == 6;
        PARTS.iter().position(|port| checked && *port == way.to.1)
    }

    fn is_closed(&self, server: IpAddr, part: Option<usize>) -> bool {
        let number = (0..u16::from(SERVERS)).find(|&number| addresses(number).contains(&server));
        matches!((number, part), (Some(number), Some(part)) if self.closed[usize::from(number)] >> part & 1 != 0)
    }

    /// What a server that fails leaves of its clients.
    fn forget(&mut self, number: u8) {
        let addresses = addresses(number.into());
        let keeps = self.setup.on_failure == OnFailure::Keep;
        self.flows.retain(|flow| {
            let goes_on = flow.neighbours
                || matches!(flow.state, State::Direct | State::Closed)
                || (keeps && flow.state == State::Established);
            goes_on || !addresses.contains(&flow.server.0)
        });
        self.templates.retain(|_, template| !addresses.contains(&template.server));
    }

    fn target(&self, port: u16) -> u16 {
        if port == 443 && !self.setup.direct_routing { 8443 } else { port }
    }

    fn weight(&self, address: IpAddr) -> Option<u16> {
        let number = (0..u16::from(SERVERS)).find(|&number| addresses(number).contains(&address))?;
        let weight = self.pool[usize::from(number)]?;
        Some(if self.failed[usize::from(number)] { 0 } else { weight })
    }

    /// The client as persistence knows it.
    fn key(&self, way: &Way, neighbours: bool) -> Option<IpAddr> {
        self.setup.persist.filter(|_| !neighbours)?;
        Some(match way.from.0 {
            ip if !self.setup.nets => ip,
            IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) & 0xffff_ff00).into(),
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        })
    }

    fn persist_ticks(&self) -> u32 {
        CLOCK.ticks(Duration::from_secs(self.setup.persist.unwrap()))
    }

    /// Where a client must go.
    fn sure(&self, key: IpAddr) -> Option<IpAddr> {
        let template = self.templates.get(&key)?;
        self.weight(template.server)?;
        let lives = self.since(template.until) as i32 >= 0;
        let held = template.lasting && self.flows.iter().any(|flow| self.holds(flow, key, template.until));
        (template.sure && (!lives || held)).then_some(template.server)
    }

    /// Whether the flow has kept the client's template since its time was over.
    fn holds(&self, flow: &Flow, key: IpAddr, until: u32) -> bool {
        let alive = matches!(flow.state, State::Established | State::Datagrams);
        alive && self.key(&flow.way, flow.neighbours) == Some(key) && (flow.proved.wrapping_sub(until) as i32) < 0
    }

    /// A new connection of a client went to `server`.
    fn remember(&mut self, key: IpAddr, server: IpAddr, followed: bool, datagram: bool, stateless: bool) {
        let now = self.now();
        let persist = self.persist_ticks();
        let lasting = Template { server, until: now.wrapping_add(persist), lasting: true, sure: true };
        let old = self.templates.get(&key).copied();
        let new = match old {
            Some(old) if stateless => Template { sure: old.sure && followed, ..old },
            // The slot alone may have decided.
            None if stateless => Template { sure: false, ..lasting },
            // Renewed, or one that waits for a second datagram all its time.
            _ if datagram => Template { lasting: followed && old.is_some_and(|old| old.lasting), ..lasting },
            Some(old) if followed && old.lasting => lasting,
            Some(old) if followed => old,
            Some(old) if !old.lasting || !old.sure => Template { sure: false, ..old },
            _ => {
                let until = now.wrapping_add(persist.min(CLOCK.ticks(TIMEOUTS.half_open)));
                Template { server, until, lasting: false, sure: true }
            }
        };
        self.templates.insert(key, new);
    }

    /// A client has proved to be there.
    fn prove(&mut self, key: IpAddr, flow: &Flow) {
        let sure = self.sure(key).is_some();
        let until = flow.opened.wrapping_add(self.persist_ticks());
        let Some(template) = self.templates.get_mut(&key) else { return };
        if sure && template.lasting {
            return;
        }
        let in_time = self.director.now.wrapping_sub(until) as i32 <= 0;
        template.sure = sure && template.server == flow.server.0 && in_time;
        template.lasting = true;
        template.until = until;
    }

    fn timeout(&self, flow: &Flow) -> u32 {
        CLOCK.ticks(match flow.state {
            State::HalfOpen => TIMEOUTS.half_open,
            State::Established if flow.way.protocol == 132 => TIMEOUTS.sctp,
            State::Closed if flow.way.protocol == 132 => TIMEOUTS.sctp_closing,
            State::Established | State::Direct => TIMEOUTS.established,
            State::Datagram | State::Datagrams => TIMEOUTS.udp,
            State::Closed => TIMEOUTS.closing,
        })
    }

    /// The client's next packet: of a half-open connection, its ACK.
    fn send(&mut self, index: usize) {
        self.request(index, Segment::Data);
    }

    /// The client's packet, which must arrive where the flow began.
    fn request(&mut self, index: usize, segment: Segment) {
        self.requested(index, segment);
        let Some(flow) = self.flows.get(index).copied() else { return };
        let proves = match flow.state {
            State::HalfOpen => segment == Segment::Data,
            State::Datagram => true,
            _ => false,
        };
        if proves {
            if let Some(key) = self.key(&flow.way, flow.neighbours) {
                self.prove(key, &flow);
            }
            self.flows[index].state = if flow.state == State::Datagram { State::Datagrams } else { State::Established };
            self.flows[index].proved = self.now();
        }
    }

    fn requested(&mut self, index: usize, segment: Segment) {
        let flow = self.flows[index];
        let seen = self.director.request(&flow.way, segment);
        if flow.state == State::Closed {
            return;
        }
        self.judged += 1;
        if flow.state == State::Direct {
            assert_eq!(seen, Seen::Not(Reason::NotOurs), "{flow:?}");
            return;
        }
        let (address, port) = flow.server;
        assert_eq!(seen, Seen::Server(address, port), "{segment:?} of {flow:?} at {}", self.now());
        self.flows[index].last = self.now();
    }

    /// The server's packet, which must come from the VIP, or from the server itself when the client asked itself.
    fn reply(&mut self, index: usize) {
        let flow = self.flows[index];
        self.answer(index, if flow.state == State::HalfOpen { Segment::SynAck } else { Segment::Data });
    }

    fn answer(&mut self, index: usize, segment: Segment) {
        let flow = self.flows[index];
        if self.setup.direct_routing {
            return;
        }
        let way = Way { from: flow.server, to: flow.way.from, ..flow.way };
        let seen = self.director.reply(&way, segment);
        if flow.state == State::Closed {
            return;
        }
        self.judged += 1;
        if flow.state == State::Direct {
            assert!(matches!(seen, Seen::Not(_)), "{segment:?} of {flow:?} at {}: {seen:?}", self.now());
        } else {
            assert_eq!(seen, Seen::Client(flow.way.to.0, flow.way.to.1), "{segment:?} of {flow:?} at {}", self.now());
        }
        if flow.state == State::Datagram {
            // An answer at once proves nothing, and renews nothing.
            if self.since(flow.last) <= ASSURED {
                return;
            }
            self.flows[index].state = State::Datagrams;
            self.flows[index].proved = self.now();
        }
        self.flows[index].last = self.now();
    }

    fn close(&mut self, index: usize, from_server: bool, reset: bool) {
        let segment = if reset { Segment::Reset } else { Segment::Fin };
        let Flow { state, way, .. } = self.flows[index];
        let direct = state == State::Direct;
        let answers = direct || (from_server && !self.setup.direct_routing);
        // A client's SHUTDOWN does not end an association that has not begun (`ip_vs_proto_sctp.c`, `sctp_states`).
        let unbegun = way.protocol == 132 && state == State::HalfOpen && !answers;
        if answers {
            self.answer(index, segment);
        } else {
            self.request(index, segment);
        }
        if direct {
            self.flows.swap_remove(index);
        } else if !(unbegun && segment == Segment::Fin) {
            self.flows[index].state = State::Closed;
        }
    }

    fn direct(&mut self, client: u8, v6: bool, server: u8, mapped: bool, slow: bool) {
        let number = server % SERVERS;
        let table = matches!(self.scheduler, Scheduler::Sh | Scheduler::Maglev);
        // What the director can tell from a reply: see `marca_engine::decide::direct`.
        let told = !self.setup.direct_routing && !self.setup.per_port && table && self.neighbour == 0;
        if !told || self.pool[usize::from(number)].is_none() || self.flows.len() >= MOST_FLOWS {
            return;
        }
        let from = self.client(client, v6);
        let to = (addresses(u16::from(number))[usize::from(v6)], if mapped { 8443 } else { 80 });
        let way = Way { protocol: 6, from, to };
        assert_eq!(self.director.request(&way, Segment::Syn), Seen::Not(Reason::NotOurs), "{way:?}");
        let (state, now) = (State::Direct, self.now());
        let flow = Flow { way, neighbours: false, server: to, state, opened: now, proved: now, last: now, slow };
        self.flows.push(flow);
        let index = self.flows.len() - 1;
        self.answer(index, Segment::SynAck);
        self.request(index, Segment::Data);
    }

    /// Time passes; slow connections send at the last moment, and the sweep goes on.
    fn wait(&mut self, ticks: u32) {
        let end = self.now().wrapping_add(ticks);
        loop {
            let due = |flow: &Flow| flow.last.wrapping_add(self.timeout(flow) - SECOND);
            let left = |flow: &Flow| (due(flow).wrapping_sub(self.now()) as i32).max(0) as u32;
            let slow = self.flows.iter().enumerate().filter(|(_, flow)| flow.slow && flow.state != State::Closed);
            let Some((index, flow)) = slow.min_by_key(|(_, flow)| left(flow)) else { break };
            if left(flow) > end.wrapping_sub(self.now()) {
                break;
            }
            self.director.now = self.now().wrapping_add(left(flow));
            self.expire();
            let Director { sweep, memory, now, .. } = &mut self.director;
            sweep.step(memory, *now, 700);
            match self.flows.get(index).map(|flow| flow.state) {
                Some(State::HalfOpen) => self.request(index, Segment::Syn),
                Some(State::Direct) => self.answer(index, Segment::Data),
                Some(_) => self.request(index, Segment::Data),
                None => {}
            }
        }
        self.director.now = end;
        self.expire();
    }

    /// Forgets connections that have been silent for too long.
    fn expire(&mut self) {
        let mut index = 0;
        while let Some(flow) = self.flows.get(index) {
            if self.since(flow.last) > self.timeout(flow) {
                self.flows.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// What the schedulers count is what there is.
    pub fn check_loads(&self) {
        self.director.check_loads();
        let mut live: HashMap<u32, (u64, u64)> = HashMap::new();
        for flow in &self.flows {
            let name = if flow.neighbours { "other" } else { "shop" };
            let real = || self.director.real(name, flow.server.0);
            match flow.state {
                State::Established | State::Datagram | State::Datagrams => live.entry(real()).or_default().0 += 1,
                State::HalfOpen => live.entry(real()).or_default().1 += 1,
                State::Direct | State::Closed => {}
            }
        }
        for (real, live) in live {
            let load = self.director.load(real);
            assert!(load.0 >= live.0 && load.1 >= live.1, "{real}: {load:?} for {live:?}");
        }
    }
}

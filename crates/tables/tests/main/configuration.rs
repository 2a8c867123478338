//! Services as values, in a few words.

use marca_config::model::{
    Availability, Check, CheckPolicy, Config, Exchange, Forward, MemberPort, OnFailure, Persistence, PortMatch,
    PortRange, Protocol, Reuse, Scheduler, SchedulerFlags, Selector, Server, Service, Talk, Timeouts, Udp, Via,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A service with these VIPs and ports, and the defaults for everything else.
pub fn service(name: &str, vips: &[&str], ports: &[MemberPort]) -> Service {
    Service {
        name: name.to_owned(),
        selector: Selector::Ports { vips: vips.iter().map(|vip| ip(vip)).collect(), ports: ports.to_vec() },
        scheduler: Scheduler::Rr,
        scheduler_flags: SchedulerFlags::default(),
        persistence: None,
        forward: Forward::Nat,
        timeouts: Timeouts::default(),
        udp: Udp::Tracked,
        reuse: Reuse::Schedule,
        on_failure: OnFailure::Reset,
        drain: None,
        rate_limit: None,
        outbound: Vec::new(),
        sources: Vec::new(),
        ftp: None,
        availability: Availability::default(),
        checks: Vec::new(),
        check_policy: CheckPolicy::All,
        servers: Vec::new(),
    }
}

/// A connection to a port of the real servers.
pub fn check(port: u16) -> Check {
    Check {
        talk: Talk::Tcp(Exchange::default()),
        port: Some(port),
        via: Via::Server,
        interval: Duration::from_secs(2),
        jitter: Duration::ZERO,
        timeout: Duration::from_secs(1),
        rise: Check::RISE,
        fall: Check::FALL,
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn tcp(port: u16) -> MemberPort {
    range(Protocol::Tcp, port, port)
}

pub fn udp(port: u16) -> MemberPort {
    range(Protocol::Udp, port, port)
}

pub fn sctp(port: u16) -> MemberPort {
    range(Protocol::Sctp, port, port)
}

pub fn range(protocol: Protocol, first: u16, last: u16) -> MemberPort {
    MemberPort { matching: PortMatch { protocol, ports: PortRange { first, last } }, target: None }
}

/// `port`, and `target` on the real servers.
pub fn mapped(port: u16, target: u16) -> MemberPort {
    MemberPort { target: Some(target), ..tcp(port) }
}

/// The schedulers that give a real server any number of connections, which `ovf` does not.
pub fn unlimited() -> impl Iterator<Item = Scheduler> {
    Scheduler::ALL.into_iter().filter(|scheduler| *scheduler != Scheduler::Ovf)
}

/// 10.0.x.y and fd00::n of a number.
pub fn addresses(number: u16) -> [IpAddr; 2] {
    let [high, low] = number.to_be_bytes();
    [Ipv4Addr::new(10, 0, high, low).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number).into()]
}

/// The real server of a number, with an address of each family.
pub fn server(number: u16, weight: u16) -> Server {
    let name = format!("s{number}");
    Server {
        name,
        addresses: addresses(number).to_vec(),
        weight,
        upper: 0,
        lower: 0,
        forward: Forward::Nat,
        drain: None,
    }
}

pub fn persistence(seconds: u64, netmask: Ipv4Addr, prefix_len_v6: u8) -> Option<Persistence> {
    Some(Persistence { timeout: Duration::from_secs(seconds), netmask, prefix_len_v6 })
}

/// Everybody is a client of their own.
pub fn persist(seconds: u64) -> Option<Persistence> {
    persistence(seconds, Ipv4Addr::BROADCAST, 128)
}

pub fn config(services: impl Into<Vec<Service>>) -> Config {
    Config { services: services.into(), ..Config::default() }
}

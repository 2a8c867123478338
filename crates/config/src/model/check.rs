//! Health checks: what a service's real servers are asked, how often, and what a failure takes away.

use super::{MemberPort, PortMatch, Protocol};
use std::fmt;
use std::time::Duration;

/// Ports of a service that `per-port` can tell apart: a real server has a bit for each.
pub const MAX_PARTS: usize = 16;

/// What a failed check takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CheckPolicy {
    /// The real server, from the whole service.
    #[default]
    All,
    /// Nothing, while another check of the real server holds.
    Any,
    /// New flows to the member ports that it looks at.
    PerPort,
}

impl CheckPolicy {
    pub fn name(self) -> &'static str {
        match self {
            CheckPolicy::All => "all",
            CheckPolicy::Any => "any",
            CheckPolicy::PerPort => "per-port",
        }
    }
}

/// One question to each real server of a service, asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    pub talk: Talk,
    /// The real server's. None: a ping, or a script that was given none.
    pub port: Option<u16>,
    pub via: Via,
    /// From the beginning of one to that of the next.
    pub interval: Duration,
    /// By how much the next one is put off, at the most.
    pub jitter: Duration,
    pub timeout: Duration,
    /// So many good answers in a row, and a server that was down is up.
    pub rise: u32,
    /// So many bad ones, and one that was up is down.
    pub fall: u32,
}

/// Which way a question takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Via {
    /// Straight to the real server's own address.
    #[default]
    Server,
    /// To each VIP, forwarded to the real server as a client's packets are.
    Vip,
}

impl Via {
    pub const NAMES: &[(&str, Via)] = &[("server", Via::Server), ("vip", Via::Vip)];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, via)| *via == self).map_or("server", |(name, _)| name)
    }
}

/// What is said, and what answer is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Talk {
    /// A connection; with something to send or to expect, that as well.
    Tcp(Exchange),
    /// A datagram; without anything to expect, good is whatever is not refused.
    Udp(Exchange),
    /// A handshake, whoever has signed the certificate; then as TCP.
    Tls(Tls, Exchange),
    Http(Http),
    /// Over UDP: an answer of the type that was asked for.
    Dns(Dns),
    /// The greeting, and an answer to `EHLO`.
    Smtp,
    /// The greeting.
    Ftp,
    /// ICMP echo.
    Ping,
    Script(Script),
    /// A line of text says whether the server is up, and its weight.
    Agent {
        send: Vec<u8>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Exchange {
    pub send: Vec<u8>,
    pub expect: Option<Expect>,
}

/// What must be found in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    Bytes(Vec<u8>),
    /// A regular expression that compiles.
    Regex(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// What is asked for, and what the certificate must be for.
    pub server_name: Option<String>,
    /// For how long the certificate must still be valid.
    pub expiry: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    pub method: String,
    /// With a query, if there is one.
    pub path: String,
    /// None: the real server's address. Without TLS settings that say otherwise, it is what is asked for by SNI, too.
    pub host: Option<String>,
    /// First and last; never empty.
    pub status: Vec<(u16, u16)>,
    /// In the body.
    pub expect: Option<Expect>,
    pub version: HttpVersion,
    pub tls: Option<Tls>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    #[default]
    One,
    Two,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    pub name: String,
    pub record: DnsRecord,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DnsRecord {
    #[default]
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

impl DnsRecord {
    pub const NAMES: &[(&str, DnsRecord)] = &[
        ("A", DnsRecord::A),
        ("AAAA", DnsRecord::Aaaa),
        ("CNAME", DnsRecord::Cname),
        ("MX", DnsRecord::Mx),
        ("NS", DnsRecord::Ns),
        ("PTR", DnsRecord::Ptr),
        ("SOA", DnsRecord::Soa),
        ("SRV", DnsRecord::Srv),
        ("TXT", DnsRecord::Txt),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, record)| *record == self).map_or("A", |(name, _)| name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Script {
    /// An absolute path, and arguments.
    pub command: Vec<String>,
    /// Whether the first line of its output is the server's weight.
    pub weight: bool,
}

impl Talk {
    /// As the key of the configuration that makes it.
    pub fn name(&self) -> &'static str {
        match self {
            Talk::Tcp(_) => "tcp",
            Talk::Udp(_) => "udp",
            Talk::Tls(..) => "tls",
            Talk::Http(Http { tls: None, .. }) => "http",
            Talk::Http(_) => "https",
            Talk::Dns(_) => "dns",
            Talk::Smtp => "smtp",
            Talk::Ftp => "ftp",
            Talk::Ping => "ping",
            Talk::Script(_) => "script",
            Talk::Agent { .. } => "agent",
        }
    }

    /// Of the ports that it goes to; none without a port of its own.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Talk::Udp(_) | Talk::Dns(_) => Some(Protocol::Udp),
            Talk::Ping | Talk::Script(_) | Talk::Agent { .. } => None,
            _ => Some(Protocol::Tcp),
        }
    }
}

impl Check {
    /// A plain connection.
    pub fn tcp(port: u16) -> Self {
        Self::of(Talk::Tcp(Exchange::default()), Some(port))
    }

    /// With the timing that holds where nothing is said about it.
    pub fn of(talk: Talk, port: Option<u16>) -> Self {
        Self {
            talk,
            port,
            via: Via::Server,
            interval: Self::INTERVAL,
            jitter: Self::INTERVAL / Self::JITTER_PART,
            timeout: Self::TIMEOUT,
            rise: Self::RISE,
            fall: Self::FALL,
        }
    }

    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// Of the interval.
    pub const JITTER_PART: u32 = 10;
    pub const TIMEOUT: Duration = Duration::from_secs(2);
    pub const RISE: u32 = 2;
    pub const FALL: u32 = 3;

    /// The member ports of a service that it looks at: those that lead to its port. Empty: it looks at the server.
    pub fn members(&self, ports: &[MemberPort]) -> Vec<PortMatch> {
        let (Some(protocol), Some(port)) = (self.talk.protocol(), self.port) else { return Vec::new() };
        let leads_there = |member: &&MemberPort| match member.target {
            Some(target) => target == port,
            None => member.matching.ports.first <= port && port <= member.matching.ports.last,
        };
        let members = ports.iter().filter(|member| member.matching.protocol == protocol);
        members.filter(leads_there).map(|member| member.matching).collect()
    }
}

/// As listings call it: `http/8080 /healthz`, `tcp/80`, `ping`, `script check-web`.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.talk.name())?;
        if let Some(port) = self.port {
            write!(f, "/{port}")?;
        }
        match &self.talk {
            Talk::Http(http) => write!(f, " {}", http.path)?,
            Talk::Dns(dns) => write!(f, " {} {}", dns.name, dns.record.name())?,
            Talk::Script(script) => {
                let path = script.command.first().map_or("", String::as_str);
                write!(f, " {}", path.rsplit('/').next().unwrap_or(path))?;
            }
            _ => {}
        }
        Ok(())
    }
}

//! A file as far as it could be read: the model with spans, and with holes where something was refused.
//!
//! The checks work on drafts, so that one refused value does not hide the other faults of its file.

mod check;

pub(crate) use check::{CheckDraft, Reach, UnknownPort, checked_ports, members, reach};

use crate::diagnostic::Span;
use crate::model::{
    Access, Api, Availability, BelowQuorum, CheckPolicy, Config, Forward, Ftp, Mark, MarkRule, MemberPort, Metrics,
    OnFailure, Persistence, PortMatch, PortRange, Quorum, RateLimit, Reuse, Router, Scheduler, SchedulerFlags,
    Selector, Server, Service, SourceRange, Start, Timeouts, Token, Udp,
};
use crate::pieces;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// What a key gave.
#[derive(Clone, Debug, Default)]
pub(crate) enum Field<T> {
    #[default]
    Absent,
    /// Something that was refused, with a diagnostic.
    Refused,
    Given(Located<T>),
}

impl<T> Field<T> {
    pub fn given(&self) -> Option<&Located<T>> {
        match self {
            Field::Given(located) => Some(located),
            Field::Absent | Field::Refused => None,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }

    pub fn is_refused(&self) -> bool {
        matches!(self, Field::Refused)
    }
}

impl<T: Copy> Field<T> {
    pub fn value(&self) -> Option<T> {
        self.given().map(|located| located.value)
    }
}

/// What a key with one value or a list of them gave.
#[derive(Clone, Debug)]
pub(crate) struct List<T> {
    /// The value of the key; `None` if the key is absent.
    pub span: Option<Span>,
    pub items: Vec<Located<T>>,
    /// Something in it was refused, with a diagnostic: what it lacks, it may lack for that reason.
    pub incomplete: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { span: None, items: Vec::new(), incomplete: false }
    }
}

impl<T: Clone> List<T> {
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|item| &item.value)
    }

    fn to_vec(&self) -> Vec<T> {
        self.values().cloned().collect()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub router: Router,
    pub api: ApiDraft,
    pub metrics: Metrics,
    pub marks: Vec<MarkDraft>,
    pub services: Vec<ServiceDraft>,
}

#[derive(Debug, Default)]
pub(crate) struct ApiDraft {
    /// Where to point when something is missing; `None` without the table.
    pub header: Option<Span>,
    pub listen: List<SocketAddr>,
    pub certificate: Field<String>,
    pub key: Field<String>,
    pub tokens: Vec<TokenDraft>,
}

#[derive(Debug)]
pub(crate) struct TokenDraft {
    pub name: Field<String>,
    pub access: Field<Access>,
    pub digest: Field<[u8; 32]>,
}

#[derive(Debug)]
pub(crate) struct MarkDraft {
    pub value: Field<Mark>,
    pub to: List<IpNet>,
    pub from: List<IpNet>,
    pub ports: List<PortMatch>,
    pub interfaces: List<String>,
}

#[derive(Debug)]
pub(crate) struct ServiceDraft {
    pub name: String,
    /// Where to point when something is missing.
    pub header: Span,
    pub vips: List<IpAddr>,
    pub ports: List<MemberPort>,
    pub mark: Field<Mark>,
    /// The real servers' port for all that has the mark.
    pub target: Field<u16>,
    pub scheduler: Field<Scheduler>,
    pub scheduler_flags: List<SchedulerFlag>,
    pub persistence: Option<Persistence>,
    pub forward: Field<Forward>,
    pub timeouts: Timeouts,
    pub udp: Field<Udp>,
    pub reuse: Field<Reuse>,
    pub on_failure: Field<OnFailure>,
    pub drain: Field<Duration>,
    pub rate_limit: Option<RateLimit>,
    pub outbound: List<PortMatch>,
    pub sources: List<SourceRange>,
    pub protocol: Field<Application>,
    pub passive: Field<PortRange>,
    pub quorum: Field<Quorum>,
    pub below_quorum: Field<BelowQuorum>,
    pub start: Field<Start>,
    /// With a name of its own.
    pub sorry: Option<ServerDraft>,
    /// None: nothing is said about checks.
    pub checks: Option<Vec<CheckDraft>>,
    pub check_policy: Field<CheckPolicy>,
    pub servers: Vec<ServerDraft>,
    /// A server is not among `servers`: its table was refused as a whole.
    pub servers_incomplete: bool,
}

impl ServiceDraft {
    /// Servers, and the sorry server: whoever gets packets of the service.
    pub fn reals(&self) -> impl Iterator<Item = &ServerDraft> {
        self.servers.iter().chain(&self.sorry)
    }
}

/// What is spoken on a service's ports, where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Application {
    Ftp,
}

#[derive(Debug)]
pub(crate) struct ServerDraft {
    pub header: Span,
    pub name: Field<String>,
    pub addresses: List<IpAddr>,
    pub weight: u16,
    pub upper: Field<u32>,
    pub lower: Field<u32>,
    pub forward: Field<Forward>,
    pub drain: Field<Duration>,
}

/// An item of `scheduler_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchedulerFlag {
    Port,
    Fallback,
    NoFallback,
}

/// The VIPs of a service: its own, or the host prefixes of the rules that set its mark.
pub(crate) fn vips_of(service: &ServiceDraft, marks: &[MarkDraft]) -> Vec<Located<IpAddr>> {
    let Some(mark) = service.mark.value().filter(|_| service.vips.span.is_none()) else {
        return service.vips.items.clone();
    };
    let mut vips: Vec<Located<IpAddr>> = Vec::new();
    for to in marks.iter().filter(|rule| rule.value.value() == Some(mark)).flat_map(|rule| &rule.to.items) {
        let is_host = to.value.prefix_len() == to.value.max_prefix_len();
        if is_host && vips.iter().all(|vip| vip.value != to.value.addr()) {
            vips.push(Located { value: to.value.addr(), span: to.span.clone() });
        }
    }
    vips
}

/// What a server is called: its own name, its first address, or `local`. `None` if what should say so was refused or is
/// missing.
pub(crate) fn name_of(service: &ServiceDraft, server: &ServerDraft) -> Option<Located<String>> {
    match (&server.name, server.addresses.items.first()) {
        (Field::Given(name), _) => Some(name.clone()),
        (Field::Absent, Some(first)) => Some(Located { value: first.value.to_string(), span: first.span.clone() }),
        (Field::Absent, None) => {
            let local = forward_of(service, server).is_some_and(|forward| forward.value == Forward::Local);
            local.then(|| Located { value: "local".to_string(), span: server.header.clone() })
        }
        (Field::Refused, _) => None,
    }
}

/// How a server is reached, and the text that says so; `None` if that text was refused.
pub(crate) fn forward_of(service: &ServiceDraft, server: &ServerDraft) -> Option<Located<Forward>> {
    match (&server.forward, &service.forward) {
        (Field::Given(own), _) => Some(own.clone()),
        (Field::Absent, Field::Given(common)) => Some(common.clone()),
        (Field::Absent, Field::Absent) => Some(Located { value: Forward::Nat, span: service.header.clone() }),
        (Field::Refused, _) | (_, Field::Refused) => None,
    }
}

/// How the data connections of an FTP service are to find their way.
#[derive(Clone, Debug)]
pub(crate) enum FtpWay {
    /// The control connections are read.
    Read,
    /// Under this method they cannot be: the ports are members, and persistence keeps them together.
    Grouped(Located<Forward>),
    /// The servers are reached both ways: by NAT here, and otherwise there.
    Mixed(Span, Located<Forward>),
}

/// None: it is no FTP service, or a server's method was refused.
pub(crate) fn ftp_way(service: &ServiceDraft) -> Option<FtpWay> {
    service.protocol.value().filter(|protocol| *protocol == Application::Ftp)?;
    let methods: Option<Vec<_>> = service.reals().map(|server| forward_of(service, server)).collect();
    let methods = methods?;
    let nat = methods.iter().find(|forward| forward.value == Forward::Nat);
    let other = methods.iter().find(|forward| forward.value != Forward::Nat);
    Some(match (nat, other) {
        (Some(nat), Some(other)) => FtpWay::Mixed(nat.span.clone(), other.clone()),
        (None, Some(other)) => FtpWay::Grouped(other.clone()),
        _ => FtpWay::Read,
    })
}

/// The model of a draft in which nothing was refused.
pub(crate) fn finish(draft: Draft) -> Config {
    let finish = |services: &[ServiceDraft]| -> Vec<Service> {
        services.iter().map(|service| finish_service(service, &draft.marks)).collect()
    };
    let services = pieces::each(&draft.services, finish).into_iter().flatten().collect();
    Config {
        router: draft.router,
        api: finish_api(&draft.api),
        metrics: draft.metrics,
        marks: draft.marks.iter().filter_map(finish_mark).collect(),
        services,
    }
}

fn finish_api(api: &ApiDraft) -> Api {
    let text = |field: &Field<String>| field.given().map(|text| text.value.clone()).unwrap_or_default();
    let token = |token: &TokenDraft| {
        let (access, digest) = (token.access.value()?, token.digest.value()?);
        Some(Token { name: text(&token.name), access, digest })
    };
    Api {
        listen: api.listen.to_vec(),
        certificate: text(&api.certificate),
        key: text(&api.key),
        tokens: api.tokens.iter().filter_map(token).collect(),
    }
}

fn finish_mark(rule: &MarkDraft) -> Option<MarkRule> {
    Some(MarkRule {
        value: rule.value.value()?,
        to: rule.to.to_vec(),
        from: rule.from.to_vec(),
        ports: rule.ports.to_vec(),
        interfaces: rule.interfaces.to_vec(),
    })
}

fn finish_service(service: &ServiceDraft, marks: &[MarkDraft]) -> Service {
    let vips = vips_of(service, marks).into_iter().map(|vip| vip.value).collect();
    let finish_server = |server: &ServerDraft| Server {
        name: name_of(service, server).map(|name| name.value).unwrap_or_default(),
        addresses: server.addresses.to_vec(),
        weight: server.weight,
        upper: server.upper.value().unwrap_or(0),
        lower: server.lower.value().unwrap_or(0),
        forward: forward_of(service, server).map_or(Forward::Nat, |forward| forward.value),
        drain: server.drain.value().or(service.drain.value()),
    };
    Service {
        name: service.name.clone(),
        selector: match service.mark.value() {
            Some(mark) => Selector::Mark { mark, vips, target: service.target.value() },
            None => Selector::Ports { vips, ports: service.ports.to_vec() },
        },
        scheduler: service.scheduler.value().unwrap_or(Scheduler::Wlc),
        scheduler_flags: SchedulerFlags {
            port: service.scheduler_flags.values().any(|flag| *flag == SchedulerFlag::Port),
            fallback: service.scheduler_flags.values().all(|flag| *flag != SchedulerFlag::NoFallback),
        },
        persistence: service.persistence,
        forward: service.forward.value().unwrap_or(Forward::Nat),
        timeouts: service.timeouts,
        udp: service.udp.value().unwrap_or_default(),
        reuse: service.reuse.value().unwrap_or_default(),
        on_failure: service.on_failure.value().unwrap_or_default(),
        drain: service.drain.value(),
        rate_limit: service.rate_limit,
        outbound: service.outbound.to_vec(),
        sources: service.sources.to_vec(),
        ftp: matches!(ftp_way(service), Some(FtpWay::Read)).then(|| match service.passive.value() {
            Some(passive) => Ftp { passive },
            None => Ftp::default(),
        }),
        availability: Availability {
            quorum: service.quorum.value().unwrap_or_default(),
            below_quorum: service.below_quorum.value().unwrap_or_default(),
            sorry: service.sorry.as_ref().map(finish_server),
            start: service.start.value().unwrap_or_default(),
        },
        checks: check::finish(service, marks),
        check_policy: service.check_policy.value().unwrap_or_default(),
        servers: service.servers.iter().map(finish_server).collect(),
    }
}

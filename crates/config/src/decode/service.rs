//! `[service.NAME]`.

use super::reader::{Entry, Reader, Table};
use super::{availability, check, forward, mark, server};
use crate::diagnostic::{Diagnostic, Span, listed, quoted};
use crate::draft::{Application, Field, FtpWay, Located, SchedulerFlag, ServiceDraft, ftp_way};
use crate::keys;
use crate::model::{
    CheckPolicy, MemberPort, OnFailure, Persistence, PortMatch, PortRange, Protocol, RateLimit, Reuse, Scheduler,
    Timeouts, Udp,
};
use crate::pieces;
use crate::text::{address, name, ports};
use std::net::Ipv4Addr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeString, DeValue};

/// The services in the order of the file.
pub(super) fn read_all<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Vec<ServiceDraft> {
    let Some(entry) = entry else { return Vec::new() };
    let DeValue::Table(entries) = entry.value.get_ref() else {
        reader.wrong_type::<()>(&entry);
        return Vec::new();
    };
    let mut entries: Vec<(&Spanned<DeString<'t>>, Entry<'t>)> =
        entries.iter().map(|(name, value)| (name, entry.element(value))).collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    if let Some((name, _)) = entries.get(MAX_SERVICES) {
        reader.report(
            Diagnostic::error(format!("there are more than {MAX_SERVICES} services"))
                .at(&name.span(), "one too many")
                .help("give services that share their servers more VIPs or ports, or use a second director"),
        );
    }
    entries.truncate(MAX_SERVICES);
    let read = |entries: &[(&Spanned<DeString<'t>>, Entry<'t>)]| {
        let mut reader = reader.another();
        let services: Vec<_> = entries.iter().filter_map(|(name, entry)| read(&mut reader, name, entry)).collect();
        (services, reader.into_diagnostics())
    };
    let (services, diagnostics): (Vec<_>, Vec<_>) = pieces::each(&entries, read).into_iter().unzip();
    diagnostics.into_iter().flatten().for_each(|diagnostic| reader.report(diagnostic));
    services.into_iter().flatten().collect()
}

/// What the data plane numbers its services up to.
const MAX_SERVICES: usize = 10_000;

const SCHEDULER_NAMES: &[(&str, Scheduler)] = &[
    ("rr", Scheduler::Rr),
    ("wrr", Scheduler::Wrr),
    ("lc", Scheduler::Lc),
    ("wlc", Scheduler::Wlc),
    ("sh", Scheduler::Sh),
    ("maglev", Scheduler::Maglev),
    ("mh", Scheduler::Maglev),
    ("sed", Scheduler::Sed),
    ("nq", Scheduler::Nq),
    ("fo", Scheduler::Fo),
    ("ovf", Scheduler::Ovf),
    ("dh", Scheduler::Dh),
    ("twos", Scheduler::Twos),
    ("lblc", Scheduler::Lblc),
    ("lblcr", Scheduler::Lblcr),
];

const PROTOCOL_NAMES: &[(&str, Application)] = &[("ftp", Application::Ftp)];

/// `ipvsadm -b` knows those with the scheduler's name.
const FLAG_NAMES: &[(&str, SchedulerFlag)] = &[
    ("port", SchedulerFlag::Port),
    ("fallback", SchedulerFlag::Fallback),
    ("no-fallback", SchedulerFlag::NoFallback),
    ("sh-port", SchedulerFlag::Port),
    ("mh-port", SchedulerFlag::Port),
    ("sh-fallback", SchedulerFlag::Fallback),
    ("mh-fallback", SchedulerFlag::Fallback),
];

const UDP_NAMES: &[(&str, Udp)] =
    &[("tracked", Udp::Tracked), ("stateless", Udp::Stateless), ("one-packet", Udp::OnePacket)];

const REUSE_NAMES: &[(&str, Reuse)] = &[("schedule", Reuse::Schedule), ("keep", Reuse::Keep)];

const ON_FAILURE_NAMES: &[(&str, OnFailure)] =
    &[("reset", OnFailure::Reset), ("drop", OnFailure::Drop), ("keep", OnFailure::Keep)];

const CHECK_POLICY_NAMES: &[(&str, CheckPolicy)] =
    &[("all", CheckPolicy::All), ("any", CheckPolicy::Any), ("per-port", CheckPolicy::PerPort)];

/// New connections in a second, and at once: the data plane counts in fractions of a tick, and so many are more than a
/// processor can open.
const MAX_RATE: i64 = 10_000_000;

fn read<'t>(reader: &mut Reader<'t>, name: &Spanned<DeString<'t>>, entry: &Entry<'t>) -> Option<ServiceDraft> {
    if let Err(error) = name::service(name.get_ref()) {
        reader.refuse::<()>(&name.span(), name.get_ref(), error);
    }
    let DeValue::Table(entries) = entry.value.get_ref() else {
        not_a_service(reader, name, entry);
        return None;
    };
    let mut table = Table::new("service.*", entry.span(), entries);
    let servers = server::read_all(reader, &mut table, name.get_ref());
    let mut service = ServiceDraft {
        name: name.get_ref().to_string(),
        header: entry.span(),
        vips: reader.some_strings(table.take("vip"), address::vip, "the service has no VIP"),
        ports: mark::flat(reader.some_strings(table.take("ports"), ports::members, "the service has no port")),
        mark: mark::value(reader, table.take("mark")),
        target: reader.integer(table.take("target"), 1..=i64::from(u16::MAX)),
        scheduler: reader.choice(table.take("scheduler"), "scheduler", SCHEDULER_NAMES),
        scheduler_flags: reader.choices(table.take("scheduler_flags"), "flag of a scheduler", FLAG_NAMES),
        persistence: persistence(reader, table.take("persist")),
        forward: forward::read(reader, table.take("forward"), "service.*.forward"),
        timeouts: timeouts(reader, table.take("timeouts")),
        udp: reader.choice(table.take("udp"), "way to treat UDP", UDP_NAMES),
        reuse: reader.choice(table.take("reuse"), "way to treat a reused port", REUSE_NAMES),
        on_failure: reader.choice(table.take("on_failure"), "policy on failure", ON_FAILURE_NAMES),
        drain: reader.duration_or_none(table.take("drain")),
        rate_limit: rate_limit(reader, table.take("rate_limit")),
        outbound: reader.some_strings(table.take("outbound"), ports::outbound, "no port"),
        sources: reader.some_strings(table.take("source"), address::source, "no source address"),
        protocol: reader.choice(table.take("protocol"), "protocol that marca knows", PROTOCOL_NAMES),
        passive: reader.string(table.take("passive"), ports::passive),
        quorum: availability::quorum(reader, table.take("quorum")),
        below_quorum: availability::below_quorum(reader, table.take("below_quorum")),
        start: availability::start(reader, table.take("start")),
        sorry: server::sorry(reader, table.take("sorry")),
        checks: check::read_all(reader, table.take("check")),
        check_policy: reader.choice(table.take("check_policy"), "policy on failed checks", CHECK_POLICY_NAMES),
        servers_incomplete: servers.iter().any(Option::is_none),
        servers: servers.into_iter().flatten().collect(),
    };
    table.finish(reader);
    add_ports_of_ftp(&mut service);
    Some(service)
}

/// `protocol = "ftp"` stands for the control port and, where nobody reads on that, for the passive ones.
fn add_ports_of_ftp(service: &mut ServiceDraft) {
    let member = |span: &Span, ports| {
        let matching = PortMatch { protocol: Protocol::Tcp, ports };
        Located { value: MemberPort { matching, target: None }, span: span.clone() }
    };
    let Some(protocol) = service.protocol.given().filter(|_| service.mark.is_absent()) else { return };
    if service.ports.span.is_none() {
        service.ports.items.push(member(&protocol.span, FTP_CONTROL));
        service.ports.span = Some(protocol.span.clone());
    }
    if let (Some(FtpWay::Grouped(_)), Some(passive)) = (ftp_way(service), service.passive.given()) {
        service.ports.items.push(member(&passive.span, passive.value));
        // The clients' packets of active data connections, which servers open from there.
        service.ports.items.push(member(&protocol.span, FTP_DATA));
    }
}

/// RFC 959 §8.
const FTP_CONTROL: PortRange = PortRange { first: 21, last: 21 };
const FTP_DATA: PortRange = PortRange { first: 20, last: 20 };

/// `persist = "5m"` or `persist = { timeout = "5m", … }`.
fn persistence<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Option<Persistence> {
    let entry = entry?;
    let whole_addresses = |timeout: Duration| Persistence { timeout, netmask: Ipv4Addr::BROADCAST, prefix_len_v6: 128 };
    let DeValue::Table(_) = entry.value.get_ref() else {
        return match entry.value.get_ref() {
            DeValue::String(_) | DeValue::Integer(_) => reader.duration(Some(entry)).value().map(whole_addresses),
            _ => {
                reader.wrong_type::<()>(&entry);
                None
            }
        };
    };
    let mut table = reader.table(&entry, "service.*.persist")?;
    let timeout = table.require(reader, "timeout");
    let timeout = reader.duration(timeout).value();
    let netmask = netmask(reader, table.take("netmask")).value().unwrap_or(Ipv4Addr::BROADCAST);
    let prefix_len_v6 = reader.integer(table.take("prefix_v6"), 0..=128).value().unwrap_or(128);
    table.finish(reader);
    Some(Persistence { timeout: timeout?, netmask, prefix_len_v6 })
}

/// `"255.255.255.0"`, `"/24"` or `24`.
fn netmask<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Field<Ipv4Addr> {
    let Some(entry) = entry else { return Field::Absent };
    if !entry.value.get_ref().is_integer() {
        return reader.string(Some(entry), address::netmask);
    }
    match reader.integer(Some(entry), 0..=32) {
        Field::Given(Located { value, span }) => match address::netmask_from_length(value) {
            Some(value) => Field::Given(Located { value, span }),
            None => Field::Refused,
        },
        Field::Absent => Field::Absent,
        Field::Refused => Field::Refused,
    }
}

fn timeouts<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Timeouts {
    let default = Timeouts::default();
    let Some(mut table) = entry.and_then(|entry| reader.table(&entry, "service.*.timeouts")) else { return default };
    let mut timeout = |name: &'static str, default| reader.duration(table.take(name)).value().unwrap_or(default);
    let timeouts = Timeouts {
        established: timeout("established", default.established),
        closing: timeout("closing", default.closing),
        half_open: timeout("half_open", default.half_open),
        udp: timeout("udp", default.udp),
        sctp: timeout("sctp", default.sctp),
        sctp_closing: timeout("sctp_closing", default.sctp_closing),
        locality: timeout("locality", default.locality),
    };
    table.finish(reader);
    timeouts
}

/// `{ connections = 1000, burst = 2000 }`.
fn rate_limit<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Option<RateLimit> {
    let mut table = reader.table(&entry?, "service.*.rate_limit")?;
    let connections = table.require(reader, "connections");
    let connections = reader.integer(connections, 1..=MAX_RATE).value();
    let burst = reader.integer(table.take("burst"), 1..=MAX_RATE).value();
    table.finish(reader);
    let connections = connections?;
    Some(RateLimit { connections, burst: burst.unwrap_or(connections) })
}

/// `[service]` with the keys of a service right in it, or `service.shop = 1`.
fn not_a_service<'t>(reader: &mut Reader<'t>, name: &Spanned<DeString<'t>>, entry: &Entry<'t>) {
    let (name, name_span) = (name.get_ref(), name.span());
    if keys::find("service.*", name).is_some() {
        reader.report(
            Diagnostic::error(format!("`{name}` is outside of a service"))
                .at(&name_span, "which service?")
                .also(&entry.key_span, "this has no name")
                .help("every service has a name: head its table with, for example, [service.shop]"),
        );
        return;
    }
    let takes = listed(keys::children("service.*").map(|key| quoted(key.name())));
    reader.report(
        Diagnostic::error(format!("service {} is not a table", quoted(name)))
            .at(&entry.span(), "must be a table")
            .help(format!("write [service.NAME] on a line of its own and below it the keys: {takes}")),
    );
}

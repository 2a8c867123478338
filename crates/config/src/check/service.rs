//! A service by itself: what it is recognised by, and keys that exclude each other.

use super::{claims, fullnat};
use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{Located, MarkDraft, SchedulerFlag, ServiceDraft, forward_of, vips_of};
use crate::model::{Forward, MemberPort, Protocol, Scheduler, Udp};
use crate::text::address;
use std::collections::HashMap;
use std::net::IpAddr;

pub(super) fn check(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    selector(service, found);
    repeated_vips(service, found);
    unusable_vips_of_a_mark(service, marks, found);
    repeated_ports(&service.ports.items, found);
    targets(service, found);
    target_of_a_mark(service, found);
    outbound(service, marks, found);
    stateless_udp(service, found);
    fullnat::check(service, marks, found);
    scheduler_flags(service, found);
    stateless_by_port(service, found);
}

/// Either ports with a VIP, or a mark.
fn selector(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let name = quoted(&service.name);
    match (&service.ports.span, service.mark.is_absent()) {
        (Some(ports), false) => {
            let mark = service.mark.given().map(|mark| &mark.span);
            let diagnostic = Diagnostic::error(format!("service {name} has both `ports` and `mark`"))
                .at(mark.unwrap_or(&service.header), "a mark selects packets by itself")
                .also(ports, "and so do ports")
                .help("keep `mark` and put the ports into its [[mark]] rules, or keep `ports` and remove `mark`");
            found.push(diagnostic);
        }
        (None, true) if !service.protocol.is_refused() => {
            let diagnostic = Diagnostic::error(format!("service {name} has neither `ports` nor `mark`"))
                .at(&service.header, "matches nothing")
                .help("add `ports = [\"tcp/80\"]`, or `mark = 80` together with a [[mark]] rule");
            found.push(diagnostic);
        }
        (Some(_), true) if service.vips.span.is_none() => {
            let diagnostic = Diagnostic::error(format!("service {name} has no `vip`"))
                .at(&service.header, "has no `vip`")
                .help("add the addresses that clients connect to: vip = [\"192.0.2.10\"]");
            found.push(diagnostic);
        }
        _ => {}
    }
}

fn repeated_vips(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<IpAddr, &Located<IpAddr>> = HashMap::new();
    for vip in &service.vips.items {
        if let Some(first) = seen.get(&vip.value) {
            let diagnostic = Diagnostic::error(format!("VIP {} is listed twice", vip.value))
                .at(&vip.span, "listed again")
                .also(&first.span, "first listed here")
                .help("remove one of the two");
            found.push(diagnostic);
        } else {
            seen.insert(vip.value, vip);
        }
    }
}

/// A rule may match what no director can own; a service that takes its VIPs from the rule may not.
fn unusable_vips_of_a_mark(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    let Some(mark) = service.mark.given().filter(|_| service.vips.span.is_none()) else { return };
    for vip in vips_of(service, marks) {
        let Some(error) = address::unusable_as_vip(vip.value) else { continue };
        let diagnostic = Diagnostic::error(error.message)
            .at(&vip.span, error.label)
            .also(&mark.span, "this service takes its VIPs from the rules of its mark")
            .help("list the service's own addresses with `vip`, or correct the rule");
        found.push(diagnostic);
    }
}

/// The same rule as between services: within one rank, nothing may be claimed twice.
fn repeated_ports(ports: &[Located<MemberPort>], found: &mut Vec<Diagnostic>) {
    let entries = ports.iter().map(|port| (port.value.matching, port)).collect();
    let mut reported = None;
    for (first, again) in claims::collisions(entries) {
        // `all` is three entries of one text.
        let place = Some((&first.span, &again.span));
        if reported == place || first.span == again.span {
            continue;
        }
        reported = place;
        let diagnostic = Diagnostic::error(format!("{} is listed twice", quoted(&again.value.matching.to_string())))
            .at(&again.span, "listed again")
            .also(&first.span, "first listed here")
            .help("remove one of the two, or let the ranges not overlap");
        found.push(diagnostic);
    }
}

/// Only NAT rewrites ports.
fn targets(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let Some(forward) = a_forward(service, |forward| !forward.is_nat()) else { return };
    let method = why_ports_stay(forward.value);
    for port in service.ports.items.iter().filter(|port| port.value.target.is_some()) {
        let diagnostic = Diagnostic::error(format!("{} needs `nat`", quoted(&port.value.to_string())))
            .at(&port.span, "a port mapping")
            .also(&forward.span, method)
            .help(format!("{method}; use forward = \"nat\", or leave out the `->`"));
        found.push(diagnostic);
    }
}

/// Ports have their targets by themselves.
fn target_of_a_mark(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let Some(target) = service.target.given() else { return };
    if let Some(ports) = service.ports.span.as_ref().filter(|_| service.mark.is_absent()) {
        let diagnostic = Diagnostic::error("`target` is for services by `mark`")
            .at(&target.span, "for everything that has a mark")
            .also(ports, "this service goes by ports")
            .help(format!("write the target beside each port: \"tcp/80 -> {}\"", target.value));
        found.push(diagnostic);
    }
    if let Some(forward) = a_forward(service, |forward| !forward.is_nat()) {
        let method = why_ports_stay(forward.value);
        let diagnostic = Diagnostic::error("`target` needs `nat`")
            .at(&target.span, "a port mapping")
            .also(&forward.span, method)
            .help(format!("{method}; use forward = \"nat\", or leave out `target`"));
        found.push(diagnostic);
    }
}

fn why_ports_stay(forward: Forward) -> &'static str {
    match forward {
        Forward::Dr => "direct routing leaves ports alone",
        Forward::Tunnel | Forward::Gue(_) | Forward::Gre => "a tunnel leaves ports alone",
        Forward::Local | Forward::Nat | Forward::FullNat => "the director's own sockets see the packet as it came",
    }
}

/// Connections that a server opens are rewritten by NAT, to a VIP, and remembered.
fn outbound(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    let Some(ports) = &service.outbound.span else { return };
    if let Some(forward) = a_forward(service, |forward| forward != Forward::Nat) {
        let (why, help) = if forward.value == Forward::FullNat {
            ("only answers of such servers come to the director", "leave `outbound` out, or use `nat`")
        } else {
            (
                "packets of such servers do not come back through the director",
                "leave `outbound` out: a server that has the VIP on its loopback opens connections as the VIP by itself",
            )
        };
        let diagnostic = Diagnostic::error("`outbound` needs `nat`")
            .at(ports, "connections that the servers open")
            .also(&forward.span, why)
            .help(help);
        found.push(diagnostic);
    }
    if service.vips.span.is_none() && !service.mark.is_refused() && vips_of(service, marks).is_empty() {
        let diagnostic =
            Diagnostic::error(format!("service {} has no address to open connections with", quoted(&service.name)))
                .at(ports, "needs a VIP")
                .help("add the address that peers are to see: vip = [\"192.0.2.10\"]");
        found.push(diagnostic);
    }
    let udp = service.outbound.items.iter().find(|port| port.value.protocol == Protocol::Udp);
    let unrecorded = service.udp.given().filter(|udp| udp.value != Udp::Tracked);
    if let (Some(port), Some(unrecorded)) = (udp, unrecorded) {
        let what = unrecorded.value.name();
        let diagnostic = Diagnostic::error(format!("{} does not go with {what} UDP", quoted(&port.value.to_string())))
            .at(&port.span, "answers are known by a record")
            .also(&unrecorded.span, "nothing is recorded")
            .help(format!("leave out `udp = \"{what}\"`, or the port"));
        found.push(diagnostic);
    }
}

/// A way to reach a server, or all, of which something holds.
pub(super) fn a_forward(service: &ServiceDraft, holds: fn(Forward) -> bool) -> Option<Located<Forward>> {
    let other = service.reals().filter_map(|server| forward_of(service, server));
    let own = service.forward.given().cloned();
    other.chain(own).find(|forward| holds(forward.value))
}

fn stateless_udp(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let Some(udp) = service.udp.given().filter(|udp| udp.value == Udp::Stateless) else { return };
    if service.scheduler.is_refused() {
        return;
    }
    let scheduler = service.scheduler.value().unwrap_or(Scheduler::Wlc);
    if scheduler.is_by_table() {
        return;
    }
    let (place, label) = match service.scheduler.given() {
        Some(given) => (&given.span, "decides anew for each flow".to_string()),
        None => (&service.header, format!("the scheduler is `{}` by default", scheduler.name())),
    };
    let diagnostic = Diagnostic::error(format!("stateless UDP does not go with the scheduler `{}`", scheduler.name()))
        .at(&udp.span, "nothing would remember a client's server")
        .also(place, label)
        .help("use scheduler = \"maglev\" or \"sh\", whose table alone decides, or leave `udp` out");
    found.push(diagnostic);
}

/// Only schedulers with a table have flags, and of those not all have all.
fn scheduler_flags(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let flags = &service.scheduler_flags;
    let is = |wanted: SchedulerFlag| flags.items.iter().find(move |flag| flag.value == wanted);
    if let (Some(one), Some(other)) = (is(SchedulerFlag::Fallback), is(SchedulerFlag::NoFallback)) {
        let diagnostic = Diagnostic::error("`fallback` and `no-fallback` exclude each other")
            .at(&one.span, "clients of a server that takes nobody get another one")
            .also(&other.span, "they are refused")
            .help("keep one of the two; `fallback` is what holds without either");
        found.push(diagnostic);
    }
    let Some(first) = flags.items.first().filter(|_| !service.scheduler.is_refused()) else { return };
    let scheduler = service.scheduler.value().unwrap_or(Scheduler::Wlc);
    let at_fault = match scheduler {
        Scheduler::Sh | Scheduler::Maglev => return,
        Scheduler::Dh => match is(SchedulerFlag::Port) {
            Some(port) => port,
            None => return,
        },
        _ => first,
    };
    let (place, label) = match service.scheduler.given() {
        Some(given) => {
            (&given.span, if scheduler == Scheduler::Dh { "hashes the destination" } else { "has no table" })
        }
        None => (&service.header, "the scheduler is `wlc` by default"),
    };
    let diagnostic = Diagnostic::error(format!("the scheduler `{}` does not have this flag", scheduler.name()))
        .at(&at_fault.span, "a flag of table schedulers")
        .also(place, label)
        .help(
            "`sh` and `maglev` take `port`, these and `dh` take `fallback` or `no-fallback`; for others leave it out",
        );
    found.push(diagnostic);
}

/// Nothing recorded, a port that chooses the server, and a client that is to stay: nobody could keep that.
fn stateless_by_port(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let stateless = service.udp.given().filter(|udp| udp.value == Udp::Stateless);
    let port = service.scheduler_flags.items.iter().find(|flag| flag.value == SchedulerFlag::Port);
    if let (Some(stateless), Some(port), Some(_)) = (stateless, port, service.persistence) {
        let diagnostic = Diagnostic::error("stateless UDP by port does not go with persistence")
            .at(&port.span, "each port of a client has a server of its own")
            .also(&stateless.span, "nothing is recorded that could say otherwise")
            .help("leave out `persist`, the flag `port`, or `udp = \"stateless\"`");
        found.push(diagnostic);
    }
}

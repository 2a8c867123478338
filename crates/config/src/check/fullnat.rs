//! Fullnat: the addresses that it lends, and what does not go with it.

use super::service::a_forward;
use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{Draft, MarkDraft, ServerDraft, ServiceDraft, forward_of, vips_of};
use crate::model::{Forward, MAX_SOURCES, Protocol, Udp};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) fn check(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    let sources = &service.sources;
    let Some(fullnat) = a_forward(service, |forward| forward == Forward::FullNat) else {
        let is_known = service.reals().all(|server| forward_of(service, server).is_some());
        if let (Some(span), true, false) = (&sources.span, is_known, service.servers_incomplete) {
            found.push(
                Diagnostic::error("`source` is of fullnat only")
                    .at(span, "nobody gets these addresses")
                    .also(&service.header, "no server of this service has `fullnat`")
                    .help("leave `source` out, or write forward = \"fullnat\""),
            );
        }
        return;
    };
    let rules =
        || marks.iter().filter(|rule| service.mark.value().is_some_and(|mark| rule.value.value() == Some(mark)));
    let is_full = |server: &&ServerDraft| forward_of(service, server).is_some_and(|f| f.value == Forward::FullNat);
    let is_missing = |v4: bool| {
        let to_vip = vips_of(service, marks).iter().any(|vip| vip.value.is_ipv4() == v4);
        let by_rule = rules().flat_map(|rule| rule.to.values()).any(|to| to.addr().is_ipv4() == v4);
        let servers = || service.reals().filter(is_full);
        let served = servers().flat_map(|server| server.addresses.values()).any(|address| address.is_ipv4() == v4);
        let has = sources.values().any(|range| range.first().is_ipv4() == v4);
        (to_vip || by_rule) && served && !has && !sources.incomplete
    };
    for (v4, family, example) in [(true, "IPv4", "10.0.0.100-10.0.0.110"), (false, "IPv6", "fd00::100")] {
        if is_missing(v4) {
            found.push(
                Diagnostic::error(format!("fullnat needs an {family} `source`"))
                    .at(sources.span.as_ref().unwrap_or(&service.header), format!("has no {family} address"))
                    .also(&fullnat.span, "the client's address is replaced, too")
                    .help(format!("add addresses that the director shall have for that: source = [\"{example}\"]")),
            );
        }
    }
    let count: usize = sources.values().map(|range| range.addresses().count()).sum();
    if let (true, Some(span)) = (count > MAX_SOURCES, &sources.span) {
        found.push(
            Diagnostic::error(format!("the service has {count} source addresses"))
                .at(span, format!("at most {MAX_SOURCES}"))
                .help("one is enough for 64,512 connections to each port of a server"),
        );
    }
    let sctp = service.ports.items.iter().find(|port| port.value.matching.protocol == Protocol::Sctp);
    let by_mark = rules().flat_map(|rule| &rule.ports.items).find(|port| port.value.protocol == Protocol::Sctp);
    if let Some(span) = sctp.map(|port| &port.span).or(by_mark.map(|port| &port.span)) {
        found.push(
            Diagnostic::error("fullnat does not carry SCTP")
                .at(span, "SCTP")
                .also(&fullnat.span, "rewrites addresses and ports of TCP and UDP")
                .help("an SCTP end names its addresses inside its packets; use `nat`, or write \"tcp\" and \"udp\" for `all`"),
        );
    }
    if let Some(unrecorded) = service.udp.given().filter(|udp| udp.value != Udp::Tracked) {
        found.push(
            Diagnostic::error(format!("fullnat does not go with {} UDP", unrecorded.value.name()))
                .at(&unrecorded.span, "nothing is recorded")
                .also(&fullnat.span, "a record knows whose the answers are")
                .help("leave `udp` out"),
        );
    }
}

/// A source address is nothing else: what comes to it is a reply.
pub(super) fn sources(draft: &Draft, found: &mut Vec<Diagnostic>) {
    let mut others = BTreeMap::new();
    for service in &draft.services {
        for server in service.reals().flat_map(|server| &server.addresses.items) {
            others.insert(server.value, (server.span.clone(), "a server's address"));
        }
    }
    for to in draft.marks.iter().flat_map(|rule| &rule.to.items) {
        if to.value.prefix_len() == to.value.max_prefix_len() {
            others.insert(to.value.addr(), (to.span.clone(), "a rule's destination"));
        }
    }
    for vip in draft.services.iter().flat_map(|service| &service.vips.items) {
        others.insert(vip.value, (vip.span.clone(), "a VIP"));
    }
    for service in &draft.services {
        for range in &service.sources.items {
            let clash = |address: IpAddr| others.get(&address).map(|other| (address, other));
            let Some((address, (span, what))) = range.value.addresses().find_map(clash) else { continue };
            found.push(
                Diagnostic::error(format!("{address} is a source address of {} and {what}", quoted(&service.name)))
                    .at(&range.span, "its replies come here")
                    .also(span, *what)
                    .help("give fullnat addresses of its own"),
            );
        }
    }
}

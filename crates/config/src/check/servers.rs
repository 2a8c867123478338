//! The real servers of a service: identity, and whether they can take the service's clients.

use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{Field, Located, MarkDraft, ServerDraft, ServiceDraft, forward_of, name_of, vips_of};
use crate::model::Forward;
use std::collections::HashMap;
use std::net::IpAddr;

pub(super) fn check(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    repeated(service, found);
    for server in service.reals() {
        address_and_method(service, server, found);
        thresholds(server, found);
    }
    let vips = vips_of(service, marks);
    server_is_vip(service, &vips, found);
    families(service, marks, &vips, found);
    no_weight(service, found);
}

fn repeated(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let mut names: HashMap<String, Located<String>> = HashMap::new();
    let mut addresses: HashMap<IpAddr, &Located<IpAddr>> = HashMap::new();
    for server in service.reals() {
        let mut address_repeated = false;
        for address in &server.addresses.items {
            if let Some(first) = addresses.get(&address.value) {
                address_repeated = true;
                let diagnostic = Diagnostic::error(format!("two servers have the address {}", address.value))
                    .at(&address.span, "used again")
                    .also(&first.span, "first used here")
                    .help("write one server with the sum of the weights; it serves all ports of the service; a sorry server is another one");
                found.push(diagnostic);
            } else {
                addresses.insert(address.value, address);
            }
        }
        let Some(name) = name_of(service, server) else { continue };
        if let Some(first) = names.get(&name.value) {
            // A server without a name has its address for one; that was said above.
            if !address_repeated {
                let diagnostic = Diagnostic::error(format!("two servers are called {}", quoted(&name.value)))
                    .at(&name.span, "used again")
                    .also(&first.span, "first used here")
                    .help("give each server of a service its own `name`");
                found.push(diagnostic);
            }
        } else {
            names.insert(name.value.clone(), name);
        }
    }
}

/// The director's own sockets need no address, everything else does.
fn address_and_method(service: &ServiceDraft, server: &ServerDraft, found: &mut Vec<Diagnostic>) {
    let Some(forward) = forward_of(service, server) else { return };
    match (forward.value, &server.addresses.span) {
        (Forward::Local, Some(address)) => {
            let diagnostic = Diagnostic::error("a local server has no address")
                .at(address, "not used")
                .also(&forward.span, "packets stay on the director")
                .help("remove `address`, or use forward = \"nat\" to reach another host");
            found.push(diagnostic);
        }
        (method, None) if method != Forward::Local => {
            let diagnostic = Diagnostic::error("`address` is missing")
                .at(&server.header, "has no `address`")
                .help("add, for example, `address = \"10.0.0.11\"`, or `forward = \"local\"` if the director serves");
            found.push(diagnostic);
        }
        _ => {}
    }
}

/// A lower threshold ends what an upper one begins.
fn thresholds(server: &ServerDraft, found: &mut Vec<Diagnostic>) {
    let Some(lower) = server.lower.given().filter(|lower| lower.value != 0) else { return };
    match &server.upper {
        Field::Refused => {}
        Field::Given(upper) if upper.value != 0 && upper.value < lower.value => {
            let diagnostic = Diagnostic::error("the lower threshold is higher than the upper one")
                .at(&lower.span, format!("{} connections", lower.value))
                .also(&upper.span, format!("{} connections", upper.value))
                .help("write a lower one, or leave `lower` out: it is three quarters of `upper` then");
            found.push(diagnostic);
        }
        Field::Given(upper) if upper.value != 0 => {}
        _ => {
            let diagnostic = Diagnostic::error("a lower threshold without an upper one")
                .at(&lower.span, "ends nothing")
                .help("add `upper`, the number of connections from which on the server takes no new clients");
            found.push(diagnostic);
        }
    }
}

/// Its packets would come back to the director for ever.
fn server_is_vip(service: &ServiceDraft, vips: &[Located<IpAddr>], found: &mut Vec<Diagnostic>) {
    for address in service.reals().flat_map(|server| &server.addresses.items) {
        let Some(vip) = vips.iter().find(|vip| vip.value == address.value) else { continue };
        let diagnostic = Diagnostic::error(format!("{} is the server's address and the service's VIP", address.value))
            .at(&address.span, "packets would come back to the director")
            .also(&vip.span, "the VIP")
            .help("write the server's own address; if the director itself serves, use forward = \"local\"");
        found.push(diagnostic);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Family; 2] = [Family::V4, Family::V6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// Each family that clients may use needs a server that can take it, and each server a family.
fn families(service: &ServiceDraft, marks: &[MarkDraft], vips: &[Located<IpAddr>], found: &mut Vec<Diagnostic>) {
    // A refused server or address may be the one that serves; a refused VIP the one that needs it.
    let is_whole = |server: &ServerDraft| match forward_of(service, server) {
        Some(forward) => !server.addresses.incomplete && (is_local(&forward) || !server.addresses.items.is_empty()),
        None => false,
    };
    if service.servers_incomplete || !service.servers.iter().all(is_whole) {
        return;
    }
    let wanted = |family: Family| destination_of(service, marks, vips, family);
    for family in Family::ALL {
        let Some(destination) = wanted(family) else { continue };
        if service.servers.iter().any(|server| serves(service, server, family)) {
            continue;
        }
        let name = family.name();
        let diagnostic = Diagnostic::error(format!("no server of {} can take {name} clients", quoted(&service.name)))
            .at(&destination.span, format!("{name} clients come here"))
            .also(&service.header, format!("no server has an {name} address"))
            .help("give a server one, `address = [\"10.0.0.11\", \"fd00::11\"]`, or use forward = \"tunnel\", which carries both families");
        found.push(diagnostic);
    }
    if service.vips.incomplete || Family::ALL.iter().all(|family| wanted(*family).is_none()) {
        return;
    }
    for server in &service.servers {
        let useful = Family::ALL.into_iter().any(|family| wanted(family).is_some() && serves(service, server, family));
        if let (false, Some(address), Some(name)) = (useful, server.addresses.items.first(), name_of(service, server)) {
            let family = Family::of(address.value).name();
            let diagnostic = Diagnostic::warning(format!("server {} gets no clients", quoted(&name.value)))
                .at(&address.span, format!("reached over {family} only"))
                .also(&service.header, format!("has no {family} VIP"))
                .help("give the server an address, or the service a VIP, of the other's family");
            found.push(diagnostic);
        }
    }
}

/// A destination of this family that clients of the service send to: a VIP or, of a service by mark, what its rules
/// match.
pub(super) fn destination_of(
    service: &ServiceDraft,
    marks: &[MarkDraft],
    vips: &[Located<IpAddr>],
    family: Family,
) -> Option<Located<IpAddr>> {
    let vip = vips.iter().find(|vip| Family::of(vip.value) == family);
    if vip.is_some() {
        return vip.cloned();
    }
    let mark = service.mark.value()?;
    let mut rules = marks.iter().filter(|rule| rule.value.value() == Some(mark));
    rules.find_map(|rule| {
        let is_of = |net: &ipnet::IpNet| Family::of(net.addr()) == family;
        let from = rule.from.span.is_none() || rule.from.values().any(is_of);
        let to = rule.to.items.iter().find(|to| from && is_of(&to.value))?;
        Some(Located { value: to.value.addr(), span: to.span.clone() })
    })
}

fn is_local(forward: &Located<Forward>) -> bool {
    forward.value == Forward::Local
}

pub(super) fn serves(service: &ServiceDraft, server: &ServerDraft, family: Family) -> bool {
    match forward_of(service, server).map(|forward| forward.value) {
        Some(Forward::Nat | Forward::FullNat | Forward::Dr) => {
            server.addresses.values().any(|address| Family::of(*address) == family)
        }
        Some(Forward::Tunnel | Forward::Gue(_) | Forward::Gre | Forward::Local) | None => true,
    }
}

fn no_weight(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let all_zero = service.servers.iter().all(|server| server.weight == 0);
    if all_zero && !service.servers.is_empty() && !service.servers_incomplete {
        let diagnostic = Diagnostic::warning(format!("service {} takes no new clients", quoted(&service.name)))
            .at(&service.header, "every server has weight 0")
            .help("give a server a weight of 1 or more, unless the service is being drained");
        found.push(diagnostic);
    }
}

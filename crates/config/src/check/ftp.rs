//! `protocol = "ftp"`, and what its data connections need.

use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{FtpWay, Located, ServiceDraft, forward_of, ftp_way};
use crate::model::{Forward, MemberPort, PortRange, Protocol};
use std::net::IpAddr;

pub(super) fn check(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    if let (true, Some(passive)) = (service.protocol.is_absent(), service.passive.given()) {
        let diagnostic = Diagnostic::error("`passive` needs `protocol = \"ftp\"`")
            .at(&passive.span, "ports of FTP data connections")
            .also(&service.header, "nothing says that this is FTP")
            .help("add protocol = \"ftp\", or write the range among the `ports`");
        found.push(diagnostic);
    }
    let (Some(way), Some(protocol)) = (ftp_way(service), service.protocol.given()) else { return };
    if let Some(mark) = service.mark.given() {
        let diagnostic = Diagnostic::error("`protocol = \"ftp\"` does not go with `mark`")
            .at(&protocol.span, "needs to know the control port")
            .also(&mark.span, "a mark selects packets by itself")
            .help("name the service's addresses with `vip`; or, to group ports by their mark, leave `protocol` out");
        found.push(diagnostic);
        return;
    }
    control_ports(service, protocol, found);
    match way {
        FtpWay::Read => {}
        FtpWay::Grouped(forward) if forward.value == Forward::FullNat => {
            let diagnostic = Diagnostic::error("`protocol = \"ftp\"` does not go with `fullnat`")
                .at(&protocol.span, "servers want data connections from where the control connection comes")
                .also(&forward.span, "and see addresses of the director's own")
                .help("use forward = \"nat\"");
            found.push(diagnostic);
        }
        FtpWay::Grouped(forward) => grouped(service, &forward, found),
        FtpWay::Mixed(nat, other) => {
            let diagnostic = Diagnostic::error("an FTP service reaches all of its servers by `nat`, or none")
                .at(&other.span, format!("by `{}`", other.value.name()))
                .also(&nat, "by `nat`")
                .help("under NAT the control connections are read, otherwise ports are grouped: choose one");
            found.push(diagnostic);
        }
    }
}

fn control_ports<T>(service: &ServiceDraft, protocol: &Located<T>, found: &mut Vec<Diagnostic>) {
    let passive = service.passive.given().map(|passive| &passive.span);
    for port in service.ports.items.iter().filter(|port| passive != Some(&port.span)) {
        let matching = port.value.matching;
        if matching.protocol == Protocol::Tcp && matching.ports.is_single() {
            continue;
        }
        let diagnostic = Diagnostic::error(format!("{} is no FTP control port", quoted(&matching.to_string())))
            .at(&port.span, "must be a single TCP port")
            .also(&protocol.span, "the ports of this service are those of control connections")
            .help("write the ports of passive data connections as passive = \"10000-10100\", and leave `ports` out");
        found.push(diagnostic);
    }
}

/// The director sees only one direction of the packets: it can read nothing that a server announces.
fn grouped(service: &ServiceDraft, forward: &Located<Forward>, found: &mut Vec<Diagnostic>) {
    let method = forward.value.name();
    if service.persistence.is_none() {
        let diagnostic = Diagnostic::error(format!("FTP under `{method}` needs persistence"))
            .at(&service.header, "has no `persist`")
            .also(&forward.span, "what the servers announce does not come past the director")
            .help("add persist = \"5m\": it keeps a client's data connections with its control connection");
        found.push(diagnostic);
    }
    if service.passive.is_absent() {
        let diagnostic = Diagnostic::error(format!("FTP under `{method}` needs a range of passive ports"))
            .at(&service.header, "has no `passive`")
            .also(&forward.span, "what the servers announce does not come past the director")
            .help("add passive = \"10000-10100\", and give the servers the same range (vsftpd: pasv_min_port, pasv_max_port)");
        found.push(diagnostic);
    }
}

/// A range of passive ports that holds a port of another service: it would open that one's port on their servers, or
/// lose its data connections to it.
pub(super) fn passive_ports(services: &[ServiceDraft], found: &mut Vec<Diagnostic>) {
    for (index, service) in services.iter().enumerate() {
        let (Some(_), Some(passive)) = (ftp_way(service), service.passive.given()) else { continue };
        let others = services.iter().enumerate().filter(|(other, _)| *other != index);
        let mut ports = others.flat_map(|(_, other)| other.ports.items.iter().map(move |port| (other, port)));
        // One is enough to choose another range.
        if let Some((other, port)) = ports.find(|(other, port)| clashes(service, passive.value, other, port)) {
            let (name, held) = (quoted(&service.name), quoted(&port.value.to_string()));
            let message = format!("the passive ports of {name} hold {held} of another service");
            let diagnostic = Diagnostic::error(message)
                .at(&passive.span, "every port here is one of data connections")
                .also(&port.span, format!("a port of {}", quoted(&other.name)))
                .help("choose passive ports that no other service on these addresses or servers has");
            found.push(diagnostic);
        }
    }
}

/// At a VIP that both have, or at a real server.
fn clashes(service: &ServiceDraft, passive: PortRange, other: &ServiceDraft, port: &Located<MemberPort>) -> bool {
    let MemberPort { matching, target } = port.value;
    // Everything that nobody else has is no particular port.
    if matching.protocol != Protocol::Tcp || matching.ports == PortRange::ALL {
        return false;
    }
    let at_server = target.map_or(matching.ports, |port| PortRange { first: port, last: port });
    let share_vip = || service.vips.values().any(|vip| other.vips.values().any(|its| its == vip));
    let share_server = || addresses(service).any(|one| addresses(other).any(|its| its == one));
    (passive.overlaps(matching.ports) && share_vip()) || (passive.overlaps(at_server) && share_server())
}

fn addresses(service: &ServiceDraft) -> impl Iterator<Item = &IpAddr> {
    let reached = service.reals().filter(|server| forward_of(service, server).is_some());
    reached.flat_map(|server| server.addresses.values())
}

//! Quorum and sorry server: what can never hold, and what excludes each other.

use super::servers::{Family, destination_of, serves};
use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{MarkDraft, ServerDraft, ServiceDraft, forward_of, vips_of};
use crate::model::{Forward, Measure};

pub(super) fn check(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    out_of_reach(service, found);
    if let (Some(below), Some(sorry)) = (service.below_quorum.given(), &service.sorry) {
        let diagnostic = Diagnostic::error("`below_quorum` and `sorry` exclude each other")
            .at(&below.span, "without a sorry server")
            .also(&sorry.header, "takes new clients below the quorum")
            .help("keep one of the two");
        found.push(diagnostic);
    }
    if let Some(sorry) = service.sorry.as_ref().filter(|sorry| is_local(service, sorry))
        && let Some(server) = service.servers.iter().find(|server| is_local(service, server))
    {
        let diagnostic = Diagnostic::error("the director itself is a server and the sorry server")
            .at(&sorry.header, "would be the same")
            .also(&server.header, "serves on the director's own sockets")
            .help("reach one of the two at another host");
        found.push(diagnostic);
    }
    families(service, marks, found);
}

fn is_local(service: &ServiceDraft, server: &ServerDraft) -> bool {
    forward_of(service, server).is_some_and(|forward| forward.value == Forward::Local)
}

/// More than all servers together have.
fn out_of_reach(service: &ServiceDraft, found: &mut Vec<Diagnostic>) {
    let Some(quorum) = service.quorum.given().filter(|_| !service.servers_incomplete) else { return };
    let weights = service.servers.iter().map(|server| u64::from(server.weight)).filter(|weight| *weight > 0);
    let (there, what) = match quorum.value.measure {
        Measure::Weight => (weights.sum::<u64>(), "weight"),
        Measure::Servers => (weights.count() as u64, "servers"),
    };
    let needed = u64::from(quorum.value.needed) + u64::from(quorum.value.hysteresis);
    // Without any weight more is said elsewhere.
    if there == 0 || there >= needed {
        return;
    }
    let message = if there < u64::from(quorum.value.needed) - u64::from(quorum.value.hysteresis) {
        format!("service {} is always below its quorum", quoted(&service.name))
    } else {
        format!("service {} never gets a lost quorum back", quoted(&service.name))
    };
    let diagnostic = Diagnostic::warning(message)
        .at(&quorum.span, format!("needs {needed} ({what})"))
        .also(&service.header, format!("has {there}"))
        .help("lower the quorum or its hysteresis, or give the servers more weight");
    found.push(diagnostic);
}

/// Clients of a family that the sorry server has not are refused.
fn families(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    let Some(sorry) = service.sorry.as_ref().filter(|sorry| !sorry.addresses.incomplete) else { return };
    let vips = vips_of(service, marks);
    for family in Family::ALL {
        let Some(destination) = destination_of(service, marks, &vips, family) else { continue };
        if !serves(service, sorry, family) && sorry.addresses.span.is_some() {
            let name = family.name();
            let diagnostic = Diagnostic::warning(format!("{name} clients have no sorry server"))
                .at(&sorry.header, format!("has no {name} address"))
                .also(&destination.span, format!("{name} clients come here"))
                .help("give it an address of each family; without one they are refused below the quorum");
            found.push(diagnostic);
        }
    }
}

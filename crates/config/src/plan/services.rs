//! Each service by family: who serves IPv4 clients, who IPv6.

use super::{CheckPlan, Family, Outcome, RealPlan, Role, ServiceIndex, ServicePlan, Standing};
use crate::model::{
    CheckPolicy, Config, Forward, MAX_PARTS, Mark, MarkRule, MemberPort, PortMatch, Selector, Server, Service, Via,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The services of a plan, and where those of the model went.
#[derive(Default)]
pub(super) struct Services {
    pub plans: Vec<ServicePlan>,
    by_place: HashMap<(usize, Family), ServiceIndex>,
    by_mark: HashMap<(Mark, Family), Outcome>,
}

impl Services {
    pub fn of(config: &Config) -> Self {
        let marked: HashSet<(Mark, Family)> = config.marks.iter().flat_map(marked).collect();
        let mut services = Self::default();
        for (place, service) in config.services.iter().enumerate() {
            for family in Family::ALL {
                let has_vip = service.selector.vips().iter().any(|vip| Family::of(*vip) == family);
                let (mark, target) = match service.selector {
                    Selector::Mark { mark, target, .. } => (Some(mark), target),
                    Selector::Ports { .. } => (None, None),
                };
                if has_vip || mark.is_some_and(|mark| marked.contains(&(mark, family))) {
                    let index = services.plans.len();
                    services.plans.push(plan(service, family, &config.marks));
                    services.by_place.insert((place, family), index);
                    let outcome = Outcome { service: index, part: None, target, expected: false };
                    services.by_mark.extend(mark.map(|mark| ((mark, family), outcome)));
                }
            }
        }
        services
    }

    /// The service at this place in the file, for clients of this family.
    pub fn by_place(&self, place: usize, family: Family) -> Option<ServiceIndex> {
        self.by_place.get(&(place, family)).copied()
    }

    /// As whom the real servers of a service open connections: the first VIP of each family, if they do.
    pub fn outbound_vips(&self, service: &Service) -> Vec<IpAddr> {
        if service.outbound.is_empty() {
            return Vec::new();
        }
        let first = |family| service.selector.vips().iter().find(|vip| Family::of(**vip) == family).copied();
        Family::ALL.into_iter().filter_map(first).collect()
    }

    /// What becomes of a mark, of clients of this family.
    pub fn by_mark(&self, mark: Mark, family: Family) -> Option<Outcome> {
        self.by_mark.get(&(mark, family)).copied()
    }
}

/// What packets may carry because of a rule: an IPv4 packet does not go from an IPv6 address.
fn marked(rule: &MarkRule) -> impl Iterator<Item = (Mark, Family)> {
    let can_match = |family: &Family| {
        rule.to.iter().any(|to| Family::of(to.addr()) == *family)
            && (rule.from.is_empty() || rule.from.iter().any(|from| Family::of(from.addr()) == *family))
    };
    Family::ALL.into_iter().filter(can_match).map(|family| (rule.value, family))
}

fn plan(service: &Service, family: Family, marks: &[MarkRule]) -> ServicePlan {
    let availability = &service.availability;
    let mut reals: Vec<RealPlan> = service.servers.iter().filter_map(|server| real(server, family)).collect();
    let sorry = availability.sorry.iter().filter_map(|server| real(server, family));
    reals.extend(sorry.map(|sorry| RealPlan { role: Role::Sorry, weight: 0, standing: Standing::Waiting, ..sorry }));
    let lends = reals.iter().any(|real| real.forward == Forward::FullNat);
    let sources = service.sources.iter().filter(|_| lends).flat_map(|range| range.addresses());
    let checks = checks(service, family, marks);
    ServicePlan {
        name: service.name.clone(),
        family,
        scheduler: service.scheduler,
        scheduler_flags: service.scheduler_flags,
        persistence: service.persistence,
        timeouts: service.timeouts,
        udp: service.udp,
        reuse: service.reuse,
        ftp: service.ftp,
        vip: service.selector.vips().iter().find(|vip| Family::of(**vip) == family).copied(),
        parts: parts(service, &checks),
        checks,
        check_policy: service.check_policy,
        sources: sources.filter(|address| Family::of(*address) == family).collect(),
        on_failure: service.on_failure,
        drain: service.drain,
        rate_limit: service.rate_limit,
        quorum: availability.quorum,
        below_quorum: availability.below_quorum,
        is_below_quorum: false,
        start: availability.start,
        reals,
    }
}

fn checks(service: &Service, family: Family, marks: &[MarkRule]) -> Arc<[CheckPlan]> {
    let members: Vec<MemberPort> = match &service.selector {
        Selector::Ports { ports, .. } => ports.clone(),
        Selector::Mark { mark, target, .. } => {
            let ports = marks.iter().filter(|rule| rule.value == *mark).flat_map(|rule| &rule.ports);
            ports.map(|&matching| MemberPort { matching, target: *target }).collect()
        }
    };
    let vips = || service.selector.vips().iter().filter(|vip| Family::of(**vip) == family).copied();
    let mut planned = Vec::new();
    for check in &service.checks {
        let mut plan = |vip| planned.push(CheckPlan { check: check.clone(), vip, ports: check.members(&members) });
        match check.via {
            Via::Server => plan(None),
            // A real server may lack any of them.
            Via::Vip => vips().for_each(|vip| plan(Some(vip))),
        }
    }
    planned.into()
}

/// Each member port that a check speaks for, where each counts for itself: with the only one that is checked a real server
/// loses all.
fn parts(service: &Service, checks: &[CheckPlan]) -> Vec<PortMatch> {
    let mut parts = Vec::new();
    if service.check_policy == CheckPolicy::PerPort {
        for port in checks.iter().flat_map(|check| &check.ports) {
            if !parts.contains(port) {
                parts.push(*port);
            }
        }
        parts.truncate(MAX_PARTS);
    }
    if parts.len() > 1 { parts } else { Vec::new() }
}

/// The part of a service that a member port of it is.
pub(super) fn part(parts: &[PortMatch], port: &PortMatch) -> Option<u8> {
    parts.iter().position(|part| part == port).and_then(|part| u8::try_from(part).ok())
}

/// None: the server cannot take clients of this family.
fn real(server: &Server, family: Family) -> Option<RealPlan> {
    let same_family = || server.addresses.iter().find(|address| Family::of(**address) == family);
    let address: Option<IpAddr> = match server.forward {
        Forward::Nat | Forward::FullNat | Forward::Dr => Some(*same_family()?),
        // The outer header may be of the other family.
        Forward::Tunnel | Forward::Gue(_) | Forward::Gre => Some(*same_family().or(server.addresses.first())?),
        Forward::Local => None,
    };
    Some(RealPlan {
        name: server.name.clone(),
        address,
        weight: server.weight,
        upper: server.upper,
        lower: server.lower,
        forward: server.forward,
        drain: server.drain,
        closed: 0,
        role: Role::Regular,
        standing: Standing::Serving,
    })
}

//! Health checks as the file has them, and which ports they go to.

use super::{Field, Located, MarkDraft, ServiceDraft};
use crate::diagnostic::Span;
use crate::model::{Check, MemberPort, PortMatch, Protocol, Talk, Via};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(crate) struct CheckDraft {
    pub span: Span,
    /// Without its port. None: something in it was refused.
    pub check: Option<Check>,
    pub port: Option<Located<u16>>,
    pub via: Field<Via>,
}

/// Where a check goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the server as such.
    Server,
    /// To these of the server's ports; never empty.
    Ports(Vec<u16>),
    Unknown(UnknownPort),
}

/// Why nobody knows which port a check goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownPort {
    /// There is no port of this protocol, or only ranges.
    NoneSingle(Protocol),
    /// There are several, and none is the usual one.
    Several,
    /// It is asked somewhere else than clients are served.
    OfItsOwn,
}

/// The real servers' single ports of a protocol, ascending.
fn single_ports(service: &ServiceDraft, marks: &[MarkDraft], protocol: Protocol) -> BTreeSet<u16> {
    let members = members(service, marks).into_iter();
    let single = members.filter(|member| member.matching.protocol == protocol && member.matching.ports.is_single());
    let mut ports: BTreeSet<u16> =
        single.map(|member| member.target.unwrap_or(member.matching.ports.first)).filter(|port| *port != 0).collect();
    if protocol == Protocol::Tcp && ports.contains(&FTP_CONTROL) {
        ports.remove(&FTP_DATA);
    }
    ports
}

/// Nobody listens where FTP's data connections come from (RFC 959 §8), also where it is grouped with the control port.
const FTP_CONTROL: u16 = 21;
const FTP_DATA: u16 = 20;

/// The member ports of a service; of one by mark, those of the mark's rules.
pub(crate) fn members(service: &ServiceDraft, marks: &[MarkDraft]) -> Vec<MemberPort> {
    let Some(mark) = service.mark.value() else { return service.ports.values().copied().collect() };
    let rules = marks.iter().filter(|rule| rule.value.value() == Some(mark));
    let target = service.target.value();
    rules.flat_map(|rule| rule.ports.values()).map(|&matching| MemberPort { matching, target }).collect()
}

pub(crate) fn reach(service: &ServiceDraft, marks: &[MarkDraft], draft: &CheckDraft, talk: &Talk) -> Reach {
    if let Some(port) = &draft.port {
        return Reach::Ports(vec![port.value]);
    }
    let protocol = match talk {
        Talk::Ping | Talk::Script(_) => return Reach::Server,
        Talk::Agent { .. } => return Reach::Unknown(UnknownPort::OfItsOwn),
        _ => talk.protocol().unwrap_or(Protocol::Tcp),
    };
    let ports = single_ports(service, marks, protocol);
    let usual = match talk {
        Talk::Tcp(_) | Talk::Udp(_) => None,
        Talk::Http(http) if http.tls.is_none() => Some(80),
        Talk::Http(_) | Talk::Tls(..) => Some(443),
        Talk::Dns(_) => Some(53),
        Talk::Smtp => Some(25),
        Talk::Ftp => Some(21),
        Talk::Ping | Talk::Script(_) | Talk::Agent { .. } => None,
    };
    let every = matches!(talk, Talk::Tcp(_) | Talk::Udp(_));
    match usual.filter(|usual| ports.contains(usual)) {
        Some(usual) => Reach::Ports(vec![usual]),
        None if ports.is_empty() => Reach::Unknown(UnknownPort::NoneSingle(protocol)),
        None if every || ports.len() == 1 => Reach::Ports(ports.into_iter().collect()),
        None => Reach::Unknown(UnknownPort::Several),
    }
}

/// The member ports that checks of a service speak for, each once; 0 where the ports of one are not known.
pub(crate) fn checked_ports(service: &ServiceDraft, marks: &[MarkDraft]) -> usize {
    let members = members(service, marks);
    let ports: BTreeSet<PortMatch> = finish(service, marks).iter().flat_map(|check| check.members(&members)).collect();
    ports.len()
}

/// The checks of a service in which nothing was refused: its own, or a connection to each single TCP port.
pub(super) fn finish(service: &ServiceDraft, marks: &[MarkDraft]) -> Vec<Check> {
    let Some(drafts) = &service.checks else {
        return single_ports(service, marks, Protocol::Tcp).into_iter().map(Check::tcp).collect();
    };
    let mut checks: Vec<Check> = Vec::new();
    for draft in drafts {
        let Some(check) = &draft.check else { continue };
        let ports = match reach(service, marks, draft, &check.talk) {
            Reach::Server => vec![None],
            Reach::Ports(ports) => ports.into_iter().map(Some).collect(),
            Reach::Unknown(_) => Vec::new(),
        };
        for port in ports {
            let check = Check { port, ..check.clone() };
            if !checks.contains(&check) {
                checks.push(check);
            }
        }
    }
    checks
}

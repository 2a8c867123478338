//! Health checks against the service that they are of.

use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{
    CheckDraft, MarkDraft, Reach, ServiceDraft, UnknownPort, checked_ports, forward_of, members, reach, vips_of,
};
use crate::model::{Check, CheckPolicy, Forward, MAX_PARTS, MemberPort, Talk, Udp, Via};

pub(super) fn check(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    per_port(service, marks, found);
    let Some(checks) = &service.checks else { return };
    let is_whole = !service.ports.incomplete
        && !service.mark.is_refused()
        && !service.target.is_refused()
        && marks.iter().all(|rule| !rule.value.is_refused() && !rule.ports.incomplete);
    for draft in checks.iter().filter(|_| is_whole) {
        let Some(check) = &draft.check else { continue };
        let reach = reach(service, marks, draft, &check.talk);
        through(service, marks, draft, &reach, found);
        let Reach::Unknown(why) = reach else { continue };
        let kind = check.talk.name();
        let (message, label) = match why {
            UnknownPort::NoneSingle(protocol) => {
                let name = protocol.name().to_uppercase();
                (format!("the service has no single {name} port to check"), format!("`{kind}` asks a {name} port"))
            }
            UnknownPort::Several => {
                (format!("`{kind}` can go to several ports of the service"), "which port?".to_string())
            }
            UnknownPort::OfItsOwn => (format!("a check of the kind `{kind}` needs a port"), "which port?".to_string()),
        };
        let selector = service.ports.span.as_ref().or(service.mark.given().map(|mark| &mark.span));
        let mut diagnostic = Diagnostic::error(message)
            .at(&draft.span, label)
            .help(format!("add the real server's port, for example `port = {}`", example_port(kind)));
        if let Some(selector) = selector.filter(|_| why != UnknownPort::OfItsOwn) {
            diagnostic = diagnostic.also(selector, "what clients connect to");
        }
        found.push(diagnostic);
    }
    let is_agent = |draft: &CheckDraft| matches!(draft.check, Some(Check { talk: Talk::Agent { .. }, .. }));
    if let (Some(first), true) = (checks.first(), checks.iter().all(is_agent)) {
        let diagnostic = Diagnostic::warning("an agent alone does not find out that a server is dead")
            .at(&first.span, "one that does not answer changes nothing")
            .help("add a check that must be answered: { tcp = true }");
        found.push(diagnostic);
    }
    if let (Some(policy), true) = (service.check_policy.given(), checks.is_empty()) {
        let name = quoted(&service.name);
        let diagnostic = Diagnostic::warning(format!("service {name} has a policy on failed checks, and no checks"))
            .at(&policy.span, "decides nothing")
            .also(&service.header, "this service")
            .help("leave out `check_policy`, or `check = \"none\"`");
        found.push(diagnostic);
    }
}

/// Ports of which each counts for itself: what there must be of them, and what does not go with them.
fn per_port(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    let Some(policy) = service.check_policy.given().filter(|policy| policy.value == CheckPolicy::PerPort) else {
        return;
    };
    if let Some(udp) = service.udp.given().filter(|udp| udp.value == Udp::Stateless) {
        let diagnostic = Diagnostic::error("`check_policy = \"per-port\"` does not go with stateless UDP")
            .at(&policy.span, "takes new flows away")
            .also(&udp.span, "nothing tells new flows from others")
            .help("use check_policy = \"all\", or udp = \"tracked\"");
        found.push(diagnostic);
    }
    let ports = checked_ports(service, marks);
    if ports > MAX_PARTS {
        let diagnostic = Diagnostic::error(format!("checks look at {ports} ports of the service"))
            .at(&policy.span, format!("tells at most {MAX_PARTS} apart"))
            .also(&service.header, "this service")
            .help("check fewer ports, spread them over several services, or use check_policy = \"all\"");
        found.push(diagnostic);
    }
}

/// Whether clients' packets go where a check is to go as one of them.
fn through(
    service: &ServiceDraft,
    marks: &[MarkDraft],
    draft: &CheckDraft,
    reach: &Reach,
    found: &mut Vec<Diagnostic>,
) {
    let Some(via) = draft.via.given().filter(|via| via.value == Via::Vip) else { return };
    let Some(check) = &draft.check else { return };
    let name = quoted(&service.name);
    if vips_of(service, marks).is_empty() {
        // Of one by ports that is an error of its own.
        if !service.mark.is_absent() && !service.vips.incomplete {
            let diagnostic = Diagnostic::error(format!("service {name} has no VIP that a check could go to"))
                .at(&via.span, "to which address?")
                .also(&service.header, "takes whatever a prefix holds")
                .help("say which addresses real servers must have: `vip = [\"192.0.2.10\"]` in the service");
            found.push(diagnostic);
        }
        return;
    }
    if let Talk::Udp(exchange) = &check.talk
        && exchange.expect.is_none()
    {
        let diagnostic = Diagnostic::error("a datagram that nothing answers finds out nothing about its way")
            .at(&via.span, "a server that never gets it is silent, too")
            .also(&draft.span, "expects no answer")
            .help("add what the server sends and answers: `send` and `expect`");
        found.push(diagnostic);
    }
    let members = members(service, marks);
    if let Reach::Ports(ports) = reach
        && let Some(port) = ports.iter().find(|port| is_foreign(check, **port, &members))
    {
        let at = draft.port.as_ref().map_or(&draft.span, |port| &port.span);
        let mut diagnostic = Diagnostic::error(format!("port {port} is no port of service {name}"))
            .at(at, "no client's packets go there")
            .also(&via.span, "as a client's packets do")
            .help("name a port that clients are forwarded to, or leave out `via`");
        if let Some(ports) = &service.ports.span {
            diagnostic = diagnostic.also(ports, "what clients connect to");
        }
        found.push(diagnostic);
    }
    let is_alike = |server| {
        let forward = forward_of(service, server);
        forward.is_some_and(|forward| matches!(forward.value, Forward::FullNat | Forward::Local))
    };
    if !service.servers.is_empty() && service.servers.iter().all(is_alike) {
        let diagnostic = Diagnostic::warning("this check is the same without `via`")
            .at(&via.span, "changes nothing")
            .also(&service.header, "fullnat and local servers see the director itself in any case")
            .help("leave it out");
        found.push(diagnostic);
    }
}

/// Whether no member port leads to a real server's port. A rule that names no ports has them all.
fn is_foreign(check: &Check, port: u16, members: &[MemberPort]) -> bool {
    !members.is_empty() && Check { port: Some(port), ..check.clone() }.members(members).is_empty()
}

fn example_port(kind: &str) -> u16 {
    match kind {
        "http" => 8080,
        "https" | "tls" => 8443,
        "dns" => 53,
        "agent" => 7000,
        _ => 10_000,
    }
}

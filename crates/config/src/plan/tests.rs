//! Configurations, and the plans that they become.

mod agreement;
mod candidates;
mod difference;
mod replies;
mod services;

use super::*;

/// The plan of a configuration file, without its `[router]`.
fn try_plan(text: &str) -> Result<Plan, PlanError> {
    let text = format!("[router]\noutside = \"eth0\"\ninside = [\"eth1\", \"eth2\"]\n{text}");
    match crate::load("marca.toml", &text) {
        Ok(loaded) => Plan::of(&loaded.config),
        Err(diagnostics) => panic!("{}", diagnostics.render(false)),
    }
}

fn plan(text: &str) -> Plan {
    try_plan(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Where packets go: `192.0.2.10/32 tcp/80: from 10.0.0.0/8 on eth1 -> shop | -> mail:8025`.
fn paths(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for destination in &plan.destinations {
        let family = Family::of(destination.net.addr());
        for port in &destination.ports {
            let matching = crate::model::PortMatch { protocol: port.protocol, ports: port.ports };
            let candidates: Vec<String> =
                port.candidates.iter().map(|candidate| describe(plan, family, candidate)).collect();
            lines.push(format!("{} {matching}: {}", destination.net, candidates.join(" | ")));
        }
    }
    lines
}

fn describe(plan: &Plan, family: Family, candidate: &Candidate) -> String {
    let mut text = String::new();
    if let Some(from) = candidate.condition.from {
        text += &format!("from {from} ");
    }
    if let Some(interface) = &candidate.condition.interface {
        text += &format!("on {interface} ");
    }
    match candidate.outcome {
        None => text + "-> nobody",
        Some(outcome) if outcome.expected => format!("{text}-> {} expected", plan.services[outcome.service].name),
        Some(outcome) => {
            let service = &plan.services[outcome.service];
            assert_eq!(service.family, family, "{} gets packets of the other family", service.name);
            let target = outcome.target.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{text}-> {}{target}", service.name)
        }
    }
}

/// What servers' ports mean: `10.0.0.11 tcp/8080 = shop 192.0.2.10 80`.
fn meanings(plan: &Plan) -> Vec<String> {
    let meaning = |(from, reply): (&ReplyPort, &Reply)| {
        let ReplyPort { address, protocol, port } = from;
        match reply {
            Reply::Unique { service, vip, port: vip_port, .. } => {
                format!("{address} {protocol}/{port} = {} {vip} {vip_port}", plan.services[*service].name)
            }
            Reply::Ambiguous => format!("{address} {protocol}/{port} = ?"),
        }
    };
    plan.replies.iter().map(meaning).collect()
}

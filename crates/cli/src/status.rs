//! `marca status`.

use crate::{PlaceOptions, api, print};
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use marca_daemon::status::{
    FailureStatus, InterfaceStatus, LeavingStatus, QuorumStatus, Running, ServerStatus, ServiceStatus, Status,
    TrafficStatus,
};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

pub fn status(options: &Options) -> Result<()> {
    // The kernel's tables go on counting while no daemon runs.
    let status = match api::get(&options.place, "/v1/status")? {
        Some(status) => status,
        None => Running::open(&options.place.place())?.status(),
    };
    let text = if options.json { serde_json::to_string_pretty(&status)? } else { render(&status) };
    print(&text)
}

fn render(status: &Status) -> String {
    let mut lines = Vec::new();
    let interface = |i: &InterfaceStatus| match &i.why {
        Some(why) => format!("{} ({}: {why})", i.name, i.attached),
        None => format!("{} ({})", i.name, i.attached),
    };
    let interfaces: Vec<String> = status.interfaces.iter().map(interface).collect();
    lines.push(match status.daemon {
        Some(pid) => format!("director: daemon {pid}, on {}", interfaces.join(", ")),
        None => format!("director: NO DAEMON, packets are forwarded; on {}", interfaces.join(", ")),
    });
    lines.extend(status.unwritten.iter().map(|why| format!("NOT WRITTEN DOWN: {why}")));
    for service in &status.services {
        lines.push(String::new());
        lines.extend(head(service));
        lines.push(servers(service).trim_fmt());
        lines.extend(service.servers.iter().filter_map(by_hand));
        lines.extend(service.servers.iter().flat_map(health));
        lines.extend(service.leaving.iter().map(leaving));
    }
    lines.push(String::new());
    let tables: Vec<String> =
        status.tables.iter().map(|(name, table)| format!("{name} {} of {}", table.used, table.size)).collect();
    // Two seconds are nothing to people.
    let old = status.tables.values().map(|table| table.seconds_old).max().filter(|seconds| *seconds > 5);
    let old = old.map_or(String::new(), |seconds| format!(", counted {seconds} s ago"));
    lines.push(format!("records: {}{old}", tables.join(", ")));
    let reasons: Vec<String> =
        status.reasons.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{reason} {n}")).collect();
    lines.push(format!("packets: {}", if reasons.is_empty() { "none yet".into() } else { reasons.join(", ") }));
    lines.join("\n")
}

fn head(service: &ServiceStatus) -> Vec<String> {
    let vips: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
    let flags: String = service.scheduler_flags.iter().map(|flag| format!(" {flag}")).collect();
    let mut settings = format!("{}{flags} {}", service.scheduler, service.forward);
    if service.udp != "tracked" {
        settings.push_str(&format!(" udp {}", service.udp));
    }
    if let Some(seconds) = service.persist_seconds {
        settings.push_str(&format!(" persist {seconds}s"));
    }
    if service.quorum.needed != 1 {
        settings.push_str(&format!(" quorum {}", service.quorum.needed));
    }
    if service.rate_limited > 0 {
        settings.push_str(&format!(", {} new connections beyond the rate limit", human(service.rate_limited)));
    }
    let mut lines =
        vec![format!("{}: {} on {}", service.name, service.ports.join(" "), vips.join(" ")), format!("  {settings}")];
    lines.extend(service.quorum.below.then(|| format!("  {}", below_quorum(service))));
    lines
}

/// What becomes of new clients.
fn below_quorum(service: &ServiceStatus) -> String {
    let QuorumStatus { measure, needed, up, policy, .. } = &service.quorum;
    let sorry = service.servers.iter().find(|server| server.sorry);
    let then = match (policy.as_str(), sorry) {
        ("sorry", Some(sorry)) => format!("go to {}", sorry.name),
        ("drop", _) => "are dropped".into(),
        ("serve", _) => "go to those that are left".into(),
        _ => "are refused".into(),
    };
    format!("BELOW ITS QUORUM, {} of {needed} ({measure}): new clients {then}", up.unwrap_or(0))
}

/// What an operator has said of a real server.
fn by_hand(server: &ServerStatus) -> Option<String> {
    let hand = server.by_hand.as_ref()?;
    let until = |until: &Option<String>| until.as_ref().map_or(String::new(), |until| format!(" until {until}"));
    let duty = hand.duty.as_ref().map(|duty| format!("{duty}{}", until(&hand.duty_until)));
    let weight = hand
        .weight
        .map(|weight| format!("weight {weight} instead of {}{}", hand.configured_weight, until(&hand.weight_until)));
    let said: Vec<String> = duty.into_iter().chain(weight).collect();
    Some(format!("   by hand: {}, {}", server.name, said.join(", ")))
}

/// A real server that has been removed.
fn leaving(server: &LeavingStatus) -> String {
    let LeavingStatus { name, active, inactive, .. } = server;
    format!("   removed: {name}, {} ({active} active, {inactive} inactive)", state(&server.state, server.seconds_left))
}

/// What checks have against a real server, and what they say of its weight.
fn health(server: &ServerStatus) -> Vec<String> {
    let Some(health) = &server.health else { return Vec::new() };
    let name = &server.name;
    let failure = |FailureStatus { check, why, seconds }: &FailureStatus| {
        let since = marca_config::text::duration::print(Duration::from_secs(*seconds));
        format!("   {name}: {check} fails for {since}: {why}")
    };
    let mut lines: Vec<String> = health.failures.iter().map(failure).collect();
    if !health.without_ports.is_empty() {
        lines.push(format!("   {name}: no new connections to {}", health.without_ports.join(" ")));
    }
    lines.extend(health.weight.map(|weight| format!("   {name}: says its weight: {weight}")));
    lines
}

/// With the time that is left.
fn state(state: &str, seconds_left: Option<u64>) -> String {
    match seconds_left {
        Some(seconds) if seconds > 0 => {
            format!("{state} {}", marca_config::text::duration::print(Duration::from_secs(seconds)))
        }
        _ => state.to_owned(),
    }
}

fn state_of(server: &ServerStatus) -> String {
    let mut state = state(&server.state, server.seconds_left);
    if !server.only_ports.is_empty() {
        state = format!("{state} {}", server.only_ports.join(" "));
    }
    match server.causes.is_empty() {
        true => state,
        false => format!("{state} ({})", server.causes.join(", ")),
    }
}

fn servers(service: &ServiceStatus) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "",
        "server",
        "address",
        "method",
        "weight",
        "state",
        "upper",
        "active",
        "inactive",
        "conns",
        "in pkts",
        "out pkts",
        "in bytes",
        "out bytes",
    ]);
    for server in &service.servers {
        let addresses: Vec<String> = server.addresses.iter().map(ToString::to_string).collect();
        let mut row = vec![
            "->".to_owned(),
            server.name.clone(),
            addresses.join(" "),
            server.forward.to_owned(),
            server.weight.to_string(),
            state_of(server),
            limit(server),
            server.active.to_string(),
            server.inactive.to_string(),
        ];
        row.extend(traffic(&server.traffic));
        table.add_row(row);
    }
    let mut total = vec!["".to_owned(), "all".into(), "".into(), "".into(), "".into(), "".into(), "".into()];
    total.push(service.servers.iter().map(|s| s.active).sum::<u64>().to_string());
    total.push(service.servers.iter().map(|s| s.inactive).sum::<u64>().to_string());
    total.extend(traffic(&service.traffic));
    table.add_row(total);
    for column in (4..14).filter(|column| *column != 5) {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The upper threshold, and whether it is reached.
fn limit(server: &ServerStatus) -> String {
    match (server.upper, server.overloaded) {
        (0, _) => "-".into(),
        (upper, false) => upper.to_string(),
        (upper, true) => format!("{upper} full"),
    }
}

fn traffic(t: &TrafficStatus) -> [String; 5] {
    [t.connections, t.in_packets, t.out_packets, t.in_bytes, t.out_bytes].map(human)
}

/// As ipvsadm prints counters: whole up to a hundred thousand, then in thousands, millions and so on.
fn human(n: u64) -> String {
    match n {
        0..=99_999 => n.to_string(),
        100_000..=99_999_999 => format!("{}K", n / 1000),
        100_000_000..=99_999_999_999 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

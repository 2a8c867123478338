use super::*;
use crate::status::{FailureStatus, InterfaceStatus, LeavingStatus, QuorumStatus, TableStatus};
use std::collections::{BTreeMap, HashSet};

fn server(name: &str, state: &str, connections: u64) -> ServerStatus {
    let traffic = TrafficStatus { connections, in_packets: connections * 10, in_bytes: connections * 1000, ..OUT };
    ServerStatus {
        name: name.to_owned(),
        addresses: vec!["10.0.0.11".parse().unwrap()],
        forward: "nat".into(),
        weight: 3,
        by_hand: None,
        sorry: false,
        only_ports: vec![],
        causes: vec![],
        health: Some(HealthStatus {
            checks: 2,
            down: state == "down",
            failures: if state == "down" { vec![failure()] } else { vec![] },
            without_ports: if state == "up" { vec!["tcp/443".into()] } else { vec![] },
            weight: None,
        }),
        state: state.into(),
        seconds_left: None,
        upper: 0,
        lower: 0,
        overloaded: state == "up",
        active: 2,
        inactive: 1,
        traffic,
    }
}

fn failure() -> FailureStatus {
    FailureStatus { check: "tcp/80".into(), why: "connection refused".into(), seconds: 7 }
}

const OUT: TrafficStatus = TrafficStatus { connections: 0, in_packets: 0, in_bytes: 0, out_packets: 5, out_bytes: 500 };

fn service(name: &str, rate_limited: u64, servers: Vec<ServerStatus>) -> ServiceStatus {
    ServiceStatus {
        name: name.to_owned(),
        vips: vec!["192.0.2.10".parse().unwrap()],
        ports: vec!["tcp/80".to_owned()],
        scheduler: "wlc".into(),
        scheduler_flags: vec![],
        udp: "tracked".into(),
        persist_seconds: None,
        forward: "nat".into(),
        quorum: QuorumStatus {
            measure: "weight".into(),
            needed: 1,
            hysteresis: 0,
            up: Some(3),
            below: false,
            policy: "refuse".into(),
        },
        rate_limited,
        checks: vec!["tcp/80".into(), "http/80 /healthz".into()],
        pool: servers.len() as u32,
        states: BTreeMap::new(),
        active: 0,
        inactive: 0,
        traffic: TrafficStatus::default(),
        servers,
        leaving: vec![LeavingStatus {
            name: "gone".into(),
            address: None,
            state: "leaving".into(),
            seconds_left: None,
            active: 7,
            inactive: 0,
        }],
    }
}

fn status(services: Vec<ServiceStatus>) -> Status {
    let interface = InterfaceStatus { name: "eth0".into(), attached: "native XDP".into(), why: None };
    Status {
        unwritten: None,
        daemon: Some(1),
        interfaces: vec![interface],
        services,
        tables: [("flows".into(), TableStatus { used: 10, size: 1024, seconds_old: 2 })].into(),
        checks: ChecksStatus { good: 100, bad: 3, unasked: 0 },
        reasons: Reason::ALL.iter().map(|reason| (reason.label().into(), 0)).collect(),
    }
}

fn shop() -> Status {
    status(vec![service("shop", 4, vec![server("web1", "up", 3), server("a \"b\"\\\nc", "down", 1)])])
}

fn text(status: &Status, detail: Detail, format: Format) -> String {
    let mut sums = Sums::default();
    sums.add(status);
    let mut took = Took::default();
    [2, 700].into_iter().for_each(|ms| took.add(Duration::from_millis(ms)));
    let (took, checks) = (Duration::from_millis(1500), &[("tcp", took)].into());
    Scrape { status, sums: &sums, detail, took, checks }.resolved().text(format)
}

#[test]
fn a_scrape_tells_everything_in_prometheuss_own_format() {
    let mut shop = shop();
    shop.reasons.retain(|reason, _| ["nat", "table_full", "not_ours"].contains(&reason.as_str()));
    insta::assert_snapshot!(text(&shop, Detail::Auto, Format::Classic));
}

#[test]
fn and_the_same_in_openmetrics() {
    let classic = text(&shop(), Detail::Auto, Format::Classic);
    let open = text(&shop(), Detail::Auto, Format::Open);
    let samples =
        |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(samples(&classic), samples(&open));
    assert!(open.ends_with("\n# EOF\n"));
    assert!(
        open.contains("# TYPE marca_in_bytes counter\n# UNIT marca_in_bytes bytes\nmarca_in_bytes_total "),
        "{open}"
    );
    assert!(classic.contains("# TYPE marca_in_bytes_total counter\nmarca_in_bytes_total "), "{classic}");
    assert_eq!(
        Format::accepted(Some("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1")),
        Format::Open
    );
    assert_eq!(Format::accepted(Some("*/*")), Format::Classic);
    assert_eq!(Format::accepted(None), Format::Classic);
}

#[test]
fn names_and_words_keep_prometheuss_conventions() {
    let mut names = HashSet::new();
    for metric in METRICS {
        let name = metric.name();
        assert!(names.insert(name.clone()), "{name} is there twice");
        assert!(name.starts_with("marca_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert!(metric.unit.is_none_or(|unit| metric.family().ends_with(unit.name())), "{name}");
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\', '"']), "{name}");
        let of: &[&str] = match metric.needs() {
            Detail::Servers => &["service", "server"],
            Detail::Services => &["service"],
            _ => &[],
        };
        assert!(metric.labels.starts_with(of), "{name}");
    }
}

#[test]
fn every_state_of_a_server_and_every_reason_has_a_series_from_the_beginning() {
    let text = text(&status(vec![]), Detail::Auto, Format::Classic);
    for state in STATES {
        assert!(text.contains(&format!("marca_servers{{state=\"{state}\"}} 0\n")), "{text}");
    }
    for reason in Reason::ALL {
        assert!(text.contains(&format!("marca_packets_total{{reason=\"{}\",", reason.label())), "{text}");
    }
}

#[test]
fn only_so_many_services_and_servers_have_series_of_their_own() {
    let many = |services: usize, servers: usize| {
        let servers: Vec<_> = (0..servers).map(|n| server(&format!("web{n}"), "up", 1)).collect();
        status((0..services).map(|n| service(&format!("s{n}"), 0, servers.clone())).collect())
    };
    let lines = |status: &Status, detail, what: &str| {
        text(status, detail, Format::Classic).lines().filter(|line| line.starts_with(what)).count()
    };
    for (services, servers, with_services, with_servers) in
        [(200, 10, 200, 2000), (200, 11, 200, 0), (2000, 2, 2000, 0), (2001, 1, 0, 0)]
    {
        let status = many(services, servers);
        assert_eq!(lines(&status, Detail::Auto, "marca_service_in_bytes_total{"), with_services);
        assert_eq!(lines(&status, Detail::Auto, "marca_server_in_bytes_total{"), with_servers);
        // What is asked for is given.
        assert_eq!(lines(&status, Detail::Servers, "marca_server_in_bytes_total{"), services * servers);
        assert_eq!(lines(&status, Detail::Services, "marca_server_in_bytes_total{"), 0);
        assert_eq!(lines(&status, Detail::Services, "marca_service_in_bytes_total{"), services);
        assert_eq!(lines(&status, Detail::Totals, "marca_service_in_bytes_total{"), 0);
        assert_eq!(lines(&status, Detail::Totals, "marca_in_bytes_total "), 1);
    }
}

#[test]
fn sums_do_not_fall_when_servers_and_services_leave() {
    let mut sums = Sums::default();
    let mut counted = |services: Vec<ServiceStatus>| {
        sums.add(&status(services));
        let of = |sum: &Sum| (sum.traffic.connections, sum.rate_limited);
        (of(sums.service("shop")), of(sums.all()))
    };
    let shop = |limited, servers: &[(&str, u64)]| {
        vec![service("shop", limited, servers.iter().map(|(name, n)| server(name, "up", *n)).collect())]
    };
    assert_eq!(counted(shop(2, &[("web1", 100), ("web2", 50)])), ((150, 2), (150, 2)));
    assert_eq!(counted(shop(2, &[("web1", 110)])), ((160, 2), (160, 2)));
    // It comes back with its counters, as it had connections; another time it begins anew.
    assert_eq!(counted(shop(3, &[("web1", 110), ("web2", 51)])), ((161, 3), (161, 3)));
    assert_eq!(counted(shop(3, &[("web1", 110), ("web2", 4)])), ((165, 3), (165, 3)));
    assert_eq!(counted(vec![]), ((165, 3), (165, 3)));
    assert_eq!(counted(shop(1, &[("web1", 1)])), ((166, 4), (166, 4)));
}

#[test]
fn what_an_adopted_data_plane_has_counted_is_not_counted_again() {
    let mut sums = Sums::begin(&shop());
    assert_eq!(*sums.all(), Sum::default());
    sums.add(&status(vec![service("shop", 5, vec![server("web1", "up", 13)])]));
    assert_eq!((sums.all().traffic.connections, sums.all().rate_limited), (10, 1));
    assert_eq!(sums.service("shop"), sums.all());
}

#[test]
fn who_is_gone_is_forgotten_at_last() {
    let mut sums = Sums::default();
    for n in 0..10_000 {
        sums.add(&status(vec![service(&format!("s{n}"), 0, vec![server("web1", "up", 1)])]));
    }
    assert_eq!(sums.all().traffic.connections, 10_000);
    assert!(sums.known() < 520, "{}", sums.known());
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/grafana/marca.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut known: BTreeMap<String, &Metric> = METRICS.iter().map(|metric| (metric.name(), metric)).collect();
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
        known.extend(["bucket", "sum", "count"].map(|part| (format!("{}_{part}", metric.name()), metric)));
    }
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    let mut used = HashSet::new();
    for query in &queries {
        for (name, labels) in names_in(query) {
            let metric = known.get(name).unwrap_or_else(|| panic!("there is no {name}: {query}"));
            for label in labels {
                assert!(metric.labels.contains(&label) || label == "instance", "{name} has no {label}: {query}");
            }
            used.insert(name);
        }
    }
    assert!(used.len() > 15, "{used:?}");
}

/// The queries of panels and variables.
fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        serde_json::Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    serde_json::Value::String(text) if ["expr", "query", "definition"].contains(&key.as_str()) => {
                        found.push(text.clone());
                    }
                    value => collect(value, found),
                }
            }
        }
        _ => {}
    }
}

/// The metrics in a query, each with the labels of the braces that follow it.
fn names_in(query: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (start, _) in query.match_indices("marca_") {
        if query[..start].ends_with(word) {
            continue;
        }
        let rest = &query[start..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let braces =
            rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let labels = braces.split(',').filter_map(|matcher| Some(matcher.split_once(['=', '!'])?.0.trim()));
        found.push((&rest[..end], labels.collect()));
    }
    found
}

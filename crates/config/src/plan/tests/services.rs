//! Services by family.

use super::*;
use crate::model::{Availability, Config, MemberPort, OnFailure, PortMatch, Reuse, Selector, Server, Service};

#[test]
fn each_family_of_a_service_has_the_servers_that_can_serve_it() {
    let plan = plan(
        r#"
        [service.shop]
        vip = ["2001:db8::10", "192.0.2.10"]
        ports = "tcp/80"
        server = [
            { name = "both", address = ["fd00::1", "10.0.0.1"], weight = 3 },
            { name = "four", address = "10.0.0.2", forward = "dr" },
            { name = "six", address = "fd00::3", forward = "dr" },
            { name = "carried", address = "10.0.0.4", forward = "tunnel" },
            { name = "carried-both", address = ["10.0.0.5", "fd00::5"], forward = "tunnel" },
            { name = "here", forward = "local" },
        ]
        "#,
    );
    let served: Vec<_> = plan
        .services
        .iter()
        .map(|service| {
            let reals = service.reals.iter().map(|real| match real.address {
                Some(address) => format!("{} {} {address} {}", real.name, real.forward.name(), real.weight),
                None => format!("{} {}", real.name, real.forward.name()),
            });
            (service.name.as_str(), service.family, reals.collect::<Vec<_>>())
        })
        .collect();
    let four = [
        "both nat 10.0.0.1 3",
        "four dr 10.0.0.2 1",
        "carried tunnel 10.0.0.4 1",
        "carried-both tunnel 10.0.0.5 1",
        "here local",
    ];
    let six = [
        "both nat fd00::1 3",
        "six dr fd00::3 1",
        "carried tunnel 10.0.0.4 1",
        "carried-both tunnel fd00::5 1",
        "here local",
    ];
    let four = four.map(str::to_string).to_vec();
    let six = six.map(str::to_string).to_vec();
    assert_eq!(served, [("shop", Family::V4, four), ("shop", Family::V6, six)]);
    assert_eq!(paths(&plan), ["192.0.2.10/32 tcp/80: -> shop", "2001:db8::10/128 tcp/80: -> shop"]);
    assert_eq!(plan.vips, BTreeSet::from([ip("192.0.2.10"), ip("2001:db8::10")]));
}

#[test]
fn a_service_by_mark_serves_the_families_that_its_rules_can_match() {
    let plan = plan(
        r#"
        [[mark]]
        value = 1
        to = ["192.0.2.0/24", "2001:db8::/64"]
        from = "198.51.100.0/24"

        [[mark]]
        value = 2
        to = ["192.0.2.0/24", "2001:db8::/64"]
        ports = "tcp/443"

        [service.four]
        mark = 1
        server = [{ forward = "local" }]

        [service.both]
        mark = 2
        server = [{ forward = "local" }]
        "#,
    );
    let families: Vec<_> = plan.services.iter().map(|service| (service.name.as_str(), service.family)).collect();
    assert_eq!(families, [("four", Family::V4), ("both", Family::V4), ("both", Family::V6)]);
    assert_eq!(plan.vips, BTreeSet::new());
}

/// Each port, and the part of its service that it is.
fn parts(plan: &Plan) -> Vec<String> {
    let ports = plan.destinations.iter().flat_map(|destination| &destination.ports);
    let part = |port: &PortPlan| {
        port.candidates.iter().map(|each| each.outcome.and_then(|outcome| outcome.part)).collect::<Vec<_>>()
    };
    let matching = |port: &PortPlan| PortMatch { protocol: port.protocol, ports: port.ports };
    ports.map(|port| format!("{} {:?}", matching(port), part(port))).collect()
}

#[test]
fn the_checked_ports_of_a_service_are_its_parts() {
    let shop = |keys: &str| {
        plan(&format!(
            "[service.shop]\nvip = '192.0.2.10'\nports = ['tcp/80', 'tcp/443 -> 8443', 'tcp/444 -> 8443', 'udp/443', \
             'tcp/1000-1999']\n{keys}\nserver = [{{ address = '10.0.0.1' }}]\n"
        ))
    };
    assert_eq!(shop("").services[0].parts, [], "only by that policy");
    let plan =
        shop("check_policy = 'per-port'\ncheck = [{ tcp = true }, { tcp = true, port = 1500 }, { ping = true }]");
    let names: Vec<String> = plan.services[0].parts.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["tcp/80", "tcp/443", "tcp/444", "tcp/1000-1999"]);
    let expected =
        ["tcp/80 [Some(0)]", "tcp/443 [Some(1)]", "tcp/444 [Some(2)]", "tcp/1000-1999 [Some(3)]", "udp/443 [None]"];
    assert_eq!(parts(&plan), expected);
    let alone = shop("check_policy = 'per-port'\ncheck = { tcp = true, port = 80 }");
    assert_eq!(alone.services[0].parts, [], "with its only checked port a server loses all");
}

#[test]
fn the_ports_of_a_marks_rules_are_parts_of_its_service() {
    let plan = plan(
        r#"
        [[mark]]
        value = 1
        to = "192.0.2.10"
        ports = ["tcp/80", "tcp/443"]

        [[mark]]
        value = 1
        to = "192.0.2.10"
        ports = "udp/443"

        [[mark]]
        value = 2
        to = "192.0.2.10"
        from = "198.51.100.0/24"
        ports = "tcp/443"

        [service.shop]
        mark = 1
        check_policy = "per-port"
        server = [{ forward = "local" }]

        [service.near]
        mark = 2
        check_policy = "per-port"
        server = [{ forward = "local" }]
        "#,
    );
    assert_eq!(parts(&plan), ["tcp/80 [Some(0)]", "tcp/443 [None, Some(1)]", "udp/443 [None]"]);
}

#[test]
fn a_vip_that_no_rule_mentions_is_a_destination_without_ports() {
    let plan = plan(
        r#"
        [[mark]]
        value = 1
        to = "192.0.2.10"

        [service.shop]
        mark = 1
        vip = ["192.0.2.10", "192.0.2.99"]
        server = [{ forward = "local" }]
        "#,
    );
    let ports: Vec<_> =
        plan.destinations.iter().map(|destination| (destination.net.to_string(), destination.ports.len())).collect();
    assert_eq!(ports, [("192.0.2.10/32".to_string(), 3), ("192.0.2.99/32".to_string(), 0)]);
    assert_eq!(plan.vips, BTreeSet::from([ip("192.0.2.10"), ip("192.0.2.99")]));
}

/// Takes for ever if anything is quadratic. Measured: 62 ms, on two busy cores, by
/// `cargo test --release -p marca-config --lib ten_thousand -- --nocapture`.
#[test]
fn ten_thousand_services_become_a_plan() {
    let host = |net: u8, number: usize| IpAddr::from([net, (number >> 16) as u8, (number >> 8) as u8, number as u8]);
    let member = |port: u16, target| MemberPort {
        matching: PortMatch { protocol: Protocol::Tcp, ports: PortRange { first: port, last: port } },
        target,
    };
    let service = |number: usize| Service {
        name: format!("service-{number}"),
        selector: Selector::Ports {
            vips: vec![host(172, number)],
            ports: vec![member(80, Some(8080)), member(443, None)],
        },
        scheduler: Scheduler::Maglev,
        scheduler_flags: SchedulerFlags::default(),
        persistence: None,
        forward: Forward::Nat,
        timeouts: Timeouts::default(),
        udp: Udp::Tracked,
        reuse: Reuse::Schedule,
        on_failure: OnFailure::Reset,
        drain: None,
        rate_limit: None,
        outbound: Vec::new(),
        sources: Vec::new(),
        ftp: None,
        availability: Availability::default(),
        checks: Vec::new(),
        check_policy: CheckPolicy::All,
        servers: (0..10)
            .map(|server| Server {
                name: format!("web{server}"),
                addresses: vec![host(10, number * 10 + server)],
                weight: 1,
                upper: 0,
                lower: 0,
                forward: Forward::Nat,
                drain: None,
            })
            .collect(),
    };
    let config = Config { services: (0..10_000).map(service).collect(), ..Config::default() };
    let begin = std::time::Instant::now();
    let plan = Plan::of(&config).unwrap();
    println!("{:?}", begin.elapsed());
    assert_eq!((plan.services.len(), plan.destinations.len(), plan.vips.len()), (10_000, 10_000, 10_000));
    assert_eq!(plan.replies.len(), 200_000);
    assert!(plan.replies.values().all(|reply| *reply != Reply::Ambiguous));
}

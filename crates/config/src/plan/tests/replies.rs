//! What packets from real servers mean, under NAT.

use super::*;

#[test]
fn a_port_that_only_one_vip_and_port_lead_to_is_unique() {
    let plan = plan(
        r#"
        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80 -> 8080", "tcp/443", "udp/443"]
        server = [{ address = "10.0.0.1" }, { address = "10.0.0.2", weight = 0 }]
        "#,
    );
    assert_eq!(
        meanings(&plan),
        [
            "10.0.0.1 tcp/443 = shop 192.0.2.1 443",
            "10.0.0.1 tcp/8080 = shop 192.0.2.1 80",
            "10.0.0.1 udp/443 = shop 192.0.2.1 443",
            "10.0.0.2 tcp/443 = shop 192.0.2.1 443",
            "10.0.0.2 tcp/8080 = shop 192.0.2.1 80",
            "10.0.0.2 udp/443 = shop 192.0.2.1 443",
        ]
    );
    assert_eq!(plan.range_nodes, BTreeSet::new());
}

#[test]
fn only_servers_under_nat_are_listed() {
    let plan = plan(
        r#"
        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80", "tcp/1000-2000"]
        forward = "dr"
        server = [
            { address = "10.0.0.1" },
            { address = "10.0.0.2", forward = "tunnel" },
            { forward = "local" },
            { address = "10.0.0.3", forward = "nat" },
        ]
        "#,
    );
    assert_eq!(meanings(&plan), ["10.0.0.3 tcp/80 = shop 192.0.2.1 80"]);
    assert_eq!(plan.range_nodes, BTreeSet::from([ip("10.0.0.3")]));
}

#[test]
fn two_vips_of_one_service_are_ambiguous() {
    let plan = plan(
        r#"
        [service.shop]
        vip = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        ports = "tcp/80"
        server = [{ address = ["10.0.0.1", "fd00::1"] }]
        "#,
    );
    assert_eq!(meanings(&plan), ["10.0.0.1 tcp/80 = ?", "fd00::1 tcp/80 = shop 2001:db8::1 80"]);
}

#[test]
fn two_ports_of_one_target_are_ambiguous() {
    let plan = plan(
        r#"
        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80 -> 8080", "tcp/81 -> 8080", "tcp/82 -> 8082"]
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(meanings(&plan), ["10.0.0.1 tcp/8080 = ?", "10.0.0.1 tcp/8082 = shop 192.0.2.1 82"]);
}

#[test]
fn the_target_of_a_mark_is_ambiguous_unless_one_port_leads_there() {
    let plan = plan(
        r#"
        [[mark]]
        value = 1
        to = ["192.0.2.1", "198.51.100.0/24"]
        ports = ["tcp/80", "tcp/443"]
        [[mark]]
        value = 2
        to = "192.0.2.2"
        ports = "tcp/80"
        [service.many]
        mark = 1
        target = 3128
        server = [{ address = "10.0.0.1" }]
        [service.one]
        mark = 2
        target = 8080
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(meanings(&plan), ["10.0.0.1 tcp/3128 = ?", "10.0.0.1 tcp/8080 = one 192.0.2.2 80"]);
    assert_eq!(plan.range_nodes, BTreeSet::new(), "no other port of the server means anything");
}

#[test]
fn a_server_of_two_services_is_ambiguous_on_the_ports_that_they_share() {
    let plan = plan(
        r#"
        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80", "tcp/443 -> 8001"]
        server = [{ address = "10.0.0.1" }, { address = "10.0.0.2" }]

        [service.blog]
        vip = "192.0.2.2"
        ports = ["tcp/80", "tcp/443 -> 8002"]
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(
        meanings(&plan),
        [
            "10.0.0.1 tcp/80 = ?",
            "10.0.0.1 tcp/8001 = shop 192.0.2.1 443",
            "10.0.0.1 tcp/8002 = blog 192.0.2.2 443",
            "10.0.0.2 tcp/80 = shop 192.0.2.1 80",
            "10.0.0.2 tcp/8001 = shop 192.0.2.1 443",
        ]
    );
}

#[test]
fn a_port_under_conditions_is_ambiguous_for_everyone_who_may_get_it() {
    let plan = plan(
        r#"
        [[mark]]
        value = 1
        to = "192.0.2.1"
        ports = ["tcp/80", "tcp/81"]
        interface = "eth1"

        [service.inner]
        mark = 1
        server = [{ address = "10.0.0.1" }]

        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80 -> 8080", "tcp/443"]
        server = [{ address = "10.0.0.2" }]
        "#,
    );
    assert_eq!(
        meanings(&plan),
        [
            "10.0.0.1 tcp/80 = ?",
            "10.0.0.1 tcp/81 = ?",
            "10.0.0.2 tcp/443 = shop 192.0.2.1 443",
            "10.0.0.2 tcp/8080 = ?",
        ]
    );
}

#[test]
fn servers_behind_ranges_are_range_nodes() {
    let plan = plan(
        r#"
        [service.media]
        vip = "192.0.2.1"
        ports = ["udp/10000-20000", "tcp/80"]
        server = [{ address = "10.0.0.1" }]

        [service.shop]
        vip = "192.0.2.2"
        ports = ["udp/443"]
        server = [{ address = "10.0.0.2" }]
        "#,
    );
    assert_eq!(plan.range_nodes, BTreeSet::from([ip("10.0.0.1")]));
    assert_eq!(meanings(&plan), ["10.0.0.1 tcp/80 = media 192.0.2.1 80", "10.0.0.2 udp/443 = shop 192.0.2.2 443"]);
}

/// A packet from 10.0.0.1:8443 may answer a client of port 443, or one of port 8443.
#[test]
fn a_range_over_a_target_makes_its_replies_ambiguous() {
    let plan = plan(
        r#"
        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80 -> 7999", "tcp/81 -> 8000", "tcp/443 -> 8443", "tcp/8500", "tcp/82 -> 9000", "tcp/83 -> 9001"]
        server = [{ address = "10.0.0.1" }]

        [service.other]
        vip = "192.0.2.2"
        ports = ["tcp/8000-8600", "tcp/8601-9000", "udp"]
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(
        meanings(&plan),
        [
            "10.0.0.1 tcp/7999 = shop 192.0.2.1 80",
            "10.0.0.1 tcp/8000 = ?",
            "10.0.0.1 tcp/8443 = ?",
            "10.0.0.1 tcp/8500 = ?",
            "10.0.0.1 tcp/9000 = ?",
            "10.0.0.1 tcp/9001 = shop 192.0.2.1 83",
        ]
    );
}

/// Of one VIP's ports, each has its own: the exact one is not among those of the range around it.
#[test]
fn an_exact_port_within_a_range_of_its_own_vip_stays_unique() {
    let plan = plan(
        r#"
        [service.shop]
        vip = "192.0.2.1"
        ports = ["tcp/80-100", "tcp/90"]
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(meanings(&plan), ["10.0.0.1 tcp/90 = shop 192.0.2.1 90"]);
    assert_eq!(plan.range_nodes, BTreeSet::from([ip("10.0.0.1")]));
}

#[test]
fn a_single_port_of_a_prefix_may_belong_to_any_of_its_addresses() {
    let plan = plan(
        r#"
        [[mark]]
        value = 1
        to = "192.0.2.0/24"
        ports = ["tcp/80"]

        [service.all]
        mark = 1
        server = [{ address = "10.0.0.1" }]

        [service.shop]
        vip = "198.51.100.1"
        ports = ["tcp/80", "tcp/443"]
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(meanings(&plan), ["10.0.0.1 tcp/80 = ?", "10.0.0.1 tcp/443 = shop 198.51.100.1 443"]);
    assert_eq!(plan.range_nodes, BTreeSet::from([ip("10.0.0.1")]));
}

#[test]
fn a_port_that_connections_are_opened_from_belongs_to_the_first_vip_of_each_family() {
    let plan = plan(
        r#"
        [service.files]
        vip = ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
        ports = ["tcp/21"]
        outbound = ["tcp/20", "udp/5060"]
        server = [{ address = ["10.0.0.1", "fd00::1"] }]
        "#,
    );
    let outbound = |(from, outbound): (&ReplyPort, &Outbound)| {
        format!("{} {}/{} as {}", from.address, from.protocol, from.port, outbound.vip)
    };
    assert_eq!(
        plan.outbound.iter().map(outbound).collect::<Vec<_>>(),
        [
            "10.0.0.1 tcp/20 as 192.0.2.1",
            "10.0.0.1 udp/5060 as 192.0.2.1",
            "fd00::1 tcp/20 as 2001:db8::1",
            "fd00::1 udp/5060 as 2001:db8::1",
        ]
    );
    assert_eq!(
        meanings(&plan),
        [
            "10.0.0.1 tcp/20 = ?",
            "10.0.0.1 tcp/21 = ?",
            "10.0.0.1 udp/5060 = ?",
            "fd00::1 tcp/20 = ?",
            "fd00::1 tcp/21 = files 2001:db8::1 21",
            "fd00::1 udp/5060 = ?",
        ]
    );
    assert_eq!(
        paths(&plan),
        [
            "192.0.2.1/32 tcp/20: -> files expected",
            "192.0.2.1/32 tcp/21: -> files",
            "192.0.2.1/32 udp/5060: -> files expected",
            "192.0.2.2/32 tcp/21: -> files",
            "2001:db8::1/128 tcp/20: -> files expected",
            "2001:db8::1/128 tcp/21: -> files",
            "2001:db8::1/128 udp/5060: -> files expected",
        ]
    );
}

#[test]
fn an_ftp_service_expects_connections_at_every_port_and_leaves_others_theirs() {
    let plan = plan(
        r#"
        [service.files]
        vip = ["192.0.2.1", "2001:db8::1"]
        protocol = "ftp"
        server = [{ address = ["10.0.0.1", "fd00::1"] }]
        [service.web]
        vip = "192.0.2.1"
        ports = ["tcp/8080"]
        server = [{ address = "10.0.0.1" }]
        "#,
    );
    assert_eq!(
        meanings(&plan),
        ["10.0.0.1 tcp/21 = ?", "10.0.0.1 tcp/8080 = web 192.0.2.1 8080", "fd00::1 tcp/21 = ?"]
    );
    assert_eq!(plan.range_nodes, BTreeSet::from([ip("10.0.0.1"), ip("fd00::1")]));
    assert_eq!(
        paths(&plan),
        [
            "192.0.2.1/32 tcp/0-20: -> files expected",
            "192.0.2.1/32 tcp/21: -> files",
            "192.0.2.1/32 tcp/22-8079: -> files expected",
            "192.0.2.1/32 tcp/8080: -> web",
            "192.0.2.1/32 tcp/8081-65535: -> files expected",
            "2001:db8::1/128 tcp/0-20: -> files expected",
            "2001:db8::1/128 tcp/21: -> files",
            "2001:db8::1/128 tcp/22-65535: -> files expected",
        ]
    );
}

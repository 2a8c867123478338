//! Which service gets a packet.

use super::*;

/// Services by the marks 1, 2 and 3, called a, b and c, and one by port.
fn with_services(rules: &str) -> String {
    let mut text = rules.to_string();
    for (name, selector) in [
        ("a", "mark = 1\nvip = '192.0.2.1'"),
        ("b", "mark = 2\nvip = '192.0.2.1'"),
        ("c", "mark = 3\nvip = '192.0.2.1'"),
        ("web", "vip = '192.0.2.1'\nports = 'tcp/80 -> 8080'"),
    ] {
        text += &format!("\n[service.{name}]\n{selector}\nserver = [{{ address = ['10.0.0.1', 'fd00::1'] }}]\n");
    }
    // A mark needs a rule; this one matches nothing that the tests look at.
    for mark in 1..=3 {
        text += &format!("[[mark]]\nvalue = {mark}\nto = '203.0.113.{mark}'\nports = 'sctp/9'\n");
    }
    text
}

/// What becomes of TCP packets to 192.0.2.1, by the rules and the services of [`with_services`].
fn tcp(rules: &str) -> Vec<String> {
    let paths = paths(&plan(&with_services(rules)));
    paths.iter().filter_map(|path| path.strip_prefix("192.0.2.1/32 tcp")).map(str::to_string).collect()
}

/// Red Hat, "Virtual Server Administration", multi-port services: rules for 80 and 443 set mark 80, one service has it.
#[test]
fn two_rules_make_http_and_https_one_service() {
    let plan = plan(
        r#"
        [[mark]]
        value = 80
        to = "192.0.2.10"
        ports = "tcp/80"

        [[mark]]
        value = 80
        to = "192.0.2.10"
        ports = "tcp/443"

        [service.shop]
        mark = 80
        persist = "5m"
        server = [{ address = "10.0.0.11" }, { address = "10.0.0.12" }]
        "#,
    );
    assert_eq!(paths(&plan), ["192.0.2.10/32 tcp/80: -> shop", "192.0.2.10/32 tcp/443: -> shop"]);
    assert_eq!(plan.vips, BTreeSet::from([ip("192.0.2.10")]));
    assert_eq!(
        meanings(&plan),
        [
            "10.0.0.11 tcp/80 = shop 192.0.2.10 80",
            "10.0.0.11 tcp/443 = shop 192.0.2.10 443",
            "10.0.0.12 tcp/80 = shop 192.0.2.10 80",
            "10.0.0.12 tcp/443 = shop 192.0.2.10 443",
        ]
    );
    assert_eq!(plan.range_nodes, BTreeSet::new());
}

#[test]
fn everything_that_has_a_mark_may_lead_to_one_port() {
    let plan = plan(
        "[[mark]]\nvalue = 1\nto = '192.0.2.0/24'\nports = ['tcp/80', 'udp/1000-2000']
        [service.proxy]\nmark = 1\ntarget = 3128\nserver = [{ address = '10.0.0.1' }]",
    );
    assert_eq!(paths(&plan), ["192.0.2.0/24 tcp/80: -> proxy:3128", "192.0.2.0/24 udp/1000-2000: -> proxy:3128"]);
}

#[test]
fn a_mark_comes_before_a_port_and_keeps_it() {
    assert_eq!(tcp(""), ["/80: -> web:8080"]);
    assert_eq!(tcp("[[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/80'"), ["/80: -> a"]);
    assert_eq!(tcp("[[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'udp/80'"), ["/80: -> web:8080"]);
}

#[test]
fn an_exact_port_beats_a_range_beats_all() {
    let plan = plan(
        r#"
        [service.exact]
        vip = "192.0.2.1"
        ports = ["tcp/90", "tcp/95 -> 9500", "tcp/65535"]
        server = [{ address = "10.0.0.1" }]

        [service.all]
        vip = "192.0.2.1"
        ports = "tcp"
        server = [{ address = "10.0.0.2" }]

        [service.range]
        vip = "192.0.2.1"
        ports = ["tcp/80-100", "tcp/101-110"]
        server = [{ address = "10.0.0.3" }]
        "#,
    );
    assert_eq!(
        paths(&plan),
        [
            "192.0.2.1/32 tcp/0-79: -> all",
            "192.0.2.1/32 tcp/80-89: -> range",
            "192.0.2.1/32 tcp/90: -> exact",
            "192.0.2.1/32 tcp/91-94: -> range",
            "192.0.2.1/32 tcp/95: -> exact:9500",
            "192.0.2.1/32 tcp/96-110: -> range",
            "192.0.2.1/32 tcp/111-65534: -> all",
            "192.0.2.1/32 tcp/65535: -> exact",
        ]
    );
}

#[test]
fn listed_ports_stay_single_and_pieces_of_ranges_are_joined() {
    let rules =
        "[[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = ['tcp/20', 'tcp/21', 'tcp/30-39', 'tcp/40-49', 'tcp/45']
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = ['tcp/39-40']";
    assert_eq!(tcp(rules), ["/20: -> a", "/21: -> a", "/30-44: -> a", "/45: -> a", "/46-49: -> a", "/80: -> web:8080"]);
}

#[test]
fn the_last_rule_that_matches_wins() {
    let rules = "
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/80'\nfrom = ['10.0.0.0/8', '172.16.0.0/12']
        [[mark]]\nvalue = 2\nto = '192.0.2.1'\nports = 'tcp/80'\nfrom = '10.1.0.0/16'\ninterface = ['eth1', 'eth2']
        [[mark]]\nvalue = 3\nto = '192.0.2.1'\nports = 'tcp/80'\ninterface = 'eth2'";
    let expected = "/80: on eth2 -> c | from 10.1.0.0/16 on eth1 -> b | from 10.0.0.0/8 -> a | from 172.16.0.0/12 -> a | \
                    -> web:8080";
    assert_eq!(tcp(rules), [expected]);
}

#[test]
fn a_rule_without_a_condition_cuts_off_the_earlier_ones() {
    let rules = "
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/80'\nfrom = '10.0.0.0/8'
        [[mark]]\nvalue = 2\nto = '192.0.2.1'\nports = 'tcp/70-90'
        [[mark]]\nvalue = 3\nto = '192.0.2.1'\nports = 'tcp/80'\ninterface = 'eth1'";
    assert_eq!(tcp(rules), ["/70-79: -> b", "/80: on eth1 -> c | -> b", "/81-90: -> b"]);
}

#[test]
fn the_whole_address_space_is_no_condition() {
    let rules = "
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/80'\nfrom = '10.0.0.0/8'
        [[mark]]\nvalue = 2\nto = '192.0.2.1'\nports = 'tcp/80'\nfrom = ['2001:db8::/32', '0.0.0.0/0']";
    assert_eq!(tcp(rules), ["/80: -> b"]);
}

#[test]
fn a_rule_for_sources_of_the_other_family_never_matches() {
    let rules = "[[mark]]\nvalue = 1\nto = ['192.0.2.1', '2001:db8::1']\nports = 'tcp/80'\nfrom = '2001:db8::/32'";
    assert_eq!(tcp(rules), ["/80: -> web:8080"]);
}

/// As in IPVS: the mark overwrites the earlier one, finds no service, and address and port are looked up.
#[test]
fn an_orphan_mark_falls_back_to_the_port_and_cuts_off_the_earlier_rules() {
    let rules = "
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = ['tcp/80', 'tcp/81', 'tcp/82']
        [[mark]]\nvalue = 99\nto = '192.0.2.1'\nports = ['tcp/80', 'tcp/81']
        [[mark]]\nvalue = 99\nto = '192.0.2.1'\nports = ['tcp/82']\nfrom = '10.0.0.0/8'";
    assert_eq!(tcp(rules), ["/80: -> web:8080", "/82: from 10.0.0.0/8 -> nobody | -> a"]);
}

#[test]
fn conditions_that_change_nothing_are_left_out() {
    let rules = "
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/81-82'
        [[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/80-82'\nfrom = '10.0.0.0/8'
        [[mark]]\nvalue = 99\nto = '192.0.2.1'\nports = 'tcp/80-90'\nfrom = '10.1.2.0/24'\ninterface = 'eth1'
        [[mark]]\nvalue = 2\nto = '192.0.2.1'\nports = 'tcp/82'\nfrom = '10.1.0.0/16'";
    assert_eq!(
        tcp(rules),
        [
            "/80: from 10.1.2.0/24 on eth1 -> web:8080 | from 10.0.0.0/8 -> a | -> web:8080",
            "/81: from 10.1.2.0/24 on eth1 -> nobody | -> a",
            // Who comes from 10.1.2.0/24 has been taken by the rule for 10.1.0.0/16.
            "/82: from 10.1.0.0/16 -> b | -> a",
        ]
    );
}

#[test]
fn rules_for_a_prefix_apply_to_the_vips_and_prefixes_within() {
    let rules = "
        [[mark]]\nvalue = 3\nto = '0.0.0.0/0'\nports = 'tcp/443'
        [[mark]]\nvalue = 1\nto = ['192.0.2.0/24', '192.0.2.1']\nports = 'tcp/80'\ninterface = 'eth1'
        [[mark]]\nvalue = 2\nto = '192.0.2.0/31'\nports = 'tcp/443'
        [[mark]]\nvalue = 2\nto = '198.51.100.0/24'\nports = 'tcp/25'";
    let paths = paths(&plan(&with_services(rules)));
    let paths: Vec<_> = paths.iter().filter(|path| !path.starts_with("203")).collect();
    assert_eq!(
        paths,
        [
            "0.0.0.0/0 tcp/443: -> c",
            "192.0.2.0/24 tcp/80: on eth1 -> a",
            "192.0.2.0/24 tcp/443: -> c",
            "192.0.2.0/31 tcp/80: on eth1 -> a",
            "192.0.2.0/31 tcp/443: -> b",
            "192.0.2.1/32 tcp/80: on eth1 -> a | -> web:8080",
            "192.0.2.1/32 tcp/443: -> b",
            "198.51.100.0/24 tcp/25: -> b",
            "198.51.100.0/24 tcp/443: -> c",
        ]
    );
}

#[test]
fn a_rule_without_ports_marks_every_packet() {
    let plan = plan("[[mark]]\nvalue = 1\nto = '192.0.2.1'\n[service.a]\nmark = 1\nserver = [{ forward = 'local' }]");
    assert_eq!(paths(&plan), ["192.0.2.1/32 tcp: -> a", "192.0.2.1/32 udp: -> a", "192.0.2.1/32 sctp: -> a"]);
}

#[test]
fn more_conditions_than_the_data_plane_looks_at_are_refused() {
    let sources = |count: usize| {
        let sources: Vec<_> = (0..count).map(|number| format!("'10.{number}.0.0/16'")).collect();
        format!("[[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/70-90'\nfrom = [{}]\n", sources.join(", "))
    };
    // At port 80 the service by port is one more.
    assert!(try_plan(&with_services(&sources(MAX_CONDITIONS - 1))).is_ok());
    let refused = try_plan(&with_services(&sources(MAX_CONDITIONS))).unwrap_err();
    let destination = "192.0.2.1/32".parse().unwrap();
    assert_eq!(
        refused,
        PlanError::TooManyConditions { destination, protocol: "tcp", port: 80, count: 33, limit: MAX_CONDITIONS }
    );
}

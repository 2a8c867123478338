//! `good/*.toml` and the models that they mean.

use marca_config::load;
use marca_config::model::*;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

fn loaded(text: &str) -> Config {
    let loaded = load("good.toml", text).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    loaded.config
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn matching(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch { protocol, ports: PortRange { first, last } }
}

fn member(protocol: Protocol, first: u16, last: u16, target: Option<u16>) -> MemberPort {
    MemberPort { matching: matching(protocol, first, last), target }
}

#[test]
fn a_dual_stack_shop_behind_nat() {
    let shop = Service {
        name: "shop".into(),
        selector: Selector::Ports {
            vips: vec![ip("192.0.2.10"), ip("2001:db8::10")],
            ports: vec![
                member(Protocol::Tcp, 80, 80, None),
                member(Protocol::Tcp, 443, 443, Some(8443)),
                member(Protocol::Udp, 443, 443, None),
            ],
        },
        scheduler: Scheduler::Wlc,
        scheduler_flags: SchedulerFlags::default(),
        persistence: Some(Persistence {
            timeout: Duration::from_secs(300),
            netmask: Ipv4Addr::BROADCAST,
            prefix_len_v6: 128,
        }),
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
        checks: vec![Check::tcp(80), Check::tcp(8443)],
        check_policy: CheckPolicy::All,
        servers: vec![
            Server {
                name: "web1".into(),
                addresses: vec![ip("10.0.0.11"), ip("fd00::11")],
                weight: 3,
                upper: 0,
                lower: 0,
                forward: Forward::Nat,
                drain: None,
            },
            Server {
                name: "10.0.0.12".into(),
                addresses: vec![ip("10.0.0.12"), ip("fd00::12")],
                weight: 1,
                upper: 0,
                lower: 0,
                forward: Forward::Nat,
                drain: None,
            },
        ],
    };
    let files = Service {
        name: "files".into(),
        selector: Selector::Ports {
            vips: vec![ip("192.0.2.10")],
            ports: vec![member(Protocol::Tcp, 21, 21, None), member(Protocol::Tcp, 10000, 10100, None)],
        },
        scheduler: Scheduler::Wlc,
        scheduler_flags: SchedulerFlags::default(),
        persistence: Some(Persistence {
            timeout: Duration::from_secs(1800),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            prefix_len_v6: 64,
        }),
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
        checks: vec![Check::tcp(21)],
        check_policy: CheckPolicy::All,
        servers: vec![Server {
            name: "10.0.0.21".into(),
            addresses: vec![ip("10.0.0.21")],
            weight: 1,
            upper: 0,
            lower: 0,
            forward: Forward::Nat,
            drain: None,
        }],
    };
    let router = Router {
        outside: vec!["eth0".into()],
        inside: vec!["eth1".into()],
        limits: Limits { flows: 4_194_304, ..Limits::default() },
        ..Router::default()
    };
    let metrics = Metrics { listen: Some("127.0.0.1:9797".parse().unwrap()), detail: Detail::Services };
    let expected = Config { router, metrics, marks: vec![], api: Api::default(), services: vec![shop, files] };
    assert_eq!(loaded(include_str!("../good/shop.toml")), expected);
}

#[test]
fn a_service_by_mark_takes_its_vips_from_the_rules() {
    let mark = Mark(NonZeroU32::new(80).unwrap());
    let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let rules = vec![
        MarkRule {
            value: mark,
            to: prefixes(&["192.0.2.10/32", "2001:db8::/64"]),
            from: vec![],
            ports: vec![matching(Protocol::Tcp, 80, 80), matching(Protocol::Tcp, 443, 443)],
            interfaces: vec![],
        },
        MarkRule {
            value: mark,
            to: prefixes(&["192.0.2.11/32", "192.0.2.10/32"]),
            from: prefixes(&["198.51.100.0/24"]),
            ports: Protocol::ALL.map(|protocol| PortMatch { protocol, ports: PortRange::ALL }).to_vec(),
            interfaces: vec!["eth0".into()],
        },
    ];
    let shop = Service {
        name: "shop".into(),
        selector: Selector::Mark { mark, vips: vec![ip("192.0.2.10"), ip("192.0.2.11")], target: None },
        scheduler: Scheduler::Maglev,
        scheduler_flags: SchedulerFlags::default(),
        persistence: None,
        forward: Forward::Dr,
        timeouts: Timeouts {
            established: Duration::from_secs(3600),
            closing: Duration::from_secs(30),
            sctp: Duration::from_secs(7200),
            sctp_closing: Duration::from_secs(10),
            ..Timeouts::default()
        },
        udp: Udp::Stateless,
        reuse: Reuse::Keep,
        on_failure: OnFailure::Drop,
        drain: Some(Duration::ZERO),
        rate_limit: Some(RateLimit { connections: 1000, burst: 5000 }),
        outbound: Vec::new(),
        sources: Vec::new(),
        ftp: None,
        availability: Availability::default(),
        checks: vec![Check::tcp(80), Check::tcp(443)],
        check_policy: CheckPolicy::All,
        servers: vec![
            Server {
                name: "10.0.0.11".into(),
                addresses: vec![ip("10.0.0.11")],
                weight: 0,
                upper: 0,
                lower: 0,
                forward: Forward::Tunnel,
                drain: Some(Duration::ZERO),
            },
            Server {
                name: "local".into(),
                addresses: vec![],
                weight: 1,
                upper: 1000,
                lower: 700,
                forward: Forward::Local,
                drain: Some(Duration::ZERO),
            },
        ],
    };
    let router = Router { outside: vec!["eth0".into()], ..Router::default() };
    let expected =
        Config { router, metrics: Metrics::default(), marks: rules, api: Api::default(), services: vec![shop] };
    assert_eq!(loaded(include_str!("../good/mark.toml")), expected);
}

#[test]
fn services_keep_the_order_of_the_file_and_ranks_do_not_contradict() {
    let config = loaded(include_str!("../good/ranks.toml"));
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["zebra", "range", "all", "apple"]);
    let last = &config.services[3].servers[1];
    assert_eq!((last.name.as_str(), last.weight), ("web2", 65_535));
}

#[test]
fn every_name_of_a_scheduler_and_of_a_method_is_taken() {
    let text = |keys: &str| {
        format!(
            "[router]\noutside = 'eth0'\n[service.s]\nvip = '192.0.2.10'\nports = 'tcp/80'\n{keys}\n\
             [[service.s.server]]\naddress = '10.0.0.1'"
        )
    };
    for scheduler in Scheduler::ALL {
        let config = loaded(&text(&format!("scheduler = '{}'", scheduler.name())));
        assert_eq!(config.services[0].scheduler, scheduler);
    }
    for (name, forward) in [
        ("nat", Forward::Nat),
        ("masq", Forward::Nat),
        ("masquerade", Forward::Nat),
        ("dr", Forward::Dr),
        ("direct", Forward::Dr),
        ("gateway", Forward::Dr),
        ("tunnel", Forward::Tunnel),
        ("ipip", Forward::Tunnel),
    ] {
        let config = loaded(&text(&format!("forward = '{name}'")));
        assert_eq!(config.services[0].forward, forward);
        assert_eq!(config.services[0].servers[0].forward, forward);
    }
}

#[test]
fn a_tunnel_and_the_director_itself_serve_both_families() {
    for server in ["address = '10.0.0.1'\nforward = 'tunnel'", "forward = 'local'"] {
        loaded(&format!(
            "[router]\noutside = 'eth0'\n[service.s]\nvip = ['192.0.2.10', '2001:db8::10']\nports = 'tcp/80'\n\
             [[service.s.server]]\n{server}"
        ));
    }
}

#[test]
fn a_rule_with_sources_of_one_family_only_matches_that_family() {
    let config = loaded(
        "[router]\noutside = 'eth0'\n[[mark]]\nvalue = 1\nto = ['192.0.2.0/24', '2001:db8::/64']\n\
         from = '198.51.100.0/24'\n[service.s]\nmark = 1\n[[service.s.server]]\naddress = '10.0.0.1'",
    );
    assert!(config.services[0].selector.vips().is_empty());
}

#[test]
fn tunnels_are_chosen_by_name_or_with_their_settings() {
    let forwards = |text: &str| {
        let shop = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\n";
        let config = loaded(&format!("{shop}{text}[[service.shop.server]]\naddress = '10.0.0.11'\n"));
        (config.services[0].forward, config.services[0].servers[0].forward)
    };
    let gue = |port, checksum| Forward::Gue(Gue { port, checksum });
    for (text, forward) in [
        ("'gre'", Forward::Gre),
        ("'gue'", gue(6080, None)),
        ("{ tunnel = 'ipip' }", Forward::Tunnel),
        ("{ tunnel = 'gre' }", Forward::Gre),
        ("{ tunnel = 'gue' }", gue(6080, None)),
        ("{ tunnel = 'gue', port = 5555 }", gue(5555, None)),
        ("{ tunnel = 'gue', checksum = false }", gue(6080, Some(false))),
    ] {
        assert_eq!(forwards(&format!("forward = {text}\n")), (forward, forward), "{text}");
    }
    let config = loaded(
        "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\nforward = 'dr'\n\
         server = [{ address = '10.0.0.11' }, { address = 'fd00::11', forward = { tunnel = 'gue', checksum = true } }]\n",
    );
    assert_eq!(config.services[0].servers[0].forward, Forward::Dr);
    assert_eq!(config.services[0].servers[1].forward, gue(6080, Some(true)));
}

#[test]
fn sources_are_addresses_ranges_and_prefixes() {
    let config = loaded(
        "[router]\noutside = 'eth0'\n[service.shop]\nvip = ['192.0.2.10', '2001:db8::10']\nports = ['tcp/80 -> 8080']\n\
         forward = 'fullnat'\nsource = ['10.0.0.100', '10.0.0.254 - 10.0.1.1', '10.0.0.96/30', 'fd00::ff-fd00::101']\n\
         [[service.shop.server]]\naddress = ['10.0.0.11', 'fd00::11']\n",
    );
    let sources: Vec<String> =
        config.services[0].sources.iter().flat_map(|range| range.addresses()).map(|ip| ip.to_string()).collect();
    let v4 = ["10.0.0.100", "10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"];
    let rest = ["10.0.0.96", "10.0.0.97", "10.0.0.98", "10.0.0.99", "fd00::ff", "fd00::100", "fd00::101"];
    assert_eq!(sources, [&v4[..], &rest[..]].concat());
    assert_eq!(config.services[0].servers[0].forward, Forward::FullNat);
}

#[test]
fn packets_are_met_where_the_file_says_for_all_interfaces_or_for_each() {
    let router = |attach: &str| {
        let text =
            format!("[router]\noutside = 'eth0'\ninside = 'eth1'\n{attach}\n[service.shop]\nvip = '192.0.2.10'\n");
        let servers = "ports = 'tcp/80'\n[[service.shop.server]]\naddress = '10.0.0.11'\n";
        let router = loaded(&(text + servers)).router;
        ["eth0", "eth1"].map(|interface| router.attach(interface))
    };
    assert_eq!(router(""), [Attach::Auto; 2]);
    assert_eq!(router("attach = 'tc'"), [Attach::Tc; 2]);
    assert_eq!(router("attach = { eth1 = 'xdp' }"), [Attach::Auto, Attach::Xdp]);
    assert_eq!(router("attach = { eth1 = 'tc', eth0 = 'xdp' }"), [Attach::Xdp, Attach::Tc]);
}

#[test]
fn ftp_is_read_under_nat_and_grouped_otherwise() {
    let config = loaded(include_str!("../good/ftp.toml"));
    let [files, far] = &config.services[..] else { panic!("two services") };
    assert_eq!(files.ftp, Some(Ftp { passive: PortRange { first: 1024, last: 65535 } }));
    assert_eq!(members(files), ["tcp/21"]);
    assert_eq!(far.ftp, None);
    assert_eq!(members(far), ["tcp/21", "tcp/2121", "tcp/10000-10100", "tcp/20"]);
}

fn members(service: &Service) -> Vec<String> {
    match &service.selector {
        Selector::Ports { ports, .. } => ports.iter().map(ToString::to_string).collect(),
        Selector::Mark { .. } => Vec::new(),
    }
}

fn checks(keys: &str) -> Vec<Check> {
    let ports = r#"["tcp/80", "tcp/443 -> 8443", "udp/53", "tcp/10000-20000"]"#;
    let text = format!(
        "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = {ports}\n{keys}\n\
         [[service.shop.server]]\naddress = '10.0.0.11'\n"
    );
    loaded(&text).services.remove(0).checks
}

#[test]
fn single_tcp_ports_are_checked_unless_something_else_is_said() {
    assert_eq!(checks(""), [Check::tcp(80), Check::tcp(8443)]);
    assert_eq!(checks("check = 'none'"), []);
    assert_eq!(checks("check = []"), []);
    let ftp = loaded(include_str!("../good/ftp.toml")).services;
    assert_eq!(ftp[0].checks, [Check::tcp(21)]);
    assert_eq!(ftp[1].checks, [Check::tcp(21), Check::tcp(2121)], "nobody listens where data connections come from");
}

#[test]
fn a_check_finds_its_port() {
    let ports = |keys: &str| checks(keys).iter().map(Check::to_string).collect::<Vec<_>>();
    assert_eq!(ports("check = { tcp = true }"), ["tcp/80", "tcp/8443"]);
    assert_eq!(ports("check = [{ tcp = true, port = 80 }, { tcp = true }]"), ["tcp/80", "tcp/8443"], "each once");
    assert_eq!(ports("check = { http = '/healthz' }"), ["http/80 /healthz"]);
    assert_eq!(ports("check = { https = '/', port = 8443 }"), ["https/8443 /"]);
    assert_eq!(ports("check = [{ dns = 'example.com' }, { udp = true }]"), ["dns/53 example.com A", "udp/53"]);
    assert_eq!(ports("check = [{ ping = true }, { script = '/bin/x' }]"), ["ping", "script x"]);
}

#[test]
fn checks_say_what_is_asked_and_how_often() {
    let said = checks(
        r#"
        check_policy = "per-port"

        [[service.shop.check]]
        https = "/healthz?deep=1"
        port = 8443
        method = "HEAD"
        host = "shop.example.com"
        status = [204, "300-302"]
        version = "2"
        server_name = "shop.example.com"
        expiry = "14d"
        expect_regex = '^ok'
        interval = "500ms"
        timeout = "250ms"
        rise = 1
        fall = 5

        [[service.shop.check]]
        tls = true
        port = 6380
        send = "PING\r\n"
        expect = "+PONG"
        interval = 10
        jitter = "0s"
        "#,
    );
    let tls = Tls { server_name: Some("shop.example.com".into()), expiry: Some(Duration::from_secs(14 * 86_400)) };
    let http = Http {
        method: "HEAD".into(),
        path: "/healthz?deep=1".into(),
        host: Some("shop.example.com".into()),
        status: vec![(204, 204), (300, 302)],
        expect: Some(Expect::Regex("^ok".into())),
        version: HttpVersion::Two,
        tls: Some(tls),
    };
    let https = Check {
        interval: Duration::from_millis(500),
        jitter: Duration::from_millis(50),
        timeout: Duration::from_millis(250),
        rise: 1,
        fall: 5,
        ..Check::of(Talk::Http(http), Some(8443))
    };
    let exchange = Exchange { send: b"PING\r\n".to_vec(), expect: Some(Expect::Bytes(b"+PONG".to_vec())) };
    let redis = Check {
        interval: Duration::from_secs(10),
        jitter: Duration::ZERO,
        ..Check::of(Talk::Tls(Tls::default(), exchange), Some(6380))
    };
    assert_eq!(said, [https, redis]);
}

#[test]
fn a_check_speaks_for_the_ports_that_lead_to_its_own() {
    let members = [member(Protocol::Tcp, 443, 443, Some(8443)), member(Protocol::Udp, 443, 443, None)];
    let members = [members[0], members[1], member(Protocol::Tcp, 10000, 20000, None)];
    let of = |port| Check::tcp(port).members(&members);
    assert_eq!(of(8443), [matching(Protocol::Tcp, 443, 443)]);
    assert_eq!(of(10001), [matching(Protocol::Tcp, 10000, 20000)]);
    assert_eq!(of(443), []);
    assert_eq!(Check::of(Talk::Ping, None).members(&members), []);
}

//! What a director's facts mean.

use super::facts::{Director, Facts, Link, TcProgram};
use super::{Report, Severity, firewall};
use crate::forwarding;
use crate::linux::attach::Mode;
use marca_config::model::{Attach, Config, Forward, PortMatch, Selector, Service};
use marca_config::plan::Plan;
use std::net::IpAddr;

/// Everything that there is to say of a director with this configuration.
pub fn examine(config: &Config, plan: &Plan, facts: &Facts) -> Report {
    let mut report = Report::default();
    kernel(facts, &mut report);
    daemon(facts, &mut report);
    interfaces(config, facts, &mut report);
    mtu(config, facts, &mut report);
    sysctls(config, plan, facts, &mut report);
    vips(plan, facts, &mut report);
    others(config, facts, &mut report);
    filters(config, plan, facts, &mut report);
    listeners(config, facts, &mut report);
    tables(facts, &mut report);
    super::clock(facts, &mut report);
    report.unread(&facts.unread);
    report.sorted()
}

/// The oldest kernel on which it is tested.
const OLDEST: (u32, u32) = (6, 1);
/// From here on programs of TC are attached by links.
const LINKS_OF_TC: (u32, u32) = (6, 6);

fn kernel(facts: &Facts, report: &mut Report) {
    let mut numbers = facts.kernel.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let (major, minor) = OLDEST;
        report.find(
            Severity::Fault,
            "kernel",
            format!("Linux {}", facts.kernel),
            format!("marca is tested on {major}.{minor} and later; an older verifier refuses its programs"),
            "install a newer kernel",
        );
    } else if version < LINKS_OF_TC {
        report.well("kernel", format!("Linux {}; TC by a filter, links came with 6.6", facts.kernel));
    } else {
        report.well("kernel", format!("Linux {}", facts.kernel));
    }
    if facts.sysctls.get("net.core.bpf_jit_enable").is_some_and(|value| value == "0") {
        report.find(
            Severity::Warning,
            "jit",
            "BPF programs are interpreted",
            "each packet costs several times as much as compiled",
            "sysctl -w net.core.bpf_jit_enable=1",
        );
    }
    if !facts.bpf_file_system {
        report.find(
            Severity::Note,
            "bpffs",
            "there is no BPF file system at /sys/fs/bpf",
            "`marca run` mounts one, for which it needs CAP_SYS_ADMIN; marca.service has not got that",
            "mount -t bpf bpf /sys/fs/bpf",
        );
    }
}

fn daemon(facts: &Facts, report: &mut Report) {
    match &facts.director {
        None => report.find(
            Severity::Note,
            "daemon",
            "no director runs here",
            "nothing is forwarded",
            "systemctl start marca",
        ),
        Some(Director { daemon: None, .. }) => report.find(
            Severity::Fault,
            "daemon",
            "packets are forwarded, but no daemon runs",
            "nobody finds new MAC addresses, failed servers or changes of the network",
            "systemctl start marca",
        ),
        Some(Director { daemon: Some(pid), .. }) => report.well("daemon", format!("process {pid}")),
    }
}

fn names(config: &Config) -> Vec<&String> {
    let mut names: Vec<&String> = config.router.outside.iter().collect();
    names.extend(config.router.inside.iter().filter(|name| !config.router.outside.contains(name)));
    names
}

fn interfaces(config: &Config, facts: &Facts, report: &mut Report) {
    for name in names(config) {
        let Some(link) = facts.link(name) else {
            let there: Vec<&str> = facts.links.iter().map(|link| link.name.as_str()).collect();
            report.find(
                Severity::Fault,
                "interface",
                format!("there is no interface {name}"),
                "the daemon does not start without it",
                format!("name one of {} under [router]", there.join(", ")),
            );
            continue;
        };
        if !link.up {
            let mend = format!("ip link set {name} up");
            report.find(Severity::Fault, "interface", format!("{name} is switched off"), "no packet gets in", mend);
        } else if !link.carrier {
            let why = "nobody is at its other end";
            report.find(
                Severity::Fault,
                "interface",
                format!("{name} has no carrier"),
                why,
                "look at cable and switch",
            );
        } else {
            report.well("interface", format!("{name} is up, MTU {}", link.mtu));
        }
        mode(config, facts, link, report);
        offloads(config, facts, link, report);
    }
}

fn attached(facts: &Facts, name: &str) -> Option<Mode> {
    let director = facts.director.as_ref()?;
    director.attached.iter().find(|(interface, _)| interface == name).map(|(_, mode)| *mode)
}

/// By XDP or TC, as far as can be told before.
fn mode(config: &Config, facts: &Facts, link: &Link, report: &mut Report) {
    let name = &link.name;
    let asked = config.router.attach(name);
    let driver = link.kind.as_deref().or(link.driver.as_deref());
    match attached(facts, name) {
        Some(Mode::Generic) => report.find(
            Severity::Warning,
            "xdp",
            format!("{name} has generic XDP"),
            format!(
                "its driver, {}, has no native one, and frames are copied: TC is faster",
                driver.unwrap_or("unknown")
            ),
            format!("attach = {{ {name} = \"tc\" }} under [router], then `marca stop --detach` and a new start"),
        ),
        Some(mode) => report.well("xdp", format!("{name} is met by {}", mode.name())),
        None if asked == Attach::Xdp
            && !link.native_xdp.unwrap_or(driver.is_some_and(|driver| NATIVE.contains(&driver))) =>
        {
            report.find(
                Severity::Warning,
                "xdp",
                match link.native_xdp {
                    Some(_) => {
                        format!("{name} is to have XDP, and its driver ({}) has none", driver.unwrap_or("unknown"))
                    }
                    None => {
                        let driver = driver.unwrap_or("unknown");
                        format!("{name} is to have XDP, and its driver ({driver}) is not known to have it")
                    }
                },
                "without native XDP it gets the generic one, which is slower than TC",
                "attach = \"auto\" under [router]",
            )
        }
        None => {}
    }
    if let Some(Mode::Native | Mode::Generic) = attached(facts, name)
        && !link.xdp
    {
        report.find(
            Severity::Fault,
            "xdp",
            format!("{name} should have marca's program, and has none"),
            "what comes in there is not forwarded: somebody has taken it away, or the interface is another one now",
            "systemctl restart marca",
        );
    }
}

/// Where the kernel does not tell: drivers with native XDP, of those that servers have: `grep -l ndo_bpf` in Linux 6.12's drivers/net.
const NATIVE: &[&str] = &[
    "atlantic",
    "bnxt_en",
    "bond",
    "ena",
    "enetc",
    "fec",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "nicvf",
    "qede",
    "rvu_nicpf",
    "sfc",
    "stmmac",
    "tun",
    "veth",
    "virtio_net",
    "vmxnet3",
    "xen_netfront",
];

fn offloads(config: &Config, facts: &Facts, link: &Link, report: &mut Report) {
    let name = &link.name;
    if link.lro {
        report.find(
            Severity::Fault,
            "offload",
            format!("large receive offload is on for {name}"),
            "it merges TCP segments into frames that cannot be forwarded as they came",
            format!("ethtool -K {name} lro off"),
        );
    }
    let is_xdp = matches!(attached(facts, name), Some(Mode::Native | Mode::Generic))
        || config.router.attach(name) == Attach::Xdp;
    if link.tx_checksum && link.kind.as_deref() == Some("veth") && is_xdp {
        report.find(
            Severity::Fault,
            "offload",
            format!("transmit checksum offload is on for {name}, a veth met by XDP"),
            "packets sent there carry no checksum, and leave without one when XDP forwards them",
            format!("ethtool -K {name} tx off"),
        );
    }
}

fn mtu(config: &Config, facts: &Facts, report: &mut Report) {
    let of = |names: &[String]| names.iter().filter_map(|name| facts.link(name)).map(|link| link.mtu).min();
    let Some(outside) = of(&config.router.outside) else { return };
    let inside = of(&config.router.inside).unwrap_or(outside);
    let methods = || config.services.iter().flat_map(|s| s.servers.iter().map(move |server| (s, server)));
    let over = |forward: Forward| match forward {
        Forward::Tunnel => 20,
        Forward::Gre => 24,
        Forward::Gue(_) => 32,
        _ => 0,
    };
    // The outer header is of the real server's family.
    let tunnel = methods()
        .filter(|(_, server)| server.forward.is_tunnel())
        .map(|(_, server)| over(server.forward) + if server.addresses.iter().any(IpAddr::is_ipv6) { 20 } else { 0 });
    if let Some(over) = tunnel.max()
        && inside < outside + over
    {
        let mend = names(config).iter().map(|name| format!("ip link set {name} mtu {}", outside + over)).next_back();
        report.find(
            Severity::Note,
            "mtu",
            format!("tunnels add {over} bytes, and the way to real servers has an MTU of {inside}, clients' {outside}"),
            "full-sized packets are answered with ICMP \"fragmentation needed\": clients behind a firewall that swallows those \
             hang",
            mend.unwrap_or_default(),
        );
    }
    let nat = methods().any(|(_, server)| server.forward.is_nat());
    if nat && inside > outside {
        let inside_name = config.router.inside.first().map_or("", String::as_str);
        report.find(
            Severity::Fault,
            "mtu",
            format!("the inside has an MTU of {inside}, the outside of {outside}"),
            "a reply that is too large for the outside is dropped without a word",
            format!("ip link set {inside_name} mtu {outside}"),
        );
    }
}

fn sysctls(config: &Config, plan: &Plan, facts: &Facts, report: &mut Report) {
    let replies = if config.router.inside.is_empty() { &config.router.outside } else { &config.router.inside };
    if facts.director.is_some() {
        let before = report.findings.len();
        for (name, value) in forwarding::wanted(plan, replies) {
            if facts.sysctls.get(&name).is_some_and(|is| is != value) {
                report.find(
                    Severity::Fault,
                    "forwarding",
                    format!("{name} is {}", facts.sysctls[&name]),
                    "somebody has set it back since marca set it: replies under NAT are not forwarded",
                    format!("sysctl -w {name}={value}"),
                );
            }
        }
        if report.findings.len() == before {
            report.well("forwarding", "interfaces forward where replies need it");
        }
    }
    for name in names(config) {
        // Strict is 1; loose, 2, is the greater number, and wins.
        if facts.greater("rp_filter", name) == 1 {
            report.find(
                Severity::Warning,
                "rp_filter",
                format!("{name} has the strict reverse path filter"),
                "what marca leaves to the kernel (local real servers, replies without a copy of the routes) is dropped where \
                 the way back is another one",
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            );
        }
    }
}

fn vips(plan: &Plan, facts: &Facts, report: &mut Report) {
    if facts.director.is_none() {
        return;
    }
    let missing: Vec<&IpAddr> = plan.vips.iter().filter(|vip| facts.holders(**vip).next().is_none()).collect();
    for vip in &missing {
        report.find(
            Severity::Fault,
            "vip",
            format!("{vip} is on no interface"),
            "somebody has taken it off: nobody answers for it",
            "marca reload",
        );
    }
    if missing.is_empty() {
        report.well("vip", format!("{} VIPs are on their interfaces", plan.vips.len()));
    }
}

/// Other programs that meet the same packets.
fn others(config: &Config, facts: &Facts, report: &mut Report) {
    for link in names(config).into_iter().filter_map(|name| facts.link(name)) {
        let name = &link.name;
        if link.xdp && !matches!(attached(facts, name), Some(Mode::Native | Mode::Generic)) {
            let is_met = attached(facts, name).is_some();
            report.find(
                if is_met { Severity::Warning } else { Severity::Fault },
                "other",
                format!("another program has XDP on {name}"),
                if is_met { "it meets packets before marca does" } else { "marca cannot have XDP there, too" },
                format!("attach = {{ {name} = \"tc\" }} under [router], or: ip link set dev {name} xdp off"),
            );
        }
        programs(link, attached(facts, name), report);
        if link.filters > 0 {
            report.find(
                Severity::Note,
                "other",
                format!("{name} has {} other filters of TC", link.filters),
                "they see what marca leaves to the kernel, and nothing that it forwards",
                format!("tc filter show dev {name} ingress"),
            );
        }
    }
    let vips: Vec<&IpAddr> = config.services.iter().flat_map(|service| service.selector.vips()).collect();
    for service in facts.ipvs.iter().filter(|service| vips.contains(&&service.ip())) {
        report.find(
            Severity::Warning,
            "ipvs",
            format!("kernel IPVS has a service on {service}"),
            "marca meets the packets first; what it passes up goes to IPVS",
            format!("ipvsadm -D -t {service}"),
        );
    }
}

/// Programs of TC that others have attached by links, and filters on what goes out.
fn programs(link: &Link, attached: Option<Mode>, report: &mut Report) {
    let name = &link.name;
    let joined = |programs: &[&TcProgram]| programs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let such = |is: fn(&TcProgram) -> bool| link.programs.iter().filter(|p| is(p)).collect::<Vec<_>>();
    let (first, behind, out) = (such(|p| p.first), such(|p| !p.first && !p.out), such(|p| p.out));
    let is_tc = attached == Some(Mode::Tc);
    if !first.is_empty() && is_tc {
        report.find(
            Severity::Warning,
            "other",
            format!("{} of TC (tcx) on {name}, before marca", joined(&first)),
            "they meet packets first: what they drop or send elsewhere is not forwarded",
            "end them, systemctl restart marca, and start them again",
        );
    }
    let behind: Vec<_> = if is_tc { behind } else { [first, behind].concat() };
    if !behind.is_empty() {
        report.find(
            Severity::Note,
            "other",
            format!("{name} has other programs of TC (tcx): {}", joined(&behind)),
            "they see what marca leaves to the kernel, and nothing that it forwards",
            format!("bpftool net show dev {name}"),
        );
    }
    if is_tc && (!out.is_empty() || link.filters_out > 0) {
        let filters = if link.filters_out > 0 { format!("{} filters", link.filters_out) } else { String::new() };
        let both: Vec<String> = [joined(&out), filters].into_iter().filter(|text| !text.is_empty()).collect();
        report.find(
            Severity::Note,
            "other",
            format!("{name} has others of TC on what goes out: {}", both.join(", ")),
            "they also see what marca sends there, and may drop or change it",
            format!("tc filter show dev {name} egress; bpftool net show dev {name}"),
        );
    }
}

fn filters(config: &Config, plan: &Plan, facts: &Facts, report: &mut Report) {
    let vips: Vec<IpAddr> = plan.vips.iter().copied().collect();
    let concerned: Vec<_> = facts.rules.iter().filter_map(|rule| Some((rule, firewall::names(rule, &vips)?))).collect();
    for (rule, vip) in concerned.iter().take(MOST_RULES) {
        let meant = firewall::meant(rule);
        let mend = match meant {
            firewall::Meant::Drops => {
                "drop it before the director, or keep the ports out of the service; for floods: rate_limit"
            }
            firewall::Meant::Marks => "write it as [[mark]] into marca.toml, and take it out of the packet filter",
            firewall::Meant::Redirects | firewall::Meant::Other => "take it out of the packet filter",
        };
        report.find(
            if meant == firewall::Meant::Other { Severity::Note } else { Severity::Warning },
            "firewall",
            format!("{} {} {} {vip}: {}", rule.of, rule.chain, meant.name(), rule.text),
            "marca meets packets before the packet filter: what it forwards never comes to this rule",
            mend,
        );
    }
    let member = |service: &'_ Service| match &service.selector {
        Selector::Ports { ports, .. } => ports.iter().map(|member| member.matching).collect(),
        Selector::Mark { .. } => Vec::new(),
    };
    let ports: Vec<PortMatch> = config.services.iter().flat_map(member).collect();
    let about_ports = facts.rules.iter().filter(|rule| firewall::meant(rule) != firewall::Meant::Other);
    let about_ports = about_ports.filter_map(|rule| Some((rule, firewall::names_port(rule, &ports)?)));
    let about_ports: Vec<_> = about_ports.take(MOST_RULES).collect();
    for (rule, port) in &about_ports {
        report.find(
            Severity::Note,
            "firewall",
            format!(
                "{} {} {} {port}, whoever has it: {}",
                rule.of,
                rule.chain,
                firewall::meant(rule).name(),
                rule.text
            ),
            "a service has that port, and what marca forwards never comes to this rule; the director's own sockets do",
            "nothing, if only the director's own are meant; else drop it before the director",
        );
    }
    let closed: Vec<_> = facts.rules.iter().filter(|rule| firewall::drops_forwarded(rule)).collect();
    for rule in &closed {
        report.find(
            Severity::Note,
            "firewall",
            format!("{} {} drops what is forwarded unless a rule lets it pass", rule.of, rule.chain),
            "what marca forwards does not pass there: the services are reachable without a rule. What it leaves to the kernel \
             does, such as connections that real servers open themselves",
            "nothing, if real servers open none; else a rule that lets them",
        );
    }
    if concerned.is_empty() && about_ports.is_empty() && closed.is_empty() {
        report.well("firewall", format!("none of {} rules is about a VIP or a member port", facts.rules.len()));
    }
}

/// Rules that are told one by one.
const MOST_RULES: usize = 20;

/// Sockets of the director's own that a service hides.
fn listeners(config: &Config, facts: &Facts, report: &mut Report) {
    for service in &config.services {
        if service.servers.iter().any(|server| server.forward == Forward::Local) {
            continue;
        }
        let Selector::Ports { vips, ports } = &service.selector else { continue };
        for listener in &facts.listeners {
            let (address, port) = (listener.address.ip(), listener.address.port());
            let is_member = ports.iter().any(|member| {
                let matching = member.matching;
                matching.protocol == listener.protocol && (matching.ports.first..=matching.ports.last).contains(&port)
            });
            if is_member && vips.contains(&address) {
                found_listener(service, &format!("{}/{port} on {address}", listener.protocol), report);
            }
        }
    }
}

fn found_listener(service: &Service, what: &str, report: &mut Report) {
    report.find(
        Severity::Warning,
        "listener",
        format!("a program of this host listens at {what}"),
        format!("the service {} has that port: the program gets no client from outside", service.name),
        "ss -lntup, and stop it or have it listen elsewhere; forward = \"local\" makes it a real server",
    );
}

fn tables(facts: &Facts, report: &mut Report) {
    for (name, used, size) in facts.director.iter().flat_map(|director| &director.tables) {
        let percent = u64::from(*used) * 100 / u64::from((*size).max(1));
        let mend =
            format!("limits = {{ {name} = {} }} under [router], then `marca stop --detach` and a new start", size * 2);
        match percent {
            95.. => report.find(
                Severity::Fault,
                "table",
                format!("{name}: {used} of {size}, {percent} % full"),
                "new connections are dropped (table_full)",
                mend,
            ),
            80..95 => report.find(
                Severity::Warning,
                "table",
                format!("{name}: {used} of {size}, {percent} % full"),
                "when it is full new connections are dropped",
                mend,
            ),
            _ => report.well("table", format!("{name}: {used} of {size}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{Listener, Rule};
    use marca_config::model::Protocol;

    fn configured(forward: &str) -> (Config, Plan) {
        let text = format!(
            "[router]\noutside = 'eth0'\ninside = 'eth1'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\nforward = '{forward}'\n\
             [[service.shop.server]]\naddress = '10.0.0.11'\n"
        );
        let config = marca_config::load("marca.toml", &text).unwrap().config;
        let plan = Plan::of(&config).unwrap();
        (config, plan)
    }

    fn link(name: &str, address: &str) -> Link {
        let addresses = vec![address.parse().unwrap()];
        let driver = Some("virtio_net".to_owned());
        Link { name: name.into(), up: true, carrier: true, mtu: 1500, driver, addresses, xdp: true, ..Link::default() }
    }

    /// A director to which there is nothing to say.
    fn healthy() -> Facts {
        let mut outside = link("eth0", "198.51.100.1/24");
        outside.addresses.push("192.0.2.10/32".parse().unwrap());
        Facts {
            kernel: "6.12.1".into(),
            bpf_file_system: true,
            clock_is_kept: Some(true),
            links: vec![outside, link("eth1", "10.0.0.1/24")],
            sysctls: [("net.ipv4.conf.eth1.forwarding".to_owned(), "1".to_owned())].into(),
            director: Some(Director {
                daemon: Some(7),
                attached: vec![("eth0".into(), Mode::Native), ("eth1".into(), Mode::Native)],
                tables: vec![("flows".into(), 10, 1000)],
            }),
            ..Facts::default()
        }
    }

    /// Severity and check of what is found after this change.
    fn found(forward: &str, change: impl FnOnce(&mut Facts)) -> Vec<(Severity, &'static str)> {
        let (config, plan) = configured(forward);
        let mut facts = healthy();
        change(&mut facts);
        let report = examine(&config, &plan, &facts);
        assert!(report.findings.iter().all(|finding| !finding.mend.is_empty()), "{report:?}");
        report.findings.iter().map(|finding| (finding.severity, finding.check)).collect()
    }

    #[test]
    fn of_a_healthy_director_nothing_is_found() {
        assert_eq!(found("nat", |_| {}), []);
    }

    #[test]
    fn each_change_for_the_worse_is_one_finding() {
        type Change = fn(&mut Facts);
        let changes: [(&str, Change, (Severity, &str)); 16] = [
            ("nat", |f| f.kernel = "5.15.0".into(), (Severity::Fault, "kernel")),
            ("nat", |f| f.bpf_file_system = false, (Severity::Note, "bpffs")),
            ("nat", |f| f.clock_is_kept = Some(false), (Severity::Note, "clock")),
            ("nat", |f| f.director.as_mut().unwrap().daemon = None, (Severity::Fault, "daemon")),
            ("nat", |f| f.links[0].up = false, (Severity::Fault, "interface")),
            ("nat", |f| f.links[1].carrier = false, (Severity::Fault, "interface")),
            ("nat", |f| f.links[1].mtu = 9000, (Severity::Fault, "mtu")),
            ("tunnel", |f| f.links[1].mtu = 1500, (Severity::Note, "mtu")),
            ("nat", |f| f.links[0].lro = true, (Severity::Fault, "offload")),
            ("nat", |f| f.links[0].xdp = false, (Severity::Fault, "xdp")),
            ("nat", |f| f.links[0].filters = 1, (Severity::Note, "other")),
            ("nat", |f| _ = f.links[0].addresses.pop(), (Severity::Fault, "vip")),
            ("nat", |f| f.director.as_mut().unwrap().tables[0].1 = 850, (Severity::Warning, "table")),
            ("nat", |f| f.director.as_mut().unwrap().tables[0].1 = 990, (Severity::Fault, "table")),
            ("nat", |f| f.ipvs.push("192.0.2.10:80".parse().unwrap()), (Severity::Warning, "ipvs")),
            (
                "nat",
                |f| _ = f.sysctls.insert("net.ipv4.conf.eth1.forwarding".into(), "0".into()),
                (Severity::Fault, "forwarding"),
            ),
        ];
        for (forward, change, finding) in changes {
            assert_eq!(found(forward, change), [finding]);
        }
    }

    #[test]
    fn rules_and_programs_about_a_vip_are_found() {
        let rule = |text: &str| Rule {
            of: "nft",
            chain: "inet filter input".into(),
            text: text.into(),
            elements: vec!["192.0.2.10".to_owned()],
        };
        let drops = rule("ip daddr 192.0.2.10 drop");
        assert_eq!(found("nat", |f| f.rules.push(drops)), [(Severity::Warning, "firewall")]);
        let elsewhere = Rule { elements: vec![], ..rule("ip daddr 203.0.113.1 drop") };
        assert_eq!(found("nat", |f| f.rules.push(elsewhere)), []);
        let by_set = rule("ip daddr @vips drop");
        assert_eq!(found("nat", |f| f.rules.push(by_set)), [(Severity::Warning, "firewall")]);
        let by_port = rule("iifname eth0 tcp dport 80 drop");
        assert_eq!(found("nat", |f| f.rules.push(by_port)), [(Severity::Note, "firewall")]);
        let closed = rule("type filter hook forward priority filter; policy drop;");
        assert_eq!(found("nat", |f| f.rules.push(closed)), [(Severity::Note, "firewall")]);
        let listener = |address: &str| Listener { protocol: Protocol::Tcp, address: address.parse().unwrap() };
        assert_eq!(found("nat", |f| f.listeners.push(listener("192.0.2.10:80"))), [(Severity::Warning, "listener")]);
        assert_eq!(found("nat", |f| f.listeners.push(listener("192.0.2.10:22"))), []);
    }

    #[test]
    fn a_driver_without_xdp_is_told_by_the_kernel_or_else_by_its_name() {
        let (mut config, plan) = configured("nat");
        config.router.attach = Attach::Xdp;
        let of = |driver: &str, native_xdp| {
            let mut facts = Facts { director: None, ..healthy() };
            for link in &mut facts.links {
                (link.driver, link.native_xdp, link.xdp) = (Some(driver.to_owned()), native_xdp, false);
            }
            examine(&config, &plan, &facts).findings.iter().filter(|finding| finding.check == "xdp").count()
        };
        assert_eq!((of("ixgbe", None), of("r8169", None)), (0, 2));
        assert_eq!((of("new", Some(true)), of("ixgbe", Some(false))), (0, 2));
    }

    #[test]
    fn programs_of_others_on_the_same_interface_are_found_by_where_they_are() {
        let program = |out, first| TcProgram { name: "guard".into(), out, first };
        let with = |mode, program: TcProgram| {
            found("nat", |facts| {
                facts.director.as_mut().unwrap().attached[0].1 = mode;
                facts.links[0].xdp = mode == Mode::Native;
                facts.links[0].programs.push(program);
            })
        };
        assert_eq!(with(Mode::Native, program(false, true)), [(Severity::Note, "other")]);
        assert_eq!(with(Mode::Tc, program(false, true)), [(Severity::Warning, "other")]);
        assert_eq!(with(Mode::Tc, program(false, false)), [(Severity::Note, "other")]);
        assert_eq!(with(Mode::Tc, program(true, false)), [(Severity::Note, "other")]);
        assert_eq!(with(Mode::Native, program(true, false)), [], "what XDP sends does not pass there");
    }

    #[test]
    fn an_interface_that_is_missing_is_named_with_those_that_are_there() {
        let (config, plan) = configured("nat");
        let mut facts = healthy();
        facts.links.remove(1);
        let report = examine(&config, &plan, &facts);
        assert_eq!(report.findings[0].what, "there is no interface eth1");
        assert!(report.findings[0].mend.contains("eth0"), "{report:?}");
    }
}

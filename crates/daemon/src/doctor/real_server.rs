//! What a real server's facts mean.

use super::facts::Facts;
use super::{Report, Severity, firewall};
use marca_config::model::{Config, Forward, PortMatch, Selector};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What a director expects of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub vips: BTreeSet<IpAddr>,
    /// By what they come: `None` for NAT of either kind.
    pub methods: Vec<Forward>,
    /// As clients meet them; those that are mapped by NAT, as the real server does.
    pub ports: BTreeSet<PortMatch>,
    /// Directors, as their packets' outer source or as gateway, if they are known.
    pub directors: Vec<IpAddr>,
}

impl Expected {
    /// By a director's configuration: what it says of the real servers that have one of these addresses.
    pub fn of(config: &Config, own: &[IpAddr]) -> Self {
        let mut expected = Self::default();
        for service in &config.services {
            let servers = service.servers.iter().filter(|server| server.addresses.iter().any(|a| own.contains(a)));
            for server in servers {
                expected.vips.extend(service.selector.vips());
                if !expected.methods.contains(&server.forward) {
                    expected.methods.push(server.forward);
                }
                let Selector::Ports { ports, .. } = &service.selector else { continue };
                expected.ports.extend(ports.iter().map(|member| {
                    let port = member.target.filter(|_| server.forward.is_nat());
                    let ports = port.map_or(member.matching.ports, |port| marca_config::model::PortRange {
                        first: port,
                        last: port,
                    });
                    PortMatch { protocol: member.matching.protocol, ports }
                }));
            }
        }
        expected
    }

    fn needs_vip(&self) -> bool {
        self.methods.iter().any(|method| *method == Forward::Dr || method.is_tunnel())
    }
}

/// Everything that there is to say of this host as a real server.
pub fn examine(expected: &Expected, facts: &Facts) -> Report {
    let mut report = Report::default();
    if expected.needs_vip() {
        vips(expected, facts, &mut report);
        arp(expected, facts, &mut report);
    }
    if expected.methods.iter().any(|method| method.is_tunnel()) {
        tunnels(expected, facts, &mut report);
    }
    if expected.methods.contains(&Forward::Nat) {
        gateway(expected, facts, &mut report);
    }
    ports(expected, facts, &mut report);
    filters(expected, facts, &mut report);
    super::clock(facts, &mut report);
    report.unread(&facts.unread);
    report.sorted()
}

fn vips(expected: &Expected, facts: &Facts, report: &mut Report) {
    for vip in &expected.vips {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        let nodad = if vip.is_ipv6() { " nodad" } else { "" };
        let mut holders = facts.holders(*vip).peekable();
        if holders.peek().is_none() {
            report.find(
                Severity::Fault,
                "vip",
                format!("{vip} is on no interface"),
                "the kernel takes packets for it for somebody else's, and drops them",
                format!("ip addr add {vip}/{bits} dev lo{nodad}"),
            );
        }
        for (link, net) in holders {
            if link.name != "lo" && link.kind.as_deref() != Some("dummy") && is_on_the_wire(link.kind.as_deref()) {
                report.find(
                    Severity::Fault,
                    "vip",
                    format!("{vip} is on {}", link.name),
                    "this host answers for it there, beside the director",
                    format!("ip addr del {net} dev {}; ip addr add {vip}/{bits} dev lo{nodad}", link.name),
                );
            } else if net.prefix_len() != bits {
                report.find(
                    Severity::Fault,
                    "vip",
                    format!("{net} on {} has a network, not only the address", link.name),
                    "the whole network is this host's own then, clients in it included",
                    format!("ip addr del {net} dev {0}; ip addr add {vip}/{bits} dev {0}{nodad}", link.name),
                );
            } else {
                report.well("vip", format!("{vip} is on {}", link.name));
            }
        }
    }
}

/// Tunnel devices answer for nobody.
fn is_on_the_wire(kind: Option<&str>) -> bool {
    !matches!(kind, Some("ipip" | "sit" | "ip6tnl" | "gre" | "ip6gre"))
}

/// `Documentation/networking/ip-sysctl.rst`: of both the greater one of `all` and the interface's counts.
fn arp(expected: &Expected, facts: &Facts, report: &mut Report) {
    if !expected.vips.iter().any(IpAddr::is_ipv4) {
        return;
    }
    let wires = facts.links.iter().filter(|link| link.up && link.name != "lo" && is_on_the_wire(link.kind.as_deref()));
    for link in wires.filter(|link| link.addresses.iter().any(|net| net.addr().is_ipv4())) {
        let name = &link.name;
        let (ignore, announce) = (facts.greater("arp_ignore", name), facts.greater("arp_announce", name));
        if !(1..=2).contains(&ignore) && ignore != 8 {
            report.find(
                Severity::Fault,
                "arp",
                format!("{name} answers ARP for addresses of lo (arp_ignore is {ignore})"),
                "clients and routers find this host instead of the director",
                format!("sysctl -w net.ipv4.conf.{name}.arp_ignore=1"),
            );
        }
        if announce < 2 {
            report.find(
                Severity::Fault,
                "arp",
                format!("{name} may announce addresses of lo (arp_announce is {announce})"),
                "its ARP requests carry the VIP as sender, and whoever hears them takes this host for the director",
                format!("sysctl -w net.ipv4.conf.{name}.arp_announce=2"),
            );
        }
        if announce == 2 && (1..=2).contains(&ignore) {
            report.well("arp", format!("{name} is silent about the VIP"));
        }
    }
}

fn tunnels(expected: &Expected, facts: &Facts, report: &mut Report) {
    let devices: Vec<&str> = facts
        .links
        .iter()
        .filter(|link| link.up && !is_on_the_wire(link.kind.as_deref()))
        .map(|link| link.name.as_str())
        .collect();
    let wire = facts.links.iter().find(|link| link.up && link.name != "lo" && is_on_the_wire(link.kind.as_deref()));
    let wire = wire.map_or("eth0", |link| link.name.as_str());
    let from: String = expected.directors.iter().map(|director| format!(" --from {director}")).collect();
    if facts.decapsulators.is_empty() && devices.is_empty() {
        report.find(
            Severity::Fault,
            "tunnel",
            "nothing takes packets out of their tunnel",
            "the kernel answers them with ICMP protocol or port unreachable",
            format!("marca decap --interface {wire}{from}; for always: systemctl enable --now marca-decap@{wire}"),
        );
        return;
    }
    for name in &facts.decapsulators {
        match facts.link(name) {
            Some(link) if link.xdp => report.well("tunnel", format!("marca's decapsulator is on {name}")),
            _ => report.find(
                Severity::Fault,
                "tunnel",
                format!("marca's decapsulator was on {name}, and is there no more"),
                "the interface has gone and come again, or somebody has taken it away",
                format!("marca decap --interface {name}{from}"),
            ),
        }
    }
    for name in devices {
        report.well("tunnel", format!("the kernel's {name} takes packets out"));
        if facts.greater("rp_filter", name) == 1 {
            report.find(
                Severity::Fault,
                "rp_filter",
                format!("{name} has the strict reverse path filter"),
                "packets of clients come out of the tunnel, and the way to clients is another one: they are dropped",
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            );
        }
    }
}

/// Under NAT replies must come back through the director.
fn gateway(expected: &Expected, facts: &Facts, report: &mut Report) {
    if expected.directors.is_empty() {
        return;
    }
    if facts.default_gateways.iter().any(|gateway| expected.directors.contains(gateway)) {
        report.well("gateway", "the default route leads through the director");
        return;
    }
    let is: Vec<String> = facts.default_gateways.iter().map(ToString::to_string).collect();
    report.find(
        Severity::Fault,
        "gateway",
        format!("the default route leads to {}", if is.is_empty() { "nobody".into() } else { is.join(", ") }),
        "replies under NAT that do not come back through the director carry this host's address, and clients refuse them",
        format!("ip route replace default via {}", expected.directors[0]),
    );
}

/// Of a range of ports one is enough: media servers open them as they are needed.
fn ports(expected: &Expected, facts: &Facts, report: &mut Report) {
    let own: Vec<IpAddr> = facts.links.iter().flat_map(|link| link.addresses.iter().map(|net| net.addr())).collect();
    let addresses = if expected.needs_vip() { expected.vips.iter().copied().collect() } else { own };
    for wanted in expected.ports.iter().filter(|wanted| wanted.ports.is_single()) {
        let port = wanted.ports.first;
        let deaf: Vec<String> = addresses
            .iter()
            .filter(|address| expected.needs_vip() && !facts.listens(wanted.protocol, **address, port))
            .map(ToString::to_string)
            .collect();
        let anybody = addresses.iter().any(|address| facts.listens(wanted.protocol, *address, port));
        if anybody && deaf.is_empty() {
            report.well("port", format!("somebody listens at {wanted}"));
            continue;
        }
        let at = if deaf.is_empty() { String::new() } else { format!(" of {}", deaf.join(", ")) };
        report.find(
            Severity::Fault,
            "port",
            format!("nobody listens at {wanted}{at}"),
            "clients that are sent here are refused",
            "start the program, and have it listen at the wildcard address: ss -lntup",
        );
    }
}

fn filters(expected: &Expected, facts: &Facts, report: &mut Report) {
    let vips: Vec<IpAddr> = expected.vips.iter().copied().collect();
    let dropping = facts.rules.iter().filter(|rule| firewall::meant(rule) == firewall::Meant::Drops);
    for (rule, vip) in dropping.filter_map(|rule| Some((rule, firewall::names(rule, &vips)?))) {
        report.find(
            Severity::Fault,
            "firewall",
            format!("{} {} drops packets to {vip}: {}", rule.of, rule.chain, rule.text),
            "those are its clients'",
            "take the rule away",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{Link, Listener};
    use marca_config::model::{PortRange, Protocol};

    fn link(name: &str, address: &str) -> Link {
        let addresses = vec![address.parse().unwrap()];
        Link { name: name.into(), up: true, carrier: true, mtu: 1500, addresses, ..Link::default() }
    }

    fn expected(method: Forward) -> Expected {
        let ports = PortMatch { protocol: Protocol::Tcp, ports: PortRange { first: 80, last: 80 } };
        Expected {
            vips: ["192.0.2.10".parse().unwrap()].into(),
            methods: vec![method],
            ports: [ports].into(),
            directors: vec!["10.0.0.1".parse().unwrap()],
        }
    }

    /// A real server by any method.
    fn healthy() -> Facts {
        let mut loopback = link("lo", "127.0.0.1/8");
        loopback.addresses.push("192.0.2.10/32".parse().unwrap());
        let sysctl = |name: &str, value: &str| (format!("net.ipv4.conf.{name}"), value.to_owned());
        Facts {
            clock_is_kept: Some(true),
            links: vec![loopback, Link { xdp: true, ..link("eth0", "10.0.0.11/24") }],
            sysctls: [sysctl("all.arp_ignore", "1"), sysctl("eth0.arp_announce", "2")].into(),
            listeners: vec![Listener { protocol: Protocol::Tcp, address: "[::]:80".parse().unwrap() }],
            default_gateways: vec!["10.0.0.1".parse().unwrap()],
            decapsulators: vec!["eth0".into()],
            ..Facts::default()
        }
    }

    fn found(method: Forward, change: impl FnOnce(&mut Facts)) -> Vec<(Severity, &'static str, String)> {
        let mut facts = healthy();
        change(&mut facts);
        let findings = examine(&expected(method), &facts).findings.into_iter();
        findings.map(|finding| (finding.severity, finding.check, finding.mend)).collect()
    }

    #[test]
    fn of_a_healthy_real_server_nothing_is_found() {
        for method in [Forward::Nat, Forward::FullNat, Forward::Dr, Forward::Tunnel] {
            assert_eq!(found(method, |_| {}), [], "{}", method.name());
        }
    }

    #[test]
    fn each_change_for_the_worse_is_one_fault_with_what_mends_it() {
        type Change = fn(&mut Facts);
        let changes: [(Forward, Change, &str, &str); 8] = [
            (Forward::Dr, |f| _ = f.links[0].addresses.pop(), "vip", "ip addr add 192.0.2.10/32 dev lo"),
            (
                Forward::Dr,
                |f| f.links[0].addresses[1] = "192.0.2.10/24".parse().unwrap(),
                "vip",
                "ip addr del 192.0.2.10/24 dev lo; ip addr add 192.0.2.10/32 dev lo",
            ),
            (
                Forward::Dr,
                |f| _ = f.sysctls.insert("net.ipv4.conf.all.arp_ignore".into(), "0".into()),
                "arp",
                "sysctl -w net.ipv4.conf.eth0.arp_ignore=1",
            ),
            (
                Forward::Dr,
                |f| _ = f.sysctls.insert("net.ipv4.conf.eth0.arp_announce".into(), "1".into()),
                "arp",
                "sysctl -w net.ipv4.conf.eth0.arp_announce=2",
            ),
            (
                Forward::Tunnel,
                |f| f.decapsulators.clear(),
                "tunnel",
                "marca decap --interface eth0 --from 10.0.0.1; for always: systemctl enable --now marca-decap@eth0",
            ),
            (Forward::Tunnel, |f| f.links[1].xdp = false, "tunnel", "marca decap --interface eth0 --from 10.0.0.1"),
            (Forward::Nat, |f| f.default_gateways.clear(), "gateway", "ip route replace default via 10.0.0.1"),
            (
                Forward::Dr,
                |f| f.listeners.clear(),
                "port",
                "start the program, and have it listen at the wildcard address: ss -lntup",
            ),
        ];
        for (method, change, check, mend) in changes {
            assert_eq!(found(method, change), [(Severity::Fault, check, mend.to_owned())]);
        }
    }

    #[test]
    fn a_configuration_tells_a_real_server_what_is_expected_of_it() {
        let text = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = ['tcp/80', 'tcp/443 -> 8443']\n\
                    [[service.shop.server]]\naddress = '10.0.0.11'\n[[service.shop.server]]\naddress = '10.0.0.12'\n";
        let config = marca_config::load("marca.toml", text).unwrap().config;
        let of = Expected::of(&config, &["10.0.0.11".parse().unwrap()]);
        let ports: Vec<String> = of.ports.iter().map(ToString::to_string).collect();
        assert_eq!((of.methods, ports), (vec![Forward::Nat], vec!["tcp/80".to_owned(), "tcp/8443".into()]));
        assert_eq!(Expected::of(&config, &[]), Expected::default());
    }
}

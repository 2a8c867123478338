//! Rules of packet filters about the traffic that marca forwards.
//!
//! marca meets packets before any packet filter does. A rule about a VIP is therefore not one that eats or marks: it is one
//! that its author believes to be in force, and that no forwarded packet ever meets.

use super::facts::Rule;
use ipnet::IpNet;
use marca_config::model::{PortMatch, PortRange, Protocol};
use std::net::IpAddr;

/// What a rule means to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    Drops,
    Marks,
    /// Gives it another destination.
    Redirects,
    /// Lets it pass, counts it, or something else.
    Other,
}

impl Meant {
    pub fn name(self) -> &'static str {
        match self {
            Meant::Drops => "drops",
            Meant::Marks => "marks",
            Meant::Redirects => "redirects",
            Meant::Other => "is about",
        }
    }
}

/// Which of these VIPs a rule names as a destination, alone, within a network or a range, or by a set.
pub fn names(rule: &Rule, vips: &[IpAddr]) -> Option<IpAddr> {
    if names_destination(rule) {
        let element = |text: &str| vips.iter().find(|vip| text.split(" . ").any(|part| holds(part, **vip))).copied();
        if let Some(vip) = rule.elements.iter().find_map(|text| element(text)) {
            return Some(vip);
        }
    }
    let words: Vec<&str> = words(&rule.text).collect();
    let is_destination = |at: usize| {
        // `ip daddr X`, `ip daddr { X, Y }`, `-d X`, `! -d X`; words have no braces and commas any more.
        let before = words[..at].iter().rev().find(|word| parse(word).is_none());
        before.is_some_and(|word| matches!(*word, "daddr" | "-d" | "--destination"))
    };
    let nets = words.iter().enumerate().filter(|(at, _)| is_destination(*at)).filter_map(|(_, word)| parse(word));
    nets.flat_map(|net| vips.iter().filter(move |vip| net.prefix_len() > 0 && net.contains(*vip))).next().copied()
}

/// Whether a set of the rule is one of destinations: of iptables only such are looked at.
fn names_destination(rule: &Rule) -> bool {
    rule.text.contains("daddr") || rule.text.contains("--match-set")
}

/// Whether a set's element, an address, a network or a range, has this one. All of a family is nobody's in particular.
fn holds(element: &str, vip: IpAddr) -> bool {
    match element.split_once('-') {
        Some((first, last)) => match (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&vip) && first.is_ipv4() == vip.is_ipv4(),
            _ => false,
        },
        None => {
            element.split_whitespace().next().and_then(parse).is_some_and(|n| n.prefix_len() > 0 && n.contains(&vip))
        }
    }
}

/// A member port that a rule names without saying whose: in `tcp dport 80 drop`, say, that of every host behind it.
pub fn names_port(rule: &Rule, ports: &[PortMatch]) -> Option<PortMatch> {
    let words: Vec<&str> = words(&rule.text).collect();
    if words.iter().any(|word| matches!(*word, "daddr" | "-d" | "--destination" | "--match-set")) {
        return None;
    }
    let at = words.iter().position(|word| matches!(*word, "dport" | "--dport" | "--dports"))?;
    let protocol = |name: &str| Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == name);
    // `tcp dport 80`, `-p tcp … --dport 80`; `th dport` and `meta l4proto { tcp, udp } th dport` are any protocol.
    let protocol = match words.iter().position(|word| matches!(*word, "-p" | "--protocol")) {
        Some(before) => words.get(before + 1).and_then(|word| protocol(word)),
        None => at.checked_sub(1).and_then(|before| protocol(words[before])),
    };
    let range = |word: &&str| {
        let (first, last) = word.split_once(['-', ':']).unwrap_or((word, word));
        Some((first.parse::<u16>().ok()?, last.parse::<u16>().ok()?))
    };
    let ranges: Vec<(u16, u16)> = words[at + 1..].iter().map_while(range).collect();
    let meets = |port: &&PortMatch| {
        let PortRange { first, last } = port.ports;
        protocol.is_none_or(|protocol| protocol == port.protocol) && ranges.iter().any(|r| r.0 <= last && first <= r.1)
    };
    ports.iter().find(meets).copied()
}

/// Whether it is a chain for what is forwarded that drops what no rule has let pass.
pub fn drops_forwarded(rule: &Rule) -> bool {
    rule.text.starts_with("type ") && rule.text.contains("hook forward") && rule.text.contains("policy drop")
}

/// What it does with them.
pub fn meant(rule: &Rule) -> Meant {
    let words: Vec<&str> = words(&rule.text).collect();
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
    let pair = |a: &str, b: &str| words.windows(2).any(|pair| pair == [a, b]);
    if has(&["drop", "reject", "DROP", "REJECT"]) {
        Meant::Drops
    } else if has(&["MARK", "--set-mark", "--set-xmark", "CONNMARK"]) || pair("mark", "set") {
        Meant::Marks
    } else if has(&["dnat", "DNAT", "redirect", "REDIRECT"]) {
        Meant::Redirects
    } else {
        Meant::Other
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | ',' | '"')).filter(|word| !word.is_empty())
}

fn parse(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        Rule { of: "nft", chain: "inet filter input".into(), text: text.into(), elements: vec![] }
    }

    #[test]
    fn a_vip_is_found_in_the_sets_that_a_rule_names() {
        let vips: [IpAddr; 1] = ["192.0.2.10".parse().unwrap()];
        for (text, element, is_named) in [
            ("ip daddr @vips drop", "192.0.2.10", true),
            ("ip daddr @vips drop", "192.0.2.0/24", true),
            ("ip daddr @vips drop", "192.0.2.1-192.0.2.20", true),
            ("ip daddr . tcp dport vmap @vips", "192.0.2.10 . 80", true),
            ("ip daddr @vips drop", "192.0.2.11-192.0.2.20", false),
            ("ip daddr @vips drop", "0.0.0.0/0", false),
            ("ip saddr @vips drop", "192.0.2.10", false),
            ("-A INPUT -m set --match-set vips dst -j DROP", "192.0.2.10", true),
        ] {
            let rule = Rule { elements: vec![element.to_owned()], ..rule(text) };
            assert_eq!(names(&rule, &vips).is_some(), is_named, "{text} {element}");
        }
    }

    #[test]
    fn a_member_port_is_found_in_a_rule_that_names_no_address() {
        let port = |protocol, first, last| PortMatch { protocol, ports: PortRange { first, last } };
        let ports = [port(Protocol::Tcp, 80, 80), port(Protocol::Udp, 5000, 5100)];
        for (text, found) in [
            ("tcp dport 80 drop", Some(0)),
            ("iifname eth0 tcp dport { 22, 80-90 } drop", Some(0)),
            ("-A INPUT -p tcp -m multiport --dports 22,80 -j DROP", Some(0)),
            ("-A FORWARD -p udp -m udp --dport 5100:6000 -j DROP", Some(1)),
            ("th dport 5050 drop", Some(1)),
            ("udp dport 80 drop", None),
            ("tcp dport 22 drop", None),
            ("tcp sport 80 drop", None),
            ("ip daddr 198.51.100.1 tcp dport 80 drop", None),
        ] {
            assert_eq!(names_port(&rule(text), &ports), found.map(|at: usize| ports[at]), "{text}");
        }
        assert!(drops_forwarded(&rule("type filter hook forward priority filter; policy drop;")));
        assert!(!drops_forwarded(&rule("type filter hook input priority filter; policy drop;")));
    }

    #[test]
    fn rules_of_nft_and_iptables_are_understood() {
        let vips: [IpAddr; 2] = ["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
        for (text, vip, does) in [
            ("ip daddr 192.0.2.10 tcp dport 80 drop", Some(0), Meant::Drops),
            ("ip daddr { 198.51.100.1, 192.0.2.10 } reject", Some(0), Meant::Drops),
            ("ip daddr 192.0.2.0/24 meta mark set 0x50", Some(0), Meant::Marks),
            ("ip6 daddr 2001:db8::10 dnat to [fd00::1]:80", Some(1), Meant::Redirects),
            ("-A PREROUTING -d 192.0.2.10/32 -p tcp -j MARK --set-xmark 0x50/0xffffffff", Some(0), Meant::Marks),
            ("-A INPUT -d 192.0.2.10/32 -j ACCEPT", Some(0), Meant::Other),
            ("-A INPUT -s 192.0.2.10/32 -j DROP", None, Meant::Drops),
            ("ip saddr 192.0.2.10 drop", None, Meant::Drops),
            ("ip daddr 0.0.0.0/0 drop", None, Meant::Drops),
            ("tcp dport 80 accept", None, Meant::Other),
        ] {
            let rule = rule(text);
            assert_eq!((names(&rule, &vips), meant(&rule)), (vip.map(|at: usize| vips[at]), does), "{text}");
        }
    }
}

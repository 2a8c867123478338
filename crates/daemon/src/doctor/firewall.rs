//! Rules of packet filters about the traffic that marca forwards.
//!
//! marca meets packets before any packet filter does. A rule about a VIP is therefore not one that eats or marks: it is one
//! that its author believes to be in force, and that no forwarded packet ever meets.

use super::facts::Rule;
use ipnet::IpNet;
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

/// Which of these VIPs a rule names as a destination, alone or within a network.
pub fn names(rule: &Rule, vips: &[IpAddr]) -> Option<IpAddr> {
    let words: Vec<&str> = words(&rule.text).collect();
    let is_destination = |at: usize| {
        // `ip daddr X`, `ip daddr { X, Y }`, `-d X`, `! -d X`; words have no braces and commas any more.
        let before = words[..at].iter().rev().find(|word| parse(word).is_none());
        before.is_some_and(|word| matches!(*word, "daddr" | "-d" | "--destination"))
    };
    let nets = words.iter().enumerate().filter(|(at, _)| is_destination(*at)).filter_map(|(_, word)| parse(word));
    nets.flat_map(|net| vips.iter().filter(move |vip| net.prefix_len() > 0 && net.contains(*vip))).next().copied()
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
        Rule { of: "nft", chain: "inet filter input".into(), text: text.into() }
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

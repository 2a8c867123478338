//! Finds the facts out, in the network namespace of the calling thread. Decides nothing.

use super::facts::{Director, Facts, Link, Listener, Rule, TcProgram, Unread};
use crate::linux::attach::Mode;
use crate::linux::{features, link, offload, sysctl};
use crate::place::Place;
use crate::status::{Depth, Running, Status};
use aya::programs::{SchedClassifier, TcAttachType};
use ipnet::IpNet;
use marca_config::model::Protocol;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

/// Everything; of the director what its daemon has `told`, or else what its tables say. What cannot be found out is among the
/// facts, too.
pub fn gather(place: &Place, decap_dir: &Path, told: Option<Status>) -> Facts {
    let mut facts = Facts {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        bpf_file_system: statfs("/sys/fs/bpf").is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC),
        clock_is_kept: clock_is_kept(),
        ..Facts::default()
    };
    links(&mut facts);
    sysctls(&mut facts);
    listeners(&mut facts);
    rules(&mut facts);
    ipvs(&mut facts);
    if let Some(status) = told {
        facts.director = Some(Director::from(status));
    } else if place.pin_dir.join("maps").exists() {
        director(place, &mut facts);
    }
    let entries = fs::read_dir(decap_dir).into_iter().flatten().flatten();
    facts.decapsulators.extend(entries.map(|entry| link::interface(&entry.file_name().to_string_lossy())));
    facts.decapsulators.sort();
    facts
}

/// Beside what the kernel has for each interface.
const SYSCTLS: &[&str] = &["net.core.bpf_jit_enable", "net.ipv4.ip_forward"];
const OF_INTERFACES: &[&str] = &["rp_filter", "arp_ignore", "arp_announce", "forwarding"];

/// By adjtimex(2): 5 is `TIME_ERROR`, nobody has said for long that it is right.
fn clock_is_kept() -> Option<bool> {
    // SAFETY: all of a timex may be zero, and modes of zero make it a question.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: it outlives the call.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => None,
        state => Some(state != libc::TIME_ERROR),
    }
}

fn links(facts: &mut Facts) {
    let Some(addresses) = json(facts, "interfaces", "ip", &["-j", "-d", "addr", "show"], "apt install iproute2") else {
        return;
    };
    for found in addresses.as_array().into_iter().flatten() {
        let text = |key: &str| found[key].as_str().unwrap_or_default();
        let name = text("ifname").to_owned();
        let flags: Vec<&str> = found["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let driver = fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
        let net = |info: &Value| -> Option<IpNet> {
            let address: IpAddr = info["local"].as_str()?.parse().ok()?;
            IpNet::new(address, info["prefixlen"].as_u64()?.try_into().ok()?).ok()
        };
        let (lro, tx_checksum) = offload::state(&name).unwrap_or_default();
        facts.links.push(Link {
            up: flags.contains(&"UP"),
            carrier: flags.contains(&"LOWER_UP"),
            mtu: found["mtu"].as_u64().unwrap_or(0) as u32,
            kind: found["linkinfo"]["info_kind"].as_str().map(str::to_owned),
            native_xdp: found["ifindex"].as_u64().and_then(|index| features::has_native_xdp(index as u32)),
            driver: driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
            addresses: found["addr_info"].as_array().into_iter().flatten().filter_map(net).collect(),
            xdp: !found["xdp"].is_null(),
            filters: 0,
            filters_out: 0,
            programs: programs(&name),
            lro,
            tx_checksum,
            name,
        });
    }
    for at in 0..facts.links.len() {
        let name = facts.links[at].name.clone();
        facts.links[at].filters = filters(&name, "ingress");
        facts.links[at].filters_out = filters(&name, "egress");
    }
    let mut gateways = Vec::new();
    for family in ["-4", "-6"] {
        let routes = json(facts, "routes", "ip", &["-j", family, "route", "show", "default"], "apt install iproute2");
        let routes = routes.unwrap_or_default();
        let gateway = |route: &Value| route["gateway"].as_str()?.parse::<IpAddr>().ok();
        gateways.extend(routes.as_array().into_iter().flatten().filter_map(gateway));
    }
    facts.default_gateways = gateways;
}

/// Filters of others in the qdisc `clsact`.
fn filters(interface: &str, way: &str) -> usize {
    let said = Command::new("tc").args(["-j", "filter", "show", "dev", interface, way]).output();
    let filters = said.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    // marca's own has the preference 1 and the handle "ma".
    let is_other = |filter: &&Value| !filter["options"].is_null() && filter["options"]["handle"] != "0x6d61";
    filters.iter().flat_map(Value::as_array).flatten().filter(is_other).count()
}

/// Programs of others that are attached to TC by links. A kernel without such links says that it knows no such question.
fn programs(interface: &str) -> Vec<TcProgram> {
    let mut found = Vec::new();
    for (way, out) in [(TcAttachType::Ingress, false), (TcAttachType::Egress, true)] {
        let Ok((_, programs)) = SchedClassifier::query_tcx(interface, way) else { continue };
        let names = programs.iter().map(|program| program.name_as_str().unwrap_or_default());
        let mut first = true;
        for name in names {
            // As much of the name as the kernel keeps.
            match name == marca_bpf::ENTRY_TC {
                true => first = false,
                false => found.push(TcProgram { name: name.to_owned(), out, first: first && !out }),
            }
        }
    }
    found
}

fn sysctls(facts: &mut Facts) {
    let mut names: Vec<String> = SYSCTLS.iter().map(|name| (*name).to_owned()).collect();
    for interface in facts.links.iter().map(|link| link.name.as_str()).chain(["all"]) {
        names.extend(OF_INTERFACES.iter().map(|key| format!("net.ipv4.conf.{interface}.{key}")));
        names.push(format!("net.ipv6.conf.{interface}.forwarding"));
    }
    let value = |name: String| Some((sysctl::read(&name).ok()?, name));
    facts.sysctls = names.into_iter().filter_map(value).map(|(value, name)| (name, value)).collect();
}

fn listeners(facts: &mut Facts) {
    // proc_pid_net(5). 0A is LISTEN; a UDP socket that waits for anybody is 07, CLOSE.
    for (file, protocol, state) in [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let listener = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (local, is) = (words.next()?, words.nth(1)?);
            (is == state).then(|| socket_address(local)).flatten().map(|address| Listener { protocol, address })
        };
        facts.listeners.extend(text.lines().skip(1).filter_map(listener));
    }
}

/// `0100007F:0050`, or 32 digits for IPv6: words in the host's order, which is what a packet's bytes look like in it.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let mut bytes = [0; 16];
        for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
            four.copy_from_slice(&word(at)?);
        }
        Ipv6Addr::from(bytes).into()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn rules(facts: &mut Facts) {
    match said("nft", &["list", "ruleset"]) {
        Ok(text) => facts.rules.extend(nft_rules(&text)),
        Err(why) => unread(facts, "rules of nftables", why, "apt install nftables"),
    }
    let ipsets = said("ipset", &["save"]).map_or_else(|_| BTreeMap::new(), |text| ipsets(&text));
    for (of, program) in [("iptables", "iptables-save"), ("ip6tables", "ip6tables-save")] {
        // Where there is no such program there are no such rules, but for those that nft has shown.
        let Ok(text) = said(program, &[]) else { continue };
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if line.starts_with("-A ") {
                let chain = line.split_whitespace().nth(1).unwrap_or_default();
                let words: Vec<&str> = line.split_whitespace().collect();
                let sets = words.windows(3).filter(|words| words[0] == "--match-set" && words[2].contains("dst"));
                let elements = sets.filter_map(|words| ipsets.get(words[1])).flatten().cloned().collect();
                facts.rules.push(Rule { of, chain: format!("{table} {chain}"), text: line.to_owned(), elements });
            }
        }
    }
}

/// What is in each set of `ipset save`: `add NAME ELEMENT`, of an element with several parts the first.
fn ipsets(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("add ")) {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(element)) = (words.next(), words.next()) {
            let address = element.split(',').next().unwrap_or_default();
            sets.entry(name.to_owned()).or_default().push(address.to_owned());
        }
    }
    sets
}

/// What is in each set and map, by table and name: `elements = { A, B : verdict }`, over as many lines as it takes.
fn nft_sets(text: &str) -> BTreeMap<(String, String), Vec<String>> {
    let (mut sets, mut table, mut set) = (BTreeMap::new(), String::new(), None);
    let mut within = false;
    for line in text.lines().map(str::trim) {
        let mut line = line;
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim().to_owned();
        } else if let Some(name) = line.strip_prefix("set ").or_else(|| line.strip_prefix("map ")) {
            set = Some(name.trim_end_matches('{').trim().to_owned());
        } else if line == "}" && !within {
            set = None;
        }
        if let Some(elements) = line.strip_prefix("elements = {") {
            (within, line) = (true, elements);
        }
        if let (true, Some(set)) = (within, &set) {
            let ends = line.contains('}');
            let elements = line.trim_end_matches('}').split(',').map(str::trim).filter(|element| !element.is_empty());
            // What a map leads to, timeouts, counters and comments follow the element.
            let element = |text: &str| text.split(" : ").next().unwrap_or_default().trim().to_owned();
            let known: &mut Vec<String> = sets.entry((table.clone(), set.clone())).or_default();
            known.extend(elements.map(element));
            within = !ends;
        }
    }
    sets
}

/// Lines of `nft list ruleset` within chains; of those that say what kind of chain it is, one that drops by default.
fn nft_rules(text: &str) -> Vec<Rule> {
    let sets = nft_sets(text);
    let (mut rules, mut table, mut chain) = (Vec::new(), String::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim().to_owned();
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = Some(name.trim_end_matches('{').trim().to_owned());
        } else if line == "}" {
            chain = None;
        } else if let Some(chain) = &chain
            && !line.is_empty()
            && (!line.starts_with("type ") || line.contains("policy drop"))
            && !line.starts_with('#')
        {
            let names = line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '@' | '_' | '-' | '.' | '/')));
            let names = names.filter_map(|word| word.strip_prefix('@'));
            let elements = names.filter_map(|name| sets.get(&(table.clone(), name.to_owned()))).flatten().cloned();
            let elements = elements.collect();
            rules.push(Rule { of: "nft", chain: format!("{table} {chain}"), text: line.to_owned(), elements });
        }
    }
    rules
}

/// `/proc/net/ip_vs`: `TCP  C000020A:0050 wlc`, numbers as they are read.
fn ipvs(facts: &mut Facts) {
    let text = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    let service = |line: &str| {
        let mut words = line.split_whitespace();
        let (_, address) = (words.next().filter(|word| matches!(*word, "TCP" | "UDP" | "SCTP"))?, words.next()?);
        let (ip, port) = address.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip: IpAddr = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
            Some(v6) => v6.parse().ok()?,
            None => Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?).into(),
        };
        Some(SocketAddr::new(ip, port))
    };
    facts.ipvs.extend(text.lines().filter_map(service));
}

fn director(place: &Place, facts: &mut Facts) {
    match Running::open(place) {
        Ok(running) => facts.director = Some(Director::from(running.told(None, Depth::Services))),
        Err(error) => unread(facts, "the director's tables", error.to_string(), "be root"),
    }
}

impl From<Status> for Director {
    fn from(status: Status) -> Self {
        let attached = status.interfaces.into_iter().filter_map(|i| Some((i.name, Mode::named(&i.attached)?)));
        let tables = status.tables.into_iter().map(|(name, table)| (name, table.used, table.size));
        Self { daemon: status.daemon, attached: attached.collect(), tables: tables.collect() }
    }
}

fn unread(facts: &mut Facts, what: &str, why: String, mend: &str) {
    facts.unread.push(Unread { what: what.to_owned(), why, mend: mend.to_owned() });
}

fn json(facts: &mut Facts, what: &str, program: &str, arguments: &[&str], mend: &str) -> Option<Value> {
    let text = said(program, arguments);
    // Nothing to list is nothing said.
    let parsed = text.and_then(|text| match text.trim() {
        "" => Ok(Value::Null),
        text => serde_json::from_str(text).map_err(|error| error.to_string()),
    });
    parsed.map_err(|why| unread(facts, what, why, mend)).ok()
}

fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("start {program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_sockets_are_read() {
        assert_eq!(socket_address("0A0200C0:0050").unwrap().to_string(), "192.0.2.10:80");
        assert_eq!(socket_address("B80D0120000000000000000010000000:01BB").unwrap().to_string(), "[2001:db8::10]:443");
        assert_eq!(socket_address("nonsense"), None);
    }

    #[test]
    fn rules_are_found_in_their_chains() {
        let text = "table inet filter {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\tchain input {\n\t\ttype filter hook input priority \
                    filter; policy accept;\n\t\tip daddr 192.0.2.10 drop\n\t}\n}\n";
        let rules = nft_rules(text);
        assert_eq!(rules.len(), 1, "{rules:?}");
        assert_eq!(
            (rules[0].chain.as_str(), rules[0].text.as_str()),
            ("inet filter input", "ip daddr 192.0.2.10 drop")
        );
    }

    #[test]
    fn a_rule_knows_what_is_in_the_sets_that_it_names() {
        let text = "table inet filter {\n\tset vips {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { 192.0.2.0/28, 198.51.100.1-198.51.100.9,\n\t\t\t     203.0.113.7 }\n\t}\n\
                    \tmap verdicts {\n\t\ttype ipv4_addr . inet_service : verdict\n\t\telements = { 192.0.2.10 . 80 : drop }\n\t}\n\
                    \tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tip daddr @vips drop\n\t\tip daddr . tcp dport vmap @verdicts\n\t}\n}\n";
        let rules = nft_rules(text);
        let elements: Vec<Vec<&str>> =
            rules.iter().map(|rule| rule.elements.iter().map(String::as_str).collect()).collect();
        assert_eq!(
            elements,
            [vec![], vec!["192.0.2.0/28", "198.51.100.1-198.51.100.9", "203.0.113.7"], vec!["192.0.2.10 . 80"]],
            "{rules:?}"
        );
        let ipsets = ipsets("create bad hash:ip family inet\nadd bad 192.0.2.10\nadd bad 198.51.100.0/24,tcp:80\n");
        assert_eq!(ipsets["bad"], ["192.0.2.10", "198.51.100.0/24"]);
    }
}

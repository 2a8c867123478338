//! Packets told in full: the pages that `marca explain` shows.

use super::*;
use crate::classifier;
use crate::memory::Capacity;
use crate::services::{self, Hop};
use marca_config::model::Limits;
use marca_testkit::frame;

const CLOCK: Clock = Clock { hz: 250 };

/// A director's tables on the heap.
struct Tables {
    memory: Memory,
    plan: Plan,
    ids: Ids,
}

impl Tables {
    fn of(config: &str) -> Self {
        let text = format!("[router]\noutside = \"eth0\"\ninside = \"eth1\"\n{config}");
        let loaded = marca_config::load("marca.toml", &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let plan = Plan::of(&loaded.config).unwrap();
        let capacity = Capacity::for_plan(&plan, &Limits { flows: 1024, half_open: 1024, templates: 1024 });
        let mut memory = Memory::on_heap(capacity, 7);
        let mut ids = Ids::default();
        ids.assign(&plan, capacity.services, capacity.reals).unwrap();
        services::write(&memory, &plan, &ids, CLOCK).unwrap();
        let interfaces = HashMap::from([("eth0".to_owned(), 2), ("eth1".to_owned(), 3)]);
        let written = classifier::write(&memory, &plan, &ids, &interfaces).unwrap();
        memory.prefixes = written.prefixes.clone();
        classifier::switch(&memory, &written);
        Self { memory, plan, ids }
    }

    /// Every real server is next door, on interface 3.
    fn resolve(&self) {
        for number in 0..self.memory.reals.len() {
            if self.memory.reals.get(number).is_some_and(|real| real.flags != 0) {
                let hop = Hop {
                    interface: 3,
                    source_mac: [2, 0, 0, 0, 0, 3],
                    destination_mac: Some([2, 0, 0, 0, 0, number as u8 + 16]),
                    source: Some([10, 0, 0, 1].into()),
                    mtu: 1500,
                };
                services::set_hop(&self.memory, number, &hop);
            }
        }
    }

    fn explain(&self, text: &str) -> Explanation {
        explain(&self.memory, &self.plan, &self.ids, &frame::build(text).unwrap(), 2, 1000, CLOCK)
    }

    /// The packet goes its way.
    fn take(&self, text: &str) {
        let mut view = View::new(&self.memory, 1000);
        marca_engine::process(&mut Frame::new(frame::build(text).unwrap(), 2), &mut view);
    }

    /// Everything that packets write.
    fn written(&self) -> Vec<String> {
        let Memory { flows, half_open, templates, loads, cursors, rates, slots, neighbours, watch, .. } = &self.memory;
        let mut all = Vec::new();
        for table in [flows, half_open, templates] {
            all.extend((0..table.len()).map(|i| format!("{:?}", table.at(i))));
        }
        all.extend((0..loads.len()).map(|i| format!("{:?}", loads.at(i))));
        all.extend((0..neighbours.len()).map(|i| format!("{:?}", neighbours.at(i))));
        for words in [cursors, rates, slots, watch] {
            all.extend((0..words.len()).map(|i| format!("{:?}", words.at(i))));
        }
        all
    }
}

const SHOP: &str = r#"
    [service.shop]
    vip = "192.0.2.10"
    ports = ["tcp/80", "tcp/443 -> 8443"]
    scheduler = "rr"
    persist = "5m"

    [[service.shop.server]]
    name = "web1"
    address = "10.0.0.11"
    weight = 3

    [[service.shop.server]]
    name = "web2"
    address = "10.0.0.12"
"#;

const SYN: &str = "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 S";

#[test]
fn a_closed_port_is_told() {
    let mut tables = Tables::of(&SHOP.replace("persist", "check_policy = \"per-port\"\n    persist"));
    tables.resolve();
    tables.take(&SYN.replace("443", "80"));
    tables.take(&SYN.replace("443 S", "80 A"));
    let close = |tables: &mut Tables, servers: &[usize]| {
        servers.iter().for_each(|&server| tables.plan.services[0].reals[server].closed = 0b10);
        services::write(&tables.memory, &tables.plan, &tables.ids, CLOCK).unwrap();
    };
    close(&mut tables, &[0]);
    let told = tables.explain(SYN).to_string();
    assert!(
        told.contains(
            "Persistence: the client stays on web1, which fails a check of this port; for this connection it goes elsewhere.\n\
             The scheduler rr, at place 0 of its round, chooses web2 (10.0.0.12, weight 1).\n"
        ),
        "{told}"
    );
    assert!(!told.contains("stays for"), "nothing is remembered: {told}");
    close(&mut tables, &[0, 1]);
    let told = tables.explain(SYN).to_string();
    let why = "Of the service's 2 real servers 2 fail a check of this port, and take no new connections to it.\n";
    assert!(told.contains(why), "{told}");
}

#[test]
fn a_new_connection_is_told_from_its_headers_to_its_next_hop() {
    let tables = Tables::of(SHOP);
    tables.resolve();
    let explanation = tables.explain(SYN);
    assert_eq!(
        explanation.to_string(),
        "IPv4 TCP SYN from 198.51.100.7:4242 to 192.0.2.10:443, 40 bytes, time to live 64.\n\
         It is a packet of service `shop`, whose real servers take it at port 8443.\n\
         There is no record of its connection.\n\
         Persistence: the client is not known yet.\n\
         The scheduler rr, at place 0 of its round, chooses web1 (10.0.0.11, weight 3).\n\
         A record of the half-open connection is made.\n\
         Persistence: the client goes to web1, and stays for 5m once it has proved to be there.\n\
         To web1 (10.0.0.11, weight 3) by NAT: the destination 192.0.2.10:443 becomes 10.0.0.11:8443.\n\
         It leaves on interface 3 to 02:00:00:00:00:11.\n\
         Forwarded to the real server by NAT: destination rewritten.\n"
    );
    assert_eq!(explanation.reason, Reason::Nat);
    assert_eq!((explanation.service.as_deref(), explanation.real.as_deref()), (Some("shop"), Some("web1")));
    assert_eq!(explanation.interface, 3);
    assert_eq!(
        frame::describe(&explanation.frame),
        "eth 02:00:00:00:00:03 > 02:00:00:00:00:11 / ip4 198.51.100.7 > 10.0.0.11 ttl=63 / tcp 4242 > 8443 S"
    );
}

#[test]
fn a_connection_is_told_by_its_record_and_a_client_by_its_template() {
    let tables = Tables::of(SHOP);
    tables.resolve();
    tables.take(SYN);
    let half_open = tables.explain(SYN);
    assert!(half_open.lines.contains(&"Its connection is known, to web1: half-open.".to_owned()), "{half_open}");
    tables.take("ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 A");
    let established = tables.explain("ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 FA");
    for line in
        ["Its connection is known, to web1: established.", "The record changes: closing, the client has finished."]
    {
        assert!(established.lines.contains(&line.to_owned()), "{established}");
    }
    let other_port = tables.explain("ip4 198.51.100.7 > 192.0.2.10 / tcp 4243 > 80 S");
    for line in [
        "There is no record of its connection.",
        "Persistence: the client stays on web1 for another 5m.",
        "Persistence: from now on the client stays on web1 for 5m.",
    ] {
        assert!(other_port.lines.contains(&line.to_owned()), "{other_port}");
    }
    let reply = tables.explain("ip4 10.0.0.11 > 198.51.100.7 / tcp 8443 > 4242 A");
    assert_eq!(
        reply.to_string(),
        "IPv4 TCP ACK from 10.0.0.11:8443 to 198.51.100.7:4242, 40 bytes, time to live 64.\n\
         It is from a real server under NAT: 10.0.0.11, web1 of `shop`.\n\
         Its connection is known, to web1: established.\n\
         Back to the client 198.51.100.7:4242: the source 10.0.0.11:8443 becomes 192.0.2.10:443.\n\
         The kernel's routing table is asked for the way to the client; here it is taken to know one.\n\
         A real server's reply under NAT: source rewritten to the VIP and sent to the client.\n"
    );
}

#[test]
fn errors_and_fragments_are_told_by_what_they_follow() {
    let tables = Tables::of(&SHOP.replace("\"tcp/80\"", "\"tcp/80\", \"udp/53\""));
    tables.resolve();
    tables.take(SYN);
    let explanation = tables.explain(
        "ip4 203.0.113.1 > 192.0.2.10 / icmp unreachable code=4 mtu=1400 / ip4 192.0.2.10 > 198.51.100.7 / tcp 443 > 4242 A",
    );
    assert_eq!(
        explanation.to_string(),
        "IPv4 ICMP from 203.0.113.1 to 192.0.2.10, 68 bytes, time to live 64.\n\
         It is about a packet of TCP from 192.0.2.10:443 to 198.51.100.7:4242.\n\
         It is a packet of service `shop`, whose real servers take it at port 8443.\n\
         Its connection is known, to web1: half-open.\n\
         It goes to web1 (10.0.0.11, weight 3), and what it quotes becomes a packet from 10.0.0.11:8443.\n\
         Forwarded to the real server: an ICMP error about what it has sent to its client.\n"
    );
    assert_eq!((explanation.service.as_deref(), explanation.real.as_deref()), (Some("shop"), Some("web1")));
    let error = tables.explain(
        "ip4 10.0.0.11 > 198.51.100.7 / icmp unreachable code=3 / ip4 198.51.100.7 > 10.0.0.11 / tcp 4242 > 8443 A",
    );
    let line = "It goes to the client as the VIP's, and what it quotes becomes a packet to 192.0.2.10:443.";
    assert!(error.lines.contains(&line.to_owned()), "{error}");
    tables.take("ip4 198.51.100.7 > 192.0.2.10 mf / udp 4242 > 53 len=200 / data 64");
    let fragment = tables.explain("ip4 198.51.100.7 > 192.0.2.10 frag=9 proto=17 / data 64");
    assert_eq!(
        fragment.to_string(),
        "IPv4 UDP from 198.51.100.7 to 192.0.2.10, 84 bytes, time to live 64, a fragment.\n\
         The first fragment of its packet went to web1.\n\
         Forwarded to the real server by NAT: destination rewritten.\n"
    );
    assert_eq!((fragment.service.as_deref(), fragment.real.as_deref()), (Some("shop"), Some("web1")));
}

/// Both ends are rewritten, and told.
#[test]
fn errors_and_fragments_under_fullnat_are_told_by_what_they_follow() {
    let shop = SHOP.replace("\"tcp/80\"", "\"tcp/80\", \"udp/53\"");
    let tables = Tables::of(&shop.replace("rr\"", "rr\"\nforward = \"fullnat\"\nsource = \"10.0.0.100\""));
    tables.resolve();
    let sent = tables.explain(SYN);
    let line = sent.lines.iter().find_map(|line| line.strip_prefix("Fullnat: its source becomes ")).unwrap();
    let source = line.strip_suffix('.').unwrap().to_owned();
    let (_, port) = source.rsplit_once(':').unwrap();
    tables.take(SYN);
    let explanation = tables.explain(
        "ip4 203.0.113.1 > 192.0.2.10 / icmp unreachable code=4 mtu=1400 / ip4 192.0.2.10 > 198.51.100.7 / tcp 443 > 4242 A",
    );
    let line = format!(
        "It goes to web1 (10.0.0.11, weight 3) as one from 10.0.0.100, and what it quotes becomes a packet from \
         10.0.0.11:8443 to {source}."
    );
    assert!(explanation.lines.contains(&line), "{explanation}");
    let error = tables.explain(&format!(
        "ip4 10.0.0.11 > 10.0.0.100 / icmp unreachable code=3 / ip4 10.0.0.100 > 10.0.0.11 / tcp {port} > 8443 A"
    ));
    assert_eq!(
        error.to_string(),
        format!(
            "IPv4 ICMP from 10.0.0.11 to 10.0.0.100, 68 bytes, time to live 64.\n\
             It is about a packet of TCP from {source} to 10.0.0.11:8443.\n\
             Its connection is known, to web1: half-open.\n\
             It goes to the client as the VIP's, and what it quotes becomes a packet from 198.51.100.7:4242 to \
             192.0.2.10:443.\n\
             Sent to the client as the VIP's: an ICMP error about what it has sent to its real server.\n"
        )
    );
    assert_eq!((error.service.as_deref(), error.real.as_deref()), (Some("shop"), Some("web1")));
    tables.take("ip4 198.51.100.7 > 192.0.2.10 mf / udp 4242 > 53 len=200 / data 64");
    let fragment = tables.explain("ip4 198.51.100.7 > 192.0.2.10 frag=9 proto=17 / data 64");
    assert!(fragment.lines.contains(&"The first fragment of its packet went to web1.".to_owned()), "{fragment}");
    assert_eq!(fragment.reason, Reason::FullNat);
}

#[test]
fn nothing_is_written() {
    let tables = Tables::of(SHOP);
    tables.resolve();
    for text in
        [SYN, "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 A", "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 FA"]
    {
        let before = tables.written();
        tables.explain(text);
        assert_eq!(tables.written(), before, "{text}");
        tables.take(text);
        assert_ne!(tables.written(), before, "{text}: the packet itself writes");
    }
}

#[test]
fn without_a_director_the_next_hop_is_taken_to_be_known() {
    let explanation = Tables::of(SHOP).explain(SYN);
    assert_eq!(explanation.reason, Reason::Nat);
    assert_eq!(explanation.interface, 0);
    let line = "The MAC address of its next hop is a running director's to find; here it is taken to be known.";
    assert!(explanation.lines.contains(&line.to_owned()), "{explanation}");
}

#[test]
fn with_a_director_a_next_hop_that_is_not_known_is_the_reason() {
    let tables = Tables::of(SHOP);
    tables.resolve();
    let real = tables.ids.real("shop", marca_config::plan::Family::V4, Some([10, 0, 0, 11].into())).unwrap();
    let hop = Hop { interface: 3, source_mac: [0; 6], destination_mac: None, source: None, mtu: 1500 };
    services::set_hop(&tables.memory, real, &hop);
    let explanation = tables.explain(SYN);
    assert_eq!(explanation.reason, Reason::NoNeighbour);
    assert!(explanation.lines.contains(&"The MAC address of 10.0.0.11 is not known yet.".to_owned()), "{explanation}");
    assert!((0..tables.memory.neighbours.len()).all(|i| tables.memory.neighbours.at(i).unwrap().family.get() == 0));
}

#[test]
fn a_packet_that_is_nobodys_is_told_why() {
    let tables = Tables::of(SHOP);
    for (text, line) in [
        (
            "ip4 198.51.100.7 > 192.0.2.11 / tcp 4242 > 443 S",
            "192.0.2.11 is no VIP and in no mark rule's destinations, and 198.51.100.7 is no real server under NAT.",
        ),
        (
            "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 22 S",
            "Members at 192.0.2.10: tcp/80 of `shop`, tcp/443 of `shop`.",
        ),
        (
            "ip4 198.51.100.7 > 192.0.2.10 proto=47 / data 8",
            "Services take TCP, UDP and SCTP, and this is protocol 47.",
        ),
        (
            "ip4 198.51.100.7 > 192.0.2.10 / icmp unreachable code=3 / ip4 192.0.2.10 > 198.51.100.7 / tcp 22 > 4242 A",
            "No such connection goes through the director.",
        ),
        (
            "ip4 10.0.0.11 > 198.51.100.7 / tcp 22 > 4242 A",
            "No connection of 10.0.0.11:22 with 198.51.100.7:4242 goes through the director.",
        ),
        ("arp request 02:00:00:00:00:02 1.1.1.1 > 00:00:00:00:00:00 2.2.2.2", "Ethernet, ethertype 0806, 42 bytes."),
        ("hex 0102", "No Ethernet header, 2 bytes."),
    ] {
        let explanation = tables.explain(text);
        assert!(explanation.lines.contains(&line.to_owned()), "{text}: {explanation}");
        assert_eq!(explanation.lines.last().unwrap(), explanation.reason.sentence());
        assert_eq!((explanation.service, explanation.real), (None, None));
    }
}

#[test]
fn the_rule_that_holds_is_told() {
    let tables = Tables::of(
        r#"
        [[mark]]
        value = 80
        to = "192.0.2.10"
        from = "198.51.100.0/24"
        ports = "tcp/80"

        [[mark]]
        value = 81
        to = "192.0.2.10"
        interface = "eth1"
        ports = "tcp/80"

        [service.shop]
        mark = 80
        scheduler = "maglev"
        forward = "tunnel"
        [[service.shop.server]]
        address = "10.0.0.11"

        [service.other]
        mark = 81
        [[service.other.server]]
        address = "10.0.0.12"
        "#,
    );
    let interfaces = HashMap::from([("eth0".to_owned(), 2), ("eth1".to_owned(), 3)]);
    let Tables { memory, plan, ids } = &tables;
    let director = Director { memory, plan, ids, clock: CLOCK, now: 0, route: None, interfaces: Some(&interfaces) };
    let bytes = frame::build("vlan 7 / ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 80 S").unwrap();
    let explanation = director.explain(&bytes, 2);
    let slot = explanation.lines.iter().find(|line| line.starts_with("The client's slot")).unwrap();
    assert!(
        slot.starts_with("The client's slot in the maglev table is ") && slot.ends_with(", 10.0.0.11's."),
        "{slot}"
    );
    let lines: Vec<&str> = explanation.lines.iter().filter(|line| *line != slot).map(String::as_str).collect();
    assert_eq!(
        lines,
        [
            "IPv4 TCP SYN from 198.51.100.7:4242 to 192.0.2.10:80, 40 bytes, time to live 64, VLAN 7.",
            "The rule on eth1 does not hold.",
            "The rule for sources in 198.51.100.0/24 holds.",
            "It is a packet of service `shop`, whose real servers take it at port 80.",
            "There is no record of its connection.",
            "The scheduler maglev chooses 10.0.0.11 (weight 1).",
            "A record of the half-open connection is made.",
            "To 10.0.0.11 (weight 1) in a tunnel: with an outer IPv4 header to 10.0.0.11.",
            "The MAC address of its next hop is a running director's to find; here it is taken to be known.",
            Reason::Tunnel.sentence(),
        ]
    );
}

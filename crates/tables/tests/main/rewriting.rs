//! Frames there and back: what the engine makes of a frame is what the testkit writes from scratch, checksums included.

use crate::configuration::{addresses, config, ip, mapped, range, server, service};
use crate::director::{Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Forward, Gue, MemberPort, PortRange, Protocol, Scheduler, SourceRange};
use marca_engine::Reason;
use marca_engine::decap::{Policy, decapsulate};
use marca_engine::layout::Address;
use marca_tables::Frame;
use marca_testkit::frame;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet in words, so that the same one can be written with other addresses.
#[derive(Clone, Debug)]
struct Words {
    v6: bool,
    vlans: usize,
    options: bool,
    tos: u8,
    ttl: u8,
    /// Transport header without its ports, and what follows.
    transport: (&'static str, String),
}

impl Words {
    fn frame(&self, macs: (&str, &str), from: (IpAddr, u16), to: (IpAddr, u16), ttl: u8) -> Vec<u8> {
        self.frame_in(macs, "", from, to, ttl)
    }

    /// `outer`: a header between the link and the packet.
    fn frame_in(&self, macs: (&str, &str), outer: &str, from: (IpAddr, u16), to: (IpAddr, u16), ttl: u8) -> Vec<u8> {
        let vlans: String = (0..self.vlans).map(|tag| format!("vlan {} / ", tag + 5)).collect();
        let (name, rest) = &self.transport;
        let ip = if self.v6 {
            let options = if self.options { " / dstopts" } else { "" };
            format!("ip6 {} > {} hop={ttl} tc={}{options}", from.0, to.0, self.tos)
        } else {
            let options = if self.options { " opts=94040000" } else { "" };
            format!("ip4 {} > {} ttl={ttl} tos={}{options}", from.0, to.0, self.tos)
        };
        let text = format!("eth {} > {} / {vlans}{outer}{ip} / {name} {} > {}{rest}", macs.0, macs.1, from.1, to.1);
        frame::build(&text).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Words {
    /// Whether the packet's own checksum tells that of all of it.
    fn sums_up(&self) -> bool {
        let (name, fields) = &self.transport;
        !self.options && (*name == "tcp" || (*name == "udp" && !fields.contains("nosum")))
    }
}

fn words() -> impl Strategy<Value = Words> {
    let payload = proptest::collection::vec(any::<u8>(), 0..60)
        .prop_map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        .prop_map(|hex| if hex.is_empty() { String::new() } else { format!(" / hex {hex}") });
    let tcp = (any::<u32>(), select(vec!["S", "A", "PA", "FA", "R", "SA"]))
        .prop_map(|(seq, flags)| ("tcp", format!(" {flags} seq={seq}")));
    let udp = any::<bool>().prop_map(|sum| ("udp", if sum { String::new() } else { " nosum".to_owned() }));
    let sctp = any::<u32>().prop_map(|tag| ("sctp", format!(" tag={tag} init")));
    let transport = prop_oneof![tcp, udp, sctp];
    (any::<bool>(), 0usize..3, any::<bool>(), any::<u8>(), 2u8.., transport, payload).prop_map(
        |(v6, vlans, options, tos, ttl, (name, fields), payload)| Words {
            v6,
            vlans,
            options,
            tos,
            ttl,
            transport: (name, if name == "sctp" { fields } else { fields + &payload }),
        },
    )
}

fn client(v6: bool, host: u16, port: u16) -> (IpAddr, u16) {
    let ip: IpAddr = if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, host).into()
    } else {
        Ipv4Addr::new(198, 51, 100, host as u8).into()
    };
    (ip, port)
}

fn vip(v6: bool, port: u16) -> (IpAddr, u16) {
    (ip(if v6 { "2001:db8::10" } else { "192.0.2.10" }), port)
}

/// Every port of every protocol; tcp/443 is 8443 on the real server.
fn director(forward: Forward) -> Director {
    let mut ports: Vec<MemberPort> = Protocol::ALL.map(|protocol| range(protocol, 0, u16::MAX)).to_vec();
    ports.push(if forward.is_nat() { mapped(443, 8443) } else { crate::configuration::tcp(443) });
    let mut shop = service("shop", &["192.0.2.10", "2001:db8::10"], &ports);
    shop.scheduler = Scheduler::Maglev;
    shop.servers = vec![server(1, 1)];
    shop.servers[0].forward = forward;
    if forward == Forward::FullNat {
        shop.sources = SOURCES.map(|source| SourceRange::new(ip(source), ip(source)).unwrap()).to_vec();
    }
    assert_eq!(ports[0].matching.ports, PortRange::ALL);
    Director::with(SMALL, &config([shop]))
}

/// As the director of these tests knows the way to real server 1.
fn macs_to_server(v6: bool) -> (&'static str, &'static str) {
    ("02:00:00:00:00:01", if v6 { "02:06:fd:00:00:01" } else { "02:04:0a:00:00:01" })
}

const FROM_CLIENT: (&str, &str) = ("02:00:00:00:00:02", "02:00:00:00:00:01");
const TO_CLIENT: (&str, &str) = ("02:02:02:02:02:02", "02:09:09:09:09:09");

fn real(v6: bool, protocol: &str, port: u16) -> (IpAddr, u16) {
    (addresses(1)[usize::from(v6)], if (protocol, port) == ("tcp", 443) { 8443 } else { port })
}

const SOURCES: [&str; 2] = ["10.0.9.9", "fd00::9:9"];

const TUNNELS: &[Forward] = &[
    Forward::Tunnel,
    Forward::Gre,
    Forward::Gue(Gue::DEFAULT),
    Forward::Gue(Gue { port: 5555, checksum: Some(true) }),
    Forward::Gue(Gue { port: 1, checksum: Some(false) }),
];

/// Takes tunnels apart whoever sends them.
struct Anybody(u16);

impl Policy for Anybody {
    fn accepts(&self, _: u8, _: &Address, _: &Address) -> bool {
        true
    }

    fn gue_port(&self) -> u16 {
        self.0
    }
}

/// One outside, and one inside.
fn routers(v6: bool) -> [IpAddr; 2] {
    if v6 { [ip("2001:db8:99::1"), ip("fd00::99")] } else { [ip("203.0.113.1"), ip("10.0.0.99")] }
}

/// The headers of an ICMP error, in words, before what it quotes.
fn unreachable(from: IpAddr, to: IpAddr, ttl: u8, code: u8) -> String {
    if from.is_ipv6() {
        format!("ip6 {from} > {to} hop={ttl} / icmp6 unreachable code={code} / ")
    } else {
        format!("ip4 {from} > {to} ttl={ttl} / icmp unreachable code={code} / ")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nat_and_back_changes_nothing_but_the_time_to_live(
        words in words(), host in 1u16..200, port: u16, member in prop_oneof![Just(443u16), any::<u16>()],
    ) {
        let director = director(Forward::Nat);
        let (client, vip) = (client(words.v6, host, port), vip(words.v6, member));
        let real = real(words.v6, words.transport.0, member);
        // A connection, so that any segment finds its way.
        let number = match words.transport.0 { "tcp" => 6, "udp" => 17, _ => 132 };
        let way = Way { protocol: number, from: client, to: vip };
        prop_assert_eq!(director.request(&way, Segment::Syn), Seen::Server(real.0, real.1));
        let sent = words.frame(FROM_CLIENT, client, vip, words.ttl);
        let (outcome, arrived) = director.process(sent, 1);
        prop_assert_eq!(outcome.reason, Reason::Nat);
        let expected = words.frame(macs_to_server(words.v6), client, real, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
        let reply = words.frame(FROM_CLIENT, real, client, words.ttl);
        let (outcome, arrived) = director.process(reply, 2);
        prop_assert_eq!(outcome.reason, Reason::Reply);
        let expected = words.frame(TO_CLIENT, vip, client, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
    }

    #[test]
    fn fullnat_and_back_changes_nothing_but_the_time_to_live(
        words in words(), host in 1u16..200, port: u16, member in prop_oneof![Just(443u16), any::<u16>()],
    ) {
        prop_assume!(words.transport.0 != "sctp");
        let director = director(Forward::FullNat);
        let (client, vip) = (client(words.v6, host, port), vip(words.v6, member));
        let real = real(words.v6, words.transport.0, member);
        let number = if words.transport.0 == "tcp" { 6 } else { 17 };
        let (outcome, opened) =
            director.process(Way { protocol: number, from: client, to: vip }.frame(Segment::Syn), 1);
        prop_assert_eq!(outcome.reason, Reason::FullNat);
        let source = Way::of(&opened).from;
        prop_assert_eq!(source.0, ip(SOURCES[usize::from(words.v6)]));
        prop_assert!(source.1 >= 1024);
        let sent = words.frame(FROM_CLIENT, client, vip, words.ttl);
        let (outcome, arrived) = director.process(sent, 1);
        prop_assert_eq!(outcome.reason, Reason::FullNat);
        let expected = words.frame(macs_to_server(words.v6), source, real, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
        let reply = words.frame(FROM_CLIENT, real, source, words.ttl);
        let (outcome, arrived) = director.process(reply, 2);
        prop_assert_eq!(outcome.reason, Reason::Reply);
        let expected = words.frame(TO_CLIENT, vip, client, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
    }

    #[test]
    fn direct_routing_changes_nothing_but_macs_and_the_time_to_live(words in words(), port: u16, member: u16) {
        let director = director(Forward::Dr);
        let (client, vip) = (client(words.v6, 7, port), vip(words.v6, member));
        let (outcome, arrived) = director.process(words.frame(FROM_CLIENT, client, vip, words.ttl), 1);
        prop_assert_eq!(outcome.reason, Reason::DirectRouting);
        let expected = words.frame(macs_to_server(words.v6), client, vip, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
    }

    #[test]
    fn a_tunnel_only_adds_its_headers_and_its_end_takes_them_off(
        words in words(), port: u16, member: u16, forward in select(TUNNELS),
    ) {
        let director = director(forward);
        let (client, vip) = (client(words.v6, 7, port), vip(words.v6, member));
        let (outcome, arrived) = director.process(words.frame(FROM_CLIENT, client, vip, words.ttl), 1);
        prop_assert_eq!(outcome.reason, Reason::Tunnel);
        let end = addresses(1)[usize::from(words.v6)];
        // The director of these tests begins its tunnels at the address that they end at.
        let ip = if words.v6 {
            format!("ip6 {end} > {end} hop=64 tc={} / ", words.tos)
        } else {
            format!("ip4 {end} > {end} ttl=64 tos={} df id=0 / ", words.tos)
        };
        let between = match forward {
            Forward::Gue(gue) => {
                let at = 14 + 4 * words.vlans + if words.v6 { 40 } else { 20 };
                let source = u16::from_be_bytes([arrived[at], arrived[at + 1]]);
                prop_assert!(source >= 0xc000);
                let sum = if words.sums_up() && gue.checksum.unwrap_or(words.v6) { "" } else { " nosum" };
                format!("udp {source} > {}{sum} / gue / ", gue.port)
            }
            Forward::Gre => "gre / ".to_owned(),
            _ => String::new(),
        };
        let expected =
            words.frame_in(macs_to_server(words.v6), &(ip + &between), client, vip, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));

        let port = if let Forward::Gue(gue) = forward { gue.port } else { Gue::DEFAULT.port };
        let mut arrived = Frame::new(arrived, 1);
        prop_assert_eq!(decapsulate(&mut arrived, &Anybody(port)), Reason::Decapsulated);
        let expected = words.frame(macs_to_server(words.v6), client, vip, words.ttl - 1);
        prop_assert_eq!(frame::describe(&arrived.bytes), frame::describe(&expected));
    }

    #[test]
    fn an_error_quotes_what_its_receiver_knows(
        words in words(), host in 1u16..200, port: u16, member in prop_oneof![Just(443u16), any::<u16>()], code in 0u8..8,
    ) {
        let director = director(Forward::Nat);
        let (client, vip) = (client(words.v6, host, port), vip(words.v6, member));
        let real = real(words.v6, words.transport.0, member);
        let number = match words.transport.0 { "tcp" => 6, "udp" => 17, _ => 132 };
        director.request(&Way { protocol: number, from: client, to: vip }, Segment::Syn);
        let routers = routers(words.v6);
        let error = |from, to, ttl| unreachable(from, to, ttl, code);
        // From outside, about what the real server has sent; and from inside, about what the client has sent.
        let sent = words.frame_in(FROM_CLIENT, &error(routers[0], vip.0, 9), vip, client, words.ttl);
        let (outcome, arrived) = director.process(sent, 1);
        prop_assert_eq!(outcome.reason, Reason::ErrorToServer);
        let expected = words.frame_in(macs_to_server(words.v6), &error(routers[0], real.0, 8), real, client, words.ttl);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
        let sent = words.frame_in(FROM_CLIENT, &error(routers[1], client.0, 9), client, real, words.ttl);
        let (outcome, arrived) = director.process(sent, 2);
        prop_assert_eq!(outcome.reason, Reason::ErrorToClient);
        let expected = words.frame_in(TO_CLIENT, &error(vip.0, client.0, 8), client, vip, words.ttl);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
    }

    #[test]
    fn an_error_under_fullnat_quotes_what_its_receiver_knows(
        words in words(), host in 1u16..200, port: u16, member in prop_oneof![Just(443u16), any::<u16>()], code in 0u8..8,
    ) {
        prop_assume!(words.transport.0 != "sctp");
        let director = director(Forward::FullNat);
        let (client, vip) = (client(words.v6, host, port), vip(words.v6, member));
        let real = real(words.v6, words.transport.0, member);
        let number = if words.transport.0 == "tcp" { 6 } else { 17 };
        let (_, opened) = director.process(Way { protocol: number, from: client, to: vip }.frame(Segment::Syn), 1);
        let source = Way::of(&opened).from;
        let routers = routers(words.v6);
        let error = |from, to, ttl| unreachable(from, to, ttl, code);
        let sent = words.frame_in(FROM_CLIENT, &error(routers[0], vip.0, 9), vip, client, words.ttl);
        let (outcome, arrived) = director.process(sent, 1);
        prop_assert_eq!(outcome.reason, Reason::ErrorToServer);
        let expected = words.frame_in(macs_to_server(words.v6), &error(source.0, real.0, 8), real, source, words.ttl);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
        let sent = words.frame_in(FROM_CLIENT, &error(routers[1], source.0, 9), source, real, words.ttl);
        let (outcome, arrived) = director.process(sent, 2);
        prop_assert_eq!(outcome.reason, Reason::ErrorToClient);
        let expected = words.frame_in(TO_CLIENT, &error(vip.0, client.0, 8), client, vip, words.ttl);
        prop_assert_eq!(frame::describe(&arrived), frame::describe(&expected));
    }

    #[test]
    fn a_packet_whose_time_is_over_goes_back_as_its_answer(words in words(), ttl in 0u8..2, forward in select(vec![
        Forward::Nat, Forward::Dr, Forward::Tunnel, Forward::Gre, Forward::Gue(Gue::DEFAULT),
    ])) {
        let director = director(forward);
        let (client, vip) = (client(words.v6, 7, 7), vip(words.v6, 80));
        let sent = words.frame(FROM_CLIENT, client, vip, ttl);
        let (outcome, left) = director.process(sent.clone(), 1);
        prop_assert_eq!(outcome.reason, Reason::TimeExceeded);
        prop_assert_eq!(outcome.interface, 1);
        let text = frame::describe(&left);
        prop_assert!(text.contains(if words.v6 { "icmp6 exceeded" } else { "icmp exceeded" }), "{}", text);
    }
}

/// Two bytes of payload lead the checksum through all its values, 0 and 0xffff among them.
#[test]
fn every_value_of_the_checksum_is_rewritten_right() {
    for (v6, transport) in [(false, "tcp"), (false, "udp"), (true, "udp"), (true, "tcp")] {
        let director = director(Forward::Nat);
        let fields = if transport == "tcp" { " S" } else { "" };
        let (client, vip) = (client(v6, 7, 4242), vip(v6, 443));
        let real = real(v6, transport, 443);
        let header = if v6 { 54 } else { 34 };
        let at = header + if transport == "tcp" { 16 } else { 6 };
        let payload = header + if transport == "tcp" { 20 } else { 8 };
        let words = Words {
            v6,
            vlans: 0,
            options: false,
            tos: 0,
            ttl: 64,
            transport: (transport, format!("{fields} / hex 0000")),
        };
        let mut sent = words.frame(FROM_CLIENT, client, vip, 64);
        let mut expected = words.frame(macs_to_server(v6), client, real, 63);
        let zero = [u16::from_be_bytes([sent[at], sent[at + 1]]), u16::from_be_bytes([expected[at], expected[at + 1]])];
        for value in 0..=u16::MAX {
            for (frame, zero) in [&mut sent, &mut expected].into_iter().zip(zero) {
                frame[payload..payload + 2].copy_from_slice(&value.to_be_bytes());
                // RFC 1624 §3 the plain way: the complement of the sum, to which `value` is added.
                let sum = u32::from(!zero) + u32::from(value);
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                let sum = if sum == 0 && transport == "udp" { 0xffff } else { sum };
                frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            let (_, arrived) = director.process(sent.clone(), 1);
            assert_eq!(arrived, expected, "{transport} {value:#06x}");
        }
    }
}

use super::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const ETH: &str = "eth 02:00:00:00:00:02 > 02:00:00:00:00:01";

fn built(text: &str) -> Vec<u8> {
    build(text).unwrap_or_else(|error| panic!("{error}"))
}

fn hex(bytes: &[u8]) -> String {
    words::Hex(bytes).to_string()
}

/// Texts in the form in which `describe` writes them, without the Ethernet header.
const CANONICAL: &[&str] = &[
    "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 S",
    "ip4 198.51.100.7 > 192.0.2.10 ttl=1 tos=184 id=7 df / tcp 4242 > 443 PA seq=9 ack=8 win=7 / data \"GET / HTTP/1.1\\r\\n\"",
    "ip4 198.51.100.7 > 192.0.2.10 rf opts=94040000 / udp 4242 > 443 / data 100",
    "ip4 198.51.100.7 > 192.0.2.10 / udp 4242 > 443 nosum",
    "ip4 198.51.100.7 > 192.0.2.10 / udp 4242 > 443 csum=bad len=4",
    "ip4 198.51.100.7 > 192.0.2.10 csum=bad / tcp 1 > 2 -",
    "ip4 198.51.100.7 > 192.0.2.10 len=19 / hex 00ff",
    "ip4 198.51.100.7 > 192.0.2.10 proto=6 len=1500 / hex 00ff",
    "ip4 198.51.100.7 > 192.0.2.10 ihl=4 / udp 1 > 2 / data 9",
    "ip4 198.51.100.7 > 192.0.2.10 ver=5 / udp 1 > 2 / data 9",
    "ip4 198.51.100.7 > 192.0.2.10 mf / udp 1 > 2 csum=bad len=2000 / data 64",
    "ip4 198.51.100.7 > 192.0.2.10 frag=8 proto=17 / data 64",
    "ip4 198.51.100.7 > 192.0.2.10 / tcp 1 > 2 SFRPUECA urg=3 opts=020405b4 csum=bad res=5",
    "ip4 198.51.100.7 > 192.0.2.10 / tcp 1 > 2 A csum=bad doff=4",
    "ip4 10.0.0.1 > 10.0.0.2 / ip4 198.51.100.7 > 192.0.2.10 / tcp 1 > 2 A",
    "ip4 10.0.0.1 > 10.0.0.2 / ip6 2001:db8::1 > 2001:db8::2 / udp 1 > 2",
    "ip6 fd00::1 > fd00::2 / ip4 198.51.100.7 > 192.0.2.10 / icmp echo / data 56",
    "ip6 2001:db8::1 > 2001:db8::2 hop=1 tc=7 flow=74565 / ip6 fd00::1 > fd00::2 / tcp 1 > 2 RA",
    "ip6 2001:db8::1 > 2001:db8::2 ver=4 / udp 1 > 2",
    "ip6 2001:db8::1 > 2001:db8::2 / hopopts / dstopts opts=010c000000000000000000000000 / route left=1 / frag id=9 more / udp 1 > 2",
    "ip6 2001:db8::1 > 2001:db8::2 / frag id=9 off=3 proto=17 / hex 0102",
    "ip6 2001:db8::1 > 2001:db8::2 / ah spi=5 / tcp 1 > 2 S",
    "ip6 2001:db8::1 > 2001:db8::2",
    "ip6 2001:db8::1 > 2001:db8::2 / icmp6 echo id=2 seq=3",
    "ip6 2001:db8::1 > 2001:db8::2 / icmp6 too-big mtu=1280 / ip6 2001:db8::2 > 2001:db8::3 len=1400 / udp 1 > 2 csum=bad len=1400",
    "ip6 fe80::1 > ff02::1:ff00:10 hop=255 / icmp6 solicit / hex 20010db8000000000000000000000010",
    "ip4 198.51.100.7 > 192.0.2.10 / ah icv=01020304 / tcp 1 > 2 S",
    "ip4 198.51.100.7 > 192.0.2.10 / icmp unreachable code=4 mtu=1400 / ip4 192.0.2.10 > 198.51.100.7 df len=1500 / tcp 443 > 4242 seq=77 cut=8",
    "ip4 198.51.100.7 > 192.0.2.10 / icmp exceeded / ip4 192.0.2.10 > 198.51.100.7 / udp 443 > 4242",
    "ip4 198.51.100.7 > 192.0.2.10 / icmp type=42 code=1 rest=01020304 / data \"x\"",
    "ip4 198.51.100.7 > 192.0.2.10 / icmp redirect rest=c0000201 / ip4 192.0.2.10 > 198.51.100.7 len=100 / sctp 1 > 2 tag=3 cut=8",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 init",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 init-ack",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 cookie-echo value=010203",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 cookie-ack",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 data / data \"hello\"",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 data flags=2 csum=bad / data 32",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 shutdown",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 abort flags=1",
    "ip4 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 tag=1 chunk=77 value=01 / hex 0a000004",
    "ip4 198.51.100.7 > 192.0.2.10 / udp 1 > 2 / data \"a\" / pad 17",
    "ip4 198.51.100.7 > 192.0.2.10 / udp 1 > 2 / trailer 0001",
    "vlan 5 / ip4 198.51.100.7 > 192.0.2.10 / udp 1 > 2",
    "vlan 7 tpid=88a8 pcp=3 dei / vlan 5 / ip6 fd00::1 > fd00::2 / udp 1 > 2",
    "vlan 5 type=9000 / data 46",
    "arp request 02:00:00:00:00:02 192.0.2.1 > 00:00:00:00:00:00 192.0.2.10 / pad 18",
    "arp reply 02:00:00:00:00:02 192.0.2.10 > 02:00:00:00:00:01 192.0.2.1",
];

#[test]
fn a_canonical_text_comes_back_as_it_was() {
    for text in CANONICAL {
        let text = format!("{ETH} / {text}");
        assert_eq!(describe(&built(&text)), text);
    }
}

#[test]
fn fields_have_any_order_numbers_two_bases_and_defaults_may_be_said() {
    let short = built("ip4 1.1.1.1 > 2.2.2.2 df tos=0x10 / tcp 1 > 2 AP");
    let long = built(&format!(
        "{ETH} / ip4 1.1.1.1 > 2.2.2.2 len=40 proto=6 id=1 tos=16 ttl=64 df ver=4\n\t/ tcp 1 > 2 PA win=0xffff doff=5"
    ));
    assert_eq!(short, long);
}

#[test]
fn one_known_syn_byte_by_byte() {
    let bytes = built(&format!("{ETH} / ip4 198.51.100.7 > 192.0.2.10 df / tcp 4242 > 443 S opts=020405b4"));
    let expected = concat!(
        "020000000001020000000002",
        "0800",
        "4500002c0001400040064e86c6336407c000020a",
        "109201bb00000001000000006002ffff",
        "99930000020405b4",
    );
    assert_eq!(hex(&bytes), expected);
}

#[test]
fn raw_text_makes_a_frame_without_ethernet() {
    assert_eq!(built("hex 00ff"), [0, 255]);
    assert_eq!(built(r#"data "a\n\x00\"" / hex 01"#), b"a\n\0\"\x01");
    assert_eq!(describe(&[]), "data 0");
    assert_eq!(built("data 0"), []);
    assert_eq!(describe(&[1, 2, 3]), "hex 010203");
}

#[test]
fn bad_checksums_differ_from_right_ones_in_nothing_else() {
    for (right, bad, at) in [
        ("ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2 S", "ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2 S csum=bad", 50..52),
        ("ip4 1.1.1.1 > 2.2.2.2 / udp 1 > 2", "ip4 1.1.1.1 > 2.2.2.2 csum=bad / udp 1 > 2", 24..26),
        ("ip4 1.1.1.1 > 2.2.2.2 / icmp echo", "ip4 1.1.1.1 > 2.2.2.2 / icmp echo csum=bad", 36..38),
        ("ip4 1.1.1.1 > 2.2.2.2 / sctp 1 > 2 init", "ip4 1.1.1.1 > 2.2.2.2 / sctp 1 > 2 init csum=bad", 42..46),
    ] {
        let (right, mut bad) = (built(right), built(bad));
        assert_ne!(right[at.clone()], bad[at.clone()]);
        bad[at.clone()].copy_from_slice(&right[at]);
        assert_eq!(right, bad);
    }
}

#[test]
fn etherparse_reads_every_well_formed_frame_and_agrees_on_checksums() {
    for text in [
        "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 S opts=020405b4",
        "ip4 198.51.100.7 > 192.0.2.10 opts=94040000 / tcp 4242 > 443 PA / data 1001",
        "ip4 198.51.100.7 > 192.0.2.10 / udp 4242 > 443 / data 33",
        "ip4 198.51.100.7 > 192.0.2.10 / icmp echo / data 56",
        "ip4 198.51.100.7 > 192.0.2.10 / icmp unreachable code=4 mtu=1400 / ip4 192.0.2.10 > 198.51.100.7 / udp 1 > 2",
        "vlan 7 tpid=88a8 / vlan 5 / ip4 198.51.100.7 > 192.0.2.10 / udp 4242 > 443 / data 4",
        "ip6 2001:db8::1 > 2001:db8::2 / tcp 4242 > 443 FA / data 7",
        "ip6 2001:db8::1 > 2001:db8::2 / hopopts / route / dstopts / udp 4242 > 443 / data 8",
        "ip6 2001:db8::1 > 2001:db8::2 / ah / udp 4242 > 443 / data 8",
        "ip6 2001:db8::1 > 2001:db8::2 / icmp6 echo / data 9",
        "ip6 2001:db8::1 > 2001:db8::2 / icmp6 too-big mtu=1280 / ip6 2001:db8::2 > 2001:db8::3 / udp 1 > 2",
        "ip4 198.51.100.7 > 192.0.2.10 / tcp 4242 > 443 S / pad 6",
    ] {
        assert_right(text);
    }
}

fn assert_right(text: &str) {
    let bytes = built(text);
    let packet = SlicedPacket::from_ethernet(&bytes).unwrap_or_else(|error| panic!("{text}: {error}"));
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "{text}");
    }
    let Some(transport) = packet.transport else { panic!("{text}: no transport") };
    let (has, right) = match (&packet.net, transport) {
        (Some(NetSlice::Ipv4(ip)), TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            (header.checksum, header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap())
        }
        (Some(NetSlice::Ipv6(ip)), TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            (header.checksum, header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).unwrap())
        }
        (Some(NetSlice::Ipv4(ip)), TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            (header.checksum, header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap())
        }
        (Some(NetSlice::Ipv6(ip)), TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            (header.checksum, header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap())
        }
        (_, TransportSlice::Icmpv4(icmp)) => {
            let header = icmp.header();
            (header.checksum, header.icmp_type.calc_checksum(icmp.payload()))
        }
        (Some(NetSlice::Ipv6(ip)), TransportSlice::Icmpv6(icmp)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            assert!(icmp.is_checksum_valid(source, destination), "{text}");
            return;
        }
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(has, right, "{text}");
}

#[test]
fn etherparse_finds_the_inner_packet_of_a_tunnel() {
    let bytes = built("ip4 10.0.0.1 > 10.0.0.2 / ip4 198.51.100.7 > 192.0.2.10 / udp 4242 > 443 / data 4");
    let outer = SlicedPacket::from_ethernet(&bytes).unwrap();
    let inner = SlicedPacket::from_ip(outer.ip_payload().unwrap().payload).unwrap();
    let Some(TransportSlice::Udp(udp)) = inner.transport else { panic!("{inner:?}") };
    assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (4242, 443, &[0, 1, 2, 3][..]));
}

#[test]
fn sctp_carries_the_crc32c_of_the_packet_whose_checksum_is_zero() {
    let mut bytes = built("ip4 1.1.1.1 > 2.2.2.2 / sctp 4242 > 443 tag=9 data / data \"hello\"");
    let sctp = &mut bytes[34..];
    assert_eq!(sctp.len(), 12 + 16 + 8, "user data is filled up to whole words");
    let carried = u32::from_le_bytes(sctp[8..12].try_into().unwrap());
    sctp[8..12].fill(0);
    assert_eq!(carried, crc32c(sctp));
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (text, message) in [
        ("", "a layer is missing here\n  \n  ^"),
        ("ip4 1.1.1.1 > 2.2.2.2 /", "a layer is missing here\n  ip4 1.1.1.1 > 2.2.2.2 /\n                        ^"),
        ("ip4 1.1.1 > 2.2.2.2", "`1.1.1` is not an IPv4 address\n  ip4 1.1.1 > 2.2.2.2\n      ^^^^^"),
        ("ip4 1.1.1.1 2.2.2.2", "expected `>` here\n  ip4 1.1.1.1 2.2.2.2\n              ^^^^^^^"),
        ("ip4 1.1.1.1", "`ip4` needs `>` after an IPv4 address\n  ip4 1.1.1.1\n  ^^^"),
        (
            "ip4 1.1.1.1 > 2.2.2.2\n/ udp 1 > 2 ttl=9",
            "`udp` does not take `ttl=`; it takes len=, nosum, csum=\n  / udp 1 > 2 ttl=9\n              ^^^^^",
        ),
        (
            "ip4 1.1.1.1 > 2.2.2.2 df df",
            "`df` is given twice\n  ip4 1.1.1.1 > 2.2.2.2 df df\n                           ^^",
        ),
        (
            "ip4 1.1.1.1 > 2.2.2.2 ttl=256",
            "`ttl=` takes a number up to 255\n  ip4 1.1.1.1 > 2.2.2.2 ttl=256\n                        ^^^^^^^",
        ),
        ("data \"abc", "this string has no end\n  data \"abc\n       ^^^^"),
        (
            "tcp 1 > 2 S",
            "this layer needs `ip4` or `ip6` somewhere before it, for its checksum\n  tcp 1 > 2 S\n  ^^^^^^^^^^^",
        ),
    ] {
        assert_eq!(build(text).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for text in [
        "foo",
        "eth 02:00:00:00:00 > 02:00:00:00:00:01",
        "eth 02:00:00:00:00:0g > 02:00:00:00:00:01",
        "vlan 4096",
        "ip4 1.1.1.1 > 2.2.2.2 / eth 02:00:00:00:00:02 > 02:00:00:00:00:01",
        "ip4 1.1.1.1 > 2.2.2.2 / vlan 1",
        "ip4 1.1.1.1 > 2.2.2.2 / hopopts",
        "ip4 1.1.1.1 > 2.2.2.2 / udp 1 > 65536",
        "ip4 1.1.1.1 > 2.2.2.2 / udp 1 > 2 / data 65528",
        "ip4 1.1.1.1 > 2.2.2.2 / udp 1 > 2 len=8 / data 65528",
        "ip4 1.1.1.1 > 2.2.2.2 / data 99999999",
        "ip4 1.1.1.1 > 2.2.2.2 opts=123",
        "ip4 1.1.1.1 > 2.2.2.2 opts=zz",
        "ip4 1.1.1.1 > 2.2.2.2 csum=12345",
        "ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2",
        "ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2 SS",
        "ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2 X",
        "ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2 S cut=20",
        "ip4 1.1.1.1 > 2.2.2.2 / tcp 1 > 2 S cut=8 / data 1",
        "ip4 1.1.1.1 > 2.2.2.2 / icmp",
        "ip4 1.1.1.1 > 2.2.2.2 / icmp echo rest=00",
        "ip4 1.1.1.1 > 2.2.2.2 / pad 1 / data 1",
        "ip6 ::1 > 1.1.1.1",
        "hex 0",
        "hex",
        "data \"\\q\"",
        "data \"\\x0é\"",
    ] {
        assert!(build(text).is_err(), "{text}");
    }
}

#[test]
fn describe_loses_no_byte_of_a_truncated_frame() {
    for text in CANONICAL {
        let whole = built(text);
        for length in 0..whole.len() {
            assert_described(&whole[..length]);
        }
    }
}

fn assert_described(bytes: &[u8]) {
    let text = describe(bytes);
    assert_eq!(hex(&built(&text)), hex(bytes), "{text}");
    assert_eq!(describe(&built(&text)), text);
}

proptest! {
    #[test]
    fn describe_loses_no_byte_of_noise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        assert_described(&bytes);
    }

    #[test]
    fn describe_loses_no_byte_of_a_frame_with_some_bytes_changed(
        text in prop::sample::select(CANONICAL),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        more in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = built(text);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.extend(more);
        assert_described(&bytes);
    }

    #[test]
    fn whatever_can_be_written_comes_back(layers in layers_text()) {
        if let Ok(bytes) = build(&layers) {
            assert_described(&bytes);
        }
    }

    #[test]
    fn build_never_panics(text in r#"(ip4|ip6|tcp|udp|[ />="\\]|[a-z0-9:.]{1,4}|\PC){0,20}"#) {
        let _ = build(&text);
    }
}

/// Frames of all the layers in all orders; only some can be built.
fn layers_text() -> impl Strategy<Value = String> {
    let small = 0..300u32;
    let layer = prop_oneof![
        Just("vlan 5".to_owned()),
        (any::<u32>(), any::<u8>(), any::<bool>()).prop_map(|(source, ttl, mf)| {
            let mf = if mf { "mf" } else { "df" };
            format!("ip4 {} > 192.0.2.1 ttl={ttl} {mf}", std::net::Ipv4Addr::from(source))
        }),
        (0..100u32, 0..9u32).prop_map(|(len, frag)| format!("ip4 192.0.2.2 > 192.0.2.1 len={len} frag={frag}")),
        any::<u128>().prop_map(|source| format!("ip6 {} > 2001:db8::1", std::net::Ipv6Addr::from(source))),
        (0..100u32).prop_map(|len| format!("ip6 ::1 > 2001:db8::1 len={len}")),
        prop::sample::select(vec![
            "hopopts",
            "dstopts",
            "route",
            "frag more",
            "frag off=1",
            "ah",
            "gre",
            "gre flags=8",
            "gue",
            "gue first=1"
        ])
        .prop_map(str::to_owned),
        any::<u16>().prop_map(|port| format!("tcp {port} > 2 S")),
        (any::<u16>(), 1..4usize).prop_map(|(port, words)| format!("tcp {port} > 2 A opts={}", "01".repeat(words * 4))),
        any::<u16>().prop_map(|port| format!("udp {port} > 2")),
        Just("udp 1 > 6080".to_owned()),
        small.clone().prop_map(|len| format!("udp 1 > 2 len={len} csum=bad")),
        any::<u32>().prop_map(|tag| format!("sctp 1 > 2 tag={tag} data")),
        (any::<u8>(), 0..4usize).prop_map(|(kind, n)| format!("sctp 1 > 2 chunk={kind} value={}", "00".repeat(n + 1))),
        Just("sctp 1 > 2".to_owned()),
        any::<u8>().prop_map(|kind| format!("icmp type={kind}")),
        any::<u8>().prop_map(|kind| format!("icmp6 type={kind} code=1")),
        small.prop_map(|length| format!("data {length}")),
        "[ -~]{0,12}".prop_map(|text| format!("data \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))),
        prop::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| format!("hex {}", words::Hex(&bytes))),
        Just("pad 9".to_owned()),
    ];
    let first = prop_oneof![
        any::<u32>().prop_map(|source| format!("ip4 {} > 192.0.2.1", std::net::Ipv4Addr::from(source))),
        Just("ip6 2001:db8::2 > 2001:db8::1".to_owned()),
        Just("vlan 9".to_owned()),
    ];
    (first, prop::collection::vec(layer, 0..5)).prop_map(|(first, rest)| [vec![first], rest].concat().join(" / "))
}

use super::*;
use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use std::net::{Ipv4Addr, Ipv6Addr};

const MAC: Mac = [0x02, 0x00, 0x5e, 0x10, 0x00, 0x01];
const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

#[test]
fn an_ipv4_announcement_is_these_bytes() {
    #[rustfmt::skip]
    let golden = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x5e, 0x10, 0x00, 0x01, 0x08, 0x06, // Ethernet, to all
        0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x01, // a request for IPv4 over Ethernet
        0x02, 0x00, 0x5e, 0x10, 0x00, 0x01, 192, 0, 2, 10, // the sender
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 192, 0, 2, 10, // the target
    ];
    assert_eq!(announcement(MAC, VIP4.into()), golden);
}

#[test]
fn an_ipv6_announcement_is_these_bytes() {
    #[rustfmt::skip]
    let golden = [
        0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x5e, 0x10, 0x00, 0x01, 0x86, 0xdd, // Ethernet, to all nodes
        0x60, 0, 0, 0, 0, 32, 58, 255, // 32 bytes of ICMPv6, hop limit 255
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, // from the VIP
        0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, // to all nodes
        136, 0, 0x1a, 0xfc, 0xa0, 0, 0, 0, // advertisement, checksum, router and override
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, // about the VIP
        2, 1, 0x02, 0x00, 0x5e, 0x10, 0x00, 0x01, // which is at this address
    ];
    assert_eq!(announcement(MAC, VIP6.into()), golden);
}

#[test]
fn etherparse_reads_the_arp_request_with_the_vip_as_sender_and_target() {
    let frame = announcement(MAC, VIP4.into());
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let ethernet = packet.link.as_ref().unwrap().to_header().and_then(|h| h.ethernet2()).unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (MAC, [0xff; 6]));
    let Some(NetSlice::Arp(arp)) = packet.net else { panic!("not ARP: {packet:?}") };
    let arp = arp.to_packet().try_eth_ipv4().unwrap();
    assert_eq!(arp.operation, etherparse::ArpOperation::REQUEST);
    assert_eq!((arp.sender_mac, arp.sender_ipv4_addr()), (MAC, VIP4));
    assert_eq!((arp.target_mac, arp.target_ipv4_addr()), ([0; 6], VIP4));
}

#[test]
fn etherparse_reads_the_advertisement_and_computes_the_same_checksum() {
    // Sums that carry once, twice and not at all.
    let vips = [VIP6, Ipv6Addr::from(u128::MAX), "fe80::1".parse().unwrap(), Ipv6Addr::UNSPECIFIED];
    for vip in vips {
        let frame = announcement(MAC, vip.into());
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ipv6)) = &packet.net else { panic!("not IPv6: {packet:?}") };
        let ipv6 = ipv6.header();
        assert_eq!((ipv6.source_addr(), ipv6.destination_addr()), (vip, "ff02::1".parse().unwrap()));
        assert_eq!(ipv6.hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmpv6)) = &packet.transport else { panic!("not ICMPv6: {packet:?}") };
        assert!(icmpv6.is_checksum_valid(ipv6.source(), ipv6.destination()), "checksum for {vip}");
        let Icmpv6Type::NeighborAdvertisement(advertisement) = icmpv6.icmp_type() else {
            panic!("not an advertisement: {icmpv6:?}")
        };
        assert!(advertisement.router && advertisement.r#override && !advertisement.solicited);
        assert_eq!(icmpv6.payload()[..16], vip.octets());
        assert_eq!(icmpv6.payload()[16..], [2, 1, MAC[0], MAC[1], MAC[2], MAC[3], MAC[4], MAC[5]]);
    }
}

#[test]
fn a_vip_is_announced_at_0_1_and_3_seconds_and_then_no_more() {
    let start = Instant::now();
    let mut announcer = Announcer::new(MAC);
    assert_eq!(announcer.next_deadline(), None);
    announcer.add(VIP4.into(), start);
    let mut sent = Vec::new();
    while let Some(deadline) = announcer.next_deadline() {
        assert_eq!(announcer.poll(deadline), [announcement(MAC, VIP4.into())]);
        assert_eq!(announcer.poll(deadline), [] as [Vec<u8>; 0]);
        sent.push((deadline - start).as_secs());
    }
    assert_eq!(sent, [0, 1, 3]);
    assert!(announcer.poll(start + Duration::from_secs(3600)).is_empty());
}

#[test]
fn nothing_is_announced_before_it_is_due() {
    let start = Instant::now();
    let mut announcer = Announcer::new(MAC);
    announcer.add(VIP4.into(), start);
    announcer.poll(start);
    assert!(announcer.poll(start + Duration::from_millis(999)).is_empty());
    assert_eq!(announcer.poll(start + Duration::from_secs(1)).len(), 1);
}

#[test]
fn a_late_poll_announces_once_and_keeps_to_the_schedule() {
    let start = Instant::now();
    let mut announcer = Announcer::new(MAC);
    announcer.add(VIP4.into(), start);
    assert_eq!(announcer.poll(start + Duration::from_millis(1500)).len(), 1);
    assert_eq!(announcer.next_deadline(), Some(start + Duration::from_secs(3)));
    assert_eq!(announcer.poll(start + Duration::from_secs(60)).len(), 1);
    assert_eq!(announcer.next_deadline(), None);
}

#[test]
fn a_removed_vip_is_not_announced() {
    let start = Instant::now();
    let mut announcer = Announcer::new(MAC);
    announcer.add(VIP4.into(), start);
    announcer.add(VIP6.into(), start);
    assert_eq!(announcer.poll(start).len(), 2);
    assert!(announcer.remove(VIP4.into()));
    assert!(!announcer.remove(VIP4.into()));
    assert_eq!(announcer.poll(start + Duration::from_secs(1)), [announcement(MAC, VIP6.into())]);
}

#[test]
fn adding_a_vip_again_starts_its_schedule_again() {
    let start = Instant::now();
    let again = start + Duration::from_secs(2);
    let mut announcer = Announcer::new(MAC);
    announcer.add(VIP4.into(), start);
    announcer.poll(start + Duration::from_secs(1));
    announcer.add(VIP4.into(), again);
    assert_eq!(announcer.next_deadline(), Some(again));
    announcer.poll(again);
    assert_eq!(announcer.next_deadline(), Some(again + Duration::from_secs(1)));
}

#[test]
fn a_thousand_vips_go_out_in_bursts_and_each_once() {
    let start = Instant::now();
    let mut announcer = Announcer::new(MAC);
    let vips: Vec<IpAddr> = (0..1000u32).map(|n| Ipv4Addr::from_bits(VIP4.to_bits() + n).into()).collect();
    vips.iter().for_each(|vip| announcer.add(*vip, start));
    let mut sent = Vec::new();
    let mut now = start;
    while sent.len() < vips.len() {
        let frames = announcer.poll(now);
        assert!((1..=BURST).contains(&frames.len()));
        sent.extend(frames);
        let next = announcer.next_deadline().unwrap();
        assert!(next >= now + PACE);
        assert!(announcer.poll(now + PACE / 2).is_empty());
        now = next;
    }
    assert_eq!(now, start + Duration::from_secs(1), "the second round follows the first");
    sent.sort();
    let mut wanted: Vec<Vec<u8>> = vips.iter().map(|vip| announcement(MAC, *vip)).collect();
    wanted.sort();
    assert_eq!(sent, wanted);
}

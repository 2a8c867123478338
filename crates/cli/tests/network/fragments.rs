//! Datagrams of 8 KB, which a stack sends in fragments, there and back.

use crate::methods::{Family, V4, V6, prepare_tunnel};
use crate::site::{PATIENCE, Site};
use marca_testkit::frame::pattern;
use marca_testkit::topology::VIPS;
use std::net::{SocketAddr, UdpSocket};

#[test]
fn large_datagrams_arrive_whole_by_nat() {
    let mut site = Site::routed("fragments nat", 3);
    let _servers = site.serve();
    start(&mut site, "nat");
    [V4, V6].into_iter().for_each(|family| datagrams_arrive_whole(&site, family));
    // Both ways: six pieces there, six back.
    assert!(site.status().reason("reply") >= 2 * CLIENTS * 6);
}

#[test]
fn large_datagrams_arrive_whole_by_fullnat() {
    let mut site = Site::routed("fragments fullnat", 3);
    let _servers = site.serve();
    start(&mut site, "fullnat");
    [V4, V6].into_iter().for_each(|family| datagrams_arrive_whole(&site, family));
    let status = site.status();
    assert!(status.reason("fullnat") >= 2 * CLIENTS * 6 && status.reason("reply") >= 2 * CLIENTS * 6, "{status:?}");
}

#[test]
fn large_datagrams_arrive_whole_by_direct_routing() {
    let mut site = Site::flat("fragments dr", 3);
    let _servers = site.serve();
    hold_vips(&site);
    start(&mut site, "dr");
    [V4, V6].into_iter().for_each(|family| datagrams_arrive_whole(&site, family));
}

#[test]
fn large_datagrams_arrive_whole_by_tunnel() {
    let mut site = Site::flat("fragments tunnel", 3);
    let _servers = site.serve();
    hold_vips(&site);
    prepare_tunnel(&site, V4);
    // The servers' links take more now than the clients'.
    for server in site.net.servers() {
        server
            .ip(&["route add 192.0.2.96/27 dev eth0 mtu 1500", "route add 2001:db8:1::100/120 dev eth0 mtu 1500"])
            .unwrap();
    }
    start(&mut site, "tunnel");
    datagrams_arrive_whole(&site, V4);
    prepare_tunnel(&site, V6);
    datagrams_arrive_whole(&site, V6);
}

const CLIENTS: u64 = 12;
const LENGTH: usize = 8_000;

fn hold_vips(site: &Site) {
    for server in site.net.servers() {
        VIPS[0].both().into_iter().for_each(|vip| server.hold_vip(vip).unwrap());
    }
}

fn start(site: &mut Site, method: &str) {
    // Several, lest two clients' packets to one server have one identification.
    let sources = if method == "fullnat" { "source = ['10.0.0.100-10.0.0.131', 'fd00::100']\n" } else { "" };
    let config = format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['udp/443']\nscheduler = 'rr'\nforward = '{method}'\n{sources}{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        site.servers("shop"),
    );
    site.run(&config);
}

/// Clients that each go to another server by turns, all at once: every piece must find its own.
fn datagrams_arrive_whole(site: &Site, family: Family) {
    let (vip, sent) = (SocketAddr::new(family.of(VIPS[0]), 443), pattern(LENGTH));
    let answers: Vec<Vec<u8>> = site.net.client().enter(|| {
        let sockets: Vec<UdpSocket> = (0..CLIENTS as usize)
            .map(|index| {
                let socket = UdpSocket::bind((family.of(site.net.client_address(index)), 0)).unwrap();
                socket.connect(vip).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
            .collect();
        sockets.iter().for_each(|socket| assert_eq!(socket.send(&sent).unwrap(), LENGTH));
        let receive = |socket: &UdpSocket| {
            let mut answer = vec![0; 2 * LENGTH];
            let length = socket.recv(&mut answer).unwrap();
            answer.truncate(length);
            answer
        };
        sockets.iter().map(receive).collect()
    });
    for answer in &answers {
        let (name, echo) = answer.split_at("web1: ".len());
        assert!(name.starts_with(b"web"), "{family:?}");
        assert!(echo == sent, "{family:?}: {} bytes came back, or not those", echo.len());
    }
    for name in [b"web1", b"web2", b"web3"] {
        assert_eq!(answers.iter().filter(|answer| answer.starts_with(name)).count(), CLIENTS as usize / 3);
    }
    assert_eq!(site.status().reason("fragment"), 0, "none has overtaken the first of its packet");
}

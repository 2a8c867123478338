//! Announcements, as another kernel takes them.

use crate::namespace::{Namespace, eventually};
use marca_daemon::linux::announce::PacketSocket;
use marca_daemon::linux::network::Network;
use marca_daemon::linux::sysctl;
use marca_proto::announce::{Announcer, announcement};
use std::net::IpAddr;
use std::time::Instant;

const OLD: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEW: [u8; 6] = [2, 0, 0, 0, 0, 2];
const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

fn pair(label: &str) -> (Namespace, Namespace) {
    let (director, client) = (Namespace::new(&format!("{label}-lb")), Namespace::new(&format!("{label}-client")));
    Namespace::connect(
        (&director, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        (&client, "eth0", &["192.0.2.99/24", "2001:db8::99/64"]),
    );
    client.wait_for_ipv6("eth0");
    (director, client)
}

fn announce(director: &Namespace, frames: Vec<Vec<u8>>) {
    director.run_async(|| async {
        let index = Network::open().unwrap().interface("eth0").await.unwrap().index;
        let socket = PacketSocket::open(index).unwrap();
        frames.iter().for_each(|frame| socket.send(frame).unwrap());
    });
}

#[test]
fn a_client_that_knows_the_vip_follows_it_to_its_new_director() {
    // A reachable entry is the harder case: the kernel overrides it only when told to.
    for state in ["stale", "reachable"] {
        let (director, client) = pair(&format!("announce-{state}"));
        for vip in VIPS {
            client.ip(&format!("neighbour replace {vip} lladdr 02:00:00:00:00:01 dev eth0 nud {state}"));
        }
        let mut announcer = Announcer::new(NEW);
        VIPS.iter().for_each(|vip| announcer.add(vip.parse().unwrap(), Instant::now()));
        let frames = announcer.poll(Instant::now());
        assert_eq!(frames.len(), 2);
        announce(&director, frames);
        client.run_async(|| async {
            let network = Network::open().unwrap();
            let index = network.interface("eth0").await.unwrap().index;
            for vip in VIPS {
                let vip: IpAddr = vip.parse().unwrap();
                eventually(async || {
                    let mac = network.neighbour(index, vip).await.unwrap().unwrap();
                    assert!(mac == OLD || mac == NEW, "{mac:?}");
                    (mac == NEW).then_some(())
                })
                .await;
            }
        });
        for vip in VIPS {
            let shown = client.ip(&format!("neighbour show {vip} dev eth0"));
            assert!(shown.contains("lladdr 02:00:00:00:00:02"), "{shown}");
        }
    }
}

#[test]
fn a_client_that_accepts_it_learns_an_ipv4_vip_that_it_did_not_know() {
    let (director, client) = pair("announce-unknown");
    client.run(|| sysctl::write("net.ipv4.conf.eth0.arp_accept", "1").unwrap());
    let vip: IpAddr = VIPS[0].parse().unwrap();
    announce(&director, vec![announcement(NEW, vip)]);
    client.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        assert_eq!(eventually(async || network.neighbour(index, vip).await.unwrap()).await, NEW);
    });
}

#[test]
fn a_socket_on_an_interface_that_is_down_or_gone_says_what_failed_on_what() {
    let (director, _client) = pair("announce-error");
    director.run_async(|| async {
        let index = Network::open().unwrap().interface("eth0").await.unwrap().index;
        let socket = PacketSocket::open(index).unwrap();
        director.ip("link set eth0 down");
        let down = socket.send(&announcement(NEW, VIPS[0].parse().unwrap())).unwrap_err();
        assert_eq!(down.to_string(), "send a frame of 42 bytes on eth0: Network is down (os error 100)");
        let gone = PacketSocket::open(999).unwrap_err();
        assert_eq!(gone.to_string(), "open a packet socket on interface 999: No such device (os error 19)");
    });
}

//! A service without a server refuses its clients at once, instead of letting them wait.

use crate::site::{PATIENCE, Site};
use marca_testkit::topology::VIPS;
use std::io::ErrorKind::ConnectionRefused;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

#[test]
fn clients_of_a_pool_that_takes_nobody_are_refused_at_once() {
    let mut site = Site::routed("refusal", 2);
    let _servers = site.serve();
    let service = |name: &str, vip: usize, scheduler: &str| {
        let [v4, v6] = VIPS[vip].both();
        let servers = site.weighted(name, &[0, 0]);
        format!(
            "[service.{name}]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80', 'udp/443']\nscheduler = '{scheduler}'\n{servers}"
        )
    };
    site.run(&(site.router() + &service("shop", 0, "wlc") + &service("files", 1, "maglev")));
    let from = site.net.client_address(0);
    for (vip, from) in VIPS.into_iter().flat_map(|vip| std::iter::zip(vip.both(), from.both())) {
        let begun = Instant::now();
        site.net.client().enter(|| {
            let refused = TcpStream::connect_timeout(&SocketAddr::new(vip, 80), PATIENCE).unwrap_err();
            assert_eq!(refused.kind(), ConnectionRefused, "tcp to {vip}");
            assert_eq!(datagram(from, SocketAddr::new(vip, 443)).kind(), ConnectionRefused, "udp to {vip}");
        });
        assert!(begun.elapsed() < Duration::from_secs(1), "{vip}: {:?}", begun.elapsed());
    }
    let status = site.status();
    assert_eq!(status.reason("refused"), 8);
    assert_eq!([status.total("shop", "connections"), status.total("files", "connections")], [0, 0]);
}

/// Sends one and returns what comes of it.
fn datagram(from: IpAddr, to: SocketAddr) -> std::io::Error {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"anybody?").unwrap();
    socket.recv(&mut [0; 8]).unwrap_err()
}

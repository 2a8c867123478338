//! What the kernel tests its own IPVS with (`tools/testing/selftests/netfilter/ipvs.sh`): one client, one director, one
//! real server, each wired to both others; each forwarding method, round robin; what the client sends is what the server
//! gets. Here in both families.

use crate::methods::{Family, V4, V6, decap};
use crate::site::{PATIENCE, Site};
use marca_testkit::frame::pattern;
use marca_testkit::topology::{ETH0, OUT, VIPS};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

#[test]
fn data_arrives_whole_by_nat() {
    let mut site = Site::triangle("selftest nat");
    let server = site.net.server(0);
    let _takes_frames = server.take_frames_of_xdp(ETH0).unwrap();
    // The script's real server, too, loses its wire to the client here: all that it sends comes by the director.
    let gateways = site.net.director_inside().both().map(|director| format!("route add default via {director}"));
    server.ip(&[format!("link del {OUT}")]).unwrap();
    server.ip(&gateways).unwrap();
    start(&mut site, "nat");
    [V4, V6].into_iter().for_each(|family| data_arrives_whole(&site, family));
}

#[test]
fn data_arrives_whole_by_direct_routing() {
    let mut site = Site::triangle("selftest dr");
    let _takes_frames = site.net.server(0).take_frames_of_xdp(ETH0).unwrap();
    hold_vips(&site);
    start(&mut site, "dr");
    [V4, V6].into_iter().for_each(|family| data_arrives_whole(&site, family));
}

#[test]
fn data_arrives_whole_by_tunnel() {
    let mut site = Site::triangle("selftest tunnel");
    hold_vips(&site);
    start(&mut site, "tunnel");
    for family in [V4, V6] {
        // No link here takes a client's full packet with an outer header: the director tells the client.
        let director = family.of(site.net.director_inside()).to_string();
        decap(&site, 0, &["--from", &director]);
        data_arrives_whole(&site, family);
    }
}

/// Answers go to the client straight, on the wire between the two.
fn hold_vips(site: &Site) {
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(0).hold_vip(vip).unwrap());
}

/// As in the kernel's script.
const PORT: u16 = 8080;

fn start(site: &mut Site, method: &str) {
    site.run(&format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/{PORT}']\nscheduler = 'rr'\nforward = '{method}'\n{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        site.servers("shop"),
    ));
}

/// As `nc` on both sides does: the file goes one way, and its end is the connection's.
fn data_arrives_whole(site: &Site, family: Family) {
    let sent = pattern(DATA);
    let before = site.status().total("shop", "connections");
    let any: SocketAddr = if family == V4 { ([0; 4], PORT).into() } else { ([0u16; 8], PORT).into() };
    let listener = site.net.server(0).enter(|| TcpListener::bind(any)).unwrap();
    let vip = SocketAddr::new(family.of(VIPS[0]), PORT);
    let client = site.net.client().enter(|| TcpStream::connect_timeout(&vip, PATIENCE));
    let mut client = client.unwrap_or_else(|error| panic!("connect to {vip}: {error}"));
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    // Connected, so there is something to accept.
    let (mut connection, _) = listener.accept().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        connection.read_to_end(&mut received).unwrap();
    });
    assert!(received == sent, "{} of {DATA} bytes arrived, or not those that were sent", received.len());
    assert_eq!(site.status().total("shop", "connections"), before + 1);
}

const DATA: usize = 1_000_000;

//! ICMP between real hosts: path MTU discovery through a small link far outside, refusals, ping and traceroute.

use crate::methods::{Family, V4, V6, prepare_tunnel};
use crate::site::{PATIENCE, Site, host, serve};
use marca_testkit::frame::pattern;
use marca_testkit::peer;
use marca_testkit::topology::{DualStack, Namespace, VIPS};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;

#[test]
fn a_small_link_far_outside_is_discovered_by_a_real_server_under_nat() {
    let mut site = Site::routed("pmtu nat", 2);
    small_link(&mut site, "nat");
}

#[test]
fn a_small_link_far_outside_is_discovered_by_a_real_server_under_direct_routing() {
    let mut site = Site::flat("pmtu dr", 2);
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(0).hold_vip(vip).unwrap());
    small_link(&mut site, "dr");
}

#[test]
fn a_small_link_far_outside_is_discovered_by_a_real_server_under_tunnels() {
    let mut site = Site::flat("pmtu tunnel", 2);
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(0).hold_vip(vip).unwrap());
    prepare_tunnel(&site, V4);
    small_link(&mut site, "tunnel");
}

/// The real server knows the client by its source alone: so it is the source's path that becomes smaller.
#[test]
fn a_small_link_far_outside_is_discovered_by_a_real_server_under_fullnat() {
    let mut site = Site::routed("pmtu fullnat", 2);
    small_link(&mut site, "fullnat");
}

/// What the link between the client, which is a router here, and the far host takes.
const SMALL: u32 = 1300;
const FAR: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
const DOWNLOAD: usize = 5_000_000;

/// The second server's namespace is the far host's here.
fn small_link(site: &mut Site, method: &str) {
    let (server, far, client) = (site.net.server(0), site.net.server(1), site.net.client());
    let router = site.net.client_address(0);
    client.ip(&[format!("link add near type veth peer name far netns {}", far.name())]).unwrap();
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        client.sysctl(key, 1).unwrap();
    }
    client
        .ip(&[
            "addr add 198.51.100.1/24 dev near",
            "addr add 2001:db8:51::1/64 dev near nodad",
            format!("link set near mtu {SMALL} up").as_str(),
        ])
        .unwrap();
    // It announces what an ordinary link takes, so that it is for the router to complain.
    far.ip(&[
        "link set eth0 down",
        format!("link set far mtu {SMALL} up").as_str(),
        "addr add 198.51.100.7/24 dev far",
        "addr add 2001:db8:51::7/64 dev far nodad",
        "route add default via 198.51.100.1 advmss 1460",
        "route add default via 2001:db8:51::1 advmss 1440",
    ])
    .unwrap();
    let mut others = vec![site.net.director()];
    if method == "dr" || method == "tunnel" {
        others.push(server);
    }
    for namespace in others {
        let via = [format!("198.51.100.0/24 via {}", router.v4), format!("2001:db8:51::/64 via {}", router.v6)];
        namespace.ip(&via.map(|route| format!("route add {route}"))).unwrap();
    }
    let _web1 = serve(server, "web1");
    let config = format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/80']\nforward = '{method}'\n{}{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        sources(method),
        site.weighted("shop", &[1]),
    );
    site.run(&config);
    let (server, far) = (site.net.server(0), site.net.server(1));
    let wanted = pattern(DOWNLOAD);
    for (family, from) in [V4, V6].into_iter().zip(FAR) {
        if method == "tunnel" && family == V6 {
            prepare_tunnel(site, V6);
        }
        let told = site.status().reason("error_to_server");
        let from: IpAddr = from.parse().unwrap();
        let url = format!("http://{}/bytes/{DOWNLOAD}", host(family.of(VIPS[0])));
        let answer = far.enter(|| peer::ask(Some(from), &url, PATIENCE)).unwrap();
        assert!(answer.body == wanted, "{} of {DOWNLOAD} bytes arrived, or not those", answer.body.len());
        assert!(site.status().reason("error_to_server") > told, "{family:?}: nobody complained");
        let known_as = if method == "fullnat" { family.of(SOURCE) } else { from };
        let known = said(server, "ip", &["route", "get", &known_as.to_string()]);
        assert!(known.contains(&format!("mtu {SMALL}")), "{family:?}: {known}");
    }
    assert_eq!(site.status().reason("inconsistent"), 0);
}

#[test]
fn a_client_hears_a_real_servers_refusal_from_the_vip() {
    let mut site = Site::routed("refusal", 1);
    hears_a_refusal(&mut site, "nat");
}

#[test]
fn a_client_hears_a_real_servers_refusal_from_the_vip_under_fullnat_and_a_source_answers_pings() {
    let mut site = Site::routed("refusal full", 1);
    hears_a_refusal(&mut site, "fullnat");
    for source in SOURCE.both().map(|source| source.to_string()) {
        for size in ["56", "4000"] {
            let arguments = ["-n", "-c", "3", "-i", "0.05", "-W", "5", "-s", size, &source];
            let said = said(site.net.server(0), "ping", &arguments);
            assert!(said.contains("3 received"), "{source}, {size} bytes: {said}");
        }
    }
}

fn hears_a_refusal(site: &mut Site, method: &str) {
    start(site, method);
    for family in [V4, V6] {
        let vip = SocketAddr::new(family.of(VIPS[0]), 9);
        let from = SocketAddr::new(family.of(site.net.client_address(3)), 0);
        let heard = site.net.client().enter(|| {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect(vip).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"anybody?").unwrap();
            socket.recv(&mut [0; 64])
        });
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{family:?}");
    }
    assert_eq!(site.status().reason("error_to_client"), 2);
}

#[test]
fn a_vip_under_nat_answers_pings() {
    let mut site = Site::routed("ping nat", 1);
    start(&mut site, "nat");
    pings(&site);
}

#[test]
fn a_vip_under_direct_routing_answers_pings() {
    let mut site = Site::flat("ping dr", 1);
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(0).hold_vip(vip).unwrap());
    start(&mut site, "dr");
    pings(&site);
}

/// Small ones, and some that come in fragments.
fn pings(site: &Site) {
    for family in [V4, V6] {
        let (vip, from) = (family.of(VIPS[0]).to_string(), family.of(site.net.client_address(5)).to_string());
        for size in ["56", "4000"] {
            let arguments = ["-n", "-c", "3", "-i", "0.05", "-W", "5", "-s", size, "-I", &from, &vip];
            let said = said(site.net.client(), "ping", &arguments);
            assert!(said.contains("3 received"), "{family:?}, {size} bytes: {said}");
        }
    }
    let status = site.status();
    assert!(status.reason("icmp") >= 12, "{status:?}");
}

#[test]
fn traceroute_shows_the_director_and_the_real_server_both_as_the_vip() {
    let mut site = Site::routed("traceroute", 1);
    start(&mut site, "nat");
    for family in [V4, V6] {
        let (vip, from) = (family.of(VIPS[0]).to_string(), family.of(site.net.client_address(7)).to_string());
        // One probe a hop, so that the director's limit on errors is no matter; to ports that are a service's.
        for kind in [&["-p", "33434"][..], &["-T", "-p", "80"]] {
            let arguments = [&["-n", "-q", "1", "-w", "5", "-m", "5", "-s", &from], kind, &[&vip]].concat();
            let said = said(site.net.client(), "traceroute", &arguments);
            let hops: Vec<&str> = said.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
            assert_eq!(hops, [&vip, &vip], "{family:?} {kind:?}: {said}");
        }
    }
    assert!(site.status().reason("time_exceeded") >= 4);
    assert!(site.status().reason("error_to_client") >= 2, "the last hop of datagrams is a port that nobody has");
}

/// HTTP, and ports of UDP that nobody has.
fn start(site: &mut Site, method: &str) {
    let config = format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/80', 'udp/9', 'udp/33434-33500']\nforward = '{method}'\n{}{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        sources(method),
        site.servers("shop"),
    );
    site.run(&config);
}

const SOURCE: DualStack =
    DualStack { v4: Ipv4Addr::new(10, 0, 0, 100), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100) };

fn sources(method: &str) -> String {
    if method == "fullnat" { format!("source = ['{}', '{}']\n", SOURCE.v4, SOURCE.v6) } else { String::new() }
}

fn said(namespace: &Namespace, program: &str, arguments: &[&str]) -> String {
    let mut command: Command = namespace.command(program);
    let output = command.args(arguments).output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {said}{complaint}");
    said.into_owned()
}

/// A link behind the director takes less than its neighbours: what a router says of the tunnel's packets, or of those from
/// a source of fullnat, is told to the client.
#[test]
fn a_small_link_before_a_tunnels_end_is_told_to_the_client() {
    small_link_inside("tunnel", SMALL - 20);
}

#[test]
fn a_small_link_before_the_end_of_a_gre_tunnel_is_told_to_the_client() {
    small_link_inside("gre", SMALL - 24);
}

#[test]
fn a_small_link_before_the_end_of_a_gue_tunnel_is_told_to_the_client() {
    small_link_inside("gue", SMALL - 32);
}

#[test]
fn a_small_link_before_a_real_server_under_fullnat_is_told_to_the_client() {
    small_link_inside("fullnat", SMALL);
}

fn small_link_inside(method: &str, fits: u32) {
    let mut site = Site::flat(&format!("pmtu inside {method}"), 2);
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(0).hold_vip(vip).unwrap());
    // The second server is a router to the real server's other address, behind a small link.
    let (server, router) = (site.net.server(0), site.net.server(1));
    router.sysctl("net.ipv4.ip_forward", 1).unwrap();
    router.ip(&[format!("link add small type veth peer name back netns {}", server.name())]).unwrap();
    router.ip(&["addr add 10.9.0.1/24 dev small", format!("link set small mtu {SMALL} up").as_str()]).unwrap();
    server.ip(&["addr add 10.9.0.2/24 dev back", format!("link set back mtu {SMALL} up").as_str()]).unwrap();
    server.sysctl("net.ipv4.conf.back.rp_filter", 0).unwrap();
    server.sysctl("net.ipv4.conf.all.rp_filter", 0).unwrap();
    let mut decap = server.command(env!("CARGO_BIN_EXE_marca"));
    decap.args(["decap", "--interface", "back"]).arg("--pin-dir").arg(site.decap_dir().join("back"));
    assert!(decap.status().unwrap().success());
    let via = site.net.server_address(1).v4;
    site.net.director().ip(&[format!("route add 10.9.0.0/24 via {via}")]).unwrap();
    let _web1 = serve(server, "web1");
    let (source, reason) = match method {
        "fullnat" => ("source = '192.0.2.50'\n", "error_to_client"),
        _ => ("", "fragmentation_needed"),
    };
    let config = format!(
        "{}[service.shop]\nvip = '{}'\nports = ['tcp/80']\nforward = '{method}'\n{source}\
         server = [{{ address = '10.9.0.2' }}]\n",
        site.router(),
        VIPS[0].v4,
    );
    site.run(&config);
    let body = pattern(1_000_000);
    let from: IpAddr = Family::of(V4, site.net.client_address(0));
    let sink = format!("http://{}/sink", VIPS[0].v4);
    let answer = site.net.client().enter(|| peer::send(Some(from), &sink, &body, PATIENCE)).unwrap();
    assert_eq!(answer.body, format!("{} {:016x}\n", body.len(), peer::checksum(&body)).as_bytes());
    let known = said(site.net.client(), "ip", &["route", "get", &VIPS[0].v4.to_string(), "from", &from.to_string()]);
    assert!(known.contains(&format!("mtu {fits}")), "{known}");
    assert!(site.status().reason(reason) > 0);
}

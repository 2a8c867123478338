//! TC as the place where packets are met: what XDP cannot take (bulk that is still to be cut into segments, checksums that are
//! still to be computed), and changes from one to the other.

use crate::methods::{Family, V4, V6, prepare_tunnel};
use crate::site::{PATIENCE, Site, host};
use marca_daemon::linux::offload::set_tx_checksum;
use marca_testkit::frame::pattern;
use marca_testkit::peer;
use marca_testkit::topology::{ETH0, IN, Namespace, OUT, Topology, VIPS};
use std::time::{Duration, Instant};

/// 50 MiB.
const BULK: usize = 50 << 20;
/// More than any frame: the mean of packets that stand for many.
const FRAME: u64 = 2000;

#[test]
fn bulk_arrives_whole_by_nat_with_all_offloads_on() {
    let site = routed("tc bulk nat");
    let _servers = site.serve();
    [V4, V6].into_iter().for_each(|family| bulk_arrives_whole(&site, family, 8080));
    let status = site.status();
    let mean = |bytes, packets| status.total("shop", bytes) / status.total("shop", packets);
    // Or this shows nothing.
    assert!(mean("in_bytes", "in_packets") > FRAME && mean("out_bytes", "out_packets") > FRAME, "{status:?}");
}

#[test]
fn bulk_arrives_whole_by_direct_routing_with_all_offloads_on() {
    let mut site = flat("tc bulk dr");
    let _servers = site.serve();
    start(&mut site, "dr");
    [V4, V6].into_iter().for_each(|family| bulk_arrives_whole(&site, family, 80));
    let status = site.status();
    assert!(status.total("shop", "in_bytes") / status.total("shop", "in_packets") > FRAME / 4, "{status:?}");
}

#[test]
fn bulk_arrives_whole_by_tunnels_with_all_offloads_on() {
    let mut site = flat("tc bulk tunnel");
    let _servers = site.serve();
    prepare_tunnel(&site, V4);
    start(&mut site, "tunnel");
    bulk_arrives_whole(&site, V4, 80);
    prepare_tunnel(&site, V6);
    bulk_arrives_whole(&site, V6, 80);
    assert_eq!(site.status().reason("too_big") + site.status().reason("fragmentation_needed"), 0);
}

#[test]
fn bulk_arrives_whole_by_gue_and_gre_with_all_offloads_on() {
    for method in ["gue", "gre"] {
        let mut site = flat(&format!("tc bulk {method}"));
        let _servers = site.serve();
        prepare_tunnel(&site, V4);
        start(&mut site, method);
        bulk_arrives_whole(&site, V4, 80);
        prepare_tunnel(&site, V6);
        bulk_arrives_whole(&site, V6, 80);
    }
}

#[test]
fn a_sender_learns_the_mtu_of_a_tunnel_with_all_offloads_on() {
    let mut site = flat("tc mtu");
    let _servers = site.serve();
    // The decapsulators, and none of the room that they make.
    prepare_tunnel(&site, V4);
    site.net.director().ip(&[format!("link set {ETH0} mtu 1500")]).unwrap();
    // What leaves the director has been finished there, so that the client looks at the checksums of its answers. They are made
    // of packets whose own is unfinished.
    site.net.director().enter(|| set_tx_checksum(ETH0, false)).unwrap();
    start(&mut site, "tunnel");
    bulk_arrives_whole(&site, V4, 80);
    prepare_tunnel(&site, V6);
    site.net.director().ip(&[format!("link set {ETH0} mtu 1500")]).unwrap();
    bulk_arrives_whole(&site, V6, 80);
    assert!(site.status().reason("fragmentation_needed") > 0);
}

#[test]
fn datagrams_arrive_whole_with_all_offloads_on() {
    let site = routed("tc datagrams");
    let _servers = site.serve();
    for family in [V4, V6] {
        let from = family.of(site.net.client_address(0));
        assert_eq!(site.ask(from, &format!("udp://{}:443/hello", host(family.of(VIPS[0])))), "web1");
    }
}

/// Packets meet XDP, TC, and one of them on each side, while a connection and a download go on.
#[test]
fn a_reload_changes_over_while_packets_flow() {
    let mut site = Site::routed("tc changes", 2);
    let _servers = site.serve();
    let config = |attach: &str| {
        let router = site.router().replace("attach = 'xdp'", &format!("attach = {attach}"));
        let vip = VIPS[0].v4;
        format!("{router}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/7']\n{}", site.servers("shop"))
    };
    let configs = ["'xdp'", "'tc'", "{ out = 'tc', in = 'xdp' }", "{ out = 'xdp', in = 'tc' }", "'auto'", "'xdp'"];
    let configs = configs.map(config);
    let output = site.run(&configs[0]);
    assert!(output.contains("out: attached by native XDP\nin: attached by native XDP\n"), "{output}");
    let mut session = site.session(site.net.client_address(1).v4, VIPS[0].v4);
    let held_by = session.say("hello").unwrap();
    let expected = [
        ["native XDP", "native XDP"],
        ["TC", "TC"],
        ["TC", "native XDP"],
        ["native XDP", "TC"],
        ["TC", "TC"],
        ["native XDP", "native XDP"],
    ];
    for (config, expected) in configs.iter().zip(expected) {
        site.reload(config);
        assert_eq!(attached(&site), expected);
        assert_eq!(session.say("still here").unwrap(), held_by, "{expected:?}");
        let body = pattern(300_000);
        let from = site.net.client_address(2).v4;
        let answer = site.try_ask(from, &format!("http://{}/bytes/{}", VIPS[0].v4, body.len())).unwrap();
        assert!(answer.body == body, "the download differs with {expected:?}");
        let sink = format!("http://{}/sink", VIPS[0].v4);
        let answer = site.net.client().enter(|| peer::send(Some(from.into()), &sink, &body, PATIENCE)).unwrap();
        assert_eq!(answer.body, format!("{} {:016x}\n", body.len(), peer::checksum(&body)).as_bytes());
    }
    // Whoever comes after a crash finds what the last one has left, of either kind.
    for config in [&configs[1], &configs[2], &configs[0]] {
        site.crash();
        assert_eq!(session.say("nobody there?").unwrap(), held_by);
        let output = site.run(config);
        assert!(output.contains("ready: adopted"), "{output}");
        assert_eq!(session.say("and now?").unwrap(), held_by);
    }
}

#[test]
fn detaching_takes_tc_away() {
    let mut site = Site::routed("tc detach", 1).by_tc();
    let _servers = site.serve();
    let vip = VIPS[0].v4;
    site.run(&format!("{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\n{}", site.router(), site.servers("shop")));
    let url = format!("http://{vip}/");
    let from = site.net.client_address(0).v4;
    assert_eq!(site.ask(from, &url), "web1");
    assert!([OUT, IN].iter().any(|interface| has_tc(site.net.director(), interface)));
    site.stop();
    assert_eq!(site.ask(from, &url), "web1", "without a daemon");
    let said = site.marca_done(&["stop", "--detach"]);
    assert!(said.contains("detached from out"), "{said}");
    assert!([OUT, IN].iter().all(|interface| !has_tc(site.net.director(), interface)));
    assert!(!site.pin_dir().exists());
    let asked = site.net.client().enter(|| peer::ask(Some(from.into()), &url, Duration::from_millis(300)));
    assert!(asked.is_err(), "nobody forwards");
}

#[test]
fn automatically_a_veth_gets_tc_and_says_why() {
    let mut site = Site::routed("tc auto", 1);
    let _servers = site.serve();
    let vip = VIPS[0].v4;
    let router = site.router().replace("attach = 'xdp'\n", "");
    let output =
        site.run(&format!("{router}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\n{}", site.servers("shop")));
    assert!(output.contains("out: attached by TC: out is a veth\nin: attached by TC: out is a veth\n"), "{output}");
    let said = site.marca_done(&["status"]);
    assert!(said.contains("on out (TC: out is a veth), in (TC: out is a veth)"), "{said}");
    let said = site.marca_done(&["explain", "--from", "192.0.2.101:4000", "--to", &format!("{vip}:80")]);
    assert!(said.starts_with("In on out, where TC meets it.\n"), "{said}");
    assert_eq!(site.ask(site.net.client_address(0).v4, &format!("http://{vip}/")), "web1");
}

fn routed(test: &str) -> Site {
    let net = Topology::routed(&format!("cli {test}"), 1).unwrap().with_offloads().unwrap();
    let mut site = Site::around(test, net).by_tc();
    start(&mut site, "nat");
    site
}

/// The VIPs are on the real server.
fn flat(test: &str) -> Site {
    let site = Site::around(test, Topology::flat(&format!("cli {test}"), 1).unwrap().with_offloads().unwrap()).by_tc();
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(0).hold_vip(vip).unwrap());
    site
}

/// Under NAT a second port leads to the server's first.
fn start(site: &mut Site, method: &str) {
    let mapped = if method == "nat" { ", 'tcp/8080 -> 80'" } else { "" };
    site.run(&format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/80', 'udp/443'{mapped}]\nforward = '{method}'\n{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        site.servers("shop"),
    ));
}

/// There and back.
fn bulk_arrives_whole(site: &Site, family: Family, port: u16) {
    let body = pattern(BULK);
    let (from, host) = (family.of(site.net.client_address(0)), host(family.of(VIPS[0])));
    let begun = Instant::now();
    let answer = site.try_ask(from, &format!("http://{host}:{port}/bytes/{BULK}")).unwrap();
    assert!(answer.body == body, "{family:?}: the download differs");
    let fetched = begun.elapsed();
    let sink = format!("http://{host}:{port}/sink");
    let answer = site.net.client().enter(|| peer::send(Some(from), &sink, &body, PATIENCE)).unwrap();
    assert_eq!(answer.body, format!("{BULK} {:016x}\n", peer::checksum(&body)).as_bytes(), "{family:?}");
    println!("{family:?}: {fetched:?} down, {:?} up", begun.elapsed() - fetched);
}

fn attached(site: &Site) -> [String; 2] {
    let status = site.status();
    let of = |name: &str| {
        let interfaces = status.0["interfaces"].as_array().unwrap();
        let interface = interfaces.iter().find(|interface| interface["name"] == name).unwrap();
        interface["attached"].as_str().unwrap().to_owned()
    };
    [of(OUT), of(IN)]
}

/// Whether TC has a program for what comes in on an interface, by a link or by a filter.
fn has_tc(namespace: &Namespace, interface: &str) -> bool {
    use aya::programs::{SchedClassifier, TcAttachType};
    let links = namespace.enter(|| SchedClassifier::query_tcx(interface, TcAttachType::Ingress));
    let filters = namespace.command("tc").args(["filter", "show", "dev", interface, "ingress"]).output().unwrap();
    links.is_ok_and(|(_, programs)| !programs.is_empty()) || !filters.stdout.is_empty()
}

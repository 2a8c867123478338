//! Checks through the data path: real servers that answer at their own address, and lack what their clients need.

use crate::methods::{V4, decap, prepare_tunnel};
use crate::site::{Site, Status, serve, wait_until};
use marca_testkit::peer::{Offer, Server};
use marca_testkit::topology::{DualStack, VIPS};

/// Each bad answer is told.
const QUICK: &str = "interval = '100ms', timeout = '1s', rise = 1, fall = 1";

fn state(status: &Status, server: usize) -> &str {
    status.0["services"][0]["servers"][server]["state"].as_str().unwrap()
}

fn states(site: &Site) -> Vec<String> {
    let status = site.status();
    let servers = status.0["services"][0]["servers"].as_array().unwrap().len();
    (0..servers).map(|server| state(&status, server).to_owned()).collect()
}

/// What a server fails, each with why.
fn failures(site: &Site, server: usize) -> Vec<String> {
    let status = site.status();
    let failures = status.0["services"][0]["servers"][server]["health"]["failures"].clone();
    let text = |failure: &serde_json::Value| {
        let of = |key: &str| failure[key].as_str().unwrap().to_owned();
        format!("{}: {}", of("check"), of("why"))
    };
    failures.as_array().into_iter().flatten().map(text).collect()
}

fn settle(site: &Site, wanted: &[&str]) {
    wait_until("all are as they should be", || {
        let states = states(site);
        if states != wanted {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        states == wanted
    });
}

fn fails(site: &Site, server: usize, what: &str) {
    wait_until("it is told", || {
        let failures = failures(site, server);
        failures.iter().any(|failure| failure.contains(what))
    });
}

/// A service at the VIP of both families, with all that can be asked through it.
fn service(site: &Site, head: &str, servers: &str) -> String {
    let DualStack { v4, v6 } = VIPS[0];
    let bytes = marca_testkit::frame::pattern(60_000);
    let end: String = bytes[59_000..].iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let checks = [
        "tcp = true, port = 80".to_owned(),
        "tcp = true, port = 80, via = 'vip'".into(),
        format!("http = '/bytes/60000', expect_hex = '{end}', via = 'vip'"),
        "https = '/', via = 'vip'".into(),
        "udp = true, port = 443, send = 'x', expect = 'web', via = 'vip'".into(),
    ];
    let checks: String = checks.iter().map(|check| format!("  {{ {check}, {QUICK} }},\n")).collect();
    format!(
        "{}[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80', 'tcp/443', 'udp/443']\n{head}\ncheck = [\n{checks}]\n{servers}",
        site.router(),
    )
}

fn hold(site: &Site, server: usize) {
    VIPS[0].both().into_iter().for_each(|vip| site.net.server(server).hold_vip(vip).unwrap());
}

fn lose(site: &Site, server: usize) {
    let DualStack { v4, v6 } = VIPS[0];
    site.net.server(server).ip(&[format!("addr del {v4}/32 dev lo"), format!("addr del {v6}/128 dev lo")]).unwrap();
}

#[test]
fn a_server_that_lacks_the_vip_is_found_under_direct_routing() {
    direct_routing(Site::flat("through dr", 4));
}

#[test]
fn so_it_is_by_tc() {
    direct_routing(Site::flat("through dr tc", 4).by_tc());
}

fn direct_routing(mut site: Site) {
    let _farm: Vec<Server> = (1..=3).map(|n| serve(site.net.server(n - 1), &format!("web{n}"))).collect();
    // The fourth one listens at its own address only.
    let own = site.net.server_address(3).v4.into();
    let offer =
        Offer { name: "web4".into(), http: vec![80], https: vec![443], udp: vec![443], echo: vec![], bind: Some(own) };
    let _web4 = site.net.server(3).enter(|| Server::start(offer)).unwrap();
    hold(&site, 0);
    hold(&site, 3);
    // The third one is a router: what is not for it goes back to whom it is for, the director.
    site.net.server(2).sysctl("net.ipv4.ip_forward", 1).unwrap();
    site.net.server(2).sysctl("net.ipv6.conf.all.forwarding", 1).unwrap();
    site.run(&service(&site, "forward = 'dr'\nscheduler = 'maglev'", &site.servers("shop")));
    settle(&site, &["up", "down", "down", "down"]);
    let address = site.net.server_address(1).v4;
    fails(&site, 1, "tcp/80 via 192.0.2.10: no answer through 192.0.2.10 within 1s");
    fails(&site, 1, &format!("{address} itself answers: has it 192.0.2.10 on lo?"));
    fails(&site, 1, "tcp/80 via 2001:db8:1::10: no answer through");
    for server in [1, 2] {
        wait_until("all of four checks at two VIPs fail, and no other", || failures(&site, server).len() == 8);
    }
    fails(&site, 2, "it passes on what is for 192.0.2.10, and so has not got that address itself");
    fails(&site, 3, "tcp/80 via 192.0.2.10: connection refused");
    fails(&site, 3, "udp/443 via 192.0.2.10: connection refused");
    // What is missing comes, and what was there goes.
    hold(&site, 1);
    settle(&site, &["up", "up", "down", "down"]);
    assert_eq!(failures(&site, 1), [""; 0]);
    lose(&site, 0);
    wait_until("all of its checks through the VIP fail", || failures(&site, 0).len() == 8);
    assert_eq!(states(&site), ["down", "up", "down", "down"]);
    assert_eq!(site.status().total("shop", "connections"), 0, "no check is a client's connection");
    let status = site.marca_done(&["status"]);
    assert!(status.contains("web1: tcp/80 via 192.0.2.10 fails for "), "{status}");
    let told = site.terminate();
    let of_web1 = told.lines().filter(|line| line.contains("shop/web1 (") && line.contains(" fails: "));
    assert_eq!(of_web1.count(), 8, "while it had the VIP, each answer was good:\n{told}");
}

#[test]
fn a_server_that_lacks_the_decapsulator_is_found() {
    let mut site = Site::flat("through tunnels", 4);
    let _farm = site.serve();
    prepare_tunnel(&site, V4);
    let methods = ["'tunnel'", "'gre'", "{ tunnel = 'gue', port = 6081, checksum = true }", "'tunnel'"];
    let servers: String = (0..methods.len())
        .map(|index| {
            hold(&site, index);
            decap(&site, index, &["--gue-port", "6081"]);
            let DualStack { v4, v6 } = site.net.server_address(index);
            // The last one has an address of one family only, for VIPs of both.
            let addresses = if index == 3 { format!("'{v6}'") } else { format!("['{v4}', '{v6}']") };
            let (name, forward) = (index + 1, methods[index]);
            format!("[[service.shop.server]]\nname = 'web{name}'\naddress = {addresses}\nforward = {forward}\n")
        })
        .collect();
    // The plain check would go to the other family's address, where everybody listens.
    site.run(&service(&site, "scheduler = 'rr'\nstart = 'down'", &servers));
    settle(&site, &["up", "up", "up", "up"]);
    for server in 0..methods.len() {
        decap(&site, server, &["--detach"]);
    }
    settle(&site, &["down", "down", "down", "down"]);
    let address = site.net.server_address(0).v4;
    // Which check hears that is chance: hosts send a peer one such error a second (icmp(7), icmp_ratelimit).
    site.daemon_says(&format!("via 192.0.2.10 fails: {address} refuses the tunnel's packets: has it a decapsulator?"));
    for server in 0..methods.len() {
        wait_until("all checks fail", || failures(&site, server).len() == 8);
        decap(&site, server, &["--gue-port", "6081"]);
    }
    settle(&site, &["up", "up", "up", "up"]);
    lose(&site, 1);
    settle(&site, &["up", "down", "up", "up"]);
    fails(&site, 1, "itself answers: has it 192.0.2.10 on lo, and a decapsulator?");
}

#[test]
fn a_server_whose_way_to_clients_is_another_one_is_found_under_nat() {
    let mut site = Site::routed("through nat", 2);
    let _farm = site.serve();
    site.run(&service(&site, "forward = 'nat'\nscheduler = 'maglev'\nstart = 'down'", &site.servers("shop")));
    settle(&site, &["up", "up"]);
    let DualStack { v4, v6 } = site.net.director_inside();
    let routes = |what: &str| [format!("route {what} default via {v4}"), format!("route {what} default via {v6}")];
    site.net.server(1).ip(&routes("del")).unwrap();
    settle(&site, &["up", "down"]);
    fails(&site, 1, "tcp/80 via 192.0.2.10: no answer through 192.0.2.10 within 1s; 10.0.0.12 itself answers");
    site.net.server(1).ip(&routes("add")).unwrap();
    settle(&site, &["up", "up"]);
    assert_eq!(site.status().total("shop", "connections"), 0, "no check is a client's connection");
}

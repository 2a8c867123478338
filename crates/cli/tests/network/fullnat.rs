//! Fullnat's source addresses: put on the director, seen by real servers, and taken away again.

use crate::lifecycle::addresses;
use crate::site::{ECHO, Site, host};
use marca_testkit::topology::{DualStack, IN, Namespace, OUT, VIPS};
use std::net::IpAddr;
use std::process::Output;

const SOURCES: [&str; 3] = ["10.0.0.100", "10.0.0.101", "fd00::100"];

fn shop(site: &Site, forward: &str) -> String {
    let DualStack { v4, v6 } = VIPS[0];
    format!(
        "{}[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80', 'tcp/{ECHO}', 'udp/443']\n{forward}{}",
        site.router(),
        site.servers("shop"),
    )
}

const FULLNAT: &str = "forward = 'fullnat'\nsource = ['10.0.0.100-10.0.0.101', 'fd00::100']\n";

fn sources_on(namespace: &Namespace, interface: &str) -> usize {
    let there = addresses(namespace, interface);
    SOURCES.iter().filter(|source| there.contains(&source.parse().unwrap())).count()
}

/// Whom a real server's connections at this port are with.
fn peers(server: &Namespace, port: u16) -> Vec<IpAddr> {
    let filter = format!("sport = :{port}");
    let Output { status, stdout, .. } =
        server.command("ss").args(["-Htn", "state", "established", &filter]).output().unwrap();
    assert!(status.success());
    let text = String::from_utf8(stdout).unwrap();
    let peer = |line: &str| {
        let end = line.split_whitespace().last().unwrap().rsplit_once(':').unwrap().0.to_owned();
        let address: IpAddr = end.trim_matches(['[', ']']).parse().unwrap();
        address.to_canonical()
    };
    text.lines().map(peer).collect()
}

#[test]
fn sources_stand_inside_and_leave_with_the_director() {
    let mut site = Site::routed("fullnat sources", 2);
    let DualStack { v4, v6 } = site.net.director_inside();
    let routes = [format!("route del default via {v4}"), format!("route del default via {v6}")];
    site.net.servers().iter().for_each(|server| server.ip(&routes).unwrap());
    let _servers = site.serve();
    site.run(&shop(&site, FULLNAT));
    let director = site.net.director();
    assert_eq!([sources_on(director, IN), sources_on(director, OUT)], [3, 0]);

    let mut sessions = Vec::new();
    for client in 0..4 {
        for (from, vip) in std::iter::zip(site.net.client_address(client).both(), VIPS[0].both()) {
            site.ask(from, &format!("http://{}/", host(vip)));
            sessions.push(site.session(from, vip));
        }
    }
    sessions.iter_mut().for_each(|session| _ = session.say("hello").unwrap());
    let seen: Vec<IpAddr> = site.net.servers().iter().flat_map(|server| peers(server, ECHO)).collect();
    assert_eq!(seen.len(), sessions.len());
    let sources: Vec<IpAddr> = SOURCES.map(|source| source.parse().unwrap()).to_vec();
    assert!(seen.iter().all(|peer| sources.contains(peer)), "{seen:?}");

    // Without a daemon, and with the next one.
    site.crash();
    sessions.iter_mut().for_each(|session| _ = session.say("still there").unwrap());
    site.run(&shop(&site, FULLNAT));
    sessions.iter_mut().for_each(|session| _ = session.say("and now").unwrap());
    let status = site.status();
    assert_eq!([status.reason("inconsistent"), status.reason("no_source"), status.reason("not_a_reply")], [0; 3]);
    assert_eq!(status.each("shop", "active").iter().sum::<u64>(), sessions.len() as u64);

    // One address less.
    site.reload(&shop(&site, "forward = 'fullnat'\nsource = ['10.0.0.101', 'fd00::100']\n"));
    assert_eq!(sources_on(site.net.director(), IN), 2);
    assert!(
        site.marca_done(&["explain", "--from", "192.0.2.150:4242", "--to", "192.0.2.10:80"]).contains("10.0.0.101")
    );

    site.stop();
    assert_eq!(sources_on(site.net.director(), IN), 2);
    let said = site.marca_done(&["stop", "--detach"]);
    assert!(said.contains("took 10.0.0.101/32 off in"), "{said}");
    assert_eq!(sources_on(site.net.director(), IN), 0);
}

#[test]
fn open_connections_stay_under_nat_when_their_service_comes_under_fullnat() {
    let mut site = Site::routed("fullnat reload", 1);
    let _web1 = site.serve();
    site.run(&shop(&site, ""));
    let clients = || std::iter::zip(site.net.client_address(0).both(), VIPS[0].both());
    let mut before: Vec<_> = clients().map(|(from, vip)| site.session(from, vip)).collect();
    before.iter_mut().for_each(|session| _ = session.say("one").unwrap());
    site.reload(&shop(&site, FULLNAT));
    before.iter_mut().for_each(|session| _ = session.say("two").unwrap());
    let mut after: Vec<_> = clients().map(|(from, vip)| site.session(from, vip)).collect();
    after.iter_mut().for_each(|session| _ = session.say("three").unwrap());
    before.iter_mut().for_each(|session| _ = session.say("four").unwrap());
    let mut seen = peers(site.net.server(0), ECHO);
    seen.sort();
    let DualStack { v4, v6 } = site.net.client_address(0);
    assert!(seen.contains(&v4.into()) && seen.contains(&v6.into()), "{seen:?}");
    assert!(seen.contains(&SOURCES[2].parse().unwrap()), "{seen:?}");
    assert_eq!(seen.len(), 4);
}

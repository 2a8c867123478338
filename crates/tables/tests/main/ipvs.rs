//! What IPVS was seen to do, where no other module says it: see `docs/ipvs.md`.

use crate::configuration::{config, ip, server, service, tcp, unlimited};
use crate::director::{Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, Mark, MarkRule, PortMatch, PortRange, Protocol, Scheduler, Selector, Service};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::Path;

const VIP: &str = "192.0.2.10";

/// By its port, with servers of these numbers.
fn shop(scheduler: Scheduler, servers: &[u16]) -> Service {
    let mut shop = service("shop", &[VIP], &[tcp(80)]);
    shop.scheduler = scheduler;
    shop.servers = servers.iter().map(|&number| server(number, 1)).collect();
    shop
}

/// Clients' connections, and where they went.
fn open(director: &Director, clients: std::ops::Range<u8>) -> Vec<(Way, IpAddr)> {
    let way = |client| Way { protocol: 6, from: (Ipv4Addr::new(198, 51, 100, client).into(), 4242), to: (ip(VIP), 80) };
    let open = |way: Way| {
        let Seen::Server(address, _) = director.request(&way, Segment::Syn) else { panic!("{way:?}") };
        assert_eq!(director.request(&way, Segment::Data), Seen::Server(address, 80));
        (way, address)
    };
    clients.map(way).map(open).collect()
}

fn go_on(director: &Director, connections: &[(Way, IpAddr)]) {
    for (way, address) in connections {
        assert_eq!(director.request(way, Segment::Data), Seen::Server(*address, 80), "{way:?}");
        let answer = Way { from: (*address, 80), to: way.from, ..*way };
        assert_eq!(director.reply(&answer, Segment::Data), Seen::Client(ip(VIP), 80), "{way:?}");
    }
    director.check_loads();
}

/// As `shop`, and another service that has the same packets by a mark.
fn with_a_mark(shop: Service, scheduler: Scheduler, servers: &[u16]) -> Config {
    let value = Mark(NonZeroU32::new(80).unwrap());
    let mut marked = self::shop(scheduler, servers);
    marked.name = "marked".into();
    marked.selector = Selector::Mark { mark: value, vips: vec![ip(VIP)], target: None };
    let ports = vec![PortMatch { protocol: Protocol::Tcp, ports: PortRange { first: 80, last: 80 } }];
    let to = vec![ip(VIP).into()];
    let rule = MarkRule { value, to, from: Vec::new(), ports, interfaces: Vec::new() };
    Config { marks: vec![rule], ..config([shop, marked]) }
}

#[test]
fn a_live_connection_keeps_its_server_when_a_mark_service_appears() {
    for (before, after) in unlimited().flat_map(|one| unlimited().map(move |other| (one, other))) {
        let mut director = Director::with(SMALL, &config([shop(before, &[1, 2])]));
        let connections = open(&director, 0..50);
        director.apply(&with_a_mark(shop(before, &[1, 2]), after, &[2, 3]));
        go_on(&director, &connections);
        let new = open(&director, 50..100);
        let servers = [2, 3].map(|number| server(number, 1).addresses[0]);
        assert!(new.iter().all(|(_, address)| servers.contains(address)), "{before:?}, {after:?}");
        for _ in 0..3 {
            director.pass();
            go_on(&director, &connections);
            go_on(&director, &new);
        }
    }
}

#[test]
fn a_live_connection_keeps_its_server_when_its_service_gets_another_name() {
    for scheduler in unlimited() {
        let mut director = Director::with(SMALL, &config([shop(scheduler, &[1, 2])]));
        let connections = open(&director, 0..100);
        let renamed = Service { name: "store".into(), ..shop(scheduler, &[1, 2, 3]) };
        director.apply(&config([renamed]));
        for _ in 0..3 {
            go_on(&director, &connections);
            director.pass();
        }
    }
}

#[test]
fn a_server_that_comes_back_has_its_connections() {
    for scheduler in unlimited() {
        let mut director = Director::with(SMALL, &config([shop(scheduler, &[1, 2])]));
        let connections = open(&director, 0..100);
        for servers in [&[2][..], &[1, 2]] {
            director.apply(&config([shop(scheduler, servers)]));
            go_on(&director, &connections);
            director.pass();
            director.release_numbers();
            go_on(&director, &connections);
        }
    }
}

/// `file.toml: vector` and `module::test`, in backticks.
#[test]
fn the_tests_that_the_documentation_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = Vec::new();
    collect(&root.join("crates"), &mut sources);
    collect(&root.join("tests/vectors"), &mut sources);
    let text = fs::read_to_string(root.join("docs/ipvs.md")).unwrap();
    let mut named = 0;
    for word in text.split('`').skip(1).step_by(2) {
        let (file, wanted) = match (word.split_once(".toml: "), word.split_once("::")) {
            (Some((file, vector)), _) => (format!("{file}.toml"), format!("name = \"{vector}\"")),
            (None, Some((module, test))) => (format!("{module}.rs"), format!("fn {test}(")),
            (None, None) => continue,
        };
        named += 1;
        assert!(sources.iter().any(|(name, text)| *name == file && text.contains(&wanted)), "{word}");
    }
    assert!(named > 30, "{named}");
}

/// Names and texts of all files below a folder.
fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            collect(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&entry).unwrap()));
        }
    }
}

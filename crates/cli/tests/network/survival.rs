//! Connections outlive the daemon: its crash, and a restart with another configuration.

use crate::peers::{Content, Curl, Farm, LARGE};
use crate::site::{ECHO, PATIENCE, Site, host, wait_until};
use marca_testkit::peer::{Offer, Server, Session, ask};
use marca_testkit::topology::VIPS;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{scope, sleep};
use std::time::Duration;

#[test]
fn a_crash_under_load_loses_nothing_of_a_service_of_single_connections() {
    crash_under_load("crash", "scheduler = 'wlc'\npersist = '5m'\n", "xdp");
}

#[test]
fn a_crash_under_load_loses_nothing_of_a_service_by_table() {
    crash_under_load("crash table", "scheduler = 'maglev'\n", "xdp");
}

#[test]
fn a_crash_under_load_loses_nothing_by_tc() {
    crash_under_load("crash tc", "scheduler = 'wlc'\npersist = '5m'\n", "tc");
}

#[test]
fn a_restart_keeps_connections_and_obeys_new_weights_per_connection() {
    restart_with_new_weights("restart", "rr");
}

#[test]
fn a_restart_keeps_connections_and_obeys_new_weights_by_table() {
    restart_with_new_weights("restart table", "maglev");
}

fn crash_under_load(name: &str, settings: &str, attach: &'static str) {
    let mut site = Site::routed(name, 3);
    site.attach = attach;
    let content = Content::make(&site.dir);
    let _farm = Farm::start(&site.net, &content);
    let _echoes = echoes(&site);
    let vip = VIPS[0].v4.into();
    let config = format!(
        "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443', 'udp/443', 'tcp/{ECHO}']\n{settings}{}",
        site.router(),
        site.servers("shop"),
    );
    site.run(&config);
    let affine = |site: &Site| -> Vec<String> {
        AFFINE.map(|index| site.ask(site.net.client_address(index).v4, &format!("http://{}/", host(vip)))).collect()
    };
    let homes = affine(&site);

    let net = Arc::clone(&site.net);
    let load = Load::default();
    let slow = site.dir.join("slow.bin");
    let adopted = scope(|scope| {
        let (load, client) = (&load, net.client());
        let _stop = Stop(load);
        let addresses =
            |indices: std::ops::Range<usize>| indices.map(|index| IpAddr::from(net.client_address(index).v4));
        for from in addresses(REQUESTS) {
            scope.spawn(move || client.enter(|| load.requests(from, vip)));
        }
        for from in addresses(SESSIONS) {
            scope.spawn(move || client.enter(|| load.session(from, vip)));
        }
        let curl = Curl { namespace: client, from: net.client_address(SLOW).v4.into() };
        let to = slow.as_path();
        scope.spawn(move || load.download(curl, vip, to));

        wait_until("the load is there", || load.done.load(Relaxed) > 40);
        site.crash();
        let orphaned = site.status();
        assert_eq!(orphaned.daemon(), None);
        let done = load.done.load(Relaxed);
        sleep(Duration::from_secs(2));
        assert!(load.done.load(Relaxed) > done + 20, "packets are forwarded without a daemon");
        assert_eq!(affine(&site), homes, "without a daemon");
        let output = site.run(&config);
        sleep(Duration::from_secs(1));
        let status = site.status();
        assert!(status.daemon().is_some());
        for key in ["connections", "in_packets", "in_bytes", "out_packets", "out_bytes"] {
            assert!(status.total("shop", key) > orphaned.total("shop", key), "{key} goes on");
        }
        assert_eq!(affine(&site), homes, "with the new daemon");
        wait_until("the download is done", || load.downloaded.load(Relaxed));
        output
    });

    assert!(adopted.contains("ready: adopted the running data plane"), "{adopted}");
    assert_eq!(load.failures.into_inner().unwrap(), Vec::<String>::new());
    assert!(fs::read(&slow).unwrap() == fs::read(content.large()).unwrap(), "the download differs");
    let opened = load.done.load(Relaxed) + SESSIONS.len() as u64 + 1 + 3 * AFFINE.len() as u64;
    assert_eq!(site.status().total("shop", "connections"), opened, "each was counted once");
}

/// Clients, by their address.
const REQUESTS: std::ops::Range<usize> = 0..3;
const SESSIONS: std::ops::Range<usize> = 10..16;
const SLOW: usize = 20;
const AFFINE: std::ops::Range<usize> = 30..36;

#[derive(Default)]
pub struct Load {
    stopped: AtomicBool,
    /// Short requests.
    pub done: AtomicU64,
    downloaded: AtomicBool,
    pub failures: Mutex<Vec<String>>,
}

/// The load ends with the test, also when that fails.
pub struct Stop<'l>(pub &'l Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Relaxed);
    }
}

impl Load {
    pub fn requests(&self, from: IpAddr, vip: IpAddr) {
        let urls = ["http", "https"].map(|scheme| format!("{scheme}://{}/", host(vip)));
        for url in urls.iter().cycle() {
            if self.stopped.load(Relaxed) {
                break;
            }
            if let Err(error) = ask(Some(from), url, PATIENCE) {
                self.fail(&error);
            }
            self.done.fetch_add(1, Relaxed);
            sleep(Duration::from_millis(5));
        }
    }

    pub fn session(&self, from: IpAddr, vip: IpAddr) {
        let talk = || -> Result<(), marca_testkit::Error> {
            let mut session = Session::open(Some(from), (vip, ECHO).into(), PATIENCE)?;
            let server = session.say("hello")?;
            while !self.stopped.load(Relaxed) {
                let now = session.say("and again")?;
                if now != server {
                    self.fail(&format!("{server} became {now}"));
                }
                sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        if let Err(error) = talk() {
            self.fail(&error);
        }
    }

    fn download(&self, curl: Curl<'_>, vip: IpAddr, to: &std::path::Path) {
        let rate = (LARGE / 4).to_string();
        let arguments = ["-o", to.to_str().unwrap(), "--limit-rate", &rate];
        let output = curl.command(&format!("http://{}/large.bin", host(vip)), &arguments).output().unwrap();
        if !output.status.success() {
            self.fail(&String::from_utf8_lossy(&output.stderr));
        }
        self.downloaded.store(true, Relaxed);
    }

    fn fail(&self, why: &dyn std::fmt::Display) {
        self.failures.lock().unwrap().push(why.to_string());
    }
}

/// Beside nginx, which keeps no connection that says nothing of HTTP.
pub fn echoes(site: &Site) -> Vec<Server> {
    let offer = |number| Offer { name: format!("web{number}"), echo: vec![ECHO], ..Offer::default() };
    let start = |(number, namespace): (usize, &marca_testkit::topology::Namespace)| {
        namespace.enter(|| Server::start(offer(number))).unwrap()
    };
    (1..).zip(site.net.servers()).map(start).collect()
}

fn restart_with_new_weights(name: &str, scheduler: &str) {
    let mut site = Site::routed(name, 3);
    let _servers = site.serve();
    let vip = IpAddr::from(VIPS[0].v4);
    let config = |site: &Site, weights: &[u16]| {
        format!(
            "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/{ECHO}']\nscheduler = '{scheduler}'\n{}",
            site.router(),
            site.weighted("shop", weights),
        )
    };
    let met = |site: &Site, clients: std::ops::Range<usize>| -> BTreeSet<String> {
        let url = format!("http://{}/", host(vip));
        clients.map(|index| site.ask(site.net.client_address(index).v4, &url)).collect()
    };
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();

    site.run(&config(&site, &[1, 1]));
    let mut sessions: Vec<Session> =
        (0..16).map(|index| site.session(site.net.client_address(index).v4, vip)).collect();
    let say = |sessions: &mut Vec<Session>| -> Vec<String> {
        sessions.iter_mut().map(|session| session.say("hello").unwrap()).collect()
    };
    let homes = say(&mut sessions);
    assert_eq!(homes.iter().cloned().collect::<BTreeSet<_>>(), names(&["web1", "web2"]));
    // Two passes of the sweep and more: packets of a service by table do not ask for their records any longer, or ask no
    // longer than they must.
    let let_time_pass = || sleep(Duration::from_millis(if scheduler == "maglev" { 4500 } else { 0 }));
    let_time_pass();
    site.terminate();
    assert_eq!(say(&mut sessions), homes, "without a daemon");

    // The same two, otherwise weighted: clients move, connections do not.
    site.run(&config(&site, &[1, 5]));
    assert_eq!(say(&mut sessions), homes, "with new weights");
    site.terminate();

    // One more, and one that is to take nobody any more.
    let output = site.run(&config(&site, &[0, 1, 1]));
    assert!(output.contains("adopted"), "{output}");
    assert_eq!(say(&mut sessions), homes, "with a third server");
    assert_eq!(met(&site, 16..48), names(&["web2", "web3"]));
    let_time_pass();
    assert_eq!(say(&mut sessions), homes, "some time later");
    assert_eq!(site.status().each("shop", "active").iter().sum::<u64>(), sessions.len() as u64);

    // One has left the configuration, with connections open; then none takes anybody.
    site.terminate();
    site.run(&config(&site, &[0, 1]));
    assert_eq!(met(&site, 48..64), names(&["web2"]));
    assert_eq!(say(&mut sessions), homes, "with two servers again");
    site.terminate();
    site.run(&config(&site, &[0, 0]));
    assert!(site.try_ask(site.net.client_address(16).v4, &format!("http://{}/", host(vip))).is_err());
    assert_eq!(say(&mut sessions), homes, "when nobody takes clients");
}

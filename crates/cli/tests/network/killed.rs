//! `kill -9` after each step of a first start, of a start that adopts a data plane, of a reload, and of the end of all: packets are
//! forwarded, the next start comes to what its file says as if nothing had been, and nothing is left over.

use crate::lifecycle::{addresses, read_sysctl, xdp};
use crate::site::{ECHO, Site, host, wait_until};
use crate::survival::{Load, Stop};
use marca_config::plan::Plan;
use marca_daemon::linux::data_plane::Maps;
use marca_daemon::place::Place;
use marca_daemon::steps::Step;
use marca_engine::layout::{NO_REAL, Real, Service};
use marca_tables::classifier::ip;
use marca_testkit::topology::{IN, OUT, VIPS};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::scope;

/// Connections that have ended are forgotten at once, so that numbers become free.
const TIMEOUTS: &str = "timeouts = { closing = '1s', half_open = '1s' }";
/// Beside the topology's interfaces: one of the first configuration, and one of the second.
const LESS: &str = "less";
const MORE: &str = "more";

/// Two configurations, between which everything changes that a reload can change, but for one service.
fn configurations(site: &Site) -> [String; 2] {
    let [first, second] = VIPS;
    let steady = format!(
        "[service.steady]\nvip = '{}'\nports = ['tcp/80', 'tcp/443', 'tcp/{ECHO}']\nscheduler = 'wlc'\n{}",
        first.v6,
        site.servers("steady"),
    );
    let server = |service: &str, index: usize, weight: u16, family: fn(&IpAddr) -> bool| {
        let address = site.net.server_address(index).both().into_iter().find(family).unwrap();
        let name = index + 1;
        format!("[[service.{service}.server]]\nname = 'web{name}'\naddress = '{address}'\nweight = {weight}\n")
    };
    let [one, two, three] =
        [0, 1, 2].map(|index| move |service: &str, weight| server(service, index, weight, IpAddr::is_ipv4));
    let a = format!(
        "{}{steady}[service.shop]\nvip = '{}'\nports = ['tcp/80']\nscheduler = 'rr'\n{TIMEOUTS}\n{}{}\
         [service.gone]\nvip = '{}'\nports = ['tcp/80', 'udp/443']\n{TIMEOUTS}\n{}",
        site.router().replace(&format!("outside = ['{OUT}']"), &format!("outside = ['{OUT}', '{LESS}']")),
        first.v4,
        one("shop", 1),
        two("shop", 2),
        second.v4,
        three("gone", 1),
    );
    let b = format!(
        "{}[[mark]]\nvalue = 7\nto = ['{}/128']\nfrom = ['2001:db8::/32']\n\
         [service.marked]\nmark = 7\n{TIMEOUTS}\n{}\
         [service.come]\nvip = '{}'\nports = ['tcp/8080']\n{TIMEOUTS}\n{}\
         [service.shop]\nvip = '{}'\nports = ['tcp/80', 'tcp/443']\nscheduler = 'maglev'\npersist = '1s'\n{TIMEOUTS}\n{}{}{steady}",
        site.router().replace(&format!("inside = ['{IN}']"), &format!("inside = ['{IN}', '{MORE}']")),
        second.v6,
        server("marked", 1, 1, IpAddr::is_ipv6),
        second.v6,
        server("come", 2, 1, IpAddr::is_ipv6),
        first.v4,
        two("shop", 1),
        three("shop", 3),
    );
    [a, b]
}

/// What is on the host and in the tables, in words that do not depend on how it came there.
fn snapshot(site: &Site, config: &str) -> String {
    let mut status = site.status().0;
    without_counters(&mut status);
    let director = site.net.director();
    let on = |interface: &str| {
        let addresses: BTreeSet<IpAddr> = addresses(director, interface).into_iter().collect();
        format!("{interface}: {:?} {addresses:?}\n", xdp(director, interface))
    };
    let mut pins = Vec::new();
    list(site.pin_dir(), &mut pins);
    let mut files: Vec<String> = fs::read_dir(site.run_dir()).unwrap().map(|e| name(&e.unwrap().path())).collect();
    files.retain(|name| name != "numbers.jsonl");
    files.sort();
    format!(
        "{}\n{}{}pins: {pins:?}\nfiles: {files:?}\nforwarding: {:?}\n{}",
        serde_json::to_string_pretty(&status).unwrap(),
        [OUT, IN, LESS, MORE].map(on).concat(),
        "",
        forwarding(site),
        tables(site, config),
    )
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Everything below a folder; a load's number is not told.
fn list(folder: &Path, into: &mut Vec<String>) {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let called = name(&path);
        into.push(match called.starts_with("programs-") {
            true => called.trim_end_matches(|letter: char| letter.is_ascii_digit()).to_owned(),
            false => called,
        });
        if path.is_dir() {
            list(&path, into);
        }
    }
}

fn without_counters(value: &mut Value) {
    const COUNTERS: [&str; 11] = [
        "daemon",
        "reasons",
        "tables",
        "leaving",
        "connections",
        "in_packets",
        "in_bytes",
        "out_packets",
        "out_bytes",
        "active",
        "inactive",
    ];
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !COUNTERS.contains(&key.as_str()));
            object.values_mut().for_each(without_counters);
        }
        Value::Array(array) => array.iter_mut().for_each(without_counters),
        _ => {}
    }
}

/// Those of the inside that each configuration has. What has been set stays so until the end.
fn forwarding(site: &Site) -> [String; 3] {
    let names = ["ipv4.conf.in.forwarding", "ipv6.conf.in.forwarding", "ipv6.conf.in.accept_ra"];
    names.map(|name| read_sysctl(site.net.director(), &format!("net.{name}")))
}

fn place(site: &Site) -> Place {
    Place { run_dir: site.run_dir(), state_dir: site.run_dir(), pin_dir: site.pin_dir().to_owned(), ..Place::default() }
}

/// Services as packets meet them, with real servers' addresses in the place of numbers.
fn tables(site: &Site, config: &str) -> String {
    let memory = Maps::open(site.pin_dir()).unwrap().memory;
    let ids = place(site).state().unwrap().ids;
    let plan = Plan::of(&marca_config::load("t", config).unwrap().config).unwrap();
    let mut text = String::new();
    for plan in &plan.services {
        let number = ids.service(&plan.name, plan.family).unwrap();
        let cell = memory.services.get(number).unwrap();
        let service = cell.versions[(cell.current & 1) as usize];
        // Its own number, or another one's.
        let owner = u32::from(service.owner != number);
        let real = |number: u32| match number {
            NO_REAL => "nobody".to_owned(),
            number => memory.reals.get(number).map_or_else(|| "?".into(), |r| ip(r.family, &r.address).to_string()),
        };
        let servers = (0..service.servers_len).filter_map(|index| memory.servers.get(service.servers + index));
        let servers: Vec<_> = servers.map(|server| (server.real, server.weight)).collect();
        let slots = (0..service.slots_len).filter_map(|index| memory.slots.at(service.slots + index));
        let slots: Vec<String> = slots.map(|slot| real(slot.get() as u32)).collect();
        text += &format!("{} {:?}\n", plan.name, Service { servers: 0, slots: 0, owner, ..service });
        for (index, weight) in servers {
            let record = memory.reals.get(index).unwrap();
            assert_eq!(record.service, number, "{}", real(index));
            text += &format!("  {weight} {} {:?}\n", real(index), Real { service: 0, last_weight: 0, ..record });
        }
        text += &format!("  {slots:?}\n");
    }
    text
}

/// What there is when no director is.
fn bare(site: &Site) -> String {
    let director = site.net.director();
    let on = |interface: &str| format!("{:?} {:?}\n", xdp(director, interface), addresses(director, interface));
    let there = [site.pin_dir().exists(), site.run_dir().exists()];
    let more = read_sysctl(director, "net.ipv4.conf.more.forwarding");
    format!("{}{:?} {more} {there:?}", [OUT, IN, LESS, MORE].map(on).concat(), forwarding(site))
}

/// A director before its first start, with each configuration, and what there is with each when nobody is killed.
struct Stage {
    site: Site,
    configs: [String; 2],
    wanted: [String; 2],
    before: String,
    /// Those of a first start with the second one.
    steps: Vec<String>,
}

impl Stage {
    fn set(name: &str, attach: &'static str) -> Self {
        let mut site = Site::routed(name, 3);
        site.attach = attach;
        let director = site.net.director();
        for interface in [LESS, MORE] {
            let other = format!("{interface}-far");
            let commands = [
                format!("link add {interface} type veth peer name {other}"),
                format!("link set {interface} up"),
                format!("link set {other} up"),
            ];
            director.ip(&commands).unwrap();
        }
        for name in ["ipv4.conf.in.forwarding", "ipv6.conf.in.forwarding", "ipv4.conf.more.forwarding"] {
            director.sysctl(&format!("net.{name}"), 0).unwrap();
        }
        director.sysctl("net.ipv6.conf.in.accept_ra", 1).unwrap();
        let configs = configurations(&site);
        let before = bare(&site);
        let mut steps = Vec::new();
        let wanted = configs.each_ref().map(|config| {
            site.die_after = Some("start 0".into());
            site.run(config);
            steps = site.steps();
            let wanted = snapshot(&site, config);
            site.crash();
            site.marca_done(&["stop", "--detach"]);
            assert_eq!(bare(&site), before);
            wanted
        });
        site.die_after = None;
        Self { site, configs, wanted, before, steps }
    }

    /// Starts a daemon with one of the configurations, which comes to what is wanted.
    fn run(&mut self, which: usize, after: &str) {
        self.site.run(&self.configs[which]);
        let is = snapshot(&self.site, &self.configs[which]);
        let differing: Vec<(&str, &str)> =
            std::iter::zip(is.lines(), self.wanted[which].lines()).filter(|(is, wanted)| is != wanted).collect();
        assert!(is == self.wanted[which], "{after}: {differing:#?}");
    }

    /// Ends everything; nothing is left.
    fn clear(&mut self, after: &str) {
        self.site.marca_done(&["stop", "--detach"]);
        assert_eq!(bare(&self.site), self.before, "{after}");
    }
}

/// The first step of each kind and the last, by their numbers from 1: a start verifies all programs, which takes its time.
fn of_each_kind(steps: &[String]) -> Vec<usize> {
    let is_first = |place: usize| !steps[..place].contains(&steps[place]);
    let is_last = |place: usize| !steps[place + 1..].contains(&steps[place]) && steps[place].starts_with("File");
    (0..steps.len()).filter(|&place| is_first(place) || is_last(place)).map(|place| place + 1).collect()
}

#[test]
fn a_first_start_that_is_killed_after_any_kind_of_step_goes_without_trace_or_is_taken_up() {
    let mut stage = Stage::set("killed first", "xdp");
    let _servers = stage.site.serve();
    let mut ends = BTreeSet::new();
    for (turn, number) in of_each_kind(&stage.steps.clone()).into_iter().enumerate() {
        stage.site.die_after = Some(format!("start {number}"));
        let step = stage.site.run_or_die(&stage.configs[1]).expect("as many steps as before");
        stage.site.die_after = None;
        let after = format!("after {step}, {number}");
        // Most are taken away as they are; the others are taken up, by the same file or by another one, and killed once more
        // when they take everything away: after one of three attachments has ended, and each of the next.
        if turn % 3 == 0 {
            stage.site.die_after = Some(format!("detach {}", turn / 3 + 3));
            stage.run(turn / 3 % 2, &after);
            let step = stage.site.detach_or_die().expect("everything takes more steps");
            stage.site.die_after = None;
            assert_eq!(bare(&stage.site), stage.before, "{after}, and {step} of the end");
            ends.insert(step);
        }
        stage.clear(&after);
    }
    for step in [Step::Ended, Step::MapsGone, Step::VipsTaken, Step::SysctlsBack, Step::FileGone] {
        assert!(ends.contains(&format!("{step:?}")), "{step:?} is not among {ends:?}");
    }
}

/// Everything goes on: what was there before, new connections of what does not change, and of what does.
fn forwards(site: &Site, load: &Load, after: &str) {
    let done = load.done.load(Relaxed);
    let shop = site.try_ask(site.net.client_address(20).v4, &format!("http://{}/", host(VIPS[0].v4)));
    assert!(shop.is_ok(), "{after}: {shop:?}");
    wait_until("the load goes on", || load.done.load(Relaxed) > done + 2);
    assert_eq!(*load.failures.lock().unwrap(), Vec::<String>::new(), "{after}");
}

/// Does something while clients have connections to the service that does not change, and open others.
fn under_load(stage: &mut Stage, work: impl FnOnce(&mut Stage, &Load)) {
    let _servers = stage.site.serve();
    stage.site.run(&stage.configs[0]);
    let net = Arc::clone(&stage.site.net);
    let load = Load::default();
    scope(|scope| {
        let (load, client) = (&load, net.client());
        let _stop = Stop(load);
        let (steady, address) = (IpAddr::from(VIPS[0].v6), |index: usize| IpAddr::from(net.client_address(index).v6));
        let first = address(0);
        scope.spawn(move || client.enter(|| load.requests(first, steady)));
        for from in (10..14).map(address) {
            scope.spawn(move || client.enter(|| load.session(from, steady)));
        }
        wait_until("the load is there", || load.done.load(Relaxed) > 10);
        work(stage, load);
        // What has left gives its number back when its connections have ended, whoever gave it that.
        wait_until("numbers are free again", || {
            let ids = place(&stage.site).state().unwrap().ids;
            ids.leaving().count() + ids.leaving_services().count() == 0
        });
    });
    assert_eq!(load.failures.into_inner().unwrap(), Vec::<String>::new());
    stage.site.crash();
    stage.clear("at the end");
}

#[test]
fn a_daemon_that_is_killed_after_any_step_of_a_reload_leaves_what_the_next_one_finishes_or_takes_back() {
    let mut stage = Stage::set("killed reload", "xdp");
    under_load(&mut stage, |stage, load| {
        stage.site.crash();
        stage.site.die_after = Some("reload 0".into());
        stage.run(0, "at the beginning");
        // So that it is set each time.
        let unset = |site: &Site| site.net.director().sysctl("net.ipv4.conf.more.forwarding", 0).unwrap();
        unset(&stage.site);
        let died = stage.site.reload_or_die(&stage.configs[1]);
        assert_eq!(died, None);
        let steps = stage.site.steps();
        let kinds: BTreeSet<String> = steps.iter().cloned().collect();
        let of_a_start = [Step::Maps, Step::Tables, Step::Calls, Step::NumbersGone, Step::Routes];
        let of_the_end = [Step::MapsGone, Step::QdiscGone, Step::SysctlsBack, Step::FileGone];
        let missing = Step::ALL.iter().filter(|step| !of_a_start.contains(step) && !of_the_end.contains(step));
        let missing: Vec<&Step> = missing.filter(|step| !kinds.contains(&format!("{step:?}"))).collect();
        assert!(missing.is_empty(), "{missing:?} are not among {steps:?}");
        stage.site.crash();
        // Whoever takes up what one has left is the next to die: in its first reload, or in its second, when it first has to
        // go back to where a reload begins.
        let (mut now, mut after) = (1, "a reload".to_owned());
        for number in 1..=steps.len() {
            stage.site.die_after = Some(format!("reload {number} {}", now + 1));
            stage.run(now, &after);
            if now == 1 {
                stage.site.reload(&stage.configs[0]);
            }
            unset(&stage.site);
            let Some(step) = stage.site.reload_or_die(&stage.configs[1]) else {
                // A second reload may find a file or two as they should be.
                assert!(number + 4 > steps.len(), "{number} of {}", steps.len());
                break;
            };
            after = format!("after {step} of a reload, {number} of {}", steps.len());
            forwards(&stage.site, load, &after);
            now = number % 2;
        }
        stage.site.die_after = None;
        stage.site.crash_if_there();
        stage.run(now, &after);
    });
}

#[test]
fn a_start_that_is_killed_while_it_adopts_leaves_what_the_next_one_finishes() {
    let mut stage = Stage::set("killed start", "tc");
    under_load(&mut stage, |stage, load| {
        stage.site.crash();
        stage.site.die_after = Some("start 0".into());
        stage.run(1, "at the beginning");
        let steps = stage.site.steps();
        stage.site.crash();
        let mut which = 0;
        for (turn, number) in of_each_kind(&steps).into_iter().enumerate() {
            // What several have left half done, one after the other, the next takes up.
            stage.site.die_after = Some(format!("start {number}"));
            let Some(step) = stage.site.run_or_die(&stage.configs[which]) else {
                stage.site.crash();
                continue;
            };
            let after = format!("after {step} of a start, {number}");
            forwards(&stage.site, load, &after);
            if turn % 3 == 2 {
                stage.site.die_after = None;
                stage.run(which, &after);
                stage.site.crash();
                which = 1 - which;
            }
        }
        stage.site.die_after = None;
        stage.run(which, "at last");
    });
}

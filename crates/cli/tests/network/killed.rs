//! `kill -9` after each step of a first start, of a start that adopts a data plane, and of a reload: packets are forwarded, the
//! next start comes to what its file says as if nothing had been, and nothing is left over.

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
/// Beside the topology's: an interface that one of the two configurations has.
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
        site.router(),
        first.v4,
        one("shop", 1),
        two("shop", 2),
        second.v4,
        three("gone", 1),
    );
    let b = format!(
        "{}[[mark]]\nvalue = 7\nto = ['{}/128']\nfrom = ['2001:db8::/32']\n\
         [service.marked]\nmark = 7\n{TIMEOUTS}\n{}\
         [service.shop]\nvip = '{}'\nports = ['tcp/80', 'tcp/443']\nscheduler = 'maglev'\npersist = '5m'\n{TIMEOUTS}\n{}{}{steady}",
        site.router().replace(&format!("outside = ['{OUT}']"), &format!("outside = ['{OUT}', '{MORE}']")),
        second.v6,
        server("marked", 1, 1, IpAddr::is_ipv6),
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
        [OUT, IN, MORE].map(on).concat(),
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

fn forwarding(site: &Site) -> [String; 3] {
    let names = ["net.ipv4.conf.in.forwarding", "net.ipv6.conf.in.forwarding", "net.ipv6.conf.in.accept_ra"];
    names.map(|name| read_sysctl(site.net.director(), name))
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
        let real = |number: u32| match number {
            NO_REAL => "nobody".to_owned(),
            number => memory.reals.get(number).map_or_else(|| "?".into(), |r| ip(r.family, &r.address).to_string()),
        };
        let servers = (0..service.servers_len).filter_map(|index| memory.servers.get(service.servers + index));
        let servers: Vec<_> = servers.map(|server| (server.real, server.weight)).collect();
        let slots = (0..service.slots_len).filter_map(|index| memory.slots.at(service.slots + index));
        let slots: Vec<String> = slots.map(|slot| real(slot.get() as u32)).collect();
        text += &format!("{} {:?}\n", plan.name, Service { servers: 0, slots: 0, ..service });
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
    format!("{}{:?} {there:?}", [OUT, IN, MORE].map(on).concat(), forwarding(site))
}

fn site(name: &str) -> Site {
    let site = Site::routed(name, 3);
    let director = site.net.director();
    director
        .ip(&[
            format!("link add {MORE} type veth peer name beyond"),
            format!("link set {MORE} up"),
            "link set beyond up".into(),
        ])
        .unwrap();
    for name in ["net.ipv4.conf.in.forwarding", "net.ipv6.conf.in.forwarding"] {
        director.sysctl(name, 0).unwrap();
    }
    director.sysctl("net.ipv6.conf.in.accept_ra", 1).unwrap();
    site
}

#[test]
fn a_first_start_that_is_killed_after_any_step_is_gone_without_trace_or_taken_up() {
    let mut site = site("killed first");
    let _servers = site.serve();
    let [a, b] = configurations(&site);
    let before = bare(&site);
    let mut fresh = Vec::new();
    for config in [&a, &b] {
        site.run(config);
        fresh.push(snapshot(&site, config));
        site.crash();
        site.marca_done(&["stop", "--detach"]);
        assert_eq!(bare(&site), before);
    }
    let mut met = BTreeSet::new();
    for number in 1.. {
        site.die_after = Some(format!("start {number}"));
        let Some(step) = site.run_or_die(&b) else { break };
        site.die_after = None;
        met.insert(step.clone());
        // Every other one is taken away as it is; the others are taken up, by the same file or by another one.
        if number % 2 == 0 {
            let (config, fresh) = if number % 4 == 0 { (&a, &fresh[0]) } else { (&b, &fresh[1]) };
            site.run(config);
            assert_eq!(snapshot(&site, config), *fresh, "after {step}, {number}");
            site.crash();
        }
        site.marca_done(&["stop", "--detach"]);
        assert_eq!(bare(&site), before, "after {step}, {number}");
    }
    for step in [
        Step::Maps,
        Step::Tables,
        Step::Calls,
        Step::FileBeside,
        Step::FileInPlace,
        Step::Half,
        Step::Prefixes,
        Step::Reals,
        Step::Hops,
        Step::Service,
        Step::Classifier,
        Step::Leaving,
        Step::Sysctl,
        Step::Attached,
        Step::EntryBeside,
        Step::EntryInPlace,
        Step::VipsTaken,
        Step::VipsPut,
        Step::Routes,
    ] {
        assert!(met.contains(&format!("{step:?}")), "{step:?} is not among {met:?}");
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

#[test]
fn a_daemon_that_is_killed_after_any_step_of_a_reload_or_of_a_start_leaves_work_that_the_next_one_finishes() {
    let mut site = site("killed");
    let _servers = site.serve();
    let [a, b] = configurations(&site);
    let before = bare(&site);
    let mut fresh = Vec::new();
    for config in [&a, &b] {
        site.run(config);
        fresh.push(snapshot(&site, config));
        site.crash();
        site.marca_done(&["stop", "--detach"]);
    }
    let both = [(&a, &fresh[0]), (&b, &fresh[1])];
    let mut met = BTreeSet::new();
    site.run(&a);
    let net = Arc::clone(&site.net);
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
        // There and back, with a death on each way; the one who finishes is the next to die.
        let mut way = (0..).map(|turn| (both[turn % 2], both[(turn + 1) % 2]));
        for number in 1.. {
            let mut has_died = false;
            for ((now, _), (next, wanted)) in way.by_ref().take(2) {
                site.crash();
                site.die_after = Some(format!("reload {number}"));
                site.run(now);
                let step = site.reload_or_die(next);
                site.die_after = None;
                match &step {
                    Some(step) => {
                        forwards(&site, load, &format!("after {step} of a reload, {number}"));
                        site.run(next);
                    }
                    None => forwards(&site, load, "after a reload"),
                }
                assert_eq!(snapshot(&site, next), *wanted, "after {step:?} of a reload, {number}");
                has_died |= step.is_some();
                met.extend(step);
            }
            if !has_died {
                break;
            }
        }
        for number in 1.. {
            let ((now, _), (next, wanted)) = way.next().unwrap();
            let _ = now;
            site.crash();
            site.die_after = Some(format!("start {number}"));
            let Some(step) = site.run_or_die(next) else { break };
            site.die_after = None;
            let after = format!("after {step} of a start, {number}");
            forwards(&site, load, &after);
            site.run(next);
            assert_eq!(snapshot(&site, next), *wanted, "{after}");
            met.insert(step);
        }
        // What has left is forgotten when its connections are, and nothing else is remembered.
        let plan = Plan::of(&marca_config::load("t", &a).unwrap().config).unwrap();
        let _ = plan;
    });
    let all: BTreeSet<String> = Step::ALL.iter().map(|step| format!("{step:?}")).collect();
    let first: BTreeSet<String> = [Step::Tables].map(|step| format!("{step:?}")).into();
    assert_eq!(met, &all - &first);
    site.crash();
    site.marca_done(&["stop", "--detach"]);
    assert_eq!(bare(&site), before);
}

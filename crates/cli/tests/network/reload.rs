//! Another configuration in a running director: by `marca reload`, by SIGHUP, and not at all when it is faulty.

use crate::site::{ECHO, Site, host, wait_until};
use crate::survival::{Load, Stop};
use marca_testkit::topology::VIPS;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::scope;

/// The shop with these weights, and another service beside it or not.
fn configuration(site: &Site, scheduler: &str, weights: &[u16], more: bool) -> String {
    let vip = VIPS[0].v4;
    let beside = if more {
        format!("[service.beside]\nvip = '{}'\nports = 'tcp/80'\n{}", VIPS[1].v4, site.weighted("beside", &[1]))
    } else {
        String::new()
    };
    format!(
        "{}{beside}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443', 'tcp/{ECHO}']\nscheduler = \
         '{scheduler}'\n{}",
        site.router(),
        site.weighted("shop", weights),
    )
}

fn reloads_under_load(name: &str, scheduler: &str) {
    let mut site = Site::routed(name, 3);
    let _servers = site.serve();
    let vip = IpAddr::from(VIPS[0].v4);
    site.run(&configuration(&site, scheduler, &[1, 1], false));
    let net = Arc::clone(&site.net);
    let load = Load::default();
    scope(|scope| {
        let (load, client) = (&load, net.client());
        let _stop = Stop(load);
        let address = |index: usize| IpAddr::from(net.client_address(index).v4);
        for from in (0..3).map(address) {
            scope.spawn(move || client.enter(|| load.requests(from, vip)));
        }
        for from in (10..16).map(address) {
            scope.spawn(move || client.enter(|| load.session(from, vip)));
        }
        wait_until("the load is there", || load.done.load(Relaxed) > 40);
        for round in 0..20u16 {
            // Servers come and go, services before it in the file as well.
            let weights: &[u16] = [&[1, 1][..], &[3, 1, 2], &[0, 5, 1], &[1]][usize::from(round) % 4];
            let said = site.reload(&configuration(&site, scheduler, weights, round % 3 == 0));
            assert!(said.contains("reloaded: "), "{said}");
            let done = load.done.load(Relaxed);
            wait_until("the load goes on", || load.done.load(Relaxed) > done + 5);
        }
    });
    assert_eq!(load.failures.into_inner().unwrap(), Vec::<String>::new());
    let said = site.terminate();
    assert!(said.contains("configuration replaced"), "{said}");
}

#[test]
fn reloads_under_load_lose_no_connection_of_a_service_of_single_connections() {
    reloads_under_load("reload", "wlc");
}

#[test]
fn reloads_under_load_lose_no_connection_of_a_service_by_table() {
    reloads_under_load("reload table", "maglev");
}

#[test]
fn a_reload_puts_another_file_in_force_and_a_faulty_one_changes_nothing() {
    let mut site = Site::routed("reload fault", 3);
    let _servers = site.serve();
    let url = |number: usize| format!("http://{}/", host(VIPS[number].v4));
    let met = |site: &Site| -> BTreeSet<String> {
        (0..16).map(|index| site.ask(site.net.client_address(index).v4, &url(0))).collect()
    };
    let is_there = |site: &Site, number: usize| site.try_ask(site.net.client_address(0).v4, &url(number)).is_ok();
    site.run(&configuration(&site, "rr", &[1, 1], false));
    assert_eq!(met(&site).len(), 2);

    let said = site.reload(&configuration(&site, "rr", &[1, 1, 1], true));
    assert!(said.contains("2 new or changed, 0 gone"), "{said}");
    assert_eq!(met(&site).len(), 3);
    assert!(is_there(&site, 1), "a VIP comes with its service");
    let same = site.reload(&configuration(&site, "rr", &[1, 1, 1], true));
    assert!(same.contains("0 new or changed"), "{same}");

    for (fault, code, complaint) in [
        (configuration(&site, "rrr", &[1], false), 2, "rrr"),
        (
            configuration(&site, "rr", &[1], false).replace("outside = ['", "outside = ['no-"),
            1,
            "there is no interface",
        ),
    ] {
        site.write(&fault);
        let refused = site.marca(&["reload"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{said}");
        assert!(said.contains(complaint) && said.contains("nothing was changed"), "{said}");
        assert_eq!(met(&site).len(), 3);
        assert!(is_there(&site, 1));
    }

    // The VIP goes with its service, and comes again; this time by a signal.
    site.reload(&configuration(&site, "rr", &[1, 1], false));
    assert!(!is_there(&site, 1));
    assert_eq!(met(&site).len(), 2);
    site.write(&configuration(&site, "rr", &[1], true));
    site.hang_up();
    wait_until("the other file is in force", || is_there(&site, 1));
    assert_eq!(met(&site).len(), 1);

    site.stop();
    let refused = site.marca(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no daemon runs here"));
}

//! What operators say by hand: drains, weights, servers out of service; connections and persistence, listed and ended.

use crate::site::{ECHO, Site, host, wait_until};
use marca_testkit::peer::Session;
use marca_testkit::topology::VIPS;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn configuration(site: &Site, settings: &str, weights: &[u16]) -> String {
    format!(
        "{}[service.shop]\nvip = '{}'\nports = ['tcp/80', 'tcp/{ECHO}']\nscheduler = 'rr'\n{settings}\n{}",
        site.router(),
        VIPS[0].v4,
        site.weighted("shop", weights),
    )
}

fn vip() -> IpAddr {
    VIPS[0].v4.into()
}

fn client(site: &Site, index: usize) -> IpAddr {
    site.net.client_address(index).v4.into()
}

/// Who answers these clients.
fn met(site: &Site, clients: std::ops::Range<usize>) -> BTreeSet<String> {
    clients.map(|index| site.ask(client(site, index), &format!("http://{}/", host(vip())))).collect()
}

fn server(site: &Site, index: usize) -> Value {
    site.status().0["services"][0]["servers"][index].clone()
}

#[test]
fn a_drain_holds_over_restarts_and_reloads_until_its_time_is_over() {
    let mut site = Site::routed("hand drain", 3);
    let _servers = site.serve();
    site.run(&configuration(&site, "persist = '5m'", &[1, 1, 1]));
    let mut session = site.session(client(&site, 0), vip());
    let home = session.say("hello").unwrap();
    assert_eq!(site.marca_done(&["drain", &format!("shop/{home}")]), format!("shop/{home} drains\n"));
    assert!(!met(&site, 1..7).contains(&home), "new clients go elsewhere");
    assert_eq!(met(&site, 0..1), BTreeSet::from([home.clone()]), "a persistent one stays");
    let number = home.strip_prefix("web").unwrap().parse::<usize>().unwrap() - 1;
    let told = server(&site, number);
    assert_eq!((&told["state"], &told["weight"]), (&"draining".into(), &0.into()), "{told}");
    assert_eq!((&told["by_hand"]["duty"], &told["by_hand"]["configured_weight"]), (&"drained".into(), &1.into()));
    assert!(site.marca_done(&["status"]).contains(&format!("by hand: {home}, drained")));

    site.crash();
    assert_eq!(server(&site, number)["state"], "draining", "without a daemon");
    site.run(&configuration(&site, "persist = '5m'", &[1, 1, 1]));
    site.reload(&configuration(&site, "persist = '6m'", &[2, 2, 2]));
    let told = server(&site, number);
    assert_eq!((&told["state"], &told["by_hand"]["configured_weight"]), (&"draining".into(), &2.into()), "{told}");
    assert!(!met(&site, 10..16).contains(&home));
    // Disabled: the persistent client moves, its connection does not.
    site.marca_done(&["disable", &home]);
    assert_eq!(server(&site, number)["state"], "disabled");
    assert!(!met(&site, 0..1).contains(&home));
    assert_eq!(session.say("still here").unwrap(), home);
    assert_eq!(site.marca_done(&["undrain", &home]), format!("shop/{home} was not drained\n"));
    assert_eq!(site.marca_done(&["enable", &home]), format!("shop/{home} is no longer disabled\n"));
    assert_eq!(server(&site, number)["state"], "up");
    assert!(server(&site, number)["by_hand"].is_null());

    // With an end, which comes although the daemon is not there when it does.
    let said = site.marca_done(&["drain", &home, "--until", "3s"]);
    assert!(said.starts_with(&format!("shop/{home} drains until 20")), "{said}");
    let began = Instant::now();
    site.stop();
    site.run(&configuration(&site, "persist = '6m'", &[2, 2, 2]));
    if began.elapsed() < Duration::from_secs(2) {
        assert_eq!(server(&site, number)["state"], "draining");
    }
    wait_until("the drain is over", || server(&site, number)["state"] == "up");
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    site.daemon_says("is no longer drained: its time is over");
    // A server that leaves the file is forgotten.
    site.marca_done(&["drain", "web3"]);
    site.reload(&configuration(&site, "", &[1, 1]));
    site.reload(&configuration(&site, "", &[1, 1, 1]));
    assert_eq!(server(&site, 2)["state"], "up");

    for (arguments, complaint) in [
        (&["drain", "shop/web9"][..], "no service has a real server `shop/web9`"),
        (&["drain", "web1", "--until", "soon"], "neither a duration"),
        (&["drain", "web1", "--until", "2020-01-01T00:00:00Z"], "is past"),
        (&["weight", "web1", "70000"], "is no weight"),
    ] {
        let refused = site.marca(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(complaint), "{refused:?}");
    }
}

#[test]
fn a_weight_by_hand_is_in_force_at_once() {
    let mut site = Site::routed("hand weight", 2);
    let _servers = site.serve();
    site.run(&configuration(&site, "", &[1, 1]).replace("'rr'", "'wrr'"));
    assert_eq!(site.marca_done(&["weight", "web1", "0"]), "shop/web1 has weight 0\n");
    assert_eq!(met(&site, 0..6), BTreeSet::from(["web2".to_owned()]));
    site.marca_done(&["weight", "shop/web1", "5", "--until", "1h"]);
    let answers: Vec<String> =
        (0..12).map(|index| site.ask(client(&site, index), &format!("http://{}/", host(vip())))).collect();
    assert_eq!(answers.iter().filter(|server| *server == "web1").count(), 10);
    assert!(site.marca_done(&["status"]).contains("by hand: web1, weight 5 instead of 1 until 20"));
    assert_eq!(
        site.marca_done(&["weight", "web1", "configured"]),
        "shop/web1 has the weight of the configuration, 1\n"
    );
    assert!(server(&site, 0)["by_hand"].is_null());
}

#[test]
fn connections_are_listed_and_ended_and_clients_are_let_go() {
    let mut site = Site::routed("hand flows", 2);
    let _servers = site.serve();
    site.run(&configuration(&site, "persist = '5m'", &[1, 1]));
    let mut sessions: Vec<Session> = (0..4).map(|index| site.session(client(&site, index), vip())).collect();
    let homes: Vec<String> = sessions.iter_mut().map(|session| session.say("hello").unwrap()).collect();
    let flows = |arguments: &[&str]| -> Vec<Value> {
        let said = site.marca_done(&[&["flows", "--json"], arguments].concat());
        said.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = flows(&[]);
    assert_eq!(all.len(), 4, "{all:?}");
    let address = client(&site, 1).to_string();
    let one = flows(&["--client", &address]);
    assert_eq!(one.len(), 1);
    assert_eq!((&one[0]["service"], &one[0]["server"]), (&"shop".into(), &homes[1].clone().into()));
    assert_eq!((&one[0]["state"], &one[0]["protocol"]), (&"established".into(), &"tcp".into()));
    assert_eq!(one[0]["vip"], format!("{}:{ECHO}", vip()));
    assert_eq!(flows(&["--server", "shop/web1"]).len() + flows(&["--server", "web2"]).len(), 4);
    assert_eq!(flows(&["--service", "shop", "--limit", "3"]).len(), 3);
    let table = site.marca_done(&["flows", "--limit", "2"]);
    assert!(table.contains("established") && table.contains("the first 2"), "{table}");

    assert_eq!(site.marca_done(&["flows", "--kill", "--client", &address]), "1 connections ended\n");
    let error = sessions[1].say("are you there").unwrap_err().to_string();
    assert!(error.contains("reset"), "{error}");
    assert_eq!(sessions[0].say("and you").unwrap(), homes[0], "the others go on");
    let refused = site.marca(&["flows", "--kill"]);
    assert_eq!(refused.status.code(), Some(2), "all of them is too much");
    let refused = site.marca(&["flows", "--server", "web9"]);
    assert_eq!(refused.status.code(), Some(2));

    // Where a table knows the way without any record, too.
    site.reload(&configuration(&site, "persist = '5m'", &[1, 1]).replace("'rr'", "'maglev'"));
    let mut third = site.session(client(&site, 4), vip());
    let home = third.say("hello").unwrap();
    let fourth = client(&site, 4).to_string();
    assert_eq!(site.marca_done(&["flows", "--kill", "--client", &fourth]), "1 connections ended\n");
    assert!(flows(&["--client", &fourth]).is_empty());
    let error = third.say("are you there").unwrap_err().to_string();
    assert!(error.contains("reset"), "{error}");
    assert_eq!(site.session(client(&site, 4), vip()).say("again").unwrap(), home);
    assert_eq!(sessions[2].say("and you").unwrap(), homes[2], "the others go on");
    site.marca_done(&["persist", "--unpin", &fourth]);
    site.reload(&configuration(&site, "persist = '5m'", &[1, 1]));

    let persist = |arguments: &[&str]| site.marca_done(&[&["persist", "--json"], arguments].concat());
    assert_eq!(persist(&[]).lines().count(), 4);
    let pinned: Value = serde_json::from_str(persist(&["--client", &address]).trim()).unwrap();
    assert_eq!(pinned["server"], homes[1].as_str());
    assert!(pinned["seconds_left"].as_u64().is_some_and(|left| left > 200 && left <= 300), "{pinned}");
    let said = site.marca_done(&["persist", "--unpin", &address]);
    assert_eq!(said, format!("{address} may go elsewhere, in 1 services\n"));
    assert_eq!(persist(&[]).lines().count(), 3);
    assert_eq!(
        site.marca_done(&["persist", "--unpin", &address, "--service", "shop"]),
        format!("{address} stays with nobody\n")
    );
    assert!(
        site.marca_done(&["explain", "--from", &format!("{address}:9"), "--to", &format!("{}:80", vip())])
            .contains("In on ")
    );
}

#[test]
fn a_file_that_changes_is_put_in_force_when_the_configuration_says_so() {
    let mut site = Site::routed("hand change", 2);
    let _servers = site.serve();
    let with = |weights: &[u16], more: &str| {
        configuration(&site, "", weights).replace("[router]\n", &format!("[router]\n{more}"))
    };
    let watched = "reload = 'on-change'\n";
    let (both, one, bad) = (with(&[1, 1], watched), with(&[1], watched), with(&[1], "reloads = 1\n"));
    let (unwatched, after) = (with(&[1, 1], ""), with(&[1], ""));
    site.run(&both);
    let servers = |site: &Site| site.status().0["services"][0]["servers"].as_array().unwrap().len();

    // What it would be.
    site.write(&one);
    let differs = site.marca(&["diff"]);
    let said = String::from_utf8_lossy(&differs.stdout);
    assert_eq!(differs.status.code(), Some(1), "{said}");
    assert!(said.contains("- shop/web2: address "), "{said}");
    wait_until("the other file is in force", || servers(&site) == 1);
    let same = site.marca(&["diff"]);
    assert_eq!((same.status.code(), same.stdout.as_slice()), (Some(0), &b""[..]));
    site.write(&bad);
    site.daemon_says("nothing was changed");
    assert_eq!(site.marca(&["diff"]).status.code(), Some(2));
    assert_eq!(servers(&site), 1);
    // Told once, also when it is written again.
    site.write(&bad);
    std::thread::sleep(Duration::from_millis(800));
    site.write(&unwatched);
    wait_until("the next one is in force", || servers(&site) == 2);
    site.write(&after);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(servers(&site), 2, "nobody looks any more");
    let said = site.terminate();
    assert_eq!(said.matches("nothing was changed").count(), 1, "{said}");
    // What is in force is known without a daemon.
    let other = site.dir.join("marca.toml").display().to_string();
    let differs = site.marca(&["diff", &other]);
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
}

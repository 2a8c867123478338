//! Services with too few servers: who takes their clients, and until when.

use crate::site::{ECHO, Site, host};
use marca_testkit::peer::Session;
use marca_testkit::topology::VIPS;
use std::net::IpAddr;
use std::sync::Arc;

/// A service of the first two real servers; the third is the sorry server.
fn configuration(site: &Site, weights: &[u16]) -> String {
    let sorry = site.net.server_address(2);
    format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/80', 'tcp/{ECHO}']\nscheduler = 'rr'\npersist = '5m'\n\
         quorum = 2\nsorry = {{ address = ['{}', '{}'], name = 'closed' }}\n{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        sorry.v4,
        sorry.v6,
        site.weighted("shop", weights),
    )
}

/// How the state of each real server is told.
fn states(site: &Site) -> Vec<String> {
    let servers = site.status().0["services"][0]["servers"].as_array().unwrap().clone();
    servers.iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_sorry_server_serves_until_the_quorum_is_back() {
    let mut site = Site::routed("quorum", 3);
    let _servers = site.serve();
    site.run(&configuration(&site, &[1, 1]));
    assert_eq!(states(&site), ["up", "up", "standby"]);
    let url = |vip: IpAddr| format!("http://{}/", host(vip));
    let [v4, v6] = VIPS[0].both();
    let net = Arc::clone(&site.net);
    let client = |index: usize| IpAddr::from(net.client_address(index).v4);
    let mut early: Session = site.session(client(0), v4);
    let home = early.say("hello").unwrap();
    let other = if home == "web1" { "web2" } else { "web1" };

    let said = site.marca_done(&["fail", &format!("shop/{other}")]);
    let lines: Vec<&str> = said.lines().collect();
    let told = "is below its quorum for IPv4, 1 of 2 (weight): new clients go to closed";
    assert_eq!(lines[..2], [format!("shop/{other} has failed"), format!("shop {told}")], "{said}");
    assert!(lines[2].contains("IPv6"), "{said}");
    assert_eq!(site.ask(client(1), &url(v4)), "web3");
    assert_eq!(site.ask(site.net.client_address(1).v6, &url(v6)), "web3");
    assert_eq!(site.ask(client(0), &url(v4)), home, "this client is not new");
    assert_eq!(early.say("still there?").unwrap(), home);
    let mut late: Session = site.session(client(2), v4);
    assert_eq!(late.say("hello").unwrap(), "web3");
    let status = site.marca_done(&["status"]);
    assert!(status.contains("BELOW ITS QUORUM, 1 of 2 (weight): new clients go to closed"), "{status}");
    assert!(status.contains("serving") && status.contains("down (by hand)"), "{status}");
    let from = format!("{}:4242", client(3));
    let explain = |site: &Site| site.marca_done(&["explain", "--from", &from, "--to", &format!("{v4}:80")]);
    let explained = explain(&site);
    assert!(
        explained.contains("below its quorum of 2 (weight): new clients go to its sorry server closed"),
        "{explained}"
    );
    assert!(explained.contains("chooses closed"), "{explained}");

    // It outlives the daemon.
    site.crash();
    site.run(&configuration(&site, &[1, 1]));
    site.daemon_says("shop is below its quorum for IPv4");
    assert_eq!(site.ask(client(1), &url(v4)), "web3");

    let said = site.marca_done(&["restore", &format!("shop/{other}")]);
    assert!(said.contains("shop has its quorum again for IPv4: 2 of 2 (weight)"), "{said}");
    assert_eq!(states(&site), ["up", "up", "standby"]);
    let met: Vec<String> = (1..7).map(|index| site.ask(client(index), &url(v4))).collect();
    assert!(!met.iter().any(|server| server == "web3"), "{met:?}");
    assert_eq!(late.say("and now?").unwrap(), "web3", "its connection may finish");
    assert!(!explain(&site).contains("quorum"));

    // The pool is drained by its weights: a reload says so, and who has a home stays there.
    let said = site.reload(&configuration(&site, &[0, 0]));
    assert!(said.contains("shop is below its quorum for IPv4, 0 of 2 (weight): new clients go to closed"), "{said}");
    assert_eq!(site.ask(client(8), &url(v4)), "web3");
    assert_eq!(site.ask(client(0), &url(v4)), home);
    // The sorry server fails, too.
    site.marca_done(&["fail", "shop/closed"]);
    let error = site.try_ask(client(9), &url(v4)).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    assert!(site.status().reason("refused") > 0);
}

#[test]
fn drains_and_weights_by_hand_lose_the_quorum_and_a_drained_sorry_server_takes_nobody() {
    let mut site = Site::routed("quorum hand", 3);
    let _servers = site.serve();
    site.run(&configuration(&site, &[1, 1]));
    let v4 = IpAddr::from(VIPS[0].v4);
    let net = Arc::clone(&site.net);
    let ask = |site: &Site, index: usize| site.try_ask(net.client_address(index).v4, &format!("http://{}/", host(v4)));
    let said = site.marca_done(&["drain", "web1"]);
    assert!(
        said.starts_with(
            "shop/web1 drains\nshop is below its quorum for IPv4, 1 of 2 (weight): new clients go to closed"
        ),
        "{said}"
    );
    assert_eq!(ask(&site, 1).unwrap().server, "web3");
    assert_eq!(states(&site), ["draining", "up", "serving"]);
    // A heavier one makes up for it.
    let said = site.marca_done(&["weight", "web2", "2"]);
    assert!(said.contains("shop has its quorum again for IPv4: 2 of 2 (weight)"), "{said}");
    assert_eq!(ask(&site, 2).unwrap().server, "web2");
    let said = site.marca_done(&["weight", "web2", "configured"]);
    assert!(said.contains("shop is below its quorum"), "{said}");
    assert_eq!(ask(&site, 3).unwrap().server, "web3");

    for (away, back, state) in [
        (["drain", "closed"].as_slice(), ["undrain", "closed"].as_slice(), "drained"),
        (&["disable", "closed"], &["enable", "closed"], "disabled"),
        (&["weight", "closed", "0"], &["weight", "closed", "configured"], "drained"),
    ] {
        site.marca_done(away);
        assert_eq!(states(&site)[2], state, "{away:?}");
        let error = ask(&site, 4).unwrap_err().to_string();
        assert!(error.contains("refused"), "{away:?}: {error}");
        site.marca_done(back);
        assert_eq!(ask(&site, 4).unwrap().server, "web3", "{back:?}");
    }
    let said = site.marca_done(&["undrain", "web1"]);
    assert!(said.contains("shop has its quorum again"), "{said}");
    assert_eq!(states(&site), ["up", "up", "standby"]);
}

//! Health checks as an operator meets them: servers that stop, that say they are ill, and come back; scripts that say a weight.

use crate::site::{ECHO, Site, host, serve, wait_until};
use marca_testkit::topology::VIPS;
use serde_json::Value;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

/// Quick, so that a test takes no time.
const QUICK: &str = "interval = '100ms', timeout = '2s', rise = 2, fall = 2";

fn configuration(site: &Site, checks: &str) -> String {
    format!(
        "{}[service.shop]\nvip = '{}'\nports = ['tcp/80', 'tcp/443', 'udp/443', 'tcp/{ECHO}']\nscheduler = 'rr'\n{checks}\n{}",
        site.router(),
        VIPS[0].v4,
        site.servers("shop"),
    )
}

fn servers(site: &Site) -> Vec<Value> {
    site.status().0["services"][0]["servers"].as_array().unwrap().clone()
}

fn states(site: &Site) -> Vec<String> {
    servers(site).iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

/// What the only check that a server fails has against it.
fn failure(site: &Site, server: usize) -> (String, String) {
    let failures = servers(site)[server]["health"]["failures"].clone();
    let text = |key: &str| failures[0][key].as_str().unwrap_or_default().to_owned();
    (text("check"), text("why"))
}

fn health_is(site: &Site, index: usize, status: u16) {
    let address = host(site.net.server_address(index).v4);
    let url = format!("http://{address}/healthz/{status}");
    let director = site.net.director();
    director.enter(|| marca_testkit::peer::send(None, &url, b"", crate::site::PATIENCE)).unwrap();
}

fn answers(site: &Site) -> Vec<String> {
    let url = format!("http://{}/", VIPS[0].v4);
    let client: IpAddr = site.net.client_address(0).v4.into();
    let mut answers: Vec<String> = (0..6).map(|_| site.ask(client, &url)).collect();
    answers.sort();
    answers.dedup();
    answers
}

#[test]
fn a_server_that_is_ill_or_gone_gets_no_clients_until_it_is_well_again() {
    let mut site = Site::routed("checks", 3);
    let mut farm = site.serve();
    let checks = format!("check = [{{ http = '/healthz', {QUICK} }}, {{ tcp = true, {QUICK} }}]");
    site.run(&configuration(&site, &checks));
    assert_eq!(answers(&site), ["web1", "web2", "web3"]);
    // It says so itself.
    health_is(&site, 0, 503);
    site.daemon_says("shop/web1 (10.0.0.11): http/80 /healthz fails: HTTP status 503");
    wait_until("web1 is down", || states(&site) == ["down", "up", "up"]);
    assert_eq!(answers(&site), ["web2", "web3"]);
    let (check, why) = failure(&site, 0);
    assert!(check == "http/80 /healthz" && why.starts_with("HTTP status 503"), "{check}: {why}");
    let told = site.marca_done(&["status"]);
    assert!(told.contains("web1: http/80 /healthz fails for "), "{told}");
    // It is gone.
    drop(farm.remove(1));
    wait_until("web2 is down", || states(&site) == ["down", "down", "up"]);
    assert_eq!(answers(&site), ["web3"]);
    // A reload changes nothing about that, nor does another daemon.
    site.reload(&configuration(&site, &format!("{checks}\npersist = '5m'")));
    assert_eq!(states(&site), ["down", "down", "up"]);
    site.crash();
    site.run(&configuration(&site, &checks));
    assert_eq!(states(&site), ["down", "down", "up"], "it was known");
    // An operator's word and a check's are two.
    site.marca_done(&["fail", "shop/web1"]);
    health_is(&site, 0, 200);
    site.daemon_says("shop/web1 (10.0.0.11): http/80 /healthz answers again");
    assert_eq!(states(&site)[0], "down");
    site.marca_done(&["restore", "shop/web1"]);
    assert_eq!(states(&site)[0], "up");
    farm.push(serve(&site.net.servers()[1], "web2"));
    wait_until("all are up", || states(&site) == ["up", "up", "up"]);
    assert_eq!(answers(&site), ["web1", "web2", "web3"]);
    // Nobody asks any more.
    drop(farm);
    site.reload(&configuration(&site, "check = 'none'"));
    assert!(servers(&site).iter().all(|server| server["state"] == "up" && server["health"].is_null()));
}

#[test]
fn the_policy_says_what_a_failed_port_takes_away() {
    let mut site = Site::routed("check policy", 2);
    let _farm = site.serve();
    // Nobody listens on 81.
    let checks = |policy: &str| {
        format!(
            "check_policy = '{policy}'\ncheck = [{{ tcp = true, port = 80, {QUICK} }}, {{ tcp = true, port = 81, {QUICK} }}]"
        )
    };
    site.run(&configuration(&site, &checks("any")));
    wait_until("81 has been tried", || (0..2).all(|server| failure(&site, server).0 == "tcp/81"));
    assert_eq!(states(&site), ["up", "up"]);
    assert!(failure(&site, 1).1.starts_with("connection refused"));
    site.reload(&configuration(&site, &checks("all")));
    wait_until("all are down", || states(&site) == ["down", "down"]);
}

#[test]
fn a_script_says_a_weight_and_one_that_hangs_is_a_failure() {
    let mut site = Site::routed("check script", 2);
    let _farm = site.serve();
    write_script(&site, "case $MARCA_ADDRESS in *.11) echo 0 ;; *) echo 50% ;; esac");
    let script = site.dir.join("check");
    let checks = format!("check = {{ script = '{}', weight = true, {QUICK} }}", script.display());
    site.run(&configuration(&site, &checks));
    site.daemon_says("shop/web1 (10.0.0.11): says its weight: 0");
    wait_until("web1 takes nobody", || answers(&site) == ["web2"]);
    write_script(&site, "sleep 600 & sleep 600");
    site.daemon_says("the script has not ended within 2s");
    wait_until("both are down", || states(&site) == ["down", "down"]);
}

/// One that runs must not be written to.
fn write_script(site: &Site, text: &str) {
    let new = site.dir.join("new");
    fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, site.dir.join("check")).unwrap();
}

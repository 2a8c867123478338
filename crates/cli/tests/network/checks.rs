//! Health checks as an operator meets them: servers that stop, that say they are ill, and come back; scripts that say a weight.

use crate::peers::{Content, Curl, Farm};
use crate::site::{ECHO, Site, host, serve, wait_until};
use marca_testkit::topology::VIPS;
use serde_json::Value;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

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
    let per_port = |port: u16, more: &str| {
        let tcp = format!("{{ tcp = true, port = 80, {QUICK} }}");
        let keys =
            format!("{more}check_policy = 'per-port'\ncheck = [{tcp}, {{ http = '/', port = {port}, {QUICK} }}]");
        configuration(&site, &keys).replace("'tcp/443'", "'tcp/443 -> 81'")
    };
    site.reload(&per_port(81, ""));
    wait_until("they are up without 443", || {
        servers(&site).iter().all(|s| s["state"] == "up" && s["health"]["without_ports"][0] == "tcp/443")
    });
    // What nobody takes any more goes to the sorry server, which stands by for the rest.
    site.reload(&per_port(81, "sorry = { address = '10.0.0.99' }\n"));
    assert_eq!(servers(&site)[2]["only_ports"], serde_json::json!(["tcp/443"]));
    assert_eq!(states(&site), ["up", "up", "serving"]);
    let told = site.marca_done(&["status"]);
    assert!(told.contains("serving tcp/443"), "{told}");
    site.reload(&per_port(82, ""));
    wait_until("a check of no member port speaks for the server", || states(&site) == ["down", "down"]);
}

#[test]
fn a_server_loses_one_port_by_itself() {
    let mut site = Site::routed("check port", 2);
    let content = Content::make(&site.dir);
    let mut farm = Farm::start(&site.net, &content);
    let checks = format!("check_policy = 'per-port'\npersist = '5m'\ncheck = {{ tcp = true, {QUICK} }}");
    let text = configuration(&site, &checks).replace(&format!(", 'tcp/{ECHO}'"), "");
    site.run(&text);
    wait_until("both are up", || states(&site) == ["up", "up"]);
    let net = Arc::clone(&site.net);
    let client = |index: usize| Curl { namespace: net.client(), from: net.client_address(index).v4.into() };
    let vip = VIPS[0].v4.into();
    let ask = |index: usize, scheme: &str| client(index).ask(scheme, vip);
    let staying: Vec<(usize, String)> = (0..4).map(|index| (index, ask(index, "https"))).collect();
    assert!(staying.iter().any(|(_, home)| home == "web1") && staying.iter().any(|(_, home)| home == "web2"));
    farm.stop_https("web1");
    // Once or twice: the first answer of all decides alone.
    site.daemon_says("; the server stays up, without tcp/443");
    let without = |site: &Site| servers(site)[0]["health"]["without_ports"].clone();
    wait_until("443 of web1 is closed", || without(&site)[0] == "tcp/443");
    assert_eq!(states(&site), ["up", "up"]);
    let told = site.marca_done(&["status"]);
    assert!(told.contains("web1: no new connections to tcp/443"), "{told}");
    for (index, home) in &staying {
        assert_eq!(ask(*index, "https"), "web2", "{home}'s client");
        assert_eq!(ask(*index, "http"), *home, "as before");
    }
    // A reload does not open it, nor does another daemon.
    site.crash();
    site.run(&text);
    assert_eq!(ask(staying[0].0, "https"), "web2");
    assert_eq!(ask(staying[0].0, "http"), staying[0].1);
    farm.stop_https("web2");
    wait_until("nobody serves 443", || servers(&site)[1]["health"]["without_ports"][0] == "tcp/443");
    let output = client(0).command(&format!("https://{vip}/"), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "refused: {}", String::from_utf8_lossy(&output.stderr));
    assert!(site.status().reason("refused") > 0);
    assert_eq!(ask(staying[0].0, "http"), staying[0].1);
    farm.start_https("web1", &net.servers()[0]);
    farm.start_https("web2", &net.servers()[1]);
    wait_until("all is well", || (0..2).all(|server| servers(&site)[server]["health"]["failures"][0].is_null()));
    for (index, home) in &staying {
        assert_eq!([ask(*index, "https"), ask(*index, "http")], [home.clone(), home.clone()], "back");
    }
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

/// A script that waits until there is a verdict, its exit code, in a file; and counts how often each server is asked.
fn write_script_of_verdicts(site: &Site) -> String {
    let dir = site.dir.display().to_string();
    write_script(
        site,
        &format!(
            "echo >> {dir}/asked.$MARCA_ADDRESS\n\
             while ! verdict=$(cat {dir}/verdict.$MARCA_ADDRESS {dir}/verdict 2>/dev/null | head -n 1) || [ -z \"$verdict\" ]; do \
             sleep 0.02; done\nexit $verdict"
        ),
    );
    let script = site.dir.join("check");
    format!("check = {{ script = '{}', interval = '100ms', timeout = '60s', rise = 2, fall = 2 }}", script.display())
}

fn write_verdict(site: &Site, file: &str, code: Option<u8>) {
    let (new, file) = (site.dir.join("new-verdict"), site.dir.join(file));
    match code {
        Some(code) => {
            fs::write(&new, format!("{code}\n")).unwrap();
            fs::rename(&new, file).unwrap();
        }
        None => fs::remove_file(file).unwrap(),
    }
}

#[test]
fn until_the_first_verdict_a_server_is_what_start_says() {
    let mut site = Site::routed("start", 2);
    let _farm = site.serve();
    let check = write_script_of_verdicts(&site);
    let config = |start: &str| configuration(&site, &format!("start = '{start}'\n{check}"));
    let [down, up, last] = ["down", "up", "last"].map(config);
    let asked = |site: &Site| site.try_ask(site.net.client_address(0).v4, &format!("http://{}/", VIPS[0].v4));
    site.run(&down);
    assert_eq!(states(&site), ["waiting", "waiting"]);
    assert!(asked(&site).is_err(), "nobody takes clients yet");
    write_verdict(&site, "verdict", Some(0));
    wait_until("they are up", || states(&site) == ["up", "up"]);
    asked(&site).unwrap();
    write_verdict(&site, "verdict", Some(1));
    wait_until("they are down", || states(&site) == ["down", "down"]);
    // Nobody says anything any more.
    write_verdict(&site, "verdict", None);
    site.crash();
    site.run(&last);
    assert_eq!(states(&site), ["down", "down"], "as they were");
    site.crash();
    site.run(&up);
    assert_eq!(states(&site), ["up", "up"], "until they are said to be otherwise");
    asked(&site).unwrap();
    write_verdict(&site, "verdict", Some(1));
    wait_until("the first answer decides", || states(&site) == ["down", "down"]);
    write_verdict(&site, "verdict", None);
    site.crash();
    site.run(&down);
    assert_eq!(states(&site), ["waiting", "waiting"], "whatever they were");
    write_verdict(&site, "verdict", Some(0));
    wait_until("they are up", || states(&site) == ["up", "up"]);
}

#[test]
fn whom_an_operator_has_disabled_nobody_asks_until_it_is_enabled() {
    let mut site = Site::routed("check disabled", 2);
    let _farm = site.serve();
    // So many answers that it is seen when one is enough.
    let check = write_script_of_verdicts(&site).replace("rise = 2", "rise = 50");
    write_verdict(&site, "verdict", Some(0));
    site.run(&configuration(&site, &check));
    let [first, second] = [0, 1].map(|index| site.net.server_address(index).v4);
    let asked = |site: &Site, address: std::net::Ipv4Addr| {
        fs::read_to_string(site.dir.join(format!("asked.{address}"))).map_or(0, |text| text.len())
    };
    // It is ill when it is taken out of service, and well when it comes back.
    write_verdict(&site, &format!("verdict.{first}"), Some(1));
    wait_until("web1 is down", || states(&site) == ["down", "up"]);
    site.marca_done(&["disable", "web1"]);
    wait_until("a question that was on its way has ended", || {
        let before = asked(&site, first);
        std::thread::sleep(std::time::Duration::from_millis(250));
        asked(&site, first) == before
    });
    let (before, of_other) = (asked(&site, first), asked(&site, second));
    wait_until("the other one is asked as before", || asked(&site, second) > of_other + 3);
    assert_eq!(asked(&site, first), before);
    assert!(servers(&site)[0]["health"].is_null());
    write_verdict(&site, &format!("verdict.{first}"), Some(0));
    site.marca_done(&["enable", "web1"]);
    wait_until("web1 is up", || states(&site) == ["up", "up"]);
    assert!(asked(&site, first) - before < 50, "the first answer decides");
    wait_until("and goes on", || asked(&site, first) > before + 2);
    assert_eq!(answers(&site), ["web1", "web2"]);
}

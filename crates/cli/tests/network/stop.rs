//! The daemon ends when it is asked to, by the socket and by the network, and by a signal where nobody answers.

use crate::api::ask;
use crate::lifecycle::{addresses, xdp};
use crate::schemathesis::{certificate, token};
use crate::site::{ECHO, Site, wait_until};
use crate::survival::{Load, Stop};
use marca_testkit::topology::{IN, OUT, VIPS};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::scope;

#[test]
fn a_daemon_ends_on_request_and_packets_flow_on_until_one_takes_everything_away() {
    let mut site = Site::routed("stop", 2);
    let _servers = site.serve();
    let (certificate, key) = certificate(&site.dir);
    let (secret, admin) = token(&["operator", "--access", "admin"]);
    let (read_secret, reader) = token(&["reader"]);
    let vip = IpAddr::from(VIPS[0].v4);
    let config = format!(
        "{}[api]\nlisten = '127.0.0.1:8443'\ncertificate = '{certificate}'\nkey = '{key}'\n{admin}\n{reader}\n\
         [service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443', 'tcp/{ECHO}']\n{}",
        site.router(),
        site.servers("shop"),
    );
    let net = Arc::clone(&site.net);
    let by_network = |secret: &str, body: &str| {
        let mut curl = net.director().command("curl");
        curl.args(["-s", "-k", "--max-time", "20", "-w", "\n%{http_code}", "--json", body]);
        curl.args(["-H", &format!("Authorization: Bearer {secret}"), "https://127.0.0.1:8443/v1/stop"]);
        let answer = String::from_utf8(curl.output().unwrap().stdout).unwrap();
        answer.rsplit_once('\n').map(|(body, status)| (status.to_owned(), body.to_owned())).unwrap()
    };
    site.run(&config);
    let load = Load::default();
    scope(|scope| {
        let (load, client) = (&load, net.client());
        let _stop = Stop(load);
        let [asks, stays] = [0, 10].map(|index| IpAddr::from(net.client_address(index).v4));
        scope.spawn(move || client.enter(|| load.requests(asks, vip)));
        scope.spawn(move || client.enter(|| load.session(stays, vip)));
        let goes_on = |how: &str| {
            let done = load.done.load(Relaxed);
            wait_until(how, || load.done.load(Relaxed) > done + 4);
        };
        goes_on("the load is there");

        assert_eq!(by_network(&read_secret, "{}").0, "403");
        let process = site.status().daemon().expect("who only reads ends nobody");
        let (status, _, body) = ask(&site, "POST", "/v1/stop", Some(r#"{"detach": false}"#));
        assert_eq!((status, body), (202, json!({ "process": process, "detach": false })));
        let said = site.ended();
        assert!(said.contains("the daemon ends; packets are forwarded as before"), "{said}");
        assert_eq!(site.status().daemon(), None);
        goes_on("packets are forwarded after a request");

        // A daemon that cannot be asked gets a signal.
        site.run(&config);
        std::fs::remove_file(site.run_dir().join("control")).unwrap();
        site.stop();
        goes_on("packets are forwarded after a signal");
    });
    assert_eq!(load.failures.into_inner().unwrap(), Vec::<String>::new());

    site.run(&config);
    let (status, body) = by_network(&secret, r#"{"detach": true}"#);
    assert_eq!(status, "202", "{body}");
    let said = site.ended();
    assert!(said.contains("takes away everything"), "{said}");
    assert_eq!([xdp(net.director(), OUT), xdp(net.director(), IN)], [None, None]);
    assert!(!addresses(net.director(), OUT).contains(&vip));
    assert!(!site.pin_dir().exists() && !site.run_dir().exists());
}

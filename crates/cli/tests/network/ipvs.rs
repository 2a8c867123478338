//! What IPVS was seen to do, by the same steps: see `docs/ipvs.md`.

use crate::methods::{V4, prepare_tunnel};
use crate::site::{ECHO, PATIENCE, Site, host};
use marca_testkit::frame::pattern;
use marca_testkit::peer;
use marca_testkit::topology::{ETH0, VIPS};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::process::Command;

/// There it hangs.
#[test]
fn connections_of_a_deleted_service_are_reset_though_another_is_left() {
    for scheduler in ["wlc", "maglev"] {
        let mut site = Site::routed(&format!("deleted {scheduler}"), 2);
        let _servers = site.serve();
        let vip = IpAddr::from(VIPS[0].v4);
        let service = |name: &str, port: u16| {
            let servers = site.servers(name);
            format!("[service.{name}]\nvip = '{vip}'\nports = ['tcp/{port}']\nscheduler = '{scheduler}'\n{servers}")
        };
        let (router, echo, web) = (site.router(), service("echo", ECHO), service("web", 80));
        site.run(&format!("{router}{echo}{web}"));
        let client = site.net.client_address(0).v4;
        let mut session = site.session(client, vip);
        session.say("hello").unwrap();
        site.reload(&format!("{router}{web}"));
        let error = session.say("still there?").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        site.ask(client, &format!("http://{}/", host(vip)));
    }
}

/// There `--stats` reads 0 for a while.
#[test]
fn status_counts_a_connection_right_after_it() {
    let mut site = Site::routed("counts", 1);
    let _servers = site.serve();
    let vip = VIPS[0].v4;
    site.run(&format!("{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\n{}", site.router(), site.servers("shop")));
    for connections in 1..4 {
        site.ask(site.net.client_address(0).v4, &format!("http://{vip}/"));
        assert_eq!(site.status().total("shop", "connections"), connections);
    }
}

/// Clients whose path MTU discovery does not work, for whom people set `pmtu_disc=0` there: segments that fit need none.
#[test]
fn servers_that_ask_for_smaller_segments_need_no_path_mtu_discovery() {
    let mut site = Site::flat("advmss", 1);
    let (server, vip) = (site.net.server(0), VIPS[0].v4);
    server.hold_vip(vip.into()).unwrap();
    prepare_tunnel(&site, V4);
    site.net.director().ip(&[format!("link set {ETH0} mtu 1500")]).unwrap();
    server.ip(&[format!("route add 192.0.2.96/27 dev {ETH0} mtu 1500 advmss 1440")]).unwrap();
    let _servers = site.serve();
    site.run(&format!(
        "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\nforward = 'tunnel'\n{}",
        site.router(),
        site.servers("shop")
    ));
    let (body, from) = (pattern(1_000_000), site.net.client_address(0).v4.into());
    let sink = format!("http://{vip}/sink");
    let answer = site.net.client().enter(|| peer::send(Some(from), &sink, &body, PATIENCE)).unwrap();
    assert_eq!(answer.body, format!("{} {:016x}\n", body.len(), peer::checksum(&body)).as_bytes());
    let status = site.status();
    assert_eq!(status.reason("fragmentation_needed") + status.reason("too_big"), 0, "{status:?}");
    assert!(status.total("shop", "in_bytes") > body.len() as u64);
}

#[test]
fn what_is_wrong_with_arguments_or_files_is_2_and_everything_else_1() {
    let code = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_marca")).args(arguments).output().unwrap();
        output.status.code().unwrap()
    };
    assert_eq!(code(&["nonsense"]), 2);
    assert_eq!(code(&["check", concat!(env!("CARGO_MANIFEST_DIR"), "/../config/tests/refused/ftp.toml")]), 2);
    assert_eq!(code(&["check", "/nonexistent/marca.toml"]), 1);
    assert_eq!(code(&["status", "--run-dir", "/nonexistent", "--pin-dir", "/nonexistent"]), 1);
}

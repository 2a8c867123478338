//! What IPVS was seen to do, by the same steps: see `docs/ipvs.md`.

use crate::site::{ECHO, Site, host};
use marca_testkit::topology::VIPS;
use std::io::ErrorKind;
use std::net::IpAddr;

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

//! What traceroute shows of the way to a VIP: the director, which answers as the VIP, and the real server, which does so
//! as well. What the director answers by itself has one hop.

use crate::methods::{Family, V4, V6};
use crate::site::Site;
use marca_testkit::topology::VIPS;

#[test]
fn traceroute_shows_the_way_through_nat() {
    let mut site = Site::routed("hops nat", 2);
    check(&mut site, "nat");
}

#[test]
fn traceroute_shows_the_way_by_direct_routing() {
    let mut site = Site::flat("hops dr", 2);
    let servers = site.net.servers();
    VIPS[0].both().into_iter().for_each(|vip| servers.iter().for_each(|server| server.hold_vip(vip).unwrap()));
    check(&mut site, "dr");
}

fn check(site: &mut Site, method: &str) {
    let _servers = site.serve();
    site.run(&format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/80', 'udp/443']\nscheduler = 'rr'\npersist = '5m'\n\
         forward = '{method}'\n{}",
        site.router(),
        VIPS[0].v4,
        VIPS[0].v6,
        site.servers("shop"),
    ));
    for family in [V4, V6] {
        assert_eq!(hops(site, family, &["-T", "-p", "80"]), 2, "TCP, to a member port");
        assert_eq!(hops(site, family, &["-U", "-p", "443"]), 2, "UDP, to a member port");
        assert_eq!(hops(site, family, &["-U", "-p", "33434"]), 1, "UDP, to a port that is no member");
        assert_eq!(hops(site, family, &[]), 1, "UDP, to one port after the other");
        assert_eq!(hops(site, family, &["-I"]), 1, "echo requests");
    }
}

/// How many times traceroute meets the VIP, and nobody else.
fn hops(site: &Site, family: Family, mode: &[&str]) -> usize {
    let (from, vip) = (family.of(site.net.client_address(0)).to_string(), family.of(VIPS[0]).to_string());
    let mut command = site.net.client().command("traceroute");
    // One probe after the other: what the first of two tells about a hop may be the answer to the second.
    command.args(["-n", "-q", "1", "-N", "1", "-w", "20", "-m", "4", "-s", &from]).args(mode).arg(&vip);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    let hops = said.lines().skip(1);
    assert!(hops.clone().all(|hop| hop.split_whitespace().nth(1) == Some(&vip)), "{said}");
    hops.count()
}

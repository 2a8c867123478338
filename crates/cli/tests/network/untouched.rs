//! What is no service's goes through the director, or to it, as if marca were not there.

use crate::site::{PATIENCE, Site, host, serve};
use marca_testkit::peer::{self, Offer, Server, Session};
use marca_testkit::topology::{Namespace, VIPS};
use std::iter::zip;
use std::net::{IpAddr, SocketAddr, TcpStream};

#[test]
fn traffic_beside_a_service_of_single_connections_passes() {
    beside("beside", "wlc");
}

#[test]
fn traffic_beside_a_service_by_table_passes() {
    // Here the director cannot tell by the absence of a record that a reply is not the service's.
    beside("beside table", "maglev");
}

const SSH: u16 = 22;
const CLIENTS: usize = 12;

fn beside(name: &str, scheduler: &str) {
    let mut site = Site::routed(name, 2);
    let _servers = site.serve();
    let _outside = serve(site.net.client(), "outside");
    let sshd = Offer { name: "sshd".into(), echo: vec![SSH], ..Offer::default() };
    let _sshd = site.net.director().enter(|| Server::start(sshd)).unwrap();
    let [gateway_v4, gateway_v6] = site.net.director_outside().both();
    let routes = [format!("route add 10.0.0.0/24 via {gateway_v4}"), format!("route add fd00::/64 via {gateway_v6}")];
    site.net.client().ip(&routes).unwrap();
    // Two that are there before marca is.
    let mut ssh: Vec<Session> = site.net.director_outside().both().map(|to| open(site.net.client(), to, SSH)).into();
    let mut straight = open(site.net.client(), site.net.server_address(0).v4.into(), crate::site::ECHO);

    let [v4, v6] = VIPS[0].both();
    site.run(&format!(
        "{}[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80', 'tcp/443', 'udp/443', 'tcp/7']\n\
         scheduler = '{scheduler}'\n{}",
        site.router(),
        site.servers("shop"),
    ));
    ssh.extend(site.net.director_outside().both().map(|to| open(site.net.client(), to, SSH)));

    let asked = straight_and_by_the_vip(&site);
    servers_reach_the_outside(&site);
    for address in VIPS[0].both().into_iter().chain(site.net.director_outside().both()) {
        ping(site.net.client(), address);
    }
    for address in site.net.server_address(1).both() {
        ping(site.net.client(), address);
    }
    for vip in [v4, v6] {
        let other = SocketAddr::new(vip, 8080);
        let refused = site.net.client().enter(|| TcpStream::connect_timeout(&other, PATIENCE)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{other}");
    }
    assert!(ssh.iter_mut().all(|session| session.say("whoami").unwrap() == "sshd"));
    assert_eq!(straight.say("still here?").unwrap(), "web1");
    let status = site.status();
    assert_eq!(status.total("shop", "connections"), asked, "of the service only");
    assert_eq!(status.reason("not_member"), 2);
}

/// Each client asks the VIP and each real server in turn, with connections to all open at the same time; how many went
/// to the VIP.
fn straight_and_by_the_vip(site: &Site) -> u64 {
    let names = ["web1", "web2"];
    let mut asked = 0;
    for (index, family) in (0..CLIENTS).flat_map(|index| [(index, 0), (index, 1)]) {
        let from = site.net.client_address(index).both()[family];
        let vip = VIPS[0].both()[family];
        let mut by_vip = site.session(from, vip);
        let server = by_vip.say("one").unwrap();
        let servers = [0, 1].map(|number| site.net.server_address(number).both()[family]);
        let mut straight = servers.map(|server| site.session(from, server));
        for url in [format!("http://{}/", host(vip)), format!("https://{}/", host(vip))] {
            assert!(names.contains(&site.ask(from, &url).as_str()));
        }
        asked += 3;
        for (address, name) in zip(servers, names) {
            let address = host(address);
            for url in [format!("http://{address}/"), format!("https://{address}/")] {
                let answer = site.try_ask(from, &url).unwrap();
                assert_eq!((answer.server.as_str(), answer.client.unwrap().ip()), (name, from), "{url}");
            }
            assert_eq!(site.ask(from, &format!("udp://{address}:443/x")), name);
        }
        assert_eq!(by_vip.say("two").unwrap(), server);
        assert_eq!(straight.each_mut().map(|session| session.say("three").unwrap()), names);
    }
    asked
}

fn servers_reach_the_outside(site: &Site) {
    for server in site.net.servers() {
        for address in site.net.client_address(0).both() {
            for url in [format!("http://{}/", host(address)), format!("udp://{}:443/x", host(address))] {
                assert_eq!(server.enter(|| peer::ask(None, &url, PATIENCE)).unwrap().server, "outside", "{url}");
            }
            ping(server, address);
        }
        for director in site.net.director_inside().both() {
            assert_eq!(open(server, director, SSH).say("whoami").unwrap(), "sshd");
        }
    }
}

fn open(namespace: &Namespace, to: IpAddr, port: u16) -> Session {
    namespace.enter(|| Session::open(None, SocketAddr::new(to, port), PATIENCE)).unwrap()
}

fn ping(namespace: &Namespace, address: IpAddr) {
    let output = namespace.command("ping").args(["-n", "-c", "1", "-W", "5", &address.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}: {}", namespace.name(), String::from_utf8_lossy(&output.stdout));
}

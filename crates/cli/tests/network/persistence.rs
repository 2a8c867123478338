//! A client stays with its real server: over all ports and protocols, for a time, and as long as it is connected.

use crate::peers::{Content, Curl, Farm};
use crate::site::{PATIENCE, Site, host};
use marca_testkit::peer::{Session, ask};
use marca_testkit::topology::VIPS;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[test]
fn a_client_keeps_its_server_for_the_time_and_while_it_is_connected() {
    keeps_its_server(Site::routed("persistence", 3));
}

#[test]
fn a_client_keeps_its_server_by_tc() {
    keeps_its_server(Site::routed("persistence tc", 3).by_tc());
}

fn keeps_its_server(mut site: Site) {
    let _servers = site.serve();
    let vip = IpAddr::from(VIPS[0].v4);
    site.run(&format!(
        "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443', 'udp/443', 'tcp/7']\nscheduler = 'rr'\n\
         persist = '3s'\ntimeouts = {{ udp = '1s', closing = '1s' }}\n{}",
        site.router(),
        site.servers("shop"),
    ));
    let clients = Clients { site: &site, vip };
    let [http, https, udp] =
        ["http", "https", "udp"].map(|s| format!("{s}://{}{}", host(vip), if s == "udp" { ":443" } else { "" }));
    let begun = Instant::now();
    let at = |seconds: f32| sleep(Duration::from_secs_f32(seconds).saturating_sub(begun.elapsed()));

    // One comes back now and again, one is gone, one stays connected and silent.
    let server = clients.ask(RETURNING, &http);
    let gone_from = clients.ask(GONE, &https);
    let mut session: Session = site.session(clients.address(CONNECTED), vip);
    let held_by = session.say("hello").unwrap();
    assert_eq!([&server, &gone_from, &held_by].into_iter().collect::<BTreeSet<_>>().len(), 3, "round robin");

    // Each time somebody else's turn would have been; and two waits are longer than the time.
    for (seconds, url) in [(0.1, &udp), (2.0, &https), (4.0, &udp), (5.5, &http)] {
        at(seconds);
        clients.let_the_turn_pass(&server);
        assert_eq!(clients.ask(RETURNING, url), server, "after {seconds} s");
    }
    // Three seconds, and two passes of the sweep at the most.
    at(9.0);
    clients.let_the_turn_pass(&held_by);
    assert_eq!(clients.ask(CONNECTED, &http), held_by, "its connection holds its place");
    assert_eq!(session.say("still here").unwrap(), held_by);
    clients.let_the_turn_pass(&gone_from);
    assert_ne!(clients.ask(GONE, &http), gone_from, "its time is over");
}

const RETURNING: usize = 0;
const GONE: usize = 1;
const CONNECTED: usize = 2;
/// Those behind are new each time.
const OTHERS: std::ops::Range<usize> = 3..64;

struct Clients<'s> {
    site: &'s Site,
    vip: IpAddr,
}

impl Clients<'_> {
    fn address(&self, index: usize) -> IpAddr {
        self.site.net.client_address(index).v4.into()
    }

    fn ask(&self, index: usize, url: &str) -> String {
        self.site.ask(self.address(index), url)
    }

    /// Other clients take their turns until this server has had its own: the next would be another's.
    fn let_the_turn_pass(&self, server: &str) {
        let url = format!("http://{}/", host(self.vip));
        let met = self.site.net.client().enter(|| {
            // The first that is not remembered, or long forgotten.
            OTHERS.map(|index| ask(Some(self.address(index)), &url, PATIENCE).unwrap().server).find(|met| met == server)
        });
        assert!(met.is_some(), "{server} was never met");
    }
}

/// The example of Red Hat's Virtual Server Administration, in marca's long form. There it takes, beside the services
/// for mark 80 in `lvs.cf`:
///
/// ```text
/// iptables -t mangle -A PREROUTING -p tcp -d 192.0.2.10/32 --dport 80 -j MARK --set-mark 80
/// iptables -t mangle -A PREROUTING -p tcp -d 192.0.2.10/32 --dport 443 -j MARK --set-mark 80
/// ```
#[test]
fn the_classic_mark_for_http_and_https_makes_them_one_service() {
    let mut site = Site::routed("mark", 3);
    let content = Content::make(&site.dir);
    let _farm = Farm::start(&site.net, &content);
    site.run(&format!(
        "{}\n\
         [[mark]]\n\
         value = 80\n\
         to    = ['192.0.2.10']\n\
         ports = ['tcp/80', 'tcp/443']\n\
         \n\
         [service.shop]\n\
         mark      = 80\n\
         scheduler = 'rr'\n\
         persist   = '5m'\n\
         forward   = 'nat'\n\
         {}",
        site.router(),
        site.servers("shop"),
    ));
    let vip = VIPS[0].v4.into();
    let mut met = Vec::new();
    for index in 0..6 {
        let curl = Curl { namespace: site.net.client(), from: site.net.client_address(index).v4.into() };
        let server = curl.ask("http", vip);
        assert_eq!(curl.ask("https", vip), server, "client {index}");
        met.push(server);
    }
    assert_eq!(met[..3], met[3..], "round robin");
    assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(site.status().each("shop", "connections"), [4; 3]);
}

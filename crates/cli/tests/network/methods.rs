//! The forwarding methods, in both families, between curl and nginx.

use crate::peers::{Content, Curl, Farm, LARGE};
use crate::site::{ECHO, PATIENCE, Site, Status, host};
use marca_testkit::peer;
use marca_testkit::topology::{DualStack, ETH0, VIPS};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

#[test]
fn nat_of_ipv4() {
    Case { method: "nat", family: V4, scheduler: "wlc" }.check();
}

#[test]
fn nat_of_ipv6() {
    Case { method: "nat", family: V6, scheduler: "maglev" }.check();
}

#[test]
fn fullnat_of_ipv4() {
    Case { method: "fullnat", family: V4, scheduler: "rr" }.check();
}

#[test]
fn fullnat_of_ipv6() {
    Case { method: "fullnat", family: V6, scheduler: "maglev" }.check();
}

#[test]
fn direct_routing_of_ipv4() {
    Case { method: "dr", family: V4, scheduler: "maglev" }.check();
}

#[test]
fn direct_routing_of_ipv6() {
    Case { method: "dr", family: V6, scheduler: "rr" }.check();
}

#[test]
fn tunnels_of_ipv4_in_ipv4() {
    Case { method: "tunnel", family: V4, scheduler: "rr" }.check();
}

#[test]
fn tunnels_of_ipv6_in_ipv6() {
    Case { method: "tunnel", family: V6, scheduler: "wlc" }.check();
}

#[test]
fn gue_of_ipv4_in_ipv4() {
    Case { method: "gue", family: V4, scheduler: "rr" }.check();
}

#[test]
fn gue_of_ipv6_in_ipv6() {
    Case { method: "gue", family: V6, scheduler: "maglev" }.check();
}

#[test]
fn gre_of_ipv4_in_ipv4() {
    Case { method: "gre", family: V4, scheduler: "maglev" }.check();
}

#[test]
fn gre_of_ipv6_in_ipv6() {
    Case { method: "gre", family: V6, scheduler: "rr" }.check();
}

#[test]
fn tunnels_of_ipv4_in_ipv6() {
    mixed_tunnel("4in6", "'tunnel'", V4);
}

#[test]
fn tunnels_of_ipv6_in_ipv4() {
    mixed_tunnel("6in4", "{ tunnel = 'ipip' }", V6);
}

#[test]
fn gue_of_ipv4_in_ipv6() {
    mixed_tunnel("gue 4in6", "'gue'", V4);
}

#[test]
fn gue_of_ipv6_in_ipv4() {
    mixed_tunnel("gue 6in4", "{ tunnel = 'gue', checksum = true }", V6);
}

#[test]
fn gre_of_ipv4_in_ipv6() {
    mixed_tunnel("gre 4in6", "'gre'", V4);
}

#[test]
fn gre_of_ipv6_in_ipv4() {
    mixed_tunnel("gre 6in4", "'gre'", V6);
}

/// Fullnat's programs are not loaded before a configuration needs them.
#[test]
fn fullnat_by_tc_after_a_reload_asks_for_it() {
    let mut site = Site::routed("methods reload tc", SERVERS).by_tc();
    let _servers = site.serve();
    let vip = VIPS[0].v4;
    let url = format!("http://{vip}/");
    let text = |forward: &str| {
        let service = format!("[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/{ECHO}']\nforward = {forward}\n");
        format!("{}{service}{}", site.router(), site.servers("shop"))
    };
    let (before, after) = (text("'nat'"), text("'fullnat'\nsource = '10.0.0.100'"));
    site.run(&before);
    let mut session = site.session(site.net.client_address(0).v4, vip);
    let home = session.say("hello").unwrap();
    site.reload(&after);
    for client in 1..4 {
        site.ask(site.net.client_address(client).v4, &url);
    }
    let status = site.status();
    assert!(status.reason("fullnat") > 0 && status.reason("inconsistent") == 0);
    assert_eq!(session.say("hello").unwrap(), home, "what was open goes on as it began");
}

/// Each real server of one service is reached in another way.
#[test]
fn one_service_can_have_all_methods() {
    let methods =
        ["'nat'", "'fullnat'", "'dr'", "'tunnel'", "'gre'", "{ tunnel = 'gue', port = 6081, checksum = true }"];
    let mut site = Site::flat("all methods", methods.len());
    let _servers = site.serve();
    prepare_tunnel(&site, V4);
    for (index, server) in site.net.servers().iter().enumerate() {
        if index == 0 {
            // The clients are next door; under NAT the way to them is through the director all the same.
            let DualStack { v4, v6 } = site.net.director_inside();
            let routes =
                [format!("route add 192.0.2.96/27 via {v4}"), format!("route add 2001:db8:1::100/120 via {v6}")];
            server.ip(&routes).unwrap();
        } else if index > 1 {
            VIPS[0].both().into_iter().for_each(|vip| server.hold_vip(vip).unwrap());
            decap(&site, index, &["--gue-port", "6081"]);
        }
    }
    let servers: String = (0..methods.len())
        .map(|index| {
            let DualStack { v4, v6 } = site.net.server_address(index);
            let (name, forward) = (index + 1, methods[index]);
            format!("[[service.shop.server]]\nname = 'web{name}'\naddress = ['{v4}', '{v6}']\nforward = {forward}\n")
        })
        .collect();
    let DualStack { v4, v6 } = VIPS[0];
    site.run(&format!(
        "{}[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80', 'tcp/443', 'udp/443']\nscheduler = 'rr'\npersist = '5m'\n\
         source = ['192.0.2.200', '2001:db8:1::200']\n{servers}",
        site.router(),
    ));
    for family in [V4, V6] {
        let host = host(family.of(VIPS[0]));
        let mut met = BTreeMap::new();
        for client in 0..2 * methods.len() {
            let from = family.of(site.net.client_address(client));
            let server = site.ask(from, &format!("http://{host}/"));
            for url in [format!("https://{host}/"), format!("udp://{host}:443/x")] {
                assert_eq!(site.ask(from, &url), server, "{url}");
            }
            let body = marca_testkit::frame::pattern(100_000);
            let answer = site.try_ask(from, &format!("http://{host}/bytes/{}", body.len())).unwrap();
            assert!(answer.body == body, "the download from {server} differs");
            *met.entry(server).or_insert(0) += 1;
        }
        assert_eq!(met.len(), methods.len(), "{met:?}");
        assert!(met.values().all(|clients| *clients == 2), "{met:?}");
    }
    let status = site.status();
    let in_packets = status.each("shop", "in_packets");
    assert!(in_packets.iter().all(|packets| *packets > 0), "{in_packets:?}");
    let sent: u64 = ["nat", "fullnat", "dr", "tunnel"].iter().map(|reason| status.reason(reason)).sum();
    assert_eq!(sent, status.total("shop", "in_packets"));
    assert_eq!(status.reason("inconsistent"), 0);
}

#[test]
fn nat_of_ipv4_by_tc() {
    Case { method: "nat", family: V4, scheduler: "maglev" }.check_by("tc");
}

#[test]
fn nat_of_ipv6_by_tc() {
    Case { method: "nat", family: V6, scheduler: "wlc" }.check_by("tc");
}

#[test]
fn direct_routing_of_ipv4_by_tc() {
    Case { method: "dr", family: V4, scheduler: "rr" }.check_by("tc");
}

#[test]
fn tunnels_of_ipv6_in_ipv6_by_tc() {
    Case { method: "tunnel", family: V6, scheduler: "rr" }.check_by("tc");
}

#[test]
fn tunnels_of_ipv6_in_ipv4_by_tc() {
    mixed_tunnel_by("tc", "6in4 tc", "'tunnel'", V6);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}
pub use Family::{V4, V6};

impl Family {
    pub fn of(self, pair: DualStack) -> IpAddr {
        match self {
            V4 => pair.v4.into(),
            V6 => pair.v6.into(),
        }
    }

    fn other(self) -> Self {
        if self == V4 { V6 } else { V4 }
    }
}

struct Case {
    method: &'static str,
    family: Family,
    scheduler: &'static str,
}

/// Clients that ask by curl; a multiple of the number of servers.
const CLIENTS: usize = 12;
const SERVERS: usize = 3;
/// Further clients of a table, which spreads them by chance: that one of three servers gets none of 48 happens less than
/// once in a hundred million runs.
const MORE_CLIENTS: usize = 36;

impl Case {
    fn check(&self) {
        self.check_by("xdp");
    }

    fn check_by(&self, attach: &'static str) {
        let name = format!("{} {:?} {attach}", self.method, self.family).to_lowercase();
        let nat = self.is_nat();
        let is_tunnel = ["tunnel", "gue", "gre"].contains(&self.method);
        let mut site = if nat { Site::routed(&name, SERVERS) } else { Site::flat(&name, SERVERS) };
        site.attach = attach;
        let vip = self.family.of(VIPS[0]);
        if self.method == "fullnat" {
            let DualStack { v4, v6 } = site.net.director_inside();
            // They know nothing beyond their own network.
            let routes = [format!("route del default via {v4}"), format!("route del default via {v6}")];
            site.net.servers().iter().for_each(|server| server.ip(&routes).unwrap());
        }
        let source = if self.method == "fullnat" { "source = ['10.0.0.100-10.0.0.101', 'fd00::100']\n" } else { "" };
        let content = Content::make(&site.dir);
        let farm = Farm::start(&site.net, &content);
        if !nat {
            site.net.servers().iter().for_each(|server| server.hold_vip(vip).unwrap());
        }
        if is_tunnel {
            prepare_tunnel(&site, self.family);
        }
        // A table sends a client's ports to one server by itself; the others need persistence for that.
        let by_table = self.scheduler == "maglev";
        let persist = if by_table { "" } else { "persist = '5m'\n" };
        site.run(&format!(
            "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443', 'udp/443']\nscheduler = '{}'\n\
             forward = '{}'\n{source}{persist}{}",
            site.router(),
            self.scheduler,
            self.method,
            site.servers("shop"),
        ));

        let wire = site.net.client().enter(Wire::read);
        let (mut tcp, mut udp) = (0, 0);
        let mut met: BTreeMap<String, usize> = BTreeMap::new();
        for index in 0..CLIENTS {
            let curl = self.client(&site, index);
            let server = curl.ask("http", vip);
            assert_eq!(curl.ask("https", vip), server, "client {index}");
            assert_eq!(site.ask(curl.from, &format!("udp://{}:443/hello", host(vip))), server, "client {index}");
            *met.entry(server).or_default() += 1;
            (tcp, udp) = (tcp + 2, udp + 1);
        }
        for index in (CLIENTS..CLIENTS + MORE_CLIENTS).filter(|_| by_table) {
            let from = self.family.of(site.net.client_address(index));
            let server = site.net.client().enter(|| peer::ask(Some(from), &format!("http://{}/", host(vip)), PATIENCE));
            *met.entry(server.unwrap().server).or_default() += 1;
            tcp += 1;
        }
        self.is_spread_well(&met);
        tcp += self.transfers_arrive_whole(&site, &farm, vip);

        // The last answer may be on its way when its client has what it wants.
        std::thread::sleep(Duration::from_millis(200));
        let status = site.status();
        let sent = site.net.client().enter(Wire::read).since(&wire);
        self.counters_add_up(&status, &sent, tcp, udp, attach);
    }

    fn is_nat(&self) -> bool {
        ["nat", "fullnat"].contains(&self.method)
    }

    fn client<'s>(&self, site: &'s Site, index: usize) -> Curl<'s> {
        Curl { namespace: site.net.client(), from: self.family.of(site.net.client_address(index)) }
    }

    fn is_spread_well(&self, met: &BTreeMap<String, usize>) {
        assert_eq!(met.len(), SERVERS, "{met:?}");
        let even = CLIENTS / SERVERS;
        // What wlc sees depends on whether a closed connection has been seen to close.
        let tolerance = match self.scheduler {
            "rr" => 0,
            "wlc" => 1,
            _ => return,
        };
        assert!(met.values().all(|clients| clients.abs_diff(even) <= tolerance), "{met:?}");
    }

    /// A download and an upload; how many connections they took.
    fn transfers_arrive_whole(&self, site: &Site, farm: &Farm, vip: IpAddr) -> u64 {
        let curl = self.client(site, 0);
        let large = site.dir.join("large.bin");
        let wanted = fs::read(&large).unwrap();
        assert_eq!(wanted.len(), LARGE);
        let fetched = site.dir.join("fetched.bin");
        curl.done(&format!("http://{}/large.bin", host(vip)), &["-o", fetched.to_str().unwrap()]);
        assert!(fs::read(&fetched).unwrap() == wanted, "the download differs");
        let server = curl.ask("http", vip);
        curl.done(&format!("https://{}/upload/{server}", host(vip)), &["-T", large.to_str().unwrap()]);
        assert!(farm.uploaded(&server, &server) == wanted, "the upload differs");
        3
    }

    fn counters_add_up(&self, status: &Status, sent: &Wire, tcp: u64, udp: u64, attach: &str) {
        let total = |key| status.total("shop", key);
        assert_eq!(total("connections"), tcp + udp);
        assert_eq!(status.each("shop", "active").iter().sum::<u64>(), udp, "datagrams' clients stay active");
        assert_eq!(status.each("shop", "inactive").iter().sum::<u64>(), tcp, "closed connections are remembered");
        // `drivers/net/veth.c`, `veth_xdp_rcv`: what a stack sends into XDP is counted without the Ethernet header, what
        // XDP has redirected is counted with it. Without XDP at its other end, which under NAT is the director's, a veth counts
        // it the other way round.
        let [to_vip, from_vip] = if attach == "tc" && self.method == "nat" { [14, 0] } else { [0, 14] };
        let [client, server] = [("in_packets", "in_bytes"), ("out_packets", "out_bytes")];
        Wire::is_mostly("client", [total(client.0), total(client.1)], [sent.out_packets, sent.out_bytes], to_vip);
        let reason = if ["gue", "gre"].contains(&self.method) { "tunnel" } else { self.method };
        assert_eq!(status.reason(reason), total("in_packets"));
        if self.is_nat() {
            Wire::is_mostly("server", [total(server.0), total(server.1)], [sent.in_packets, sent.in_bytes], from_vip);
            assert_eq!(status.reason("reply"), total("out_packets"));
        } else {
            assert_eq!([total("out_packets"), total("out_bytes"), status.reason("reply")], [0; 3]);
        }
        for reason in ["no_flow", "no_server", "refused", "not_member", "no_neighbour", "table_full", "inconsistent"] {
            assert_eq!(status.reason(reason), 0, "{reason}");
        }
    }
}

/// What the client's interface has counted.
struct Wire {
    in_bytes: u64,
    in_packets: u64,
    out_bytes: u64,
    out_packets: u64,
}

impl Wire {
    fn read() -> Self {
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let row = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:")).unwrap();
        let columns: Vec<u64> = row.split_whitespace().map(|column| column.parse().unwrap()).collect();
        Self { in_bytes: columns[0], in_packets: columns[1], out_bytes: columns[8], out_packets: columns[9] }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            in_bytes: self.in_bytes - before.in_bytes,
            in_packets: self.in_packets - before.in_packets,
            out_bytes: self.out_bytes - before.out_bytes,
            out_packets: self.out_packets - before.out_packets,
        }
    }

    /// The director has counted all of these frames but those that ask for neighbours. `header`: of Ethernet, in the
    /// interface's bytes of each frame.
    fn is_mostly(whose: &str, counted: [u64; 2], on_wire: [u64; 2], header: u64) {
        const OTHER_FRAMES: u64 = 100;
        const OTHER_BYTES: u64 = 100 * OTHER_FRAMES;
        let ([packets, bytes], [frames, frame_bytes]) = (counted, on_wire);
        let wire_bytes = frame_bytes - header * frames;
        assert!(packets <= frames && frames - packets < OTHER_FRAMES, "{whose}: {packets} of {frames} packets");
        // The other frames have headers, too.
        let most = wire_bytes + header * OTHER_FRAMES;
        assert!(bytes <= most && most - bytes < OTHER_BYTES, "{whose}: {bytes} of {wire_bytes} bytes");
    }
}

/// Decapsulators on the real servers, for tunnels between addresses of this family, and room for the outer header.
///
/// A client's full packet of 1500 bytes does not fit through the tunnel, and the director does not tell clients so yet.
/// The client must go on sending such packets, so the LAN between director and servers carries larger ones, as it
/// does in places that use tunnels in earnest.
pub fn prepare_tunnel(site: &Site, outer: Family) {
    let larger = |interface: &str| format!("link set {interface} mtu {TUNNEL_MTU}");
    let ports: Vec<String> = (1..=site.net.servers().len()).map(|number| format!("server{number}")).collect();
    let ports = ports.iter().map(String::as_str).chain(["director", "lan"]);
    site.net.switch().ip(&ports.map(larger).collect::<Vec<_>>()).unwrap();
    site.net.director().ip(&[larger(ETH0)]).unwrap();
    let director = outer.of(site.net.director_outside()).to_string();
    for (index, server) in site.net.servers().iter().enumerate() {
        server.ip(&[larger(ETH0)]).unwrap();
        let said = decap(site, index, &["--from", &director]);
        assert!(said.starts_with("eth0: decapsulator attached, native XDP"), "{said}");
    }
}

/// Runs `marca decap` on a real server.
pub fn decap(site: &Site, server: usize, arguments: &[&str]) -> String {
    let mut command = site.net.server(server).command(env!("CARGO_BIN_EXE_marca"));
    command.args(["decap", "--interface", ETH0]).args(arguments);
    let output = command.arg("--pin-dir").arg(site.decap_dir().join(server.to_string())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// 1500 and the headers of GUE in IPv6.
const TUNNEL_MTU: u32 = 1552;

/// Clients of one family reach a server that has only an address of the other.
fn mixed_tunnel(name: &str, forward: &str, inner: Family) {
    mixed_tunnel_by("xdp", name, forward, inner);
}

fn mixed_tunnel_by(attach: &'static str, name: &str, forward: &str, inner: Family) {
    let mut site = Site::flat(name, 1);
    site.attach = attach;
    let vip = inner.of(VIPS[0]);
    let _web1 = site.serve();
    site.net.server(0).hold_vip(vip).unwrap();
    prepare_tunnel(&site, inner.other());
    let real = inner.other().of(site.net.server_address(0));
    site.run(&format!(
        "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443', 'udp/443']\nforward = {forward}\n\
         server = [{{ name = 'web1', address = '{real}' }}]\n",
        site.router(),
    ));
    let from = inner.of(site.net.client_address(0));
    let host = host(vip);
    for url in [format!("http://{host}/"), format!("https://{host}/"), format!("udp://{host}:443/x")] {
        assert_eq!(site.ask(from, &url), "web1", "{url}");
    }
    let body = marca_testkit::frame::pattern(1_000_000);
    let answer = site.try_ask(from, &format!("http://{host}/bytes/{}", body.len())).unwrap();
    assert!(answer.body == body, "the download differs");
    let sink = format!("http://{host}/sink");
    let answer = site.net.client().enter(|| peer::send(Some(from), &sink, &body, PATIENCE)).unwrap();
    assert_eq!(answer.body, format!("{} {:016x}\n", body.len(), peer::checksum(&body)).as_bytes());
    assert_eq!(site.status().total("shop", "connections"), 5);

    // Again, at once and for somebody else's tunnels; then for anybody's; then for nobody's.
    let datagram = format!("udp://{host}:443/x");
    decap(&site, 0, &["--from", "192.0.2.254"]);
    assert!(site.net.client().enter(|| peer::ask(Some(from), &datagram, AWHILE)).is_err());
    decap(&site, 0, &[]);
    assert_eq!(site.ask(from, &datagram), "web1");
    assert_eq!(decap(&site, 0, &["--detach"]), "eth0: decapsulator taken away\n");
    assert!(site.net.client().enter(|| peer::ask(Some(from), &datagram, AWHILE)).is_err());
    assert_eq!(decap(&site, 0, &["--detach"]), "eth0: there was no decapsulator\n");
}

/// Long enough for an answer that is not to come.
const AWHILE: Duration = Duration::from_millis(300);

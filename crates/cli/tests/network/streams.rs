//! iperf3 through each forwarding method, by TCP and UDP, in both directions. Its data comes by connections of its own
//! beside the one by which both sides agree, so a client must meet one real server with all of them.

use crate::methods::{Family, V4, V6, prepare_tunnel};
use crate::site::{PATIENCE, Site};
use marca_testkit::topology::{Process, VIPS};
use serde_json::Value;
use std::net::IpAddr;

#[test]
fn streams_through_nat_of_ipv4() {
    check("nat", V4);
}

#[test]
fn streams_through_nat_of_ipv6() {
    check("nat", V6);
}

#[test]
fn streams_through_direct_routing_of_ipv4() {
    check("dr", V4);
}

#[test]
fn streams_through_direct_routing_of_ipv6() {
    check("dr", V6);
}

#[test]
fn streams_through_a_tunnel_of_ipv4() {
    check("tunnel", V4);
}

#[test]
fn streams_through_a_tunnel_of_ipv6() {
    check("tunnel", V6);
}

fn check(method: &str, family: Family) {
    let name = format!("streams {method} {family:?}").to_lowercase();
    let nat = method == "nat";
    let mut site = if nat { Site::routed(&name, 2) } else { Site::flat(&name, 2) };
    let vip = family.of(VIPS[0]);
    if !nat {
        site.net.servers().iter().for_each(|server| server.hold_vip(vip).unwrap());
    }
    if method == "tunnel" {
        prepare_tunnel(&site, family);
    }
    let _servers = serve(&site, (!nat).then_some(vip));
    site.run(&format!(
        "{}[service.iperf]\nvip = '{vip}'\nports = ['tcp/{PORT}', 'udp/{PORT}']\nscheduler = 'rr'\npersist = '5m'\n\
         forward = '{method}'\n{}",
        site.router(),
        site.servers("iperf"),
    ));
    let clients = [0, 1].map(|index| family.of(site.net.client_address(index)));
    let measure = |from, udp, from_server| Measured::by(&site, from, vip, udp, from_server);
    measure(clients[0], false, false).is_good_tcp();
    measure(clients[1], false, true).is_good_tcp();
    measure(clients[1], true, false).is_good_udp();
    measure(clients[0], true, true).is_good_udp();

    let status = site.status();
    assert_eq!(status.each("iperf", "connections"), [4, 4], "each client two of each protocol, at one server");
    for reason in ["no_flow", "no_server", "refused", "not_member", "no_neighbour", "table_full", "inconsistent"] {
        assert_eq!(status.reason(reason), 0, "{reason}");
    }
}

const PORT: u16 = 5201;

/// On each real server one that takes a test after the other. Bound to the VIP where the client is to be answered from
/// there: iperf3 leaves a datagram's source to the kernel.
fn serve(site: &Site, vip: Option<IpAddr>) -> Vec<Process> {
    let start = |server: &marca_testkit::topology::Namespace| {
        let mut command = server.command("iperf3");
        command.args(["--server", "--forceflush", "--port", &PORT.to_string()]);
        command.args(vip.iter().flat_map(|vip| ["--bind".to_owned(), vip.to_string()]));
        let process = Process::spawn(&mut command).unwrap();
        process.wait_for_line("Server listening", PATIENCE).unwrap();
        process
    };
    site.net.servers().iter().map(start).collect()
}

/// What both sides say of one second.
struct Measured(Value);

impl Measured {
    fn by(site: &Site, from: IpAddr, vip: IpAddr, udp: bool, from_server: bool) -> Self {
        let mut command = site.net.client().command("iperf3");
        command.args(["--json", "--time", "1", "--connect-timeout", "20000", "--port", &PORT.to_string()]);
        command.args(["--client", &vip.to_string(), "--bind", &from.to_string()]);
        if udp {
            command.args(["--udp", "--bitrate", "20M", "--length", &DATAGRAM.to_string()]);
        }
        if from_server {
            command.arg("--reverse");
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Self(serde_json::from_str(&said).unwrap())
    }

    fn number(&self, sum: &str, key: &str) -> u64 {
        let value = &self.0["end"][sum][key];
        value.as_u64().unwrap_or_else(|| panic!("{sum}.{key} is {value}: {}", self.0["end"]))
    }

    fn is_good_tcp(&self) {
        let [sent, received] = ["sum_sent", "sum_received"].map(|sum| self.number(sum, "bytes"));
        assert!(received >= LEAST && received <= sent, "{received} of {sent} bytes arrived");
        // A veth's ring has 256 places, which a sender without pacing overruns now and then.
        let (segments, again) = (sent / SEGMENT, self.number("sum_sent", "retransmits"));
        assert!(again <= segments / 50, "{again} of {segments} segments were sent again");
    }

    fn is_good_udp(&self) {
        // The receiver does not know of losses at the end: what counts is what it has.
        let [sent, received] = ["sum_sent", "sum_received"].map(|sum| self.number(sum, "bytes") / DATAGRAM);
        assert!(received * DATAGRAM >= LEAST && received <= sent, "{received} of {sent} datagrams arrived");
        assert!(sent - received <= sent / 50, "{received} of {sent} datagrams arrived");
    }
}

/// Bytes: of a datagram, of a TCP segment at an MTU of 1500, and of all that must arrive in a second on a busy machine.
const DATAGRAM: u64 = 1200;
const SEGMENT: u64 = 1448;
const LEAST: u64 = 1_000_000;

//! What a director puts on its host, when, and that it takes it away again.

use crate::site::{Site, host, wait_until};
use marca_testkit::topology::{ETH0, IN, Namespace, OUT, VIPS};
use serde_json::Value;
use std::fs;
use std::net::IpAddr;

/// A service on both first VIPs, and on further ones.
fn shop(site: &Site, vips: &[IpAddr]) -> String {
    let vips: Vec<String> = vips.iter().map(|vip| format!("'{vip}'")).collect();
    let (router, servers) = (site.router(), site.servers("shop"));
    format!("{router}[service.shop]\nvip = [{}]\nports = ['tcp/80', 'udp/443']\n{servers}", vips.join(", "))
}

#[test]
fn what_a_start_puts_there_outlives_the_daemon_and_a_detach_takes_away() {
    let mut site = Site::routed("lifecycle", 1);
    let _web1 = site.serve();
    // Things as they were before: one VIP is there already, the inside does not forward, and a client remembers an
    // earlier holder of the VIPs.
    let before = VIPS[1].v4;
    site.net.director().ip(&[format!("addr add {before}/32 dev {OUT}")]).unwrap();
    let sysctls = ["ipv4", "ipv6"].map(|family| format!("net.{family}.conf.{IN}.forwarding"));
    sysctls.iter().for_each(|sysctl| site.net.director().sysctl(sysctl, 0).unwrap());
    for vip in VIPS[0].both() {
        let stale = format!("neigh replace {vip} lladdr 02:00:00:00:00:99 dev {ETH0} nud stale");
        site.net.client().ip(&[stale]).unwrap();
    }
    let vips = [VIPS[0].v4.into(), VIPS[0].v6.into(), before.into()];
    let config = shop(&site, &vips);
    let forwarding = |site: &Site| sysctls.each_ref().map(|sysctl| read_sysctl(site.net.director(), sysctl));
    let works = |site: &Site| {
        for (from, vip) in std::iter::zip(site.net.client_address(0).both(), VIPS[0].both()) {
            assert_eq!(site.ask(from, &format!("http://{}/", host(vip))), "web1");
        }
    };

    let output = site.run(&config);
    assert!(output.contains("out: attached by native XDP\nin: attached by native XDP\n"), "{output}");
    assert!(output.contains("ready: data plane loaded, 1 services"), "{output}");
    assert_eq!(forwarding(&site), ["1", "1"]);
    assert_eq!([xdp(site.net.director(), OUT), xdp(site.net.director(), IN)], [Some(NATIVE), Some(NATIVE)]);
    for vip in vips {
        assert!(addresses(site.net.director(), OUT).contains(&vip), "{vip} is there");
    }
    // Before the client sends anything.
    for vip in VIPS[0].both() {
        wait_until("the client has learned of the new holder", || {
            lladdr(site.net.client(), vip).as_deref() == Some("02:00:00:00:00:71")
        });
    }
    works(&site);

    site.stop();
    assert_eq!(site.status().daemon(), None);
    assert_eq!(forwarding(&site), ["1", "1"]);
    works(&site);

    let said = site.marca_done(&["stop", "--detach"]);
    assert!(said.contains("detached from out\ndetached from in\n"), "{said}");
    assert_eq!([xdp(site.net.director(), OUT), xdp(site.net.director(), IN)], [None, None]);
    assert!(!site.pin_dir().exists());
    assert!(!site.run_dir().exists());
    assert_eq!(forwarding(&site), ["0", "0"]);
    let left = addresses(site.net.director(), OUT);
    assert!(VIPS[0].both().iter().all(|vip| !left.contains(vip)), "{left:?}");
    assert!(left.contains(&before.into()), "it was there before");
    assert!(site.net.director_outside().both().iter().all(|own| left.contains(own)), "{left:?}");

    // And once more from the beginning, at once, with another end.
    let output = site.run(&config);
    assert!(output.contains("ready: data plane loaded, 1 services"), "{output}");
    works(&site);
    let said = site.marca_done(&["stop", "--detach"]);
    assert!(said.contains("has ended") && said.contains("detached from out"), "{said}");
    assert!(!site.pin_dir().exists());
    site.ended();
}

#[test]
fn a_vip_that_leaves_the_configuration_leaves_the_interface() {
    let mut site = Site::routed("vip leaves", 1);
    let _web1 = site.serve();
    let [first, second] = VIPS.map(|vip| IpAddr::from(vip.v4));
    site.run(&shop(&site, &[first, second]));
    site.terminate();
    site.run(&shop(&site, &[second]));
    let left = addresses(site.net.director(), OUT);
    assert!(!left.contains(&first) && left.contains(&second), "{left:?}");
    let from = site.net.client_address(0).v4;
    assert!(site.try_ask(from, &format!("udp://{}:443/x", host(second))).is_ok());
}

#[test]
fn a_second_daemon_in_the_same_place_is_refused() {
    let mut site = Site::routed("second", 1);
    let _web1 = site.serve();
    let config = shop(&site, &[VIPS[0].v4.into()]);
    site.run(&config);
    let pid = site.status().daemon().unwrap();
    let (code, said) = site.run_in_vain(&config);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&format!("a daemon runs here already, process {pid}")), "{said}");
    assert_eq!(site.status().daemon(), Some(pid));
    assert_eq!(site.ask(site.net.client_address(0).v4, &format!("http://{}/", host(VIPS[0].v4))), "web1");
}

#[test]
fn a_bad_configuration_is_explained_and_changes_nothing() {
    let mut site = Site::routed("bad", 1);
    let _web1 = site.serve();
    let good = shop(&site, &[VIPS[0].v4.into()]);
    let bad = good.replace("tcp/80", "tpc/80");
    let (code, said) = site.run_in_vain(&bad);
    assert_eq!(code, 2, "{said}");
    assert!(!site.pin_dir().exists());

    site.run(&good);
    site.terminate();
    let what = |site: &Site| {
        let Value::Object(mut status) = site.status().0 else { panic!("no object") };
        status.remove("reasons");
        (status, addresses(site.net.director(), OUT))
    };
    let before = what(&site);
    let (code, said) = site.run_in_vain(&bad);
    assert_eq!(code, 2, "{said}");
    let written = fs::read_to_string(site.dir.join("marca.toml")).unwrap();
    let line = 1 + written.lines().position(|line| line.contains("tpc/80")).unwrap();
    assert!(said.contains("error: `tpc` is not a protocol"), "{said}");
    assert!(said.contains(&format!("marca.toml:{line}:")), "{said}");
    assert!(said.contains("= help: did you mean `tcp`?"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(what(&site), before);
    // What only the system can tell is no fault of the text.
    let (code, said) = site.run_in_vain(&good.replace("['out']", "['uot']"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no interface \"uot\"; there are lo, out, in"), "{said}");
    assert_eq!(what(&site), before);
    assert_eq!(site.ask(site.net.client_address(0).v4, &format!("http://{}/", host(VIPS[0].v4))), "web1");
    let output = site.run(&good);
    assert!(output.contains("ready: adopted"), "{output}");
}

#[test]
fn where_one_interface_has_no_native_xdp_all_are_generic() {
    let mut site = Site::routed("generic", 2);
    let _servers = site.serve();
    // A bridge has none. It takes the inside addresses of the veth that becomes its port.
    let inside = site.net.director_inside();
    site.net
        .director()
        .ip(&[
            "link add br0 type bridge".to_owned(),
            format!("addr flush dev {IN}"),
            format!("link set {IN} master br0"),
            "link set br0 address 02:00:00:00:00:72 up".to_owned(),
            format!("addr add {}/24 dev br0", inside.v4),
            format!("addr add {}/64 dev br0 nodad", inside.v6),
        ])
        .unwrap();
    let vips = VIPS[0].both();
    let output = site.run(&shop(&site, &vips).replace("['in']", "['br0']"));
    site.daemon_says("native XDP is not to be had");
    assert!(output.contains("br0: attached by generic XDP: "), "{output}");
    assert_eq!([xdp(site.net.director(), OUT), xdp(site.net.director(), "br0")], [Some(GENERIC), Some(GENERIC)]);
    for index in 0..4 {
        for (from, vip) in std::iter::zip(site.net.client_address(index).both(), vips) {
            let host = host(vip);
            site.ask(from, &format!("udp://{host}:443/x"));
            let answer = site.try_ask(from, &format!("http://{host}/bytes/300000")).unwrap();
            assert_eq!(answer.body, marca_testkit::frame::pattern(300_000));
        }
    }
    assert_eq!(site.status().each("shop", "connections"), [8, 8]);
    site.crash();
    let output = site.run(&shop(&site, &vips).replace("['in']", "['br0']"));
    assert!(output.contains("br0: attached by generic XDP: "), "{output}");
}

#[test]
fn checksum_offload_of_a_veth_is_found_with_the_command_that_mends_it() {
    let mut site = Site::routed("offload", 1);
    let net = std::sync::Arc::clone(&site.net);
    let offload = |interface: &str, on| {
        net.director().enter(|| marca_daemon::linux::offload::set_tx_checksum(interface, on)).unwrap();
    };
    offload(OUT, true);
    let config = shop(&site, &[VIPS[0].v4.into()]);
    site.run(&config);
    site.daemon_says(
        "marca: transmit checksum offload is on for out, a veth: packets sent here carry no TCP or UDP checksum, and leave \
         without one when XDP forwards them: receivers drop them. Mend it with: ethtool -K out tx off",
    );
    site.terminate();
    offload(OUT, false);
    // It ends with what it has to say.
    let (_, said) = (site.run(&config), site.terminate());
    assert!(!said.contains("ethtool"), "{said}");
}

/// The words of `struct rtattr IFLA_XDP_ATTACHED` as `ip` shows them.
const NATIVE: u64 = 1;
const GENERIC: u64 = 2;

/// How a program is attached, if there is one.
pub fn xdp(namespace: &Namespace, interface: &str) -> Option<u64> {
    let link = ip(namespace, &["link", "show", "dev", interface]);
    link[0]["xdp"]["mode"].as_u64()
}

pub fn addresses(namespace: &Namespace, interface: &str) -> Vec<IpAddr> {
    let link = ip(namespace, &["address", "show", "dev", interface]);
    let addresses = link[0]["addr_info"].as_array().unwrap();
    addresses.iter().map(|address| address["local"].as_str().unwrap().parse().unwrap()).collect()
}

fn lladdr(namespace: &Namespace, neighbour: IpAddr) -> Option<String> {
    let known = ip(namespace, &["neighbour", "show", &neighbour.to_string()]);
    Some(known.get(0)?["lladdr"].as_str()?.to_owned())
}

fn ip(namespace: &Namespace, arguments: &[&str]) -> Value {
    let output = namespace.command("ip").arg("-json").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn read_sysctl(namespace: &Namespace, name: &str) -> String {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    namespace.enter(|| fs::read_to_string(path)).unwrap().trim().to_owned()
}

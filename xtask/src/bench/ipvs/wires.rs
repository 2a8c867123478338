//! Client, director and real server in three network namespaces, with nothing between them but veth, so that little is in
//! the path beside the director.
//!
//! The neighbours of the director have MAC addresses that nobody has: what it sends to them arrives, and is dropped by the
//! first test of the receiver's IP layer (`net/ipv4/ip_input.c`, `ip_rcv_core`), at the same price for all.

use super::frames::Frames;
use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::{XdpLinkId, XdpMode};
use marca_testkit::topology::{ETH0, IN, Namespace, OUT, Topology};
use std::fs;

pub const CLIENT: &str = "192.0.2.101";
pub const SERVER: &str = "10.0.0.11";
const OUT_MAC: &str = "02:00:00:00:00:71";
const IN_MAC: &str = "02:00:00:00:00:72";
/// Nobody's.
const NOBODY: &str = "02:00:00:00:00:99";

/// The namespaces, and the wires between them.
pub struct Wires(Topology);

impl Wires {
    pub fn lay() -> Result<Self> {
        // Its wires have a bridge in the way, and programs that IPVS does not need.
        let net = Topology::routed("bench ipvs", 1)?;
        let (director, client, server) = (net.director(), net.client(), net.server(0));
        director.ip(&["link del out", "link del in"])?;
        net.switch().ip(&["link del server1"])?;
        for (mine, mac, other) in [(OUT, OUT_MAC, client), (IN, IN_MAC, server)] {
            let peer = format!("peer name {ETH0} netns {}", other.name());
            director.ip(&[format!("link add {mine} address {mac} type veth {peer}")])?;
        }
        director.ip(&[
            format!("addr add 192.0.2.1/24 dev {OUT}"),
            format!("addr add 10.0.0.1/24 dev {IN}"),
            format!("link set {OUT} up"),
            format!("link set {IN} up"),
            format!("neigh replace {CLIENT} lladdr {NOBODY} nud permanent dev {OUT}"),
            format!("neigh replace {SERVER} lladdr {NOBODY} nud permanent dev {IN}"),
        ])?;
        client.ip(&[format!("addr add {CLIENT}/24 dev {ETH0}"), format!("link set {ETH0} up")])?;
        server.ip(&[format!("addr add {SERVER}/24 dev {ETH0}"), format!("link set {ETH0} up")])?;
        Ok(Self(net))
    }

    pub fn director(&self) -> &Namespace {
        self.0.director()
    }

    /// Who gets what the director sends, of requests or of replies.
    fn sink(&self, reply: bool) -> &Namespace {
        if reply { self.0.client() } else { self.0.server(0) }
    }

    /// Frames that reach the director as a driver would bring them: they leave the peer of its interface.
    pub fn to_the_director(&self, text: String, reply: bool) -> Result<Frames<'_>> {
        let from = if reply { self.0.server(0) } else { self.0.client() };
        let director = if reply { IN_MAC } else { OUT_MAC };
        Frames::new(from, ETH0, &format!("eth 02:00:00:00:00:98 > {director} / {text}"))
    }

    /// The same frames to where the director would send them, from its own interface: the path without it.
    pub fn past_the_director(&self, text: String, reply: bool) -> Result<Frames<'_>> {
        let interface = if reply { OUT } else { IN };
        Frames::new(self.director(), interface, &format!("eth 02:00:00:00:00:98 > {NOBODY} / {text}"))
    }

    /// Frames that have come to the end.
    pub fn arrived(&self, reply: bool) -> Result<u64> {
        self.sink(reply).enter(|| {
            let table = fs::read_to_string("/proc/thread-self/net/dev").context("count frames")?;
            let row = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:")).context("no eth0")?;
            Ok(row.split_whitespace().nth(1).context("no count")?.parse()?)
        })
    }

    /// IPVS with these services, until it is dropped.
    pub fn ipvs(&self, services: &[(&str, &str, &str)], port: u16) -> Result<IpvsServices<'_>> {
        // What a driver brings comes by XDP, and passes.
        let passes = self.pass(&[(self.director(), OUT), (self.director(), IN)])?;
        let mut ipvs = IpvsServices { director: self.director(), vips: Vec::new(), _passes: passes };
        for (vip, _, method) in services {
            if ipvs.vips.iter().any(|known| known == vip) {
                continue;
            }
            ipvs.director.ip(&[format!("addr add {vip}/32 dev {OUT}")])?;
            ipvs.vips.push((*vip).to_owned());
            let service = format!("{vip}:{port}");
            ipvs.admin(&["-A", "-u", &service, "-s", "wlc"])?;
            ipvs.admin(&["-a", "-u", &service, "-r", SERVER, method])?;
        }
        Ok(ipvs)
    }

    /// A veth takes frames from XDP only if it has a program itself. Without one, frames of the kernel's own are not copied
    /// for it: so there is none where IPVS sends.
    pub fn sinks_for_xdp(&self) -> Result<Vec<Pass>> {
        self.pass(&[(self.0.client(), ETH0), (self.0.server(0), ETH0)])
    }

    fn pass(&self, interfaces: &[(&Namespace, &str)]) -> Result<Vec<Pass>> {
        interfaces.iter().map(|(namespace, interface)| Pass::on(namespace, interface)).collect()
    }
}

/// The program that lets everything pass, on an interface.
pub struct Pass {
    _ebpf: Ebpf,
    _link: XdpLinkId,
}

impl Pass {
    fn on(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(marca_bpf::bench()).context("load the benchmark's object")?;
        let program: &mut Xdp = ebpf.program_mut("bench_empty").context("bench_empty is missing")?.try_into()?;
        program.load().context("load bench_empty")?;
        let link = namespace.enter(|| program.attach(interface, XdpMode::Driver));
        let link = link.with_context(|| format!("attach to {interface} in {}", namespace.name()))?;
        Ok(Self { _ebpf: ebpf, _link: link })
    }
}

/// IPVS's services in the director, and their VIPs.
pub struct IpvsServices<'w> {
    director: &'w Namespace,
    vips: Vec<String>,
    _passes: Vec<Pass>,
}

impl IpvsServices<'_> {
    fn admin(&self, arguments: &[&str]) -> Result<()> {
        let output = self.director.command("ipvsadm").args(arguments).output().context("run ipvsadm")?;
        let line = arguments.join(" ");
        ensure!(output.status.success(), "ipvsadm {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

impl Drop for IpvsServices<'_> {
    fn drop(&mut self) {
        let vips: Vec<String> = self.vips.iter().map(|vip| format!("addr del {vip}/32 dev {OUT}")).collect();
        if let Err(error) = self.admin(&["-C"]).and_then(|()| Ok(self.director.ip(&vips)?)) {
            eprintln!("{error:#}");
        }
    }
}

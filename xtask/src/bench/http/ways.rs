//! The ways from the client to the server. All of them on the same kind of wires, with the same server behind.

use crate::bench::director::Director;
use anyhow::{Context, Result, ensure};
use marca_testkit::topology::{Namespace, OUT, Process, Topology, VIPS};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How requests reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Client and server on one LAN, and nobody between them but its bridge.
    Direct,
    DirectRouting,
    DirectRoutingTc,
    /// The director's kernel forwards, and does nothing else.
    Routed,
    Nat,
    NatTc,
    Nftables,
    Haproxy,
}

impl Way {
    pub const ALL: [Way; 8] = [
        Way::Direct,
        Way::DirectRouting,
        Way::DirectRoutingTc,
        Way::Routed,
        Way::Nat,
        Way::NatTc,
        Way::Nftables,
        Way::Haproxy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::DirectRouting => "marca DR, XDP",
            Way::DirectRoutingTc => "marca DR, TC",
            Way::Routed => "kernel forwards",
            Way::Nat => "marca NAT, XDP",
            Way::NatTc => "marca NAT, TC",
            Way::Nftables => "nftables DNAT",
            Way::Haproxy => "HAProxy TCP",
        }
    }

    /// Sets the way up, has `work` use it, and takes it away.
    pub fn with(self, marca: &Path, work: impl FnOnce(&Topology, &str) -> Result<()>) -> Result<()> {
        let flat = matches!(self, Way::Direct | Way::DirectRouting | Way::DirectRoutingTc);
        let net = if flat { Topology::flat("bench http", 1)? } else { Topology::routed("bench http", 1)? };
        for namespace in [net.client(), net.director()] {
            // A connection for each request takes many ports.
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65000")?;
            namespace.sysctl("net.ipv4.tcp_tw_reuse", 1)?;
        }
        let files = Files::make()?;
        let _nginx = files.nginx(net.server(0))?;
        let _director = match self {
            Way::Direct | Way::Routed => Between::Nobody,
            Way::DirectRouting | Way::DirectRoutingTc => {
                net.server(0).hold_vip(VIP.into())?;
                Between::Marca(Director::start(marca, net.director(), &self.config(&net))?)
            }
            Way::Nat | Way::NatTc => Between::Marca(Director::start(marca, net.director(), &self.config(&net))?),
            Way::Nftables => {
                hold_vip(net.director())?;
                files.nftables(net.director(), net.server_address(0).v4)?;
                Between::Nobody
            }
            Way::Haproxy => {
                hold_vip(net.director())?;
                Between::Proxy(files.haproxy(net.director(), net.server_address(0).v4)?)
            }
        };
        if self == Way::Routed {
            net.client().ip(&[format!("route add {INSIDE} via {}", net.director_outside().v4)])?;
        }
        let target = if matches!(self, Way::Direct | Way::Routed) { net.server_address(0).v4 } else { VIP };
        let url = format!("http://{target}/");
        answers(net.client(), &url)?;
        work(&net, &url)
    }

    fn config(self, net: &Topology) -> String {
        let (outside, inside) = (net.outside_interface(), net.inside_interface());
        let inside = if inside == outside { String::new() } else { format!("inside = '{inside}'\n") };
        let (attach, forward) = match self {
            Way::DirectRouting => (ATTACH_XDP, "dr"),
            Way::DirectRoutingTc => (ATTACH_TC, "dr"),
            Way::NatTc => (ATTACH_TC, "nat"),
            _ => (ATTACH_XDP, "nat"),
        };
        format!(
            "[router]\noutside = '{outside}'\n{inside}{attach}[service.web]\ncheck = 'none'\nvip = '{VIP}'\nports = \
             'tcp/80'\nscheduler = 'maglev'\nforward = '{forward}'\nserver = [{{ address = '{}' }}]\n",
            net.server_address(0).v4
        )
    }
}

const ATTACH_XDP: &str = "attach = 'xdp'\n";
const ATTACH_TC: &str = "attach = 'tc'\n";

const VIP: Ipv4Addr = VIPS[0].v4;
/// The real servers' network behind a director that routes.
const INSIDE: &str = "10.0.0.0/24";

/// What runs on the director, until it is dropped.
enum Between<'n> {
    Nobody,
    Marca(#[expect(dead_code, reason = "runs until it is dropped")] Director<'n>),
    Proxy(#[expect(dead_code, reason = "runs until it is dropped")] Process),
}

/// As keepalived or an administrator would.
fn hold_vip(director: &Namespace) -> Result<()> {
    Ok(director.ip(&[format!("addr add {VIP}/32 dev {OUT}")])?)
}

/// Waits until there is an answer.
fn answers(client: &Namespace, url: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut curl = client.command("curl");
        curl.args(["--silent", "--fail", "--max-time", "1", "--output", "/dev/null", url]);
        if curl.status().context("run curl")?.success() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{url} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The peers' configurations, in a folder that goes away with it.
struct Files(PathBuf);

impl Files {
    fn make() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("marca-bench-http-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// A short answer from memory, so that the way there is most of the work.
    fn nginx(&self, server: &Namespace) -> Result<Process> {
        let dir = self.0.display();
        let paths =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|path| format!("{path}_temp_path {dir}; "));
        let config = format!(
            "worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log; daemon off; worker_rlimit_nofile 20000;
events {{ worker_connections 8000; }}
http {{ access_log off; keepalive_requests 1000000000; {}
  server {{ listen 80 backlog=4096; location / {{ default_type text/plain; return 200 \"hello\\n\"; }} }} }}
",
            paths.concat()
        );
        let file = self.write("nginx.conf", &config)?;
        Ok(Process::spawn(server.command("nginx").arg("-c").arg(file))?)
    }

    fn haproxy(&self, director: &Namespace, server: Ipv4Addr) -> Result<Process> {
        let config = format!(
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server \
             60s\nlisten web\n  bind {VIP}:80\n  server web1 {server}:80\n"
        );
        let file = self.write("haproxy.cfg", &config)?;
        Ok(Process::spawn(director.command("haproxy").arg("-db").arg("-f").arg(file))?)
    }

    fn nftables(&self, director: &Namespace, server: Ipv4Addr) -> Result<()> {
        let rules = format!(
            "table ip lb {{\n  chain pre {{\n    type nat hook prerouting priority -100;\n    iifname \"{OUT}\" ip daddr {VIP} \
             tcp dport 80 dnat to {server}\n  }}\n}}\n"
        );
        let file = self.write("rules.nft", &rules)?;
        let output = director.command("nft").arg("-f").arg(file).output().context("run nft")?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.0.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

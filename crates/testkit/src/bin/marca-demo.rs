//! `cargo xtask demo`: a client, a director and three real servers in network namespaces of this host; a few dozen
//! clients; and a table of who met whom.

use anyhow::{Context, Result, bail};
use clap::Parser;
use marca_testkit::peer::{self, Offer, Server};
use marca_testkit::topology::{Process, Topology};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Shows what marca does, on this host, in network namespaces that go away with it.
#[derive(Parser)]
struct Options {
    /// The program `marca`
    #[arg(long)]
    marca: PathBuf,
    /// Ends after the table; fails if a client met two servers
    #[arg(long)]
    once: bool,
}

/// One virtual service: HTTP, HTTPS and QUIC's port, IPv4 and IPv6.
const CONFIG: &str = r#"[router]
outside = ["out"]
inside  = ["in"]
attach  = "xdp"

[service.shop]
vip       = ["192.0.2.10", "2001:db8:1::10"]
ports     = ["tcp/80", "tcp/443", "udp/443"]
scheduler = "wlc"
persist   = "5m"
forward   = "nat"

[[service.shop.server]]
name    = "web1"
address = ["10.0.0.11", "fd00::11"]

[[service.shop.server]]
name    = "web2"
address = ["10.0.0.12", "fd00::12"]

[[service.shop.server]]
name    = "web3"
address = ["10.0.0.13", "fd00::13"]
"#;

const RUN_DIR: &str = "/run/marca-demo";
const PIN_DIR: &str = "/sys/fs/bpf/marca-demo";
const SERVERS: usize = 3;
/// Of each family.
const CLIENTS: usize = 15;
const PATIENCE: Duration = Duration::from_secs(5);
/// An emulated machine takes half a minute to verify the programs when its host has other work, too.
const START: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let options = Options::parse();
    catch_signals()?;
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and XDP need root: run it with sudo");
    }
    let demo = Demo::start(&options.marca)?;
    println!("{}", demo.picture());
    let meetings = demo.drive();
    print!("{}", table(&meetings));
    let strayed = meetings.iter().filter(|m| m.server().is_none()).count();
    println!("{}", spread(&meetings));
    if !options.once {
        println!("{}", demo.things_to_try(&options.marca));
        while !INTERRUPTED.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("\ntaking everything away");
    }
    drop(demo);
    if strayed > 0 {
        bail!("{strayed} clients met more than one server, or got no answer");
    }
    Ok(())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Ctrl-C ends the demonstration in its own time, so that nothing is left behind. A handler, not a mask: programs that
/// are started from here inherit masks.
fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupted), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action) }.context("catch signals")?;
    }
    Ok(())
}

/// Everything that runs. Dropped in the order of the fields.
struct Demo {
    director: Director,
    _servers: Vec<Server>,
    net: Topology,
}

/// The director's process, and the way to take away what it has set up.
struct Director {
    process: Process,
    stop: Command,
}

impl Drop for Director {
    fn drop(&mut self) {
        match self.stop.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!(
                "the director did not stop cleanly: {}it had said:\n{}",
                String::from_utf8_lossy(&output.stderr),
                self.process.output()
            ),
            Err(error) => eprintln!("the director did not stop: {error}"),
        }
        let _ = std::fs::remove_dir_all(RUN_DIR);
    }
}

impl Demo {
    fn start(marca: &Path) -> Result<Self> {
        let net = Topology::routed("demo", SERVERS).context("make the namespaces")?;
        let mut servers = Vec::new();
        for index in 0..SERVERS {
            let offer = Offer {
                name: format!("web{}", index + 1),
                http: vec![80],
                https: vec![443],
                udp: vec![443],
                ..Offer::default()
            };
            servers.push(net.server(index).enter(|| Server::start(offer)).context("start a real server")?);
        }
        std::fs::create_dir_all(RUN_DIR).with_context(|| format!("create {RUN_DIR}"))?;
        let config = Path::new(RUN_DIR).join("marca.toml");
        std::fs::write(&config, CONFIG).with_context(|| format!("write {}", config.display()))?;
        let place = ["--run-dir", RUN_DIR, "--pin-dir", PIN_DIR];
        let mut stop = net.director().command(marca);
        stop.arg("stop").arg("--detach").args(place);
        // What a demo that was killed has left.
        let _ = stop.output();
        std::fs::create_dir_all(RUN_DIR).with_context(|| format!("create {RUN_DIR}"))?;
        std::fs::write(&config, CONFIG).with_context(|| format!("write {}", config.display()))?;
        let mut run = net.director().command(marca);
        run.arg("run").arg("--config").arg(&config).args(place);
        let director = Director { process: Process::spawn(&mut run)?, stop };
        director.process.wait_for_line("ready", START).context("start the director")?;
        Ok(Self { director, _servers: servers, net })
    }

    fn picture(&self) -> String {
        format!(
            "
   clients                  director                     real servers
 192.0.2.101…115  ──────  out  marca  in  ────────  web1  10.0.0.11  fd00::11
 2001:db8:1::101…         192.0.2.10             ├─ web2  10.0.0.12  fd00::12
                          2001:db8:1::10         └─ web3  10.0.0.13  fd00::13

{}
",
            self.director.process.output().trim_end()
        )
    }

    /// Every client asks over HTTP, HTTPS and UDP.
    fn drive(&self) -> Vec<Meeting> {
        let vips: [IpAddr; 2] = [[192, 0, 2, 10].into(), [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10].into()];
        let mut meetings = Vec::new();
        for client in 0..CLIENTS {
            for (from, vip) in self.net.client_address(client).both().into_iter().zip(vips) {
                let host = if vip.is_ipv6() { format!("[{vip}]") } else { vip.to_string() };
                let urls = [format!("http://{host}/"), format!("https://{host}/"), format!("udp://{host}:443")];
                let answers = urls.map(|url| self.net.client().enter(|| peer::ask(Some(from), &url, PATIENCE)));
                meetings
                    .push(Meeting { from, answers: answers.map(|a| a.map_err(|e| e.to_string()).map(|a| a.server)) });
            }
        }
        meetings
    }

    fn things_to_try(&self, marca: &Path) -> String {
        let marca = marca.display();
        let place = format!("--run-dir {RUN_DIR} --pin-dir {PIN_DIR}");
        let client = format!("nsenter --net={}", self.net.client().path().display());
        let director = format!("nsenter --net={}", self.net.director().path().display());
        format!(
            "\nIt stays up until Ctrl-C. In another terminal, as root:\n
  {client} curl -k --interface 192.0.2.107 https://192.0.2.10/
  {director} {marca} status {place}
  {marca} explain --from 192.0.2.107:4242 --to 192.0.2.10:443 --proto tcp {place}
  {marca} explain --from 198.51.100.7:4242 --to 192.0.2.10:443 --proto tcp {place}
"
        )
    }
}

/// One client's three questions.
struct Meeting {
    from: IpAddr,
    answers: [Result<String, String>; 3],
}

impl Meeting {
    /// The one server that answered all of them.
    fn server(&self) -> Option<&str> {
        let first = self.answers[0].as_ref().ok()?;
        self.answers.iter().all(|answer| answer.as_ref() == Ok(first)).then_some(first)
    }
}

fn table(meetings: &[Meeting]) -> String {
    let mut text = format!("{:<18} {:<6} {:<6} {:<8} met\n", "client", "HTTP", "HTTPS", "UDP/443");
    for meeting in meetings {
        let said = |i: usize| meeting.answers[i].as_deref().unwrap_or("-");
        let met = match meeting.server() {
            Some(server) => format!("one server: {server}"),
            None => "NOT ONE SERVER".to_owned(),
        };
        text += &format!("{:<18} {:<6} {:<6} {:<8} {met}\n", meeting.from.to_string(), said(0), said(1), said(2));
        for error in meeting.answers.iter().filter_map(|answer| answer.as_ref().err()) {
            text += &format!("    {error}\n");
        }
    }
    text
}

fn spread(meetings: &[Meeting]) -> String {
    let mut clients: BTreeMap<&str, usize> = BTreeMap::new();
    meetings.iter().filter_map(Meeting::server).for_each(|server| *clients.entry(server).or_default() += 1);
    let spread: Vec<String> = clients.iter().map(|(server, n)| format!("{server} {n}")).collect();
    let one = clients.values().sum::<usize>();
    format!(
        "\n{one} of {} clients met one server with all three; clients by server: {}",
        meetings.len(),
        spread.join(", ")
    )
}

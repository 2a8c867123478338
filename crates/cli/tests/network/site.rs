//! One director in its topology, with its folders; all of it gone when dropped, also by a panic.

use marca_testkit::peer::{self, Offer, Server, Session};
use marca_testkit::topology::{DualStack, Namespace, Process, Topology};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For each wait. Long, because two cores may be busy with something else, and an emulated machine takes half a minute then to
/// verify the programs; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A topology, the director's folders, and its daemon.
pub struct Site {
    /// Shared with threads that go on while the daemon comes and goes.
    pub net: Arc<Topology>,
    daemon: Option<Process>,
    /// Configuration, state, and whatever a test puts here.
    pub dir: PathBuf,
    pin_dir: PathBuf,
    /// Where packets are met: see `attach` in docs/configuration.md.
    pub attach: &'static str,
    /// Where what outlives a reboot is kept, if not beside the rest.
    pub state_dir: Option<PathBuf>,
    /// The daemon's clock on the wall is what this file says: a date, as libfaketime reads it.
    pub clock: Option<PathBuf>,
    /// What the next daemon takes for /etc/group.
    pub groups: Option<PathBuf>,
    /// Options of the next daemon beside the usual ones.
    pub options: Vec<&'static str>,
    /// After which step the next daemon that is started dies by itself: see `marca_daemon::steps`.
    pub die_after: Option<String>,
}

impl Site {
    /// For NAT; `test` names everything.
    pub fn routed(test: &str, servers: usize) -> Self {
        Self::around(test, Topology::routed(&format!("cli {test}"), servers).unwrap())
    }

    /// For direct routing and tunnels.
    pub fn flat(test: &str, servers: usize) -> Self {
        Self::around(test, Topology::flat(&format!("cli {test}"), servers).unwrap())
    }

    /// Client, director and one real server, each wired to both others.
    pub fn triangle(test: &str) -> Self {
        Self::around(test, Topology::triangle(&format!("cli {test}")).unwrap())
    }

    /// The same, met by TC.
    pub fn by_tc(mut self) -> Self {
        self.attach = "tc";
        self
    }

    pub fn around(test: &str, net: Topology) -> Self {
        let name = format!("marca-cli-{}", test.replace(' ', "-"));
        let site = Self {
            net: Arc::new(net),
            daemon: None,
            dir: std::env::temp_dir().join(&name),
            pin_dir: Path::new("/sys/fs/bpf").join(&name),
            attach: "xdp",
            state_dir: None,
            clock: None,
            groups: None,
            options: Vec::new(),
            die_after: None,
        };
        // What a run that was killed has left behind.
        site.remove_folders();
        fs::create_dir_all(&site.dir).unwrap();
        site
    }

    fn remove_folders(&self) {
        for folder in [&self.pin_dir, &self.decap_dir(), &self.dir] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    eprintln!("remove {}: {error}", folder.display());
                }
                _ => {}
            }
        }
    }

    /// In the BPF file system, for decapsulators.
    pub fn decap_dir(&self) -> PathBuf {
        let mut dir = self.pin_dir.clone().into_os_string();
        dir.push("-decap");
        dir.into()
    }

    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// `[router]` with the topology's interfaces, and tables small enough to be swept in no time.
    pub fn router(&self) -> String {
        let (outside, inside) = (self.net.outside_interface(), self.net.inside_interface());
        let inside = if inside == outside { String::new() } else { format!("inside = ['{inside}']\n") };
        format!(
            "[router]\noutside = ['{outside}']\n{inside}attach = '{}'\nlimits = {{ flows = 16384, half_open = 4096, templates = 1024 }}\n",
            self.attach
        )
    }

    /// A service's real servers: all of the topology, `web1` and so on, with both their addresses.
    pub fn servers(&self, service: &str) -> String {
        let weights = vec![1; self.net.servers().len()];
        self.weighted(service, &weights)
    }

    /// The first real servers of the topology, each with its weight.
    pub fn weighted(&self, service: &str, weights: &[u16]) -> String {
        let server = |(index, weight): (usize, &u16)| {
            let DualStack { v4, v6 } = self.net.server_address(index);
            let name = index + 1;
            format!("[[service.{service}.server]]\nname = 'web{name}'\naddress = ['{v4}', '{v6}']\nweight = {weight}\n")
        };
        weights.iter().enumerate().map(server).collect()
    }

    /// Starts the daemon and waits until packets flow; what it has written until then.
    pub fn run(&mut self, config: &str) -> String {
        let daemon = self.spawn(config);
        daemon.wait_for_line("ready:", PATIENCE).unwrap();
        let output = daemon.output();
        self.daemon = Some(daemon);
        output
    }

    /// Starts a daemon that may die on the way: after which step it has, or `None` if packets flow.
    pub fn run_or_die(&mut self, config: &str) -> Option<String> {
        let daemon = self.spawn(config);
        if daemon.wait_for_line("ready:", PATIENCE).is_ok() {
            self.daemon = Some(daemon);
            return None;
        }
        Some(died(daemon))
    }

    /// The steps that a daemon has told so far: see `marca_daemon::steps`.
    pub fn steps(&self) -> Vec<String> {
        let said = self.daemon.as_ref().expect("a daemon runs").output();
        said.lines().filter_map(|line| line.strip_prefix("step ")).map(str::to_owned).collect()
    }

    /// Has the daemon read another configuration, by which it may die: after which step, or `None` if it is in force.
    pub fn reload_or_die(&mut self, config: &str) -> Option<String> {
        self.write(config);
        let reloaded = self.marca(&["reload"]);
        (!reloaded.status.success()).then(|| died(self.daemon.take().expect("a daemon runs")))
    }

    /// Waits until the daemon writes this: what it complains of and what it says come by different ways.
    pub fn daemon_says(&self, text: &str) {
        self.daemon.as_ref().expect("a daemon runs").wait_for_line(text, PATIENCE).unwrap();
    }

    /// Tries to start a daemon that is to end at once: its exit code, and what it has written.
    pub fn run_in_vain(&self, config: &str) -> (i32, String) {
        let mut daemon = self.spawn(config);
        let status = daemon.wait(PATIENCE).unwrap();
        (status.code().unwrap(), daemon.output())
    }

    fn spawn(&self, config: &str) -> Process {
        self.write(config);
        let mut command = match &self.groups {
            // In a mount namespace of its own, in which /etc/group is this file.
            Some(file) => {
                let mut command = self.net.director().command("unshare");
                let script = "mount --bind \"$1\" /etc/group && shift && exec \"$@\"";
                command.args(["--mount", "sh", "-c", script, "sh"]).arg(file).arg(MARCA);
                self.with_place(command, &["run"])
            }
            None => self.command(&["run"]),
        };
        if let Some(file) = &self.clock {
            command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
            command.env("FAKETIME_TIMESTAMP_FILE", file).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        if let Some(step) = &self.die_after {
            command.env(marca_daemon::steps::VARIABLE, step);
        }
        Process::spawn(command.args(&self.options).arg("--config").arg(self.file())).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.join("marca.toml")
    }

    /// Writes the daemon's configuration file, which it does not read by itself. Where it says nothing about checks there
    /// are none: most real servers of the tests do not listen wherever their service does.
    pub fn write(&self, config: &str) {
        fs::write(self.file(), without_checks(config)).unwrap();
    }

    /// The same, and nothing else is in it.
    pub fn write_as_it_is(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    /// What the daemon has written so far.
    pub fn said(&self) -> String {
        self.daemon.as_ref().expect("a daemon runs").output()
    }

    /// Has the daemon read another configuration, which must be a good one; what it says.
    pub fn reload(&self, config: &str) -> String {
        self.write(config);
        self.marca_done(&["reload"])
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        self.with_place(self.net.director().command(MARCA), arguments)
    }

    /// A command, and its options that say where the director's files are.
    pub fn with_place(&self, mut command: std::process::Command, arguments: &[&str]) -> std::process::Command {
        command.args(arguments).arg("--run-dir").arg(self.run_dir()).arg("--pin-dir").arg(&self.pin_dir);
        if let Some(dir) = &self.state_dir {
            command.arg("--state-dir").arg(dir);
        }
        command
    }

    /// Runs a command of the program on the director.
    pub fn marca(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same for one that must succeed: its output.
    pub fn marca_done(&self, arguments: &[&str]) -> String {
        let output = self.marca(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Ends the daemon as a crash would, if one runs.
    pub fn crash_if_there(&mut self) {
        self.daemon.take().into_iter().for_each(|mut daemon| daemon.crash().unwrap());
    }

    /// Ends the daemon as a crash would.
    pub fn crash(&mut self) {
        self.daemon.take().expect("a daemon runs").crash().unwrap();
    }

    /// Ends the daemon with the signal that service managers send; all that it has written.
    pub fn terminate(&mut self) -> String {
        self.daemon.as_mut().expect("a daemon runs").signal(Signal::SIGTERM).unwrap();
        self.ended()
    }

    /// Has the daemon read its file again, by the signal that service managers send.
    pub fn hang_up(&mut self) {
        self.daemon.as_mut().expect("a daemon runs").signal(Signal::SIGHUP).unwrap();
    }

    /// Ends the daemon by the program's own command.
    pub fn stop(&mut self) {
        let said = self.marca_done(&["stop"]);
        assert!(said.contains("has ended"), "{said}");
        self.ended();
    }

    /// The daemon has been told to end: it has; all that it has written.
    pub fn ended(&mut self) -> String {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let status = daemon.wait(PATIENCE).unwrap();
        let said = daemon.output();
        assert!(status.success(), "{said}");
        said
    }

    /// Has the daemon take everything away, in which it may die; the command that asks for it has it done in the end. After
    /// which step it has died.
    pub fn detach_or_die(&mut self) -> Option<String> {
        self.marca_done(&["stop", "--detach"]);
        let mut daemon = self.daemon.take().expect("a daemon runs");
        daemon.wait(PATIENCE).unwrap();
        daemon.output().lines().find_map(|line| line.strip_prefix("died after ")).map(str::to_owned)
    }

    pub fn status(&self) -> Status {
        Status(serde_json::from_str(&self.marca_done(&["status", "--json"])).unwrap())
    }

    /// A real server of the testkit in each server namespace, `web1` and so on: HTTP on 80, HTTPS on 443, UDP echo on
    /// 443, open connections on 7.
    pub fn serve(&self) -> Vec<Server> {
        let names = (1..).map(|number| format!("web{number}"));
        std::iter::zip(names, self.net.servers()).map(|(name, namespace)| serve(namespace, &name)).collect()
    }

    /// The name of the server that answers this client.
    pub fn ask(&self, from: impl Into<IpAddr>, url: &str) -> String {
        self.try_ask(from, url).unwrap().server
    }

    pub fn try_ask(&self, from: impl Into<IpAddr>, url: &str) -> Result<peer::Answer, marca_testkit::Error> {
        let from = from.into();
        self.net.client().enter(|| peer::ask(Some(from), url, PATIENCE))
    }

    /// A connection from this client that stays open.
    pub fn session(&self, from: impl Into<IpAddr>, vip: impl Into<IpAddr>) -> Session {
        let (from, to) = (from.into(), SocketAddr::new(vip.into(), ECHO));
        self.net.client().enter(|| Session::open(Some(from), to, PATIENCE)).unwrap()
    }
}

/// The step after which a daemon has died.
fn died(mut daemon: Process) -> String {
    daemon.wait(PATIENCE).unwrap();
    let said = daemon.output();
    let step = said.lines().find_map(|line| line.strip_prefix("died after "));
    step.unwrap_or_else(|| panic!("it has ended by itself: {said}")).to_owned()
}

fn without_checks(config: &str) -> String {
    if config.contains("check") {
        return config.to_owned();
    }
    let line = |line: &str| {
        let checks = if line.starts_with("[service.") { "check = 'none'\n" } else { "" };
        format!("{line}\n{checks}")
    };
    config.lines().map(line).collect()
}

/// The port on which connections stay open.
pub const ECHO: u16 = 7;

pub fn serve(namespace: &Namespace, name: &str) -> Server {
    let offer =
        Offer { name: name.to_owned(), http: vec![80], https: vec![443], udp: vec![443], echo: vec![ECHO], bind: None };
    namespace.enter(|| Server::start(offer)).unwrap()
}

impl Drop for Site {
    fn drop(&mut self) {
        let output = self.marca(&["stop", "--detach"]);
        if !output.status.success() {
            eprintln!("take the director away: {}", String::from_utf8_lossy(&output.stderr));
        }
        if std::thread::panicking()
            && let Some(daemon) = &self.daemon
        {
            eprintln!("the daemon wrote:\n{}", daemon.output());
        }
        self.daemon = None;
        self.remove_folders();
    }
}

pub const MARCA: &str = env!("CARGO_BIN_EXE_marca");

/// What `marca status --json` says.
#[derive(Debug)]
pub struct Status(pub Value);

impl Status {
    /// The daemon's process id.
    pub fn daemon(&self) -> Option<u64> {
        self.0["daemon"].as_u64()
    }

    fn service(&self, name: &str) -> &Value {
        let services = self.0["services"].as_array().unwrap();
        services.iter().find(|service| service["name"] == name).unwrap_or_else(|| panic!("{name} is not in {self:?}"))
    }

    /// A number of a service as a whole.
    pub fn total(&self, service: &str, key: &str) -> u64 {
        number(&self.service(service)[key])
    }

    /// A number of each real server, in the order of the configuration.
    pub fn each(&self, service: &str, key: &str) -> Vec<u64> {
        self.service(service)["servers"].as_array().unwrap().iter().map(|server| number(&server[key])).collect()
    }

    /// Packets that left with this reason.
    pub fn reason(&self, label: &str) -> u64 {
        number(&self.0["reasons"][label])
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The address as it stands in a URL.
pub fn host(address: impl Into<IpAddr>) -> String {
    match address.into() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

//! One network namespace, and how to do something inside.

use super::{Error, Process, xdp_pass};
use nix::sched::{CloneFlags, setns};
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

/// Where `ip netns` keeps its names.
pub(super) const FOLDER: &str = "/run/netns";

/// A named network namespace of a [`Topology`](super::Topology), which owns it.
///
/// In each of them, before it has any interface:
/// - no duplicate address detection, no router solicitation, no autoconfiguration: IPv6 addresses work at once, and
///   no frame is on the wires that the test did not ask for;
/// - `rp_filter` off: under direct routing the answers come from where the requests did not go;
/// - no ICMP redirects: a director with one interface would send them for each packet that it forwards.
///
/// And on each veth, transmit checksum offload is off: a frame that is not computed to the end when it leaves fails
/// the receiver's check once an XDP program has had it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    pub(super) fn open(name: String) -> Result<Self, Error> {
        let path = PathBuf::from(FOLDER).join(&name);
        let handle = File::open(&path).map_err(|error| Error::new(format!("open {}", path.display()), error))?;
        Ok(Namespace { name, handle })
    }

    /// As in `ip netns list`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// A command that will run in the namespace, and only in this one: unlike `ip netns exec`, which mounts a new
    /// `/sys`, it leaves pinned BPF objects in sight. The child's process id is the program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Starts `program` with `arguments` in the namespace.
    ///
    /// # Errors
    /// `nsenter` could not be started. That there is no such program shows as exit code 127.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Process, Error> {
        Process::spawn(self.command(program).args(arguments))
    }

    /// Runs `work` inside, on a thread of its own, and returns what it returns. Sockets opened there belong to the
    /// namespace for good, and threads started there stay in it; `/proc/self/net` is still the caller's, use
    /// `/proc/thread-self/net`.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace that it holds open");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs the `ip` commands, each without its leading `ip`, until one fails.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, commands: &[impl AsRef<str>]) -> Result<(), Error> {
        ip_batch(Some(&self.name), commands)
    }

    /// Sets `net.…`, written with dots.
    ///
    /// # Errors
    /// The kernel has no such key, or refuses the value.
    pub fn sysctl(&self, key: &str, value: impl Display) -> Result<(), Error> {
        self.sysctls(&[(key, &value.to_string())])
    }

    /// As a real server does under direct routing and tunnels: puts the VIP on `lo`, so that packets for it are taken,
    /// and keeps silent about it on the LAN.
    ///
    /// IPv4 answers ARP for an address on any interface unless told otherwise (`arp_ignore`), and would announce the
    /// VIP as its own when it asks (`arp_announce`). IPv6 only answers for addresses of the interface that was asked.
    ///
    /// # Errors
    /// It holds the VIP already.
    pub fn hold_vip(&self, vip: IpAddr) -> Result<(), Error> {
        match vip {
            IpAddr::V4(_) => {
                self.sysctls(&[("net.ipv4.conf.all.arp_ignore", "1"), ("net.ipv4.conf.all.arp_announce", "2")])?;
                self.ip(&[format!("addr add {vip}/32 dev lo")])
            }
            IpAddr::V6(_) => self.ip(&[format!("addr add {vip}/128 dev lo nodad")]),
        }
    }

    /// Has an interface take the frames that a program sends from XDP on the other end of its wire, until the result is
    /// dropped: by a program of its own that lets everything pass. Topologies do this where no test puts a program.
    ///
    /// # Errors
    /// It has a program already.
    pub fn take_frames_of_xdp(&self, interface: &str) -> Result<OwnedFd, Error> {
        self.enter(|| xdp_pass::attach(&xdp_pass::load()?, interface))
    }

    /// What every namespace of a topology wants before it gets interfaces.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        self.sysctls(&[
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv6.conf.default.autoconf", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv4.conf.all.accept_redirects", "0"),
            ("net.ipv4.conf.default.accept_redirects", "0"),
        ])?;
        self.ip(&["link set lo up"])
    }

    fn sysctls(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        // `/proc/sys/net` shows the namespace of the thread that looks.
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
                fs::write(path, value).map_err(|error| Error::new(format!("set {key} in {}", self.name), error))
            })
        })
    }
}

/// Runs all commands in one `ip`, which is many times faster than one each.
pub(super) fn ip_batch(namespace: Option<&str>, commands: &[impl AsRef<str>]) -> Result<(), Error> {
    if commands.is_empty() {
        return Ok(());
    }
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let lines: String = commands.iter().map(|command| format!("{}\n", command.as_ref())).collect();
    let doing = || format!("run `ip` in {}:\n{lines}", namespace.unwrap_or("the namespace of the caller"));
    let run = || {
        let mut child = ip.spawn()?;
        // Dropped at the end of the statement, which is the end of the batch.
        child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.write_all(lines.as_bytes())?;
        child.wait_with_output()
    };
    let output = { run }().map_err(|error| Error::new(doing(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(doing(), io::Error::other(said)))
}

//! Namespaces that remove themselves, and a way to run async code in one.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::future::Future;
use std::process::Command;
use std::time::{Duration, Instant};

/// A network namespace, removed on drop, also when its test panics. What is in it goes with it.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// `label` is the test's name. The process id keeps apart test runs that overlap.
    pub fn new(label: &str) -> Self {
        let name = format!("marca-{label}-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let namespace = Self { name };
        // Link-local addresses would be tentative for a second or two, and neighbour solicitations wait for them.
        namespace.run(|| {
            write_all_sysctls("accept_dad", "0");
        });
        namespace.ip("link set lo up");
        namespace
    }

    /// `ip -n NAMESPACE …`; returns what it prints.
    pub fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Connects two namespaces by a veth pair. Both ends are up, have the addresses given, and a fixed MAC address.
    pub fn connect(a: (&Self, &str, &[&str]), b: (&Self, &str, &[&str])) {
        a.0.ip(&format!("link add {} type veth peer name {} netns {}", a.1, b.1, b.0.name));
        for (namespace, interface, addresses) in [a, b] {
            for address in addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev {interface} {nodad}"));
            }
            namespace.ip(&format!("link set {interface} up"));
        }
    }

    /// Waits until the interface takes IPv6 multicast. The kernel makes the route for it only when it has noticed that
    /// the link is up, which it does up to a second later (net/core/link_watch.c).
    pub fn wait_for_ipv6(&self, interface: &str) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.ip("-6 route show table local").contains(&format!("multicast ff00::/8 dev {interface}")) {
            assert!(Instant::now() < deadline, "{interface} takes no IPv6 multicast");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs `work` on a thread of its own in this namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `work` to its end on a runtime of its own in this namespace.
    pub fn run_async<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let status = Command::new("ip").args(["netns", "delete", &self.name]).status();
        // A panic here would hide the test's own.
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("the namespace {} is still there", self.name);
        }
    }
}

/// Asks `what` again until it is `Some`, for up to five seconds.
pub async fn eventually<T>(what: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(answer) = what().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not happen within five seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn write_all_sysctls(key: &str, value: &str) {
    for interface in ["all", "default"] {
        marca_daemon::linux::sysctl::write(&format!("net.ipv6.conf.{interface}.{key}"), value).unwrap();
    }
}

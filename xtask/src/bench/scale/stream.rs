//! A steady stream of datagrams from a client to some of the services, and how many of them real servers get.

use anyhow::{Context, Result};
use marca_testkit::topology::Namespace;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

/// Where real servers take datagrams.
pub const PORT: u16 = 5000;

/// What was sent, and what came.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub sent: u64,
    pub lost: u64,
}

/// Sends to these ports of VIPs in turn, from a port for each, while `work` goes on, and a little before and after.
pub fn during<T>(
    client: &Namespace,
    server: &Namespace,
    services: &[SocketAddrV4],
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Counted)> {
    let sink = server.enter(|| UdpSocket::bind(("0.0.0.0", PORT))).context("bind the server's socket")?;
    // Whatever the machine does meanwhile, what has arrived is not lost.
    setsockopt(&sink, sockopt::RcvBufForce, &(64 << 20)).context("enlarge the server's buffer")?;
    sink.set_read_timeout(Some(POLL))?;
    // Records of one client's port lie in one place, which holds eight.
    let sources: Vec<(UdpSocket, SocketAddrV4)> = client
        .enter(|| services.iter().map(|&to| Ok((UdpSocket::bind(("0.0.0.0", 0))?, to))).collect::<std::io::Result<_>>())
        .context("bind the client's sockets")?;
    let (stop, over, came) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    scope(|scope| {
        let receiver = scope.spawn(|| receive(&sink, &over, &came));
        let sender = scope.spawn(|| send(&sources, &stop));
        sleep(AROUND);
        let done = work();
        sleep(AROUND);
        stop.store(true, Relaxed);
        let sent = joined(sender)?;
        let deadline = Instant::now() + LAST;
        while came.load(Relaxed) < sent && Instant::now() < deadline {
            sleep(POLL);
        }
        over.store(true, Relaxed);
        joined(receiver)?;
        Ok((done?, Counted { sent, lost: sent.saturating_sub(came.load(Relaxed)) }))
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A few each millisecond.
fn send(sources: &[(UdpSocket, SocketAddrV4)], stop: &AtomicBool) -> Result<u64> {
    let mut sent = 0;
    for chunk in sources.chunks(EACH).cycle() {
        if stop.load(Relaxed) {
            break;
        }
        for (socket, to) in chunk {
            socket.send_to(b"one of many", to).with_context(|| format!("send to {to}"))?;
            sent += 1;
        }
        sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, over: &AtomicBool, came: &AtomicU64) -> Result<()> {
    let mut buffer = [0; 64];
    while !over.load(Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(_) => _ = came.fetch_add(1, Relaxed),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("receive at the server"),
        }
    }
    Ok(())
}

const EACH: usize = 8;
const POLL: Duration = Duration::from_millis(5);
const AROUND: Duration = Duration::from_millis(300);
/// How long the last datagrams may take.
const LAST: Duration = Duration::from_secs(2);

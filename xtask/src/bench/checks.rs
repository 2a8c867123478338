//! `cargo xtask bench checks`: the processor time of ten thousand health checks a second. See `docs/benchmarks.md`.
//!
//! The daemon's own thread of checks, against real servers on the loopback device: ten thousand addresses, one second
//! apart. The kernel's work for both ends of a connection happens there in the time of whoever sends, so it is counted, too.

use super::Checks;
use anyhow::{Context, Result, ensure};
use marca_config::plan::Plan;
use marca_daemon::checkers::Checkers;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Servers, each of which is asked once a second.
const SERVERS: u32 = 10_000;
const PORT: u16 = 8_099;
/// Of a whole processor.
const TARGET: f64 = 1.0;
/// Until all have been asked once.
const SETTLING: Duration = Duration::from_secs(3);

pub fn run(options: &Checks) -> Result<()> {
    let asked = Arc::new(AtomicU64::new(0));
    serve(Arc::clone(&asked))?;
    let mut lines = Vec::new();
    for (kind, keys) in [("tcp", "tcp = true"), ("http", "http = '/healthz'")] {
        let measured = measure(keys, options.seconds, &asked).with_context(|| kind.to_owned())?;
        lines.push((kind, measured));
    }
    if options.json {
        let array: Vec<_> = lines.iter().map(|(kind, measured)| measured.json(kind)).collect();
        println!("{}", serde_json::to_string_pretty(&array)?);
    } else {
        lines.iter().for_each(|(kind, measured)| println!("{}", measured.text(kind)));
        let met = lines.iter().filter(|(_, measured)| measured.processors() <= TARGET).count();
        println!("{met} of {} targets met", lines.len());
    }
    Ok(())
}

struct Measured {
    checks_per_s: f64,
    /// Of the thread, per second.
    busy: f64,
}

impl Measured {
    /// For ten thousand in a second.
    fn processors(&self) -> f64 {
        self.busy * f64::from(SERVERS) / self.checks_per_s
    }

    fn json(&self, kind: &str) -> serde_json::Value {
        serde_json::json!({
            "kind": kind, "checks_per_s": self.checks_per_s, "processors": self.processors(), "target": TARGET,
        })
    }

    fn text(&self, kind: &str) -> String {
        let Self { checks_per_s, busy } = self;
        format!(
            "{kind:<5} {checks_per_s:>7.0} checks/s in {busy:.2} of a processor; 10,000 in {:.2} (target {TARGET})",
            self.processors()
        )
    }
}

fn measure(keys: &str, seconds: u32, asked: &AtomicU64) -> Result<Measured> {
    let plan = Arc::new(plan(keys)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut checkers = Checkers::start()?;
    checkers.ask(plan, BTreeMap::new(), BTreeSet::new(), false);
    thread::sleep(SETTLING);
    let thread = thread_of_checks()?;
    let (before, busy_before, began) = (asked.load(Ordering::Relaxed), busy(&thread)?, Instant::now());
    thread::sleep(Duration::from_secs(seconds.into()));
    let (after, busy_after, took) = (asked.load(Ordering::Relaxed), busy(&thread)?, began.elapsed().as_secs_f64());
    // The first verdicts; nothing else is said about servers that are all well.
    let said = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(10), checkers.next()).await });
    if let Ok(reports) = said {
        ensure!(reports.iter().all(|report| !report.health.is_down), "a check failed: {:?}", reports[0]);
    }
    drop(checkers);
    // The thread ends when it hears of that.
    while thread_of_checks().is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(Measured { checks_per_s: (after - before) as f64 / took, busy: (busy_after - busy_before) / took })
}

/// Ten services of a thousand real servers each.
fn plan(keys: &str) -> Result<Plan> {
    let mut text = "[router]\noutside = 'eth0'\n".to_owned();
    for service in 0..10 {
        text += &format!(
            "[service.s{service}]\nvip = '192.0.2.{}'\nports = 'tcp/{PORT}'\ncheck = {{ {keys}, port = {PORT}, interval = '1s', jitter = '0s' }}\n",
            service + 1
        );
        for server in 0..SERVERS / 10 {
            let address = Ipv4Addr::from_bits(u32::from_be_bytes([10, 1, 0, 1]) + service * SERVERS / 10 + server);
            text += &format!("[[service.s{service}.server]]\naddress = '{address}'\n");
        }
    }
    let loaded = marca_config::load("bench", &text).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let mut plan = Plan::of(&loaded.config)?;
    // No configuration may name addresses of the loopback device.
    for real in plan.services.iter_mut().flat_map(|service| &mut service.reals) {
        if let Some(IpAddr::V4(address)) = &mut real.address {
            let [_, rest @ ..] = address.octets();
            *address = Ipv4Addr::from([127, rest[0], rest[1], rest[2]]);
        }
    }
    Ok(plan)
}

/// Its folder below `/proc`.
fn thread_of_checks() -> Result<String> {
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        match fs::read_to_string(path.join("comm")) {
            Ok(name) if name.trim() == "checks" => return Ok(path.display().to_string()),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    anyhow::bail!("there is no thread of checks")
}

/// Its time on a processor in seconds (`Documentation/scheduler/sched-stats.rst`).
fn busy(thread: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("{thread}/schedstat"))?;
    let nanoseconds: f64 = text.split(' ').next().context("schedstat is empty")?.parse()?;
    Ok(nanoseconds / 1e9)
}

/// Takes connections at every address of the loopback device, answers what is asked, and counts.
fn serve(asked: Arc<AtomicU64>) -> Result<()> {
    static IS_THERE: AtomicBool = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("servers".into()).spawn(move || {
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::UNSPECIFIED, PORT).into()).expect("the port of this benchmark is free");
            let listener = socket.listen(4096).expect("a bound socket listens");
            IS_THERE.store(true, Ordering::Release);
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    if let Ok(1..) = stream.read(&mut buffer).await {
                        let _ = stream.write_all(ANSWER).await;
                    }
                });
            }
        });
    })?;
    while !IS_THERE.load(Ordering::Acquire) {
        thread::yield_now();
    }
    Ok(())
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";

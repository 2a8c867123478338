//! Each kind of health check against peers on this host: good ones, and those that refuse, hang, lie or talk garbage.
//! Needs nginx and openssl.

use marca_config::model::{Check, Config};
use marca_config::plan::Plan;
use marca_daemon::checkers::Checkers;
use marca_daemon::checkers::probe::{Outcome, Probe};
use marca_daemon::checkers::targets::Target;
use marca_daemon::standings::{Failure, Health};
use marca_proto::health::talk::agent::Weight;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A check as the configuration has it.
fn check(keys: &str) -> Check {
    let text = format!(
        "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = ['tcp/80', 'udp/53']\n\
         check = {{ {keys} }}\n[[service.shop.server]]\naddress = '10.0.0.11'\n"
    );
    let config: Config = marca_config::load("marca.toml", &text).unwrap_or_else(|faults| panic!("{faults}")).config;
    config.services[0].checks[0].clone()
}

fn asked_at(address: IpAddr, keys: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let probe = Probe::new(&Target { address, through: None, check: check(keys) });
    runtime.block_on(probe.run(None))
}

fn asked(keys: &str) -> Outcome {
    asked_at(HOME, keys)
}

/// Why it is bad.
fn bad(keys: &str) -> String {
    match asked(keys) {
        Outcome::Bad(why) => why,
        other => panic!("{keys}: {other:?}"),
    }
}

const GOOD: Outcome = Outcome::Good(None);

/// A server of this host that says something to each connection once it has heard something (or at once, with `first`),
/// and closes it; its port.
fn peer(first: bool, says: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((HOME, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if !first {
                let _ = stream.read(&mut [0; 4096]);
            }
            let _ = stream.write_all(says);
            // Whatever else it says must not turn the end into a reset.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    port
}

/// One that takes connections and never says a word.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind((HOME, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Where nobody listens.
fn refusing() -> u16 {
    silent().1
}

#[test]
fn a_connection_is_enough_for_tcp_unless_something_is_expected() {
    let (_listener, port) = silent();
    assert_eq!(asked(&format!("tcp = true, port = {port}")), GOOD);
    assert_eq!(bad(&format!("tcp = true, port = {}", refusing())), "connection refused");
    let pong = peer(false, b"+PONG\r\n");
    let redis = |expect: &str| format!("tcp = true, port = {pong}, send = \"PING\\r\\n\", {expect}");
    assert_eq!(asked(&redis("expect = '+PONG'")), GOOD);
    assert_eq!(asked(&redis(r"expect_regex = '^\+P.NG\r\n'")), GOOD);
    assert_eq!(asked(&redis("expect_hex = '0d0a'")), GOOD);
    assert_eq!(bad(&redis("expect = 'OK'")), r"`OK` expected, `+PONG\r\n` came");
}

#[test]
fn one_that_hangs_is_told_from_one_that_is_not_there() {
    let (_listener, port) = silent();
    let began = Instant::now();
    let keys = |more: &str| format!("port = {port}, timeout = '200ms', {more}");
    assert_eq!(bad(&keys("tcp = true, expect = 'hello'")), "no answer within 200ms");
    assert_eq!(bad(&keys("http = '/'")), "no answer within 200ms");
    assert_eq!(bad(&keys("http = '/', version = '2'")), "no answer within 200ms");
    assert_eq!(bad(&keys("tls = true")), "no TLS handshake within 200ms");
    assert_eq!(bad(&keys("smtp = true")), "no answer within 200ms");
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waits longer than the timeout");
    // It speaks, but never to the end.
    let slow = peer_that_drips();
    assert_eq!(
        bad(&format!("tcp = true, expect = 'x', port = {slow}, timeout = '300ms'"))
            .split_once(" came within")
            .unwrap()
            .1,
        " 300ms"
    );
}

/// A letter every 50 ms, for ever.
fn peer_that_drips() -> u16 {
    let (listener, port) = silent();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                while stream.write_all(b"H").is_ok() {
                    thread::sleep(Duration::from_millis(50))
                }
            });
        }
    });
    port
}

#[test]
fn garbage_is_called_garbage() {
    let garbage = peer(false, b"\xff\xfe\x00garbage\r\n\r\n");
    let keys = |kind: &str| format!("{kind}, port = {garbage}");
    assert_eq!(bad(&keys("http = '/'")), "the answer is no HTTP");
    bad(&keys("http = '/', version = '2'"));
    assert!(bad(&keys("tls = true")).starts_with("TLS: "), "{}", bad(&keys("tls = true")));
    let greeting = peer(true, b"SSH-2.0-OpenSSH_9.2\r\n");
    assert!(bad(&format!("ftp = true, port = {greeting}")).ends_with("is no answer of this protocol"));
    let nothing = peer(true, b"");
    assert_eq!(bad(&format!("smtp = true, port = {nothing}")), "the connection was closed without a word");
    assert_eq!(bad(&format!("http = '/', port = {nothing}")), "the connection was closed without a response");
}

#[test]
fn mail_and_file_servers_greet() {
    let ftp = peer(true, b"220-Welcome\r\n220 ready\r\n");
    assert_eq!(asked(&format!("ftp = true, port = {ftp}")), GOOD);
    let busy = peer(true, b"421 too many\r\n");
    assert_eq!(bad(&format!("ftp = true, port = {busy}")), "220 expected, `421 too many` came");
    let (listener, port) = silent();
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail ESMTP\r\n").unwrap();
        let mut heard = [0; 1024];
        let len = stream.read(&mut heard).unwrap();
        stream.write_all(b"250-mail\r\n250 SIZE\r\n").unwrap();
        let more = stream.read(&mut heard[len..]).unwrap();
        String::from_utf8_lossy(&heard[..len + more]).into_owned()
    });
    assert_eq!(asked(&format!("smtp = true, port = {port}")), GOOD);
    assert_eq!(heard.join().unwrap(), "EHLO marca.invalid\r\nQUIT\r\n");
}

#[test]
fn an_agent_says_a_weight_and_one_that_is_not_there_says_nothing() {
    let agent = |says| format!("agent = true, port = {}", peer(true, says));
    assert_eq!(asked(&agent(b"up 75%\n")), Outcome::Good(Some(Weight::Percent(75))));
    assert_eq!(asked(&agent(b"12")), Outcome::Good(Some(Weight::Absolute(12))));
    assert_eq!(bad(&agent(b"down # new disk\n")), "says down: `new disk`");
    assert!(matches!(asked(&agent(b"hello\n")), Outcome::Unasked(_)));
    assert!(matches!(asked(&format!("agent = true, port = {}", refusing())), Outcome::Unasked(_)));
}

/// A server that answers a datagram with what `answer` makes of it; its port.
fn udp_peer(answer: fn(&[u8]) -> Vec<u8>) -> u16 {
    let socket = UdpSocket::bind((HOME, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..len]), client);
        }
    });
    port
}

#[test]
fn datagrams_are_answered_or_at_least_not_refused() {
    let echo = udp_peer(<[u8]>::to_vec);
    assert_eq!(asked(&format!("udp = true, port = {echo}, send_hex = 'c0ffee', expect_hex = 'ffee'")), GOOD);
    let wrong = format!("udp = true, port = {echo}, send = 'a', expect = 'b', timeout = '100ms'");
    assert_eq!(bad(&wrong), "`b` expected, `a` came");
    let silent = UdpSocket::bind((HOME, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(asked(&format!("udp = true, port = {port}, timeout = '100ms'")), GOOD, "it was not refused");
    assert_eq!(bad(&format!("udp = true, port = {port}, expect = 'b', timeout = '100ms'")), "no answer within 100ms");
    drop(silent);
    assert_eq!(bad(&format!("udp = true, port = {port}")), "connection refused");
}

#[test]
fn a_name_server_must_have_the_record() {
    // The question, as an answer with one record whose name is the question's: 192.0.2.1.
    let good = udp_peer(|question| {
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        answer
    });
    let failing = udp_peer(|question| {
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer[3] = 2;
        answer
    });
    let garbage = udp_peer(|_| b"?".to_vec());
    let keys = |port: u16| format!("dns = 'shop.example.com', port = {port}");
    assert_eq!(asked(&keys(good)), GOOD);
    assert_eq!(bad(&keys(failing)), "DNS answer ServerFailure");
    assert_eq!(bad(&keys(garbage)), "`?` is no DNS message");
    assert_eq!(bad(&keys(refusing())), "connection refused");
}

#[test]
fn a_host_answers_pings() {
    assert_eq!(asked("ping = true"), GOOD);
    assert_eq!(asked_at(Ipv6Addr::LOCALHOST.into(), "ping = true"), GOOD);
    let nobody: IpAddr = "192.0.2.77".parse().unwrap();
    assert_ne!(asked_at(nobody, "ping = true, timeout = '100ms'"), GOOD);
}

fn script(text: &str, more: &str) -> Outcome {
    asked(&format!("{more} script = ['/bin/sh', '-c', '''{text}''']"))
}

#[test]
fn a_script_says_by_its_exit_code_whether_all_is_well() {
    assert_eq!(script("exit 0", ""), GOOD);
    assert_eq!(
        script("echo one; echo cannot reach the database >&2; exit 3", ""),
        Outcome::Bad("exit code 3: `cannot reach the database`".into())
    );
    assert_eq!(script("kill -9 $$", ""), Outcome::Bad("it was killed".into()));
    assert_eq!(script("echo 40%", "weight = true,"), Outcome::Good(Some(Weight::Percent(40))));
    assert_eq!(script("echo 40%", ""), GOOD, "nobody has asked for a weight");
    assert_eq!(script("echo hello", "weight = true,"), GOOD, "none was said");
    assert_eq!(script("test \"$MARCA_ADDRESS $MARCA_PORT\" = \"127.0.0.1 80\"", "port = 80,"), GOOD);
    assert_eq!(script("yes | head -c 1000000", ""), GOOD, "much output does not stop it");
    assert!(matches!(asked("script = '/nowhere/check'"), Outcome::Unasked(_)), "nothing is known of the server");
}

/// Processes that sleep for this long.
fn sleepers(seconds: &str) -> usize {
    let command = format!("sleep\0{seconds}\0").into_bytes();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.filter(|process| fs::read(process.path().join("cmdline")).is_ok_and(|text| text == command)).count()
}

#[test]
fn a_script_that_never_ends_ends_with_all_that_it_has_started() {
    let began = Instant::now();
    let hanging = script("sleep 7001 & sleep 7001", "timeout = '300ms',");
    assert_eq!(hanging, Outcome::Bad("the script has not ended within 300ms".into()));
    assert!(began.elapsed() < Duration::from_secs(5));
    // One that ends, and leaves another behind that keeps its output open.
    let began = Instant::now();
    assert_eq!(script("sleep 7002 & echo 5", "weight = true,"), Outcome::Good(Some(Weight::Absolute(5))));
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let deadline = Instant::now() + Duration::from_secs(10);
    while sleepers("7001") + sleepers("7002") > 0 {
        assert!(Instant::now() < deadline, "somebody still sleeps");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An nginx of this host, which ends with the test.
struct Nginx {
    process: Child,
    dir: PathBuf,
}

impl Nginx {
    const HTTP: u16 = 18_080;
    const HTTPS: u16 = 18_443;
    const H2C: u16 = 18_082;

    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("marca-checks-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "10"])
            .args(["-subj", "/CN=shop", "-addext", "subjectAltName=DNS:shop.example.com"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (at, http, https, h2c) = (dir.display(), Self::HTTP, Self::HTTPS, Self::H2C);
        let locations = "location = / { default_type text/plain; return 200 \"healthy $host $request_method\"; }
            location = /moved { return 302 /; } location = /sick { return 503; }
            location = /name { default_type text/plain; return 200 \"$ssl_server_name\"; }";
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr crit; events {{ worker_connections 64; }}
            http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;
                uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
                server {{ listen 127.0.0.1:{http}; {locations} }}
                server {{ listen 127.0.0.1:{h2c} http2; {locations} }}
                server {{ listen 127.0.0.1:{https} ssl http2; ssl_certificate {at}/cert.pem;
                    ssl_certificate_key {at}/key.pem; {locations} }} }}"
        );
        fs::write(dir.join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf")).args(["-e", "stderr"]);
        let process = command.stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect((HOME, https)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Self { process, dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn web_servers_are_asked_in_both_versions_with_and_without_tls() {
    let _nginx = Nginx::start();
    let (http, https, h2c) = (Nginx::HTTP, Nginx::HTTPS, Nginx::H2C);
    assert_eq!(asked(&format!("http = '/', port = {http}")), GOOD);
    assert_eq!(asked(&format!("http = '/moved', port = {http}")), GOOD);
    assert_eq!(bad(&format!("http = '/moved', port = {http}, status = 200")), "HTTP status 302");
    assert_eq!(bad(&format!("http = '/sick', port = {http}")), "HTTP status 503");
    assert_eq!(asked(&format!("http = '/sick', port = {http}, status = '500-503'")), GOOD);
    let body = |more: &str| format!("http = '/', port = {http}, host = 'shop.example.com', {more}");
    assert_eq!(asked(&body("expect = 'healthy shop.example.com GET'")), GOOD);
    assert_eq!(asked(&body("expect_regex = '^healthy'")), GOOD);
    assert_eq!(asked(&body("method = 'HEAD'")), GOOD);
    let missing = bad(&body("expect = 'sick'"));
    assert_eq!(missing, "in the body `sick` expected, `healthy shop.example.com GET` came");
    assert_eq!(asked(&format!("http = '/', port = {h2c}, version = '2', expect = 'healthy'")), GOOD);

    assert_eq!(asked(&format!("https = '/', port = {https}, expect = 'healthy'")), GOOD);
    assert_eq!(asked(&format!("https = '/', port = {https}, version = '2', expect = 'healthy'")), GOOD);
    let named = |name: &str| format!("https = '/name', port = {https}, {name}, expect = 'shop.example.com'");
    assert_eq!(asked(&named("server_name = 'shop.example.com'")), GOOD);
    assert_eq!(asked(&named("host = 'shop.example.com:8443'")), GOOD, "the host is asked for by SNI");
    assert_eq!(bad(&named("server_name = 'other.example.com'")), "its certificate is not for other.example.com");
    assert_eq!(asked(&format!("tls = true, port = {https}, expiry = '9d'")), GOOD);
    let soon = bad(&format!("tls = true, port = {https}, expiry = '20d'"));
    assert!(soon.starts_with("its certificate expires in "), "{soon}");
    let plain = bad(&format!("https = '/', port = {http}"));
    assert!(plain.starts_with("TLS: "), "{plain}");
    assert_eq!(bad(&format!("http = '/', port = {https}")), "HTTP status 400");
}

/// Two services of one server each, at the same address and port of this host.
fn plan(port: u16, more: &str) -> Arc<Plan> {
    let service = |name: &str, vip: &str| {
        format!(
            "[service.{name}]\nvip = '{vip}'\nports = 'tcp/{port}'\n\
             check = {{ tcp = true, interval = '50ms', jitter = '0s', timeout = '1s', rise = 2, fall = 3 }}\n{more}\n\
             [[service.{name}.server]]\nname = 'web1'\naddress = '10.0.0.11'\n"
        )
    };
    let text = format!("[router]\noutside = 'eth0'\n{}{}", service("a", "192.0.2.10"), service("b", "192.0.2.11"));
    let mut plan = Plan::of(&marca_config::load("marca.toml", &text).unwrap().config).unwrap();
    // No configuration may say so.
    plan.services.iter_mut().flat_map(|service| &mut service.reals).for_each(|real| real.address = Some(HOME));
    Arc::new(plan)
}

/// The next reports, until both servers have had one: by key, whether they are down, and the first words of why.
fn reported(runtime: &tokio::runtime::Runtime, checkers: &mut Checkers) -> BTreeMap<String, (bool, String)> {
    let mut of = BTreeMap::new();
    while of.len() < 2 {
        let next = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), checkers.next()).await });
        for report in next.expect("a report") {
            let why = report.health.failures.first().map(|failure| failure.why.clone()).unwrap_or_default();
            of.insert(report.key, (report.health.is_down, why));
        }
    }
    of
}

fn both(down: bool, why: &str) -> BTreeMap<String, (bool, String)> {
    ["a/4/127.0.0.1", "b/4/127.0.0.1"].into_iter().map(|key| (key.to_owned(), (down, why.to_owned()))).collect()
}

#[test]
fn a_server_is_reported_when_its_state_changes_and_asked_once_for_all_its_services() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = refusing();
    let mut checkers = Checkers::start().unwrap();
    checkers.ask(plan(port, ""), BTreeMap::new(), BTreeSet::new(), false);
    assert_eq!(reported(&runtime, &mut checkers), both(true, "connection refused"), "the first answer decides alone");
    let listener = TcpListener::bind((HOME, port)).unwrap();
    assert_eq!(reported(&runtime, &mut checkers), both(false, ""));
    // Two have decided; from now on they are counted.
    listener.set_nonblocking(true).unwrap();
    let count = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
    count(&listener);
    thread::sleep(Duration::from_millis(1000));
    let asked = count(&listener);
    assert!((5..=21).contains(&asked), "every 50 ms, once for both: {asked}");
    drop(listener);
    assert_eq!(reported(&runtime, &mut checkers), both(true, "connection refused, 3 times in a row"));
    // Another plan with the same question, by a run that knows: nothing is said, until something changes.
    let known = ["a/4/127.0.0.1", "b/4/127.0.0.1"].map(|key| {
        let failure = Failure {
            check: format!("tcp/{port}"),
            why: "connection refused, 3 times in a row".into(),
            since: Duration::from_secs(1),
        };
        (key.to_owned(), Health { is_down: true, failures: vec![failure], ..Health::default() })
    });
    let known = BTreeMap::from(known);
    let mut others = Checkers::start().unwrap();
    others.ask(plan(port, ""), known, BTreeSet::new(), true);
    let quiet = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(500), others.next()).await });
    assert!(quiet.is_err(), "{quiet:?}");
    let _listener = TcpListener::bind((HOME, port)).unwrap();
    assert_eq!(reported(&runtime, &mut others), both(false, ""));
    others.ask(plan(port, "check_policy = 'any'"), BTreeMap::new(), BTreeSet::new(), true);
    let quiet = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(300), others.next()).await });
    assert!(quiet.is_err(), "what goes on is not asked anew: {quiet:?}");
}

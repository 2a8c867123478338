//! Servers answer under their name, clients understand them, open connections stay open, and the program does all that.

use marca_testkit::frame;
use marca_testkit::peer::{self, Offer, Server, Session};
use marca_testkit::topology::{ETH0, Namespace, Process, Topology, VIPS};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);
const PEER: &str = env!("CARGO_BIN_EXE_marca-peer");

fn offer(name: &str) -> Offer {
    Offer { name: name.to_owned(), http: vec![80], https: vec![443], udp: vec![443], echo: vec![7], bind: None }
}

fn start(namespace: &Namespace, name: &str) -> Server {
    namespace.enter(|| Server::start(offer(name))).unwrap()
}

fn ask(namespace: &Namespace, from: Option<IpAddr>, url: &str) -> peer::Answer {
    namespace.enter(|| peer::ask(from, url, SOON)).unwrap()
}

/// As it stands in a URL.
fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[test]
fn a_server_tells_its_name_and_whom_it_saw_over_all_protocols_of_both_families() {
    let net = Topology::flat("it peers", 1).unwrap();
    let _server = start(net.server(0), "web1");
    for (address, from) in std::iter::zip(net.server_address(0).both(), net.client_address(5).both()) {
        let host = host(address);
        for scheme in ["http", "https"] {
            let answer = ask(net.client(), Some(from), &format!("{scheme}://{host}/"));
            let saw = answer.client.unwrap();
            assert_eq!((answer.status, answer.server.as_str(), saw.ip()), (200, "web1", from));
            assert_eq!(answer.body, format!("web1 saw {saw}\n").as_bytes());
        }
        let answer = ask(net.client(), Some(from), &format!("udp://{host}:443/ping"));
        assert_eq!((answer.server.as_str(), answer.body.as_slice()), ("web1", &b"ping"[..]));
        let mut session = net.client().enter(|| Session::open(Some(from), SocketAddr::new(address, 7), SOON)).unwrap();
        assert_eq!(session.local().ip(), from);
        assert_eq!(session.say("hello").unwrap(), "web1");
        assert_eq!(session.say("").unwrap(), "web1");
    }
}

#[test]
fn a_vip_on_lo_is_served_and_answers_come_from_the_vip() {
    let net = Topology::flat("it peer vip", 1).unwrap();
    let _server = start(net.server(0), "web1");
    for vip in VIPS[0].both() {
        net.server(0).hold_vip(vip).unwrap();
        net.client().ip(&[format!("neigh replace {vip} lladdr 02:00:00:00:00:11 dev {ETH0}")]).unwrap();
        let host = host(vip);
        // The UDP client is connected: it would not take an answer from the server's own address.
        for url in [format!("http://{host}/"), format!("https://{host}/"), format!("udp://{host}:443")] {
            assert_eq!(ask(net.client(), None, &url).server, "web1", "{url}");
        }
    }
}

#[test]
fn bodies_go_both_ways_unharmed() {
    let net = Topology::routed("it bodies", 1).unwrap();
    let _server = start(net.server(0), "web1");
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://10.0.0.11");
        assert_eq!(ask(net.director(), None, &format!("{url}/bytes/1000000")).body, frame::pattern(1_000_000));
        assert_eq!(ask(net.director(), None, &format!("{url}/bytes/0")).body, b"");
        let body = frame::pattern(300_000);
        let answer = net.director().enter(|| peer::send(None, &format!("{url}/sink"), &body, SOON)).unwrap();
        assert_eq!(answer.body, format!("300000 {:016x}\n", peer::checksum(&body)).as_bytes());
    }
}

#[test]
fn a_slow_answer_takes_its_time() {
    let net = Topology::routed("it slow", 1).unwrap();
    let _server = start(net.server(0), "web1");
    let answer = ask(net.director(), None, "http://10.0.0.11/slow/5");
    assert_eq!(answer.body, b"\n\n\n\n\n");
    assert!(answer.took >= Duration::from_millis(400), "{:?}", answer.took);
    assert_eq!(ask(net.director(), None, "http://10.0.0.11/slow/100").body.len(), 100);
}

#[test]
fn health_can_be_set_from_outside() {
    let net = Topology::routed("it health", 1).unwrap();
    let _server = start(net.server(0), "web1");
    let url = "http://10.0.0.11/healthz";
    assert_eq!(ask(net.director(), None, url).status, 200);
    let told = net.director().enter(|| peer::send(None, &format!("{url}/503"), b"", SOON)).unwrap();
    assert_eq!(told.body, b"web1 will answer 503\n");
    assert_eq!(ask(net.director(), None, url).status, 503);
    let refused = net.director().enter(|| peer::send(None, &format!("{url}/42"), b"", SOON)).unwrap();
    assert_eq!(refused.status, 404);
}

#[test]
fn a_stopped_server_closes_its_ports_and_its_connections_and_can_come_back() {
    let net = Topology::routed("it stop", 1).unwrap();
    let server = start(net.server(0), "web1");
    let open = || net.director().enter(|| Session::open(None, "10.0.0.11:7".parse().unwrap(), SOON));
    let mut session = open().unwrap();
    assert_eq!(session.say("hello").unwrap(), "web1");
    drop(server);
    let error = session.say("anybody?").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
    // The thread that accepts lets go of the port a moment later.
    let deadline = std::time::Instant::now() + SOON;
    let refused = loop {
        match open() {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break true,
            _ if std::time::Instant::now() > deadline => break false,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert!(refused);
    let _again = start(net.server(0), "web1-again");
    assert_eq!(ask(net.director(), None, "http://10.0.0.11/").server, "web1-again");
}

#[test]
fn errors_name_the_question() {
    let net = Topology::routed("it peer errors", 1).unwrap();
    let error = net.client().enter(|| peer::ask(None, "http://192.0.2.1/", SOON)).unwrap_err();
    assert_eq!(error.to_string(), "ask http://192.0.2.1/: Connection refused (os error 111)");
    let from = Some("192.0.2.99".parse().unwrap());
    let error = net.client().enter(|| peer::ask(from, "http://192.0.2.1/", SOON)).unwrap_err().to_string();
    assert!(error.starts_with("ask http://192.0.2.1/ from 192.0.2.99: Cannot assign"), "{error}");
    let silent = net.client().enter(|| peer::ask(None, "udp://192.0.2.77:9", Duration::from_millis(50))).unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::TimedOut);
    let _server = start(net.server(0), "web1");
    let error = net.server(0).enter(|| Server::start(offer("web2"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let error = Server::start(offer("web 1")).unwrap_err().to_string();
    assert_eq!(error, "start a server called `web 1`: a name has letters, digits, `-` and `.`");
}

#[test]
fn the_program_serves_asks_and_talks() {
    let net = Topology::routed("it program", 2).unwrap();
    let serve = ["serve", "--name", "web1", "--http", "80,8080", "--https", "443", "--udp", "443", "--echo", "7"];
    let mut server = net.server(0).spawn(PEER, serve).unwrap();
    server.wait_for_line("ready", SOON).unwrap();
    let run = |arguments: &[&str]| {
        let output = net.director().command(PEER).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8(output.stdout).unwrap(), error)
    };
    for url in ["http://10.0.0.11/", "http://10.0.0.11:8080", "https://[fd00::11]/", "udp://[fd00::11]:443"] {
        assert_eq!(run(&["ask", url]), ("web1\n".to_owned(), String::new()), "{url}");
    }
    assert_eq!(run(&["ask", "--body", "--from", "10.0.0.1", "http://10.0.0.11/bytes/3"]).0, "\0\u{1}\u{2}");
    let talked = run(&["talk", "10.0.0.11:7", "--lines", "2", "--every-ms", "1"]);
    assert_eq!(talked, ("web1\nweb1\n".to_owned(), String::new()));
    server.crash().unwrap();
    let error = run(&["ask", "http://10.0.0.11/"]).1;
    assert_eq!(error, "marca-peer: ask http://10.0.0.11/: Connection refused (os error 111)\n");
}

#[test]
fn curl_understands_the_server() {
    let net = Topology::routed("it curl", 1).unwrap();
    let _server = start(net.server(0), "web1");
    let curl = |arguments: &[&str]| {
        let output = net.director().command("curl").args(["-sSk", "--max-time", "5"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for version in ["--http1.0", "--http1.1"] {
        // Two requests in one connection, where the version allows it.
        let said = curl(&[version, "https://10.0.0.11/", "http://10.0.0.11/", "http://10.0.0.11/healthz"]);
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].starts_with("web1 saw 10.0.0.1:") && lines[2] == "web1 answers 200", "{said}");
    }
    assert!(curl(&["-I", "http://10.0.0.11/bytes/77"]).contains("Content-Length: 77\r\n"));
    let posted = curl(&["-H", "Expect: 100-continue", "--data-binary", "hello", "http://10.0.0.11/sink"]);
    assert_eq!(posted, format!("5 {:016x}\n", peer::checksum(b"hello")));
}

#[test]
fn a_process_in_a_namespace_ends_with_its_guard() {
    let net = Topology::routed("it guard", 1).unwrap();
    let process: Process = net.server(0).spawn(PEER, ["serve", "--name", "web1", "--http", "80"]).unwrap();
    process.wait_for_line("ready", SOON).unwrap();
    let there = || Command::new("ip").args(["netns", "pids", net.server(0).name()]).output().unwrap().stdout;
    assert_eq!(there(), format!("{}\n", process.id()).into_bytes(), "nsenter has become the program");
    drop(process);
    assert_eq!(there(), b"");
    let mut nothing = net.server(0).spawn("no-such-program", ["x"]).unwrap();
    assert_eq!(nothing.wait(SOON).unwrap().code(), Some(127));
}

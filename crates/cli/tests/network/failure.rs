//! Real servers that fail, that drain, and that are removed.

use crate::peers::{Content, Curl, Farm, LARGE};
use crate::site::{ECHO, PATIENCE, Site, host, wait_until};
use crate::survival::echoes;
use marca_testkit::peer::{Session, ask};
use marca_testkit::topology::VIPS;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A service of all real servers with these settings.
fn configuration(site: &Site, settings: &str, weights: &[u16]) -> String {
    format!(
        "{}[service.shop]\nvip = '{}'\nports = ['tcp/80', 'tcp/443', 'udp/443', 'tcp/{ECHO}']\nscheduler = 'rr'\n\
         {settings}\n{}",
        site.router(),
        VIPS[0].v4,
        site.weighted("shop", weights),
    )
}

fn vip() -> IpAddr {
    VIPS[0].v4.into()
}

fn client(site: &Site, index: usize) -> IpAddr {
    site.net.client_address(index).v4.into()
}

fn url() -> String {
    format!("http://{}/", host(vip()))
}

/// How the state of each real server is told.
fn states(site: &Site) -> Vec<String> {
    let status = site.status();
    let servers = status.0["services"][0]["servers"].as_array().unwrap().clone();
    servers.iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

fn number(server: &str) -> usize {
    server.strip_prefix("web").unwrap().parse::<usize>().unwrap() - 1
}

/// A flow of datagrams, all of them from one port.
struct Datagrams(UdpSocket);

impl Datagrams {
    fn open(site: &Site, from: IpAddr) -> Self {
        site.net.client().enter(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.connect((vip(), 443)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Self(socket)
        })
    }

    /// The name of the server that answers.
    fn say(&self) -> String {
        self.0.send(b"hello").unwrap();
        let mut buffer = [0; 100];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).split_once(": ").unwrap().0.to_owned()
    }
}

#[test]
fn a_failed_servers_connections_are_reset_at_once_and_its_clients_reach_another_one() {
    let mut site = Site::routed("failure", 3);
    let content = Content::make(&site.dir);
    let _farm = Farm::start(&site.net, &content);
    let _echoes = echoes(&site);
    site.run(&configuration(&site, "persist = '5m'", &[1, 1, 1]));
    // Beside the site, whose daemon comes and goes.
    let (net, dir) = (Arc::clone(&site.net), site.dir.clone());
    let curl = |index| Curl { namespace: net.client(), from: net.client_address(index).v4.into() };
    let mut sessions: Vec<Session> = (0..6).map(|index| site.session(client(&site, index), vip())).collect();
    let homes: Vec<String> = sessions.iter_mut().map(|session| session.say("hello").unwrap()).collect();
    let failing = homes[0].clone();
    // A download, a flow of datagrams, and one that is asked to try again, of the first client.
    assert_eq!(curl(0).ask("https", vip()), failing, "persistence");
    let datagrams = Datagrams::open(&site, client(&site, 0));
    assert_eq!([(); 3].map(|()| datagrams.say()), [(); 3].map(|()| failing.clone()));
    let large = format!("http://{}/large.bin", host(vip()));
    let download = |name: &str, more: &[&str]| {
        let to = dir.join(name);
        let rate = (LARGE / 20).to_string();
        let arguments = [&["-o", to.to_str().unwrap(), "--limit-rate", &rate], more].concat();
        let process = curl(0).command(&large, &arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
        wait_until("the download has begun", || fs::metadata(&to).is_ok_and(|file| file.len() > 10_000));
        (process, to)
    };
    let (reset, _) = download("reset.bin", &[]);
    let (again, whole) = download("again.bin", &["--retry", "2", "--retry-all-errors", "--retry-delay", "1"]);

    let began = Instant::now();
    let said = site.marca_done(&["fail", &format!("shop/{failing}")]);
    assert_eq!(said, format!("shop/{failing} has failed\n"));
    let output = reset.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("Connection reset by peer"), "{complaint}");
    assert!(began.elapsed() < Duration::from_secs(10), "at once: {:?}", began.elapsed());
    assert_ne!(datagrams.say(), failing, "datagrams move at once");
    let moved = curl(0).ask("http", vip());
    assert_ne!(moved, failing, "its persistence is forgotten");
    assert_eq!(curl(0).ask("https", vip()), moved, "and the client has another home");
    for (index, (session, home)) in sessions.iter_mut().zip(&homes).enumerate() {
        match session.say("and again") {
            Ok(server) => assert_eq!((&server, *home == failing), (home, false), "client {index}"),
            Err(error) => {
                assert_eq!(*home, failing, "client {index}: {error}");
                assert!(error.to_string().contains("reset"), "{error}");
            }
        }
    }
    let output = again.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(whole).unwrap() == fs::read(content.large()).unwrap(), "the second try is whole");
    let status = site.status();
    assert!(status.reason("reset") >= 4, "{status:?}");
    let mut expected = ["up"; 3];
    expected[number(&failing)] = "down";
    assert_eq!(states(&site), expected);
    assert!(site.marca_done(&["status"]).contains(" down "));
    // It outlives the daemon and reloads.
    site.stop();
    site.run(&configuration(&site, "persist = '5m'", &[1, 1, 1]));
    assert!(site.reload(&configuration(&site, "persist = '6m'", &[1, 1, 1])).contains("1 new or changed"));
    assert_eq!(states(&site), expected);
    let met = |site: &Site, clients: std::ops::Range<usize>| -> Vec<String> {
        clients
            .map(|index| site.net.client().enter(|| ask(Some(client(site, index)), &url(), PATIENCE)).unwrap().server)
            .collect()
    };
    assert!(!met(&site, 20..26).contains(&failing));
    assert!(site.marca_done(&["restore", &failing]).contains("serves again"));
    assert_eq!(states(&site), ["up"; 3]);
    assert!(met(&site, 30..36).contains(&failing));
    assert_eq!(curl(0).ask("http", vip()), moved, "a client that has moved stays there");

    let unknown = site.marca(&["fail", "shop/web9"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no service has a real server `shop/web9`"));
}

#[test]
fn connections_to_a_failed_server_are_dropped_or_kept_when_the_service_says_so() {
    for policy in ["drop", "keep"] {
        let mut site = Site::routed(&format!("failure {policy}"), 2);
        let _servers = site.serve();
        site.run(&configuration(&site, &format!("on_failure = '{policy}'"), &[1, 1]));
        let session = |index| {
            let (from, to) = (client(&site, index), SocketAddr::new(vip(), ECHO));
            site.net.client().enter(|| Session::open(Some(from), to, Duration::from_secs(2))).unwrap()
        };
        let mut sessions: Vec<Session> = (0..4).map(session).collect();
        let homes: Vec<String> = sessions.iter_mut().map(|session| session.say("hello").unwrap()).collect();
        let failing = homes[0].clone();
        let datagrams = (0..4).map(|index| Datagrams::open(&site, client(&site, index))).collect::<Vec<_>>();
        assert!(datagrams.iter().map(Datagrams::say).any(|server| server == failing));
        site.marca_done(&["fail", &failing]);
        for (session, home) in sessions.iter_mut().zip(&homes) {
            let said = session.say("and again").map_err(|error| error.to_string());
            match said {
                Err(error) if policy == "drop" && *home == failing => assert!(error.contains("timed out"), "{error}"),
                said => assert_eq!(said.as_ref(), Ok(home), "{policy}"),
            }
        }
        assert!(datagrams.iter().map(Datagrams::say).all(|server| server != failing), "{policy}");
        let met = (10..14).map(|index| site.ask(client(&site, index), &url()));
        assert!(met.into_iter().all(|server| server != failing), "{policy}");
    }
}

#[test]
fn persistent_clients_leave_a_server_of_weight_0_at_its_deadline_and_connections_go_on() {
    let mut site = Site::routed("drain", 2);
    let _servers = site.serve();
    let settings = "persist = '5m'\ndrain = '5s'";
    site.run(&configuration(&site, settings, &[1, 1]));
    let home = site.ask(client(&site, 0), &url());
    let mut session = site.session(client(&site, 0), vip());
    assert_eq!(session.say("hello").unwrap(), home);
    let mut weights = [1, 1];
    weights[number(&home)] = 0;
    let began = Instant::now();
    site.reload(&configuration(&site, settings, &weights));
    let met = (1..5).map(|index| site.ask(client(&site, index), &url()));
    assert!(met.into_iter().all(|server| server != home), "new clients go elsewhere");
    let stays = site.ask(client(&site, 0), &url());
    if began.elapsed() < Duration::from_secs(5) {
        assert_eq!(stays, home);
        assert_eq!(states(&site)[number(&home)], "draining");
        let left = &site.status().0["services"][0]["servers"][number(&home)]["seconds_left"];
        assert!(left.as_u64().is_some_and(|left| left <= 5), "{left}");
    }
    wait_until("the deadline has passed", || states(&site)[number(&home)] == "drained");
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert_ne!(site.ask(client(&site, 0), &url()), home, "the client moves");
    assert_eq!(session.say("still here").unwrap(), home, "its connection does not");
    // At once.
    let home = site.ask(client(&site, 7), &url());
    let mut weights = [1, 1];
    weights[number(&home)] = 0;
    site.reload(&configuration(&site, "persist = '5m'\ndrain = '0s'", &weights));
    wait_until("it is drained", || states(&site)[number(&home)] == "drained");
    assert_ne!(site.ask(client(&site, 7), &url()), home);
}

#[test]
fn connections_with_a_removed_server_go_on_until_its_deadline_whatever_the_daemon_does() {
    let mut site = Site::routed("removal", 2);
    let _servers = site.serve();
    let settings = "drain = '8s'";
    site.run(&configuration(&site, settings, &[1, 1]));
    let mut sessions: Vec<Session> = (0..4).map(|index| site.session(client(&site, index), vip())).collect();
    let homes: Vec<String> = sessions.iter_mut().map(|session| session.say("hello").unwrap()).collect();
    assert_eq!(homes.iter().filter(|home| *home == "web2").count(), 2);
    let began = Instant::now();
    site.reload(&configuration(&site, settings, &[1]));
    let leaving = |site: &Site| site.status().0["services"][0]["leaving"][0].clone();
    let told = leaving(&site);
    assert_eq!((told["name"].as_str(), told["state"].as_str()), (Some("web2"), Some("leaving")), "{told}");
    assert!(site.marca_done(&["status"]).contains("removed: web2, leaving "));
    // A crash, and a new daemon, which takes the deadline over.
    site.crash();
    site.run(&configuration(&site, settings, &[1]));
    let all: Vec<Result<String, String>> =
        sessions.iter_mut().map(|session| session.say("and on").map_err(|error| error.to_string())).collect();
    if began.elapsed() < Duration::from_secs(8) {
        assert_eq!(all, homes.iter().cloned().map(Ok).collect::<Vec<_>>());
    }
    wait_until("the deadline has passed", || leaving(&site)["state"] == "ending");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(8), "{took:?}");
    for (session, home) in sessions.iter_mut().zip(&homes) {
        match session.say("and again") {
            Ok(server) => assert_eq!((server.as_str(), home.as_str()), ("web1", "web1")),
            Err(error) => {
                assert_eq!(home, "web2", "{error}");
                assert!(error.to_string().contains("reset"), "{error}");
            }
        }
    }
    wait_until("nothing is left of it", || leaving(&site).is_null());
    // The time counts anew when it comes and goes again.
    site.reload(&configuration(&site, settings, &[1, 1]));
    sleep(Duration::from_millis(200));
    assert_eq!(states(&site), ["up"; 2]);
    let met = (10..14).map(|index| site.ask(client(&site, index), &url()));
    assert!(met.into_iter().any(|server| server == "web2"));
}

#[test]
fn new_connections_beyond_the_rate_limit_are_dropped_and_counted() {
    let mut site = Site::routed("rate limit", 1);
    let _servers = site.serve();
    site.run(&configuration(&site, "rate_limit = { connections = 1, burst = 5 }", &[1]));
    let mut open = site.session(client(&site, 0), vip());
    let quick = Duration::from_millis(200);
    let done =
        (0..20).filter(|_| site.net.client().enter(|| ask(Some(client(&site, 1)), &url(), quick)).is_ok()).count();
    // Sixteen tries of a fifth of a second let some through.
    assert!((4..=10).contains(&done), "{done}");
    let refused = site.status().total("shop", "rate_limited");
    assert!(refused >= 10, "{refused}");
    assert_eq!(site.status().reason("rate_limited"), refused);
    assert!(site.marca_done(&["status"]).contains("beyond the rate limit"));
    assert_eq!(open.say("hello").unwrap(), "web1", "an open connection is not asked");
}

//! Real servers that alternate between good and bad: faster than `rise` and `fall` that changes nothing; slower, exactly what it
//! should, with a line for each change, and nobody else's connection is lost.

use crate::site::{ECHO, Site, wait_until};
use crate::survival::{Load, Stop};
use marca_testkit::peer::Session;
use marca_testkit::topology::{Namespace, VIPS};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

/// Answers checks by HTTP: `period` good ones, as many bad ones, and so on; 0: good ones only.
#[derive(Clone, Default)]
struct Answers {
    period: Arc<AtomicU64>,
    /// Since the period was set.
    asked: Arc<AtomicU64>,
}

const PORT: u16 = 8080;

impl Answers {
    /// Until the test ends.
    fn start(&self, namespace: &Namespace) {
        let listener = namespace.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap();
        let answers = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 4096]);
                let (number, period) = (answers.asked.fetch_add(1, SeqCst), answers.period.load(SeqCst));
                let is_good = number.checked_div(period).is_none_or(|turn| turn.is_multiple_of(2));
                let status = if is_good { "200 OK" } else { "503 Service Unavailable" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
    }

    /// Begins to alternate, and waits until it has been asked so often.
    fn alternate(&self, period: u64, times: u64) {
        self.asked.store(0, SeqCst);
        self.period.store(period, SeqCst);
        wait_until("it has been asked", || self.asked.load(SeqCst) >= times);
    }
}

#[test]
fn a_server_that_flaps_changes_its_state_as_often_as_rise_and_fall_say_and_hurts_nobody_else() {
    let mut site = Site::routed("flapping", 3);
    let _servers = site.serve();
    let answers = Answers::default();
    answers.start(&site.net.servers()[0]);
    site.net.servers()[1..].iter().for_each(|namespace| Answers::default().start(namespace));
    let (shop, beside) = (IpAddr::from(VIPS[0].v4), IpAddr::from(VIPS[1].v4));
    let of_beside = site.servers("beside").split_once("[[service.beside.server]]\nname = 'web2'").unwrap().1.to_owned();
    site.run(&format!(
        "{}[service.shop]\nvip = '{shop}'\nports = ['tcp/80', 'tcp/{ECHO}']\nscheduler = 'rr'\n\
         check = {{ http = '/', port = {PORT}, interval = '50ms', jitter = '0s', rise = 2, fall = 2 }}\n{}\
         [service.beside]\nvip = '{beside}'\nports = ['tcp/80', 'tcp/443']\ncheck = 'none'\n\
         [[service.beside.server]]\nname = 'web2'{of_beside}",
        site.router(),
        site.servers("shop"),
    ));
    let net = Arc::clone(&site.net);
    let address = |index: usize| IpAddr::from(net.client_address(index).v4);
    let mut sessions: Vec<(Session, String)> = (10..22)
        .map(|index| {
            let mut session = site.session(address(index), shop);
            let home = session.say("hello").unwrap();
            (session, home)
        })
        .collect();
    let all_say = |sessions: &mut Vec<(Session, String)>| {
        sessions.iter_mut().for_each(|(session, home)| assert_eq!(session.say("still here").unwrap(), *home));
    };
    let lines = |site: &Site| -> Vec<String> {
        site.said().lines().filter(|line| line.contains("shop/web1")).map(str::to_owned).collect()
    };
    let state = |site: &Site| site.status().0["services"][0]["servers"][0]["state"].as_str().unwrap().to_owned();
    let load = Load::default();
    thread::scope(|scope| {
        let (load, client) = (&load, net.client());
        let _stop = Stop(load);
        let from = address(0);
        scope.spawn(move || client.enter(|| load.requests(from, beside)));

        answers.alternate(1, 30);
        assert_eq!((lines(&site), state(&site)), (vec![], "up".to_owned()));
        all_say(&mut sessions);

        // Eight turns, of which the first is good, and then it is good for ever: up, down, up, … and up.
        answers.alternate(3, 24);
        answers.period.store(0, SeqCst);
        wait_until("it is up", || lines(&site).len() >= 8);
        assert_eq!(state(&site), "up");
        let told = lines(&site);
        for (place, line) in told.iter().enumerate() {
            let says = if place % 2 == 0 { "; the server is down" } else { "; the server is up" };
            assert!(line.ends_with(says), "{told:#?}");
        }
        assert_eq!(told.len(), 8, "{told:#?}");
        // Its own connections have ended with it.
        sessions.retain(|(_, home)| home != "web1");
        assert_eq!(sessions.len(), 8);
        all_say(&mut sessions);
    });
    assert_eq!(load.failures.into_inner().unwrap(), Vec::<String>::new());
    assert!(site.said().lines().count() < 30, "{}", site.said());
}

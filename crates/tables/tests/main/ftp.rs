//! FTP control connections that are read, over time.

use crate::configuration::{config, ip, persist, server, service, tcp};
use crate::director::{Director, SMALL};
use marca_config::model::{Ftp, Service};
use marca_engine::layout::state_bits;
use marca_engine::tables::CellTable;
use marca_engine::{Reason, flow};
use marca_testkit::frame;
use std::time::Duration;

fn files() -> Service {
    let mut files = service("files", &["192.0.2.10"], &[tcp(21)]);
    files.ftp = Some(Ftp::default());
    files.servers = vec![server(1, 1), server(2, 1)];
    files
}

impl Director {
    fn client_sends(&self, text: &str) -> Reason {
        self.reason(&format!("ip4 198.51.100.7 > 192.0.2.10 / tcp {text}"), 1)
    }

    fn server_sends(&self, text: &str) -> Reason {
        self.reason(&format!("ip4 10.0.0.1 > 198.51.100.7 / tcp {text}"), 2)
    }

    fn reason(&self, text: &str, interface: u32) -> Reason {
        self.process(frame::build(text).unwrap(), interface).0.reason
    }

    fn log_in(&self) {
        assert_eq!(self.client_sends("4242 > 21 S"), Reason::Nat);
        assert_eq!(self.client_sends("4242 > 21 A"), Reason::Nat);
    }

    fn announce(&self, port: u16) {
        let line = format!(r#"21 > 4242 PA / data "229 Entering Extended Passive Mode (|||{port}|)\r\n""#);
        assert_eq!(self.server_sends(&line), Reason::FtpAnnounced);
    }

    fn controls(&self) -> usize {
        let flows = self.records(CellTable::Flows);
        flows.iter().filter(|(_, record)| record.state & state_bits::CONTROL != 0).count()
    }

    fn announced(&self) -> usize {
        let half_open = self.records(CellTable::HalfOpen);
        half_open.iter().filter(|(_, record)| record.state & state_bits::ANNOUNCED != 0).count()
    }
}

#[test]
fn a_silent_control_connection_lives_as_long_as_its_data_connection() {
    let mut director = Director::with(SMALL, &config([files()]));
    director.log_in();
    director.announce(10_000);
    assert_eq!(director.client_sends("5000 > 10000 S"), Reason::Nat);
    assert_eq!(director.client_sends("5000 > 10000 A"), Reason::Nat);
    // An hour of data.
    for _ in 0..60 {
        director.wait(Duration::from_secs(60));
        assert_eq!(director.server_sends("10000 > 5000 A"), Reason::Reply);
        assert_eq!(director.controls(), 1);
    }
    assert_eq!(director.client_sends("4242 > 21 A"), Reason::Nat, "it is what it was");
    // Data ends, and nothing follows.
    assert_eq!(director.server_sends("10000 > 5000 FA"), Reason::Reply);
    director.wait(Duration::from_secs(899));
    assert_eq!(director.controls(), 1);
    director.wait(Duration::from_secs(3));
    assert_eq!(director.controls(), 0);
    director.check_loads();
}

#[test]
fn so_it_does_when_the_server_has_opened_it() {
    let mut director = Director::with(SMALL, &config([files()]));
    director.log_in();
    assert_eq!(director.client_sends(r#"4242 > 21 PA / data "PORT 198,51,100,7,16,147\r\n""#), Reason::FtpAnnounced);
    assert_eq!(director.server_sends("20 > 4243 S"), Reason::Reply);
    assert_eq!(director.client_sends("4243 > 20 SA"), Reason::Nat);
    for _ in 0..60 {
        director.wait(Duration::from_secs(60));
        assert_eq!(director.server_sends("20 > 4243 A"), Reason::Reply);
    }
    assert_eq!(director.controls(), 1);
    director.check_loads();
}

#[test]
fn an_announcement_is_no_connection_and_ends_by_itself() {
    let mut director = Director::with(SMALL, &config([files()]));
    director.log_in();
    director.announce(10_000);
    let port = r#"4242 > 21 PA / data "PORT 198,51,100,7,16,147\r\n""#;
    assert_eq!([director.client_sends(port), director.client_sends(port)], [Reason::FtpAnnounced; 2]);
    director.check_loads();
    assert_eq!(director.announced(), 2, "sent again it is the same");
    director.wait(Duration::from_secs(59));
    assert_eq!(director.announced(), 2);
    director.wait(Duration::from_secs(3));
    assert_eq!(director.announced(), 0);
    assert_eq!(director.client_sends("5000 > 10000 S"), Reason::NotMember);
    director.check_loads();
}

#[test]
fn what_is_announced_survives_another_configuration_and_persistence_has_no_say_in_it() {
    let mut director = Director::with(SMALL, &config([files()]));
    director.log_in();
    director.announce(10_000);
    let mut later = files();
    later.persistence = persist(300);
    later.servers = vec![server(2, 1)];
    director.apply(&config([later]));
    // Its control connection goes on, though its server is gone from the configuration.
    assert_eq!(director.client_sends("5000 > 10000 S"), Reason::Nat);
    assert_eq!(director.client_sends("5000 > 10000 A"), Reason::Nat);
    let flows = director.records(CellTable::Flows);
    let first = director.reals().into_iter().find(|(_, address)| *address == ip("10.0.0.1")).unwrap().0;
    assert!(flows.iter().all(|(_, record)| record.real == first), "{flows:?}");
    assert!(flows.iter().any(|(key, record)| key.vip_port == 10_000 && flow::is_active(record.state)));
    director.check_loads();
}

//! Faulty configurations, mutated from a good one, given to `marca check` and to a running daemon: what runs goes on.

use crate::site::{ECHO, MARCA, Site, host};
use marca_testkit::mutation::Mutator;
use marca_testkit::topology::VIPS;
use std::fs;

/// By which all of it can be had again.
const SEED: u64 = 20;
const TEXTS: usize = 30;

#[test]
fn whatever_file_a_daemon_is_given_it_goes_on_or_does_what_the_file_says() {
    let mut site = Site::routed("mutated", 2);
    let _servers = site.serve();
    let vip = VIPS[0].v4;
    let good = format!(
        "{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/{ECHO}']\nscheduler = 'maglev'\npersist = '5m'\ncheck = 'none'\n\
         on_failure = 'keep'\ntimeouts = {{ closing = '30s', udp = '1m' }}\nrate_limit = {{ connections = 1000, burst = 2000 }}\n{}",
        site.router(),
        site.servers("shop"),
    );
    site.run(&good);
    let client = site.net.client_address(0).v4;
    let works = |site: &Site| site.ask(client, &format!("http://{}/", host(vip)));
    let home = works(&site);
    let mut session = site.session(site.net.client_address(1).v4, vip);
    let of_session = session.say("hello").unwrap();
    let other = site.dir.join("other.toml");
    let running = site.run_dir().join("running.toml");
    let in_force = fs::read_to_string(&running).unwrap();
    let mut mutator = Mutator::new(SEED);
    let mut refused = 0;
    for number in 0..TEXTS {
        let text = mutator.spoil(&good);
        fs::write(&other, &text).unwrap();
        site.write_as_it_is(&text);
        let checked = site.net.director().command(MARCA).arg("check").arg(&other).output().unwrap();
        let reloaded = site.marca(&["reload"]);
        let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let (of_check, of_reload) = (said(&checked), said(&reloaded));
        assert!(!of_check.contains("panicked") && !of_reload.contains("panicked"), "{text}");
        match (checked.status.code(), reloaded.status.code()) {
            (Some(0), Some(0)) => {
                // As the file says, which may be that nobody is served.
                site.reload(&good);
                continue;
            }
            // The host has no such interface, say.
            (Some(0), Some(1)) => assert!(of_reload.contains("nothing was changed"), "{of_reload}\n{text}"),
            (Some(2), Some(2)) => {
                assert!(
                    of_check.contains("error: ") && of_reload.contains("nothing was changed"),
                    "{of_reload}\n{text}"
                );
            }
            other => panic!("{number}: {other:?}: {of_check}{of_reload}\n{text}"),
        }
        refused += 1;
        assert_eq!(fs::read_to_string(&running).unwrap(), in_force, "{text}");
        assert_eq!(works(&site), home, "{text}");
        if number < refused {
            // None has been in force so far that could have ended it.
            assert_eq!(session.say("still here").unwrap(), of_session, "{text}");
        }
    }
    assert!(refused > TEXTS / 3, "{refused}");
    site.reload(&good);
    assert_eq!(works(&site), home);
    let said = site.terminate();
    assert!(!said.contains("panicked"), "{said}");
}

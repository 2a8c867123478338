//! `docs/tutorial.md`, done as it is written there.

use crate::site::Site;
use marca_testkit::peer;
use marca_testkit::topology::{IN, OUT};
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// The text within fences of this kind.
fn blocks<'p>(page: &'p str, kind: &str) -> Vec<&'p str> {
    let fence = format!("```{kind}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Who answers these many clients, by HTTP and by HTTPS; for each of them it must be the same server.
fn met(site: &Site, clients: std::ops::Range<usize>) -> BTreeSet<String> {
    let address = |client: usize| IpAddr::from(site.net.client_address(client).v4);
    clients
        .map(|client| {
            let server = site.ask(address(client), "http://192.0.2.10/");
            assert_eq!(site.ask(address(client), "https://192.0.2.10/"), server, "client {client}");
            server
        })
        .collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial.md")).unwrap();
    let [config] = blocks(&page, "toml")[..] else { panic!("one configuration") };
    let config = config.replace("\"eth0\"", &format!("\"{OUT}\"")).replace("\"eth1\"", &format!("\"{IN}\""));
    let mut site = Site::routed("tutorial", 2);
    let _servers = site.serve();
    site.write(&config);
    let (mut reloads, mut done) = (0, Vec::new());
    for line in blocks(&page, "sh").into_iter().flat_map(str::lines) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["marca", "check", _] => {
                let mut check = Command::new(env!("CARGO_BIN_EXE_marca"));
                let output = check.arg("check").arg(site.dir.join("marca.toml")).output().unwrap();
                assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            }
            ["marca", "run"] => drop(site.run(&config)),
            ["marca", "top"] => {
                let told = site.marca_done(&["top", "--once", "--interval", "0.1"]);
                assert!(told.lines().any(|line| line.starts_with("shop") && line.contains("2/2")), "{told}");
            }
            ["marca", "fail", _] => {
                site.marca_done(&words[1..]);
                assert_eq!(met(&site, 0..20), names(&["web2"]));
            }
            ["marca", "restore", _] => {
                site.marca_done(&words[1..]);
                assert_eq!(met(&site, 0..20), names(&["web2"]), "they stay");
                assert!(met(&site, 20..40).contains("web1"), "and others come");
            }
            ["marca", "reload"] => {
                reloads += 1;
                let weight = if reloads == 1 { "weight = 0\n" } else { "" };
                let said = site.reload(&format!("{config}{weight}"));
                assert!(said.contains("1 services"), "{said}");
                let (new, state) = if reloads == 1 { (40..50, "draining") } else { (50..64, "up") };
                let servers = if reloads == 1 { &["web1"][..] } else { &["web1", "web2"] };
                assert!(met(&site, new).is_subset(&names(servers)));
                assert_eq!(site.status().0["services"][0]["servers"][1]["state"], state);
            }
            ["marca", "stop"] => site.stop(),
            ["marca", ..] => drop(site.marca_done(&words[1..])),
            ["curl", .., url] if url.contains("192.0.2.10") => {
                assert!(met(&site, 0..1).is_subset(&names(&["web1", "web2"])));
            }
            ["curl", .., url] => {
                let answer = site.net.director().enter(|| peer::ask(None, url, crate::site::PATIENCE)).unwrap();
                assert!(answer.server.starts_with("web"));
            }
            // The real servers' own.
            ["apt-get" | "hostname" | "sed" | "systemctl" | "ip", ..] => continue,
            _ => panic!("what is to be done with `{line}`?"),
        }
        done.push(words[0..words.len().min(2)].join(" "));
    }
    for command in ["check", "run", "status", "top", "explain", "fail", "restore", "reload", "stop"] {
        assert!(done.contains(&format!("marca {command}")), "{command} is in the tutorial: {done:?}");
    }
    assert!(!site.pin_dir().exists(), "it ends with everything taken away");
}

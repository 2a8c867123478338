//! What befalls a director's host: interfaces that go and return, a neighbour that moves, a disk that is full, a clock that
//! jumps.

use crate::site::{ECHO, Site, host, wait_until};
use marca_testkit::topology::{ETH0, Namespace, OUT, VIPS};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn shows(namespace: &Namespace, arguments: &[&str], text: &str) -> bool {
    let output = namespace.command("ip").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(text)
}

#[test]
fn an_interface_that_goes_and_returns_has_everything_again() {
    let mut site = Site::routed("returning", 1);
    let _web1 = site.serve();
    let more = ["link add more type veth peer name beyond", "link set more up", "link set beyond up"];
    site.net.director().ip(&more).unwrap();
    let [v4, v6] = VIPS[0].both();
    let router = site.router().replace(&format!("outside = ['{OUT}']"), &format!("outside = ['{OUT}', 'more']"));
    let servers = site.servers("shop");
    site.run(&format!("{router}[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80']\n{servers}"));
    let is_attached = |site: &Site| shows(site.net.director(), &["link", "show", "dev", "more"], "prog/xdp");
    assert!(is_attached(&site));

    site.net.director().ip(&["link del more".to_owned()]).unwrap();
    let works = |site: &Site| {
        let url = format!("http://{}/", host(v4));
        assert_eq!(site.ask(site.net.client_address(0).v4, &url), "web1");
    };
    works(&site);
    site.net.director().ip(&more).unwrap();
    wait_until("it is attached again", || is_attached(&site));
    site.daemon_says("more has come again, and is attached again");
    works(&site);

    // The kernel takes IPv6 addresses off an interface that is switched off.
    let has_vip = |site: &Site| shows(site.net.director(), &["addr", "show", "dev", OUT], &format!("{v6}/128"));
    assert!(has_vip(&site));
    site.net.director().ip(&[format!("link set {OUT} down"), format!("link set {OUT} up")]).unwrap();
    site.daemon_says("VIPs had gone from their interfaces, and are there again");
    wait_until("the VIP is there again", || has_vip(&site));
    works(&site);
}

/// A file system of a few pages, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        mount(Some("none"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn replies_follow_a_client_that_gets_another_mac_address() {
    // Each processor remembers for itself: with all of it on one, each packet meets what the last one has left.
    let mut this = CpuSet::new();
    this.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &this).unwrap();
    let mut site = Site::routed("moving", 1);
    let _web1 = site.serve();
    let [v4, v6] = VIPS[0].both();
    let servers = site.servers("shop");
    let service = format!("[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/{ECHO}']\nscheduler = 'maglev'\n");
    site.run(&format!("{}{service}{servers}", site.router()));
    let mut sessions = std::iter::zip(site.net.client_address(0).both(), [v4, v6])
        .map(|(from, vip)| site.session(from, vip))
        .collect::<Vec<_>>();
    for last in [0x91, 0x92] {
        // For so long that the daemon has copied the neighbours anew, and it is remembered what is in the copy.
        for _ in 0..10 {
            sessions.iter_mut().for_each(|session| assert_eq!(session.say("here").unwrap(), "web1"));
            std::thread::sleep(Duration::from_millis(100));
        }
        site.net.client().ip(&[format!("link set {ETH0} address 02:00:00:00:00:{last:x}")]).unwrap();
    }
    sessions.iter_mut().for_each(|session| assert_eq!(session.say("there").unwrap(), "web1"));
}

#[test]
fn a_full_disk_is_said_and_holds_up_no_failure() {
    let disk = Disk::new("marca-cli-full-disk-itself");
    let mut site = Site::routed("full disk", 2);
    let _servers = site.serve();
    let vip = VIPS[0].v4;
    site.state_dir = Some(disk.0.clone());
    let servers = site.servers("shop");
    let config = format!("{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\n{servers}", site.router());
    site.run(&config);
    let fill = disk.0.join("fill");
    assert!(fs::write(&fill, vec![0; 1 << 20]).is_err(), "more than there is room for");
    site.marca_done(&["fail", "shop/web1"]);
    site.daemon_says("a restart would not know which real servers");
    // Nor is an operator held up, who is told so, as is whoever looks.
    let drained = site.marca(&["drain", "shop/web2", "--until", "1h"]);
    let warning = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert!(drained.status.success() && warning.contains("a restart would not know"), "{warning}");
    assert!(warning.contains("what was last said by hand") && warning.contains("No space left on device"), "{warning}");
    let web2 = |site: &Site| site.status().0["services"][0]["servers"][1].clone();
    assert_eq!(web2(&site)["by_hand"]["duty"], "drained");
    assert!(site.marca_done(&["status"]).contains("NOT WRITTEN DOWN: it is in force, but a restart would not know"));
    let undrained = site.marca(&["undrain", "shop/web2"]);
    assert!(undrained.status.success(), "{undrained:?}");
    assert_eq!(web2(&site)["state"], "up");
    site.marca(&["weight", "shop/web2", "7"]);
    let meets_web2 = |site: &Site| {
        for client in 0..8 {
            assert_eq!(site.ask(site.net.client_address(client).v4, &format!("http://{vip}/")), "web2");
        }
    };
    meets_web2(&site);
    fs::remove_file(&fill).unwrap();
    site.daemon_says("what is known of real servers is written down again");
    assert!(site.status().0["unwritten"].is_null());
    site.crash();
    site.run(&config);
    meets_web2(&site);
    assert_eq!(web2(&site)["weight"], 7, "what was said meanwhile is known");
}

#[test]
fn a_clock_that_jumps_moves_no_deadline() {
    let mut site = Site::routed("clock", 2);
    let clock = site.dir.join("clock");
    fs::write(&clock, "2026-01-01 00:00:00").unwrap();
    site.clock = Some(clock.clone());
    let vip = VIPS[0].v4;
    let config = |site: &Site, weight| {
        let servers = site.weighted("shop", &[weight, 1]);
        format!("{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\ndrain = '4s'\n{servers}", site.router())
    };
    site.run(&config(&site, 1));
    site.reload(&config(&site, 0));
    let began = Instant::now();
    for date in ["2036-01-01 00:00:00", "1999-01-01 00:00:00"] {
        fs::write(&clock, date).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        let status = site.status();
        let web1 = &status.0["services"][0]["servers"][0];
        assert_eq!(web1["state"], "draining", "{web1}");
        assert!((1..=4).contains(&web1["seconds_left"].as_u64().unwrap()), "{web1}");
    }
    wait_until("web1 has drained", || site.status().0["services"][0]["servers"][0]["state"] == "drained");
    // It began before the reload was answered.
    assert!(began.elapsed() >= Duration::from_millis(3500), "the time to drain was over too early");
    site.daemon_says("1999-01-01T");
}

//! What `marca doctor` finds when something is broken, on a director and on a real server; and what `marca init` writes.

use crate::site::{MARCA, Site};
use marca_testkit::topology::{IN, Namespace, OUT, VIPS};
use serde_json::Value;
use std::fs;

/// Exit code, and the findings as `check: what`.
fn examined(output: &std::process::Output) -> (i32, Vec<String>) {
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let line =
        |f: &Value| format!("{} {}: {} | {}", text(f, "severity"), text(f, "check"), text(f, "what"), text(f, "mend"));
    (output.status.code().unwrap(), findings.map(line).collect())
}

fn has(findings: &[String], start: &str, part: &str) -> bool {
    findings.iter().any(|finding| finding.starts_with(start) && finding.contains(part))
}

#[test]
fn each_thing_that_is_broken_on_a_director_is_found_with_what_mends_it() {
    let mut site = Site::routed("doctor", 1);
    let vip = VIPS[0].v4;
    let config =
        format!("{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\n{}", site.router(), site.servers("shop"));
    site.write(&config);
    let file = site.dir.join("marca.toml").display().to_string();
    let doctor = |site: &Site| examined(&site.marca(&["doctor", "--json", "--config", &file]));
    let (_, findings) = doctor(&site);
    assert!(has(&findings, "note daemon", "no director runs"), "{findings:#?}");
    site.run(&config);
    let (code, findings) = doctor(&site);
    assert_eq!(code, 0, "{findings:#?}");

    site.crash();
    let (code, findings) = doctor(&site);
    assert!(code == 1 && has(&findings, "fault daemon", "no daemon runs"), "{findings:#?}");

    // Something broken, what is found, and how it is mended here.
    let director = site.net.director();
    let ip = |command: &str| director.ip(&[command.to_owned()]).unwrap();
    let forwarding = format!("net.ipv4.conf.{IN}.forwarding");
    director.sysctl(&forwarding, 0).unwrap();
    director.sysctl(&format!("net.ipv4.conf.{IN}.rp_filter"), 1).unwrap();
    ip(&format!("addr del {vip}/32 dev {OUT}"));
    ip(&format!("link set {OUT} mtu 1400"));
    let set = "table inet test2 { set vips { type ipv4_addr; flags interval; elements = { VIP-VIP }; }; chain forward { type filter hook \
               forward priority 0; policy drop; ip daddr @vips drop; tcp dport 80 drop; }; }";
    let set = director.command("nft").arg(set.replace("VIP-VIP", &vip.to_string())).output().unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let rule =
        "table inet test { chain input { type filter hook input priority 0; ip daddr VIP tcp dport 80 drop; }; }";
    let nft = director.command("nft").arg(rule.replace("VIP", &vip.to_string())).output().unwrap();
    assert!(nft.status.success(), "{}", String::from_utf8_lossy(&nft.stderr));
    let (code, findings) = doctor(&site);
    assert_eq!(code, 1, "{findings:#?}");
    for (start, part) in [
        ("fault forwarding", format!("sysctl -w {forwarding}=1")),
        ("warning rp_filter", format!("sysctl -w net.ipv4.conf.{IN}.rp_filter=2")),
        ("fault vip", format!("{vip} is on no interface")),
        ("fault mtu", format!("ip link set {IN} mtu 1400")),
        ("warning firewall", format!("inet test input drops {vip}")),
        ("warning firewall", format!("inet test2 forward drops {vip}: ip daddr @vips drop")),
        ("note firewall", "inet test2 forward drops tcp/80, whoever has it: tcp dport 80 drop".into()),
        ("note firewall", "inet test2 forward drops what is forwarded unless a rule lets it pass".into()),
    ] {
        assert!(has(&findings, start, &part), "{start}: {part}: {findings:#?}");
    }
    ip(&format!("link set {IN} mtu 1400"));
    // A start puts the rest in order.
    site.run(&config);
    let (code, findings) = doctor(&site);
    assert_eq!(code, 0, "{findings:#?}");
}

#[test]
fn each_thing_that_is_broken_on_a_real_server_is_found_with_what_mends_it() {
    let site = Site::flat("doctor real", 1);
    let (server, vip) = (&site.net.servers()[0], VIPS[0].v4);
    let doctor = |server: &Namespace| {
        let mut command = server.command(MARCA);
        command.args(["doctor", "--real-server", "--json", "--method", "tunnel", "--port", "tcp/80", "--vip"]);
        examined(&command.arg(vip.to_string()).arg("--decap-dir").arg(site.decap_dir()).output().unwrap())
    };
    let interface = "eth0";
    let _ = server.ip(&[format!("addr del {vip}/32 dev lo")]);
    for (name, value) in [("arp_ignore", 0), ("arp_announce", 0)] {
        server.sysctl(&format!("net.ipv4.conf.all.{name}"), value).unwrap();
        server.sysctl(&format!("net.ipv4.conf.{interface}.{name}"), value).unwrap();
    }
    let (code, findings) = doctor(server);
    assert_eq!(code, 1, "{findings:#?}");
    for (start, part) in [
        ("fault vip", format!("ip addr add {vip}/32 dev lo")),
        ("fault arp", format!("sysctl -w net.ipv4.conf.{interface}.arp_ignore=1")),
        ("fault arp", format!("sysctl -w net.ipv4.conf.{interface}.arp_announce=2")),
        ("fault tunnel", format!("marca decap --interface {interface}")),
        ("fault port", format!("nobody listens at tcp/80 of {vip}")),
    ] {
        assert!(has(&findings, start, &part), "{start}: {part}: {findings:#?}");
    }
    server.ip(&[format!("addr add {vip}/32 dev lo")]).unwrap();
    server.sysctl(&format!("net.ipv4.conf.{interface}.arp_ignore"), 1).unwrap();
    server.sysctl(&format!("net.ipv4.conf.{interface}.arp_announce"), 2).unwrap();
    let decap =
        server.command(MARCA).args(["decap", "-i", interface, "--pin-dir"]).arg(site.decap_dir()).output().unwrap();
    assert!(decap.status.success(), "{}", String::from_utf8_lossy(&decap.stderr));
    let _web1 = site.serve();
    let (code, findings) = doctor(server);
    assert_eq!(code, 0, "{findings:#?}");
}

#[test]
fn a_first_configuration_is_right_and_never_overwrites_another() {
    let site = Site::routed("init", 1);
    let file = site.dir.join("etc/marca.toml").display().to_string();
    let init = |arguments: &[&str]| site.net.director().command(MARCA).arg("init").args(arguments).output().unwrap();
    let output = init(&[&file, "--outside", OUT, "--vip", "192.0.2.10", "--server", "10.0.0.11"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked = site.net.director().command(MARCA).args(["check", &file]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("1 services, 1 real servers"), "{said}");
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains(&format!("outside = [\"{OUT}\"]\n")), "{written}");
    assert!(written.contains(&format!("inside = [\"{IN}\"]\n")), "{written}");
    assert_eq!(init(&[&file]).status.code(), Some(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
}

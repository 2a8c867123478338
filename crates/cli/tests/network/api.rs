//! The daemon's API: asked well, asked badly, and not asked at all.

use crate::site::{Site, wait_until};
use marca_testkit::topology::VIPS;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn configuration(site: &Site, weights: &[u16]) -> String {
    let vip = VIPS[0].v4;
    format!("{}[service.shop]\nvip = '{vip}'\nports = ['tcp/80']\n{}", site.router(), site.weighted("shop", weights))
}

fn connect(site: &Site) -> UnixStream {
    let stream = UnixStream::connect(site.run_dir().join("control")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// What is answered to these bytes, until the daemon closes.
fn raw(site: &Site, bytes: &[u8]) -> String {
    let mut stream = connect(site);
    // It may have heard enough before the end.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status, media type and body.
pub fn ask(site: &Site, method: &str, path: &str, body: Option<&str>) -> (u16, String, Value) {
    let body = body.map_or(String::new(), |body| {
        format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    });
    let end = if body.is_empty() { "content-length: 0\r\n\r\n" } else { "" };
    let answer =
        raw(site, format!("{method} {path} HTTP/1.1\r\nhost: marca\r\nconnection: close\r\n{body}{end}").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let media = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default().to_owned();
    (status, media, serde_json::from_str(body).unwrap_or_else(|error| panic!("{answer}: {error}")))
}

/// A problem's status, kind, and the places that it points at.
fn problem(site: &Site, method: &str, path: &str, body: Option<&str>) -> (u16, String, Value) {
    let (status, media, body) = ask(site, method, path, body);
    assert_eq!(media, "application/problem+json", "{body}");
    assert_eq!(body["status"], status);
    let kind = body["type"].as_str().unwrap().strip_prefix("urn:marca:problem:").unwrap().to_owned();
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    let places =
        errors.iter().map(|error| if error["pointer"].is_null() { &error["parameter"] } else { &error["pointer"] });
    (status, kind, places.cloned().collect())
}

#[test]
fn the_daemon_answers_by_http_what_is_asked_well_and_says_what_is_wrong_with_the_rest() {
    let mut site = Site::routed("api", 2);
    site.run(&configuration(&site, &[1, 1]));
    let socket = std::fs::metadata(site.run_dir().join("control")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o007, 0, "others may not ask");

    let (status, media, body) = ask(&site, "GET", "/v1/status", None);
    assert_eq!((status, media.as_str()), (200, "application/json"));
    assert_eq!(body["services"][0]["servers"][1]["name"], "web2");
    let (_, _, body) = ask(&site, "GET", "/v1/status?servers=false", None);
    let shop = &body["services"][0];
    assert_eq!((&shop["servers"], &shop["states"], &shop["pool"]), (&json!([]), &json!({ "up": 2 }), &json!(2)));
    let (_, _, document) = ask(&site, "GET", "/openapi.json", None);
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/reload"]["post"].is_object());
    let (status, _, body) = ask(&site, "POST", "/v1/fail", Some(r#"{"servers": ["shop/web1"]}"#));
    assert_eq!((status, body), (200, json!({ "lines": ["shop/web1 has failed"] })));

    let bad = |method: &str, path: &str, body: Option<&str>, expected: (u16, &str, Value)| {
        let (status, kind, places) = problem(&site, method, path, body);
        assert_eq!((status, kind.as_str(), places), expected, "{method} {path} {body:?}");
    };
    bad("GET", "/v1/nothing", None, (404, "not-found", json!([])));
    bad("GET", "/v1/fail", None, (405, "method-not-allowed", json!([])));
    bad("POST", "/v1/fail", None, (415, "unsupported-media-type", json!([])));
    bad("POST", "/v1/fail", Some("{"), (400, "bad-request", json!([""])));
    bad("POST", "/v1/fail", Some(r#"{"servers": ["web1", 7]}"#), (400, "bad-request", json!(["/servers/1"])));
    bad("POST", "/v1/fail", Some(r#"{"servers": []}"#), (400, "bad-request", json!(["/servers"])));
    bad("POST", "/v1/fail", Some(r#"{"servers": ["web1"], "x": 1}"#), (400, "bad-request", json!(["/x"])));
    bad("POST", "/v1/fail", Some(r#"{"servers": ["web1", "web9"]}"#), (404, "unknown-server", json!(["/servers/1"])));
    bad("GET", "/v1/status?service=none", None, (404, "not-found", json!(["service"])));
    bad("GET", "/v1/status?servise=shop", None, (400, "bad-request", json!(["servise"])));
    let large = format!(r#"{{"servers": ["{}"]}}"#, "x".repeat(100_000));
    bad("POST", "/v1/fail", Some(&large), (413, "too-large", json!([])));

    // The place in the file.
    site.write(&configuration(&site, &[1, 1]).replace("ports", "port"));
    let (status, _, body) = ask(&site, "POST", "/v1/reload", None);
    assert_eq!(status, 422, "{body}");
    let place = &body["diagnostics"][1];
    assert!(place["file"].as_str().unwrap().ends_with("marca.toml") && place["line"].is_u64(), "{body}");
    let status = site.status();
    assert_eq!(status.0["services"][0]["servers"][0]["state"], "down", "and nothing was changed");

    for (what, bytes) in [
        ("no HTTP", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]),
        ("no line", b"\r\n\r\n\r\n"),
        ("a bad length", b"POST /v1/fail HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"),
        ("two lengths", b"POST /v1/fail HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
    ] {
        let answer = raw(&site, bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    assert!(raw(&site, long.as_bytes()).starts_with("HTTP/1.1 4"));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100_000));
    assert!(raw(&site, many.as_bytes()).starts_with("HTTP/1.1 4"));
}

#[test]
fn slow_clients_are_let_go_and_hold_up_nobody() {
    let mut site = Site::routed("api slow", 1);
    site.run(&configuration(&site, &[1]));
    let began = Instant::now();
    let mut head = connect(&site);
    head.write_all(b"GET /v1/status HTTP/1.1\r\nhost:").unwrap();
    let mut body = connect(&site);
    let start = "POST /v1/fail HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    body.write_all(start.as_bytes()).unwrap();
    let idle: Vec<UnixStream> = (0..100).map(|_| connect(&site)).collect();
    assert_eq!(ask(&site, "GET", "/v1/status", None).0, 200);
    let mut text = String::new();
    body.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("urn:marca:problem:too-slow"), "{text}");
    let mut rest = Vec::new();
    let _ = head.read_to_end(&mut rest);
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "an idle connection is closed");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn whoever_listens_hears_what_happens_and_what_it_has_missed() {
    let mut site = Site::routed("api events", 1);
    site.run(&configuration(&site, &[1]));
    let listen = |more: &str| {
        let mut stream = connect(&site);
        write!(stream, "GET /v1/events HTTP/1.1\r\nhost: x\r\n{more}\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        move || -> (String, Value) {
            let mut kind = String::new();
            loop {
                let line = lines.next().unwrap().unwrap();
                if let Some(name) = line.strip_prefix("event: ") {
                    kind = name.to_owned();
                } else if let Some(data) = line.strip_prefix("data: ") {
                    return (kind, serde_json::from_str(data).unwrap());
                }
            }
        }
    };
    site.marca_done(&["fail", "web1"]);
    let mut missed = listen("last-event-id: 0\r\n");
    let (kind, event) = missed();
    assert_eq!((kind.as_str(), &event["id"], &event["text"]), ("health", &json!(1), &json!("shop/web1 has failed")));
    assert_eq!((&event["service"], &event["server"]), (&json!("shop"), &json!("web1")));
    let (kind, event) = missed();
    assert_eq!((kind.as_str(), &event["service"], &event["server"]), ("quorum", &json!("shop"), &Value::Null));
    assert!(event["text"].as_str().unwrap().starts_with("shop is below its quorum for IPv4"), "{event}");
    site.marca_done(&["restore", "web1"]);
    // Between them, what that means to the service.
    while missed().1["text"] != "shop/web1 serves again" {}
    site.reload(&configuration(&site, &[2]));
    let mut told = missed();
    while told.0 != "reload" {
        told = missed();
    }
    let (_, event) = told;
    assert!(event["text"].as_str().unwrap().starts_with("configuration replaced: 1 services"), "{event}");
    site.write("faulty");
    assert_eq!(site.marca(&["reload"]).status.code(), Some(2));
    assert!(missed().1["text"].as_str().unwrap().starts_with("nothing was changed: error"));

    // Listeners end with the daemon, of which they hear, and do not hold it up.
    let began = Instant::now();
    site.stop();
    while missed().0 != "stop" {}
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    wait_until("nobody answers", || UnixStream::connect(site.run_dir().join("control")).is_err());
    assert_eq!(site.status().daemon(), None, "the tables go on counting");
}

#[test]
fn members_of_the_group_may_ask_and_others_may_not() {
    const GROUP: &str = "4242";
    let mut site = Site::routed("api group", 1);
    let groups = site.dir.join("group");
    let usual = std::fs::read_to_string("/etc/group").unwrap();
    let others: String =
        usual.lines().filter(|line| !line.starts_with("marca:")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&groups, format!("{others}marca:x:{GROUP}:\n")).unwrap();
    site.groups = Some(groups);
    site.options = vec!["--log-format", "json"];
    site.run(&configuration(&site, &[1]));
    let as_nobody = |groups: &[&str], arguments: &[&str]| {
        let mut command = site.net.director().command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--no-new-privs"]).args(groups).arg(crate::site::MARCA);
        site.with_place(command, arguments).output().unwrap()
    };
    let member = format!("--groups={GROUP}");
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let status = as_nobody(&[&member], &["status", "--json"]);
    let status: Value = serde_json::from_str(&said(&status)).unwrap_or_else(|error| panic!("{error}: {status:?}"));
    assert_eq!(status["services"][0]["name"], "shop");
    let drained = as_nobody(&[&member], &["drain", "web1"]);
    assert!(said(&drained).starts_with("shop/web1 drains\n"), "{drained:?}");
    let top = as_nobody(&[&member], &["top", "--once"]);
    assert!(top.status.success() && said(&top).contains("shop"), "{top:?}");
    for arguments in [&["status"][..], &["undrain", "web1"]] {
        let refused = as_nobody(&["--clear-groups"], arguments);
        assert!(!refused.status.success(), "{refused:?}");
        let why = String::from_utf8_lossy(&refused.stderr).to_lowercase();
        assert!(why.contains("permission denied") || why.contains("may not"), "{why}");
    }
    assert_eq!(site.status().0["services"][0]["servers"][0]["state"], "draining");

    // Each line that it has written is an object, whatever it is about.
    site.marca_done(&["undrain", "web1"]);
    site.write("faulty");
    assert_eq!(site.marca(&["reload"]).status.code(), Some(2));
    let said = site.terminate();
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{said}")))
        .collect();
    for part in ["ready: data plane loaded", "shop/web1 is no longer drained", "nothing was changed", "the daemon ends"]
    {
        let has = |line: &&Value| line["message"].as_str().is_some_and(|message| message.contains(part));
        let line = lines.iter().find(has).unwrap_or_else(|| panic!("{part} is not in {said}"));
        assert!(line["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
        let level = if part == "nothing was changed" { "ERROR" } else { "INFO" };
        assert_eq!(line["level"], level, "{line}");
    }
}

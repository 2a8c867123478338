//! What Prometheus gets of a director.

use crate::site::{Site, host, wait_until};
use marca_testkit::topology::VIPS;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

fn configuration(site: &Site, metrics: &str, weights: &[u16]) -> String {
    let (router, servers) = (site.router(), site.weighted("shop", weights));
    format!("{router}[metrics]\n{metrics}\n[service.shop]\nvip = '{}'\nports = 'tcp/80'\n{servers}", VIPS[0].v4)
}

/// Status code, content type and text of an answer, asked for on the director itself.
fn get(site: &Site, url: &str, arguments: &[&str]) -> (u32, String, String) {
    // An answer is as good as a new one for a moment.
    std::thread::sleep(Duration::from_millis(250));
    let mut curl = site.net.director().command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code} %{content_type}"]);
    let output = curl.args(arguments).arg(url).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (text, end) = said.rsplit_once('\n').unwrap();
    let (code, kind) = end.split_once(' ').unwrap();
    (code.parse().unwrap(), kind.to_owned(), text.to_owned())
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

/// `promtool check metrics` finds nothing to say.
fn check(text: &str) {
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn prometheus_gets_what_status_says_and_a_reload_says_where() {
    const URL: &str = "http://127.0.0.1:9797/metrics";
    let mut site = Site::routed("metrics", 2);
    let _servers = site.serve();
    let ask = |site: &Site| site.ask(site.net.client_address(0).v4, &format!("http://{}/", host(VIPS[0].v4)));
    site.run(&configuration(&site, "listen = '127.0.0.1:9797'", &[1, 1]));
    (0..6).for_each(|_| drop(ask(&site)));
    site.daemon_says("metrics are served on http://127.0.0.1:9797/metrics");
    let (code, kind, text) = get(&site, URL, &[]);
    assert_eq!((code, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    check(&text);
    let status = site.status();
    for (series, number) in [
        ("marca_connections_total", status.total("shop", "connections")),
        ("marca_service_connections_total{service=\"shop\"}", 6),
        ("marca_service_in_bytes_total{service=\"shop\"}", status.total("shop", "in_bytes")),
        ("marca_server_out_packets_total{service=\"shop\",server=\"web2\"}", status.each("shop", "out_packets")[1]),
        ("marca_server_up{service=\"shop\",server=\"web1\"}", 1),
        ("marca_servers{state=\"up\"}", 2),
        ("marca_packets_total{reason=\"nat\",action=\"send\"}", status.reason("nat")),
        ("marca_table_size_records{table=\"flows\"}", 16384),
    ] {
        assert_eq!(value(&text, series), number as f64, "{series}");
    }
    let (code, kind, text) =
        get(&site, URL, &["--header", "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1"]);
    assert_eq!((code, kind.as_str()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(get(&site, "http://127.0.0.1:9797/", &[]).0, 404);
    assert_eq!(get(&site, URL, &["--data", "x"]).0, 405);
    assert_eq!(get(&site, URL, &["--header", &format!("X: {}", "x".repeat(10_000))]).0, 431);

    // A server leaves and what it has counted stays; the address is another one, and series are fewer.
    site.reload(&configuration(&site, "listen = '[::1]:9798'\ndetail = 'services'", &[1]));
    let get = |site: &Site| get(site, "http://[::1]:9798/metrics", &["--retry", "20", "--retry-connrefused"]).2;
    let text = get(&site);
    assert_eq!(value(&text, "marca_service_connections_total{service=\"shop\"}"), 6.0);
    assert!(!text.contains("marca_server_"), "{text}");
    assert!(site.net.director().enter(|| std::net::TcpStream::connect("127.0.0.1:9797")).is_err());

    // Another daemon adopts the data plane and begins to count.
    site.terminate();
    site.run(&configuration(&site, "listen = '[::1]:9798'", &[1]));
    let before = value(&get(&site), "marca_server_connections_total{service=\"shop\",server=\"web1\"}");
    ask(&site);
    wait_until("the connection is counted", || {
        value(&get(&site), "marca_service_connections_total{service=\"shop\"}") == 1.0
    });
    assert_eq!(value(&get(&site), "marca_server_connections_total{service=\"shop\",server=\"web1\"}"), before + 1.0);
}

#[test]
fn an_address_that_is_taken_keeps_nobody_from_forwarding() {
    let mut site = Site::routed("metrics taken", 1);
    let _servers = site.serve();
    let listen = || std::net::TcpListener::bind("127.0.0.1:9797").unwrap();
    let other = site.net.director().enter(listen);
    site.run(&configuration(&site, "listen = '127.0.0.1:9797'", &[1]));
    site.daemon_says("serve metrics on 127.0.0.1:9797: Address already in use");
    assert_eq!(site.ask(site.net.client_address(0).v4, &format!("http://{}/", host(VIPS[0].v4))), "web1");
    drop(other);
    site.daemon_says("metrics are served on");
}

#[test]
fn a_real_prometheus_scrapes_and_answers() {
    let mut site = Site::routed("prometheus", 2);
    let _servers = site.serve();
    let config = configuration(&site, "listen = '127.0.0.1:9797'", &[1, 1]);
    site.run(
        &config.replace("ports = 'tcp/80'\n", "ports = 'tcp/80'\ncheck = { http = '/healthz', interval = '100ms' }\n"),
    );
    let (file, data) = (site.dir.join("prometheus.yml"), site.dir.join("prometheus"));
    std::fs::write(
        &file,
        "global: { scrape_interval: 200ms, scrape_timeout: 200ms }\nscrape_configs:\n  - job_name: marca\n    static_configs:\n      \
         - targets: ['127.0.0.1:9797']\n",
    )
    .unwrap();
    let mut prometheus = site.net.director().command("prometheus");
    prometheus.arg(format!("--config.file={}", file.display())).arg(format!("--storage.tsdb.path={}", data.display()));
    let listen = ["--web.listen-address=127.0.0.1:9090", "--log.level=warn"];
    let _prometheus = marca_testkit::topology::Process::spawn(prometheus.args(listen)).unwrap();
    (0..6).for_each(|_| drop(site.ask(site.net.client_address(0).v4, &format!("http://{}/", host(VIPS[0].v4)))));
    let query = |query: &str| -> Option<String> {
        let mut curl = site.net.director().command("curl");
        curl.args(["--silent", "--max-time", "10", "--get", "--data-urlencode", &format!("query={query}")]);
        let output = curl.arg("http://127.0.0.1:9090/api/v1/query").output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(answer["data"]["result"][0]["value"][1].as_str()?.to_owned())
    };
    let answers = |text: &str, value: &str| wait_until(text, || query(text).as_deref() == Some(value));
    answers("up{job=\"marca\"}", "1");
    answers("sum(marca_service_connections_total{service=\"shop\"})", "6");
    answers("marca_server_check_up{service=\"shop\",server=\"web2\",check=\"http/80 /healthz\"}", "1");
    answers("count(marca_server_up == 1)", "2");
    answers("sum(rate(marca_checks_total{result=\"good\"}[10s])) > bool 1", "1");
    answers(
        "histogram_quantile(0.5, sum by (le) (rate(marca_check_duration_seconds_bucket{kind=\"http\"}[10s]))) < bool 2",
        "1",
    );
    answers("sum(marca_server_closed_ports)", "0");
    answers("marca_table_age_seconds{table=\"flows\"} < bool 60", "1");
}

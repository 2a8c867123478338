//! `marca top` in a terminal.

use crate::site::{ECHO, Site, wait_until};
use marca_testkit::topology::VIPS;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// A program in a terminal of eighty columns: what is typed there, and what it has written so far.
struct Terminal {
    child: std::process::Child,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open(site: &Site, arguments: &str) -> Self {
        let (program, run, pin) = (env!("CARGO_BIN_EXE_marca"), site.run_dir(), site.pin_dir().to_owned());
        let (run, pin) = (run.display(), pin.display());
        let line = format!("stty rows 24 cols 80; exec {program} {arguments} --run-dir {run} --pin-dir {pin}");
        // It makes the terminal.
        let mut script = site.net.director().command("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut output, written) = (child.stdout.take().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut piece) {
                seen.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        Self { child, written }
    }

    fn shows(&self, text: &str) {
        wait_until(text, || String::from_utf8_lossy(&self.written.lock().unwrap()).contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }
}

#[test]
fn an_operator_goes_from_a_service_to_one_servers_connections_and_out() {
    let mut site = Site::routed("top", 1);
    let _servers = site.serve();
    let (router, servers, vip) = (site.router(), site.servers("shop"), VIPS[0].v4);
    site.run(&format!("{router}[service.shop]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/{ECHO}']\n{servers}"));
    let client = site.net.client_address(0).v4;
    let mut session = site.session(client, vip);
    session.say("hello").unwrap();
    let mut terminal = Terminal::open(&site, "top --interval 0.2");
    terminal.shows("shop");
    terminal.press("\r");
    terminal.shows("web1");
    terminal.press("\r");
    terminal.shows("established");
    terminal.shows(&client.to_string());
    // Also while no daemon runs.
    site.terminate();
    terminal.shows("NO DAEMON");
    terminal.press("q");
    let status = terminal.child.wait().unwrap();
    assert!(status.success(), "{status}");
    // The terminal is given back: the other screen is left, the cursor shown.
    terminal.shows("\x1b[?1049l");
    terminal.shows("\x1b[?25h");
}

#[test]
fn without_a_terminal_it_prints_once_or_is_refused() {
    let mut site = Site::routed("top once", 1);
    let _servers = site.serve();
    let (router, servers, vip) = (site.router(), site.servers("shop"), VIPS[0].v4);
    site.run(&format!("{router}[service.shop]\nvip = '{vip}'\nports = 'tcp/80'\n{servers}"));
    let told = site.marca_done(&["top", "--once", "--interval", "0.1"]);
    assert!(told.lines().any(|line| line.starts_with("shop ") && line.contains(" 1/1 ")), "{told}");
    assert_eq!(site.marca_done(&["top", "--once", "--interval", "0.1", "--filter", "mail"]).lines().count(), 1);
    let refused = site.marca(&["top"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--once"));
}

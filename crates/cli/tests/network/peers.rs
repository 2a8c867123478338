//! Servers and clients that know nothing of marca: nginx, curl, iperf3, traceroute, and a UDP echo in Python.

use crate::site::{PATIENCE, host};
use marca_testkit::topology::{Namespace, Process, Topology};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What these tests need of Debian. The services that come with them are not used and need not run.
pub const PACKAGES: [&str; 13] = [
    "curl",
    "faketime",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "lftp",
    "nftables",
    "nginx-light",
    "openssl",
    "python3",
    "traceroute",
    "util-linux",
    "vsftpd",
];

#[test]
fn the_programs_of_the_peers_are_installed() {
    for program in
        ["curl", "iperf3", "ip", "lftp", "nft", "nginx", "nsenter", "openssl", "ping", PYTHON, "traceroute", "vsftpd"]
    {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
        assert!(found.status.success(), "there is no {program}: apt-get install {}", PACKAGES.join(" "));
    }
}

/// Debian's: the first in the path may be anybody's.
const PYTHON: &str = "/usr/bin/python3";

/// The files that every nginx serves.
pub struct Content {
    dir: PathBuf,
}

/// What a download fetches.
pub const LARGE: usize = 10_000_000;

impl Content {
    /// A certificate, and `large.bin` of random bytes.
    pub fn make(dir: &Path) -> Self {
        let random = fs::File::open("/dev/urandom").unwrap();
        let mut large = fs::File::create(dir.join("large.bin")).unwrap();
        std::io::copy(&mut std::io::Read::take(random, LARGE as u64), &mut large).unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=shop", "-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { dir: dir.to_owned() }
    }

    pub fn large(&self) -> PathBuf {
        self.dir.join("large.bin")
    }
}

/// A real server in each server namespace: `web1` and so on.
pub struct Farm {
    nginx: Vec<(String, Nginx)>,
    _udp: Vec<Process>,
}

impl Farm {
    pub fn start(net: &Topology, content: &Content) -> Self {
        let named = || (1..).map(|number| format!("web{number}")).zip(net.servers());
        let nginx = named().map(|(name, server)| (name.clone(), Nginx::start(server, &name, content))).collect();
        let udp = named().map(|(name, server)| udp_echo(server, &name)).collect();
        Self { nginx, _udp: udp }
    }

    /// Ends the nginx on 443 of a server.
    pub fn stop_https(&mut self, server: &str) {
        let (_, nginx) = self.nginx.iter_mut().find(|(name, _)| name == server).unwrap();
        nginx.https = None;
    }

    /// Starts it again, in its namespace.
    pub fn start_https(&mut self, server: &str, namespace: &Namespace) {
        let (_, nginx) = self.nginx.iter_mut().find(|(name, _)| name == server).unwrap();
        nginx.https = Some(listening(namespace, &nginx.prefix, 443));
    }

    /// A file that was put below `/upload/` of a server.
    pub fn uploaded(&self, server: &str, file: &str) -> Vec<u8> {
        let (_, nginx) = self.nginx.iter().find(|(name, _)| name == server).unwrap();
        fs::read(nginx.prefix.join("files/upload").join(file)).unwrap()
    }
}

/// An nginx of its own configuration: HTTP on 80, and another one for HTTPS on 443, in both families, answers its name, serves
/// `/large.bin`, and takes what is put below `/upload/`.
struct Nginx {
    prefix: PathBuf,
    _http: Process,
    https: Option<Process>,
}

impl Nginx {
    fn start(namespace: &Namespace, name: &str, content: &Content) -> Self {
        let prefix = content.dir.join(format!("nginx-{name}"));
        fs::create_dir_all(prefix.join("files/upload")).unwrap();
        fs::hard_link(content.large(), prefix.join("files/large.bin")).unwrap();
        let keys = content.dir.display();
        let http = "listen [::]:80 ipv6only=on; listen 0.0.0.0:80;".to_owned();
        let https = format!(
            "listen [::]:443 ssl ipv6only=on; listen 0.0.0.0:443 ssl;
             ssl_certificate {keys}/cert.pem; ssl_certificate_key {keys}/key.pem;"
        );
        for (port, listen) in [(80, http), (443, https)] {
            fs::write(prefix.join(format!("{port}.conf")), configuration(name, &prefix, port, &listen)).unwrap();
        }
        let http = listening(namespace, &prefix, 80);
        let https = Some(listening(namespace, &prefix, 443));
        Self { prefix, _http: http, https }
    }
}

/// The one for this port, once it listens.
fn listening(namespace: &Namespace, prefix: &Path, port: u16) -> Process {
    let mut command = namespace.command("nginx");
    command.arg("-p").arg(prefix).arg("-c").arg(prefix.join(format!("{port}.conf"))).args(["-e", "stderr"]);
    let process = Process::spawn(&mut command).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // The one of IPv4 is the last that it opens.
    while namespace.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()) {
        assert!(Instant::now() < deadline, "nginx does not listen; it wrote:\n{}", process.output());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    process
}

fn configuration(name: &str, prefix: &Path, port: u16, listen: &str) -> String {
    let prefix = prefix.display();
    // One process, in the foreground: what is started here ends here.
    format!(
        "daemon off; master_process off; pid {prefix}/{port}.pid; error_log stderr error;
        events {{ worker_connections 512; }}
        http {{
            access_log off;
            client_max_body_size 0;
            client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
            uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
            server {{
                {listen}
                add_header X-Served-By {name} always;
                root {prefix}/files;
                location = / {{ default_type text/plain; return 200 {name}; }}
                location /upload/ {{ dav_methods PUT; }}
            }}
        }}\n"
    )
}

/// Echoes datagrams to port 443 after its name, from the address that was asked.
fn udp_echo(namespace: &Namespace, name: &str) -> Process {
    let echo = namespace.spawn(PYTHON, ["-c", UDP_ECHO, name, "443"]).unwrap();
    echo.wait_for_line("ready", PATIENCE).unwrap();
    echo
}

/// The sockets are bound to all addresses, so each answer is told its source: RFC 3542 §6.1 for IPv6, ip(7) for IPv4.
const UDP_ECHO: &str = r#"
import socket, struct, sys, threading

name, port = sys.argv[1].encode(), int(sys.argv[2])
IP_PKTINFO = 8

def serve(family, anywhere, level, receive, kind, answer_from):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(level, receive, 1)
    s.bind((anywhere, port))
    def loop():
        while True:
            data, control, _, client = s.recvmsg(65536, 256)
            info = next(c for (l, k, c) in control if (l, k) == (level, kind))
            s.sendmsg([name + b": " + data], [(level, kind, answer_from(info))], 0, client)
    threading.Thread(target=loop).start()

serve(socket.AF_INET, "0.0.0.0", socket.IPPROTO_IP, IP_PKTINFO, IP_PKTINFO,
      lambda info: struct.pack("=I4s4s", 0, info[8:12], bytes(4)))
serve(socket.AF_INET6, "::", socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO,
      lambda info: info[:16] + bytes(4))
print("ready", flush=True)
"#;

/// A client at one address.
#[derive(Clone, Copy)]
pub struct Curl<'n> {
    pub namespace: &'n Namespace,
    pub from: IpAddr,
}

impl Curl<'_> {
    /// The body of the answer.
    pub fn get(&self, url: &str) -> String {
        self.done(url, &[])
    }

    /// Asks for `/` of a VIP: the name of the server.
    pub fn ask(&self, scheme: &str, vip: IpAddr) -> String {
        self.get(&format!("{scheme}://{}/", host(vip)))
    }

    /// With further arguments; must succeed.
    pub fn done(&self, url: &str, arguments: &[&str]) -> String {
        let output = self.command(url, arguments).output().unwrap();
        let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{url} from {}: {complaint}", self.from);
        said.into_owned()
    }

    pub fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command("curl");
        // No configuration and no proxy of the machine's, any certificate, an error for any status but 2xx.
        command.args(["-q", "--noproxy", "*", "-sS", "--insecure", "--fail", "--globoff", "--http1.1"]);
        command.args(["--max-time", "60", "--interface", &self.from.to_string()]).args(arguments).arg(url);
        command
    }
}

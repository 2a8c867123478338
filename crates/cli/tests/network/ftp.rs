//! FTP in every forwarding method and every way to make data connections, between vsftpd and lftp or curl.

use crate::methods::{Family, V4, V6, prepare_tunnel};
use crate::site::{PATIENCE, Site, Status, host};
use marca_daemon::linux::offload::set_tx_checksum;
use marca_testkit::topology::{DualStack, IN, OUT, Process, Topology, VIPS};
use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Nothing is set on the servers: control connections are read.
#[test]
fn ftp_through_nat_that_reads_it() {
    let mut site = Site::routed("ftp read", SERVERS);
    let farm = Farm::start(&site, "");
    let DualStack { v4, v6 } = VIPS[0];
    site.run(&format!(
        "{}[service.files]\nvip = ['{v4}', '{v6}']\nprotocol = 'ftp'\nscheduler = 'maglev'\n{}",
        site.router(),
        site.servers("files"),
    ));
    let status = farm.check(&site);
    assert!(status.reason("ftp_announced") >= 2 * EVERY_WAY.len() as u64, "one for each transfer");
    assert_eq!(status.reason("ftp_unfollowed"), 0);
}

/// TC gets segments that are still to be cut, with checksums that are still to be computed. On the director's own way out
/// they are, so that whoever gets them verifies what has become of a rewritten line's.
#[test]
fn ftp_through_nat_that_reads_it_by_tc_with_all_offloads_on() {
    let net = Topology::routed("cli ftp tc", SERVERS).unwrap().with_offloads().unwrap();
    let mut site = Site::around("ftp tc", net).by_tc();
    site.net.director().enter(|| [OUT, IN].into_iter().for_each(|name| set_tx_checksum(name, false).unwrap()));
    let farm = Farm::start(&site, "");
    let DualStack { v4, v6 } = VIPS[0];
    site.run(&format!(
        "{}[service.files]\nvip = ['{v4}', '{v6}']\nprotocol = 'ftp'\n{}",
        site.router(),
        site.servers("files"),
    ));
    let status = farm.check(&site);
    assert!(status.reason("ftp_announced") >= 2 * EVERY_WAY.len() as u64, "one for each transfer");
    assert_eq!(status.reason("ftp_unfollowed"), 0);
    let mean = status.total("files", "in_bytes") / status.total("files", "in_packets");
    assert!(mean > 2000, "packets that stand for many, or this shows nothing: {mean} bytes");
}

/// The programs that read it are not loaded before a configuration needs them.
#[test]
fn ftp_is_read_after_a_reload_asks_for_it() {
    comes_by_reload(Site::routed("ftp reload", SERVERS));
}

#[test]
fn ftp_is_read_by_tc_after_a_reload_asks_for_it() {
    comes_by_reload(Site::routed("ftp reload tc", SERVERS).by_tc());
}

fn comes_by_reload(mut site: Site) {
    let farm = Farm::start(&site, "");
    let DualStack { v4, v6 } = VIPS[0];
    let text = |protocol: &str| {
        let (router, servers) = (site.router(), site.servers("files"));
        format!("{router}[service.files]\nvip = ['{v4}', '{v6}']\n{protocol}\n{servers}")
    };
    let (before, after) = (text("ports = ['tcp/80']"), text("protocol = 'ftp'"));
    site.run(&before);
    site.reload(&after);
    let status = farm.check(&site);
    assert!(status.reason("ftp_announced") >= 2 * EVERY_WAY.len() as u64, "one for each transfer");
    assert_eq!(status.reason("ftp_unfollowed"), 0);
}

/// As the manuals do it: the servers name the VIP, the passive ports are the service's, and what they open from port 20
/// leaves as the VIP.
#[test]
fn ftp_through_nat_by_grouping() {
    let mut site = Site::routed("ftp nat", SERVERS);
    let DualStack { v4, v6 } = VIPS[0];
    let farm = Farm::start(&site, &format!("{PASSIVE_PORTS}pasv_address={v4}\n"));
    site.run(&format!(
        "{}[service.files]\nvip = ['{v4}', '{v6}']\nports = ['tcp/21', 'tcp/10000-10100']\noutbound = ['tcp/20']\n\
         scheduler = 'rr'\npersist = '5m'\n{}",
        site.router(),
        site.servers("files"),
    ));
    farm.check(&site);
}

#[test]
fn ftp_by_direct_routing() {
    grouped("dr");
}

#[test]
fn ftp_through_tunnels() {
    grouped("tunnel");
}

fn grouped(method: &str) {
    let mut site = Site::flat(&format!("ftp {method}"), SERVERS);
    let DualStack { v4, v6 } = VIPS[0];
    for server in site.net.servers() {
        VIPS[0].both().into_iter().for_each(|vip| server.hold_vip(vip).unwrap());
    }
    if method == "tunnel" {
        prepare_tunnel(&site, V4);
    }
    let farm = Farm::start(&site, PASSIVE_PORTS);
    // Tunnels are all of one family, whatever is in them.
    let tunnels =
        |index: usize| format!("[[service.files.server]]\naddress = '{}'\n", V4.of(site.net.server_address(index)));
    let servers = if method == "tunnel" { (0..SERVERS).map(tunnels).collect() } else { site.servers("files") };
    site.run(&format!(
        "{}[service.files]\nvip = ['{v4}', '{v6}']\nprotocol = 'ftp'\npassive = '10000-10100'\nforward = '{method}'\n\
         scheduler = 'rr'\npersist = '5m'\n{servers}",
        site.router(),
    ));
    farm.check(&site);
}

const SERVERS: usize = 2;
const LARGE: usize = 50_000_000;
const PASSIVE_PORTS: &str = "pasv_min_port=10000\npasv_max_port=10100\n";

/// A client's program, what it is told, and over which family.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `PORT`, or over IPv6 `EPRT`.
    LftpActive(Family),
    /// `PASV`, or over IPv6 `EPSV`.
    LftpPassive(Family),
    /// `EPRT` over IPv4.
    CurlActive,
    /// `EPSV` over IPv4.
    CurlPassive,
}

const EVERY_WAY: [Way; 6] = [
    Way::LftpActive(V4),
    Way::LftpActive(V6),
    Way::LftpPassive(V4),
    Way::LftpPassive(V6),
    Way::CurlActive,
    Way::CurlPassive,
];

/// A vsftpd in each server namespace.
struct Farm {
    large: PathBuf,
    content: Vec<u8>,
    roots: Vec<PathBuf>,
    _processes: Vec<Process>,
}

impl Farm {
    fn start(site: &Site, extra: &str) -> Self {
        let random = fs::File::open("/dev/urandom").unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(random, LARGE as u64), &mut content).unwrap();
        let large = site.dir.join("large.bin");
        fs::write(&large, &content).unwrap();
        let (mut roots, mut processes) = (Vec::new(), Vec::new());
        for (index, server) in site.net.servers().iter().enumerate() {
            let home = site.dir.join(format!("vsftpd{index}"));
            let root = home.join("root");
            fs::create_dir_all(root.join("pub")).unwrap();
            fs::create_dir_all(home.join("empty")).unwrap();
            // Anonymous clients may write there, and are not root.
            fs::set_permissions(root.join("pub"), Permissions::from_mode(0o777)).unwrap();
            fs::hard_link(&large, root.join("large.bin")).unwrap();
            fs::write(home.join("vsftpd.conf"), configuration(&home, extra)).unwrap();
            let mut command = server.command("vsftpd");
            let process = Process::spawn(command.arg(home.join("vsftpd.conf"))).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while server.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 21)).is_err()) {
                assert!(Instant::now() < deadline, "vsftpd does not listen; it wrote:\n{}", process.output());
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            roots.push(root);
            processes.push(process);
        }
        Self { large, content, roots, _processes: processes }
    }

    /// Every way at once, each by a client of its own.
    fn check(&self, site: &Site) -> Status {
        std::thread::scope(|scope| {
            for (number, way) in EVERY_WAY.into_iter().enumerate() {
                scope.spawn(move || self.there_and_back(site, number, way));
            }
        });
        let status = site.status();
        // The control connections, and in passive mode one for each transfer.
        assert!(status.total("files", "connections") >= 2 * EVERY_WAY.len() as u64);
        for reason in ["not_member", "no_flow", "table_full", "inconsistent"] {
            assert_eq!(status.reason(reason), 0, "{reason}");
        }
        status
    }

    /// The large file comes and goes, byte for byte.
    fn there_and_back(&self, site: &Site, number: usize, way: Way) {
        let fetched = site.dir.join(format!("fetched{number}.bin"));
        let sent = format!("sent{number}.bin");
        let home = site.dir.join(format!("home{number}"));
        fs::create_dir_all(&home).unwrap();
        let mut command = match way {
            Way::LftpActive(family) | Way::LftpPassive(family) => {
                let from = family.of(site.net.client_address(number));
                let passive = matches!(way, Way::LftpPassive(_));
                self.lftp(site, from, family.of(VIPS[0]), passive, &fetched, &sent)
            }
            Way::CurlActive | Way::CurlPassive => {
                let from = V4.of(site.net.client_address(number));
                self.curl(site, from, matches!(way, Way::CurlPassive), &fetched, &sent)
            }
        };
        let output = command.env("HOME", &home).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{way:?}: {said}");
        assert!(fs::read(&fetched).unwrap() == self.content, "{way:?}: the download differs");
        fs::remove_file(&fetched).unwrap();
        let arrived: Vec<PathBuf> =
            self.roots.iter().map(|root| root.join("pub").join(&sent)).filter(|file| file.exists()).collect();
        let [arrived] = &arrived[..] else { panic!("{way:?}: {arrived:?}: {said}") };
        assert!(fs::read(arrived).unwrap() == self.content, "{way:?}: the upload differs");
        fs::remove_file(arrived).unwrap();
    }

    fn lftp(&self, site: &Site, from: IpAddr, vip: IpAddr, passive: bool, fetched: &Path, sent: &str) -> Command {
        let family = if from.is_ipv4() { "4" } else { "6" };
        let script = format!(
            "set cmd:fail-exit yes; set net:timeout 30; set net:max-retries 1; set net:socket-bind-ipv{family} {from};
             set ftp:ssl-allow no; set ftp:passive-mode {}; set ftp:fix-pasv-address no; set xfer:clobber yes;
             set ftp:use-feat no; set cmd:interactive no;
             open ftp://anonymous:x@{}/;
             get large.bin -o {};
             put {} -o pub/{sent};
             bye",
            if passive { "on" } else { "off" },
            host(vip),
            fetched.display(),
            self.large.display(),
        );
        let mut command = site.net.client().command("lftp");
        command.args(["--norc", "-c", &script]);
        command
    }

    fn curl(&self, site: &Site, from: IpAddr, passive: bool, fetched: &Path, sent: &str) -> Command {
        let url = format!("ftp://{}", VIPS[0].v4);
        let mut command = site.net.client().command("curl");
        let from = from.to_string();
        let common = ["-q", "--noproxy", "*", "-sS", "--fail", "--globoff", "--max-time", "60", "--interface", &from];
        let way: &[&str] = if passive { &["--no-ftp-skip-pasv-ip"] } else { &["--ftp-port", &from] };
        command.args(common).args(way).arg("-o").arg(fetched).arg(format!("{url}/large.bin")).arg("--next");
        command.args(common).args(way).arg("-T").arg(&self.large).arg(format!("{url}/pub/{sent}"));
        command
    }
}

/// Anonymous clients fetch everything, and send into `pub`. Without the sandboxes, which not every kernel has.
fn configuration(home: &Path, extra: &str) -> String {
    let home = home.display();
    format!(
        "listen=NO\nlisten_ipv6=YES\nbackground=NO\nseccomp_sandbox=NO\nisolate_network=NO\nisolate=NO\n\
         anonymous_enable=YES\nno_anon_password=YES\nlocal_enable=NO\nwrite_enable=YES\nanon_upload_enable=YES\n\
         anon_world_readable_only=NO\nanon_umask=022\nanon_root={home}/root\nsecure_chroot_dir={home}/empty\n\
         connect_from_port_20=YES\nxferlog_enable=NO\nuse_localtime=NO\n{extra}"
    )
}

//! What a service may be: VIPs of both families, servers shared with others, other ports behind, the director itself.

use crate::site::{ECHO, PATIENCE, Site, host, serve};
use marca_testkit::peer::{Offer, Server};
use marca_testkit::topology::VIPS;
use std::iter::zip;
use std::net::IpAddr;

#[test]
fn services_of_both_families_share_their_servers() {
    let mut site = Site::routed("shared servers", 2);
    let [shop, files] = VIPS;
    site.run(&format!(
        "{}[service.shop]\nvip = ['{}', '{}']\nports = ['tcp/80', 'tcp/443 -> 8443', 'udp/443 -> 4430']\n\
         scheduler = 'rr'\npersist = '5m'\n{}\
         [service.files]\nvip = ['{}', '{}']\nports = ['tcp/80', 'tcp/81 -> 80']\nscheduler = 'rr'\n{}",
        site.router(),
        shop.v4,
        shop.v6,
        site.servers("shop"),
        files.v4,
        files.v6,
        site.servers("files"),
    ));
    let offer = |name: &str| Offer {
        name: name.into(),
        http: vec![80],
        https: vec![8443],
        udp: vec![4430],
        ..Offer::default()
    };
    let start =
        |(namespace, name): (&marca_testkit::topology::Namespace, &str)| namespace.enter(|| Server::start(offer(name)));
    let _servers: Vec<Server> = zip(site.net.servers(), ["web1", "web2"]).map(start).collect::<Result<_, _>>().unwrap();

    for index in 0..4 {
        for (from, (shop, files)) in zip(site.net.client_address(index).both(), zip(shop.both(), files.both())) {
            let (shop, files) = (host(shop), host(files));
            let server = site.ask(from, &format!("http://{shop}/"));
            for url in [format!("https://{shop}/"), format!("udp://{shop}:443/x"), format!("http://{shop}/again")] {
                assert_eq!(site.ask(from, &url), server, "{url}");
            }
            // The other service has turns of its own, and shares nothing but the servers.
            let first = site.try_ask(from, &format!("http://{files}/")).unwrap();
            let second = site.try_ask(from, &format!("http://{files}:81/")).unwrap();
            assert_ne!(first.server, second.server);
            assert_eq!(first.client.unwrap().ip(), from);
        }
    }
    let status = site.status();
    assert_eq!((status.total("shop", "connections"), status.total("files", "connections")), (32, 16));
    assert_eq!(status.each("files", "connections"), [8, 8]);
}

#[test]
fn the_director_itself_can_be_a_real_server() {
    let mut site = Site::routed("local", 1);
    let _web1 = serve(site.net.server(0), "web1");
    let _own = serve(site.net.director(), "director");
    let [v4, v6] = VIPS[0].both();
    site.run(&format!(
        "{}[service.shop]\nvip = ['{v4}', '{v6}']\nports = ['tcp/80', 'tcp/443', 'udp/443', 'tcp/{ECHO}']\n\
         scheduler = 'rr'\npersist = '5m'\n{}\
         [[service.shop.server]]\nname = 'director'\nforward = 'local'\n",
        site.router(),
        site.servers("shop"),
    ));
    let mut met = Vec::new();
    for (index, vip) in [v4, v4, v6, v6].into_iter().enumerate() {
        let from = site.net.client_address(index);
        let from: IpAddr = if vip.is_ipv4() { from.v4.into() } else { from.v6.into() };
        let server = site.ask(from, &format!("http://{}/", host(vip)));
        for url in [format!("https://{}/", host(vip)), format!("udp://{}:443/x", host(vip))] {
            assert_eq!(site.ask(from, &url), server, "{url}");
        }
        assert_eq!(site.session(from, vip).say("hello").unwrap(), server);
        met.push(server);
    }
    met[..2].sort();
    met[2..].sort();
    assert_eq!(met, ["director", "web1", "director", "web1"]);
    let status = site.status();
    assert_eq!(status.each("shop", "connections"), [8, 8]);
    assert!(status.reason("local") > 0);
    let body = site.try_ask(site.net.client_address(0).v4, &format!("http://{}/bytes/300000", host(v4))).unwrap().body;
    assert_eq!(body.len(), 300_000, "in less than {PATIENCE:?}");
}

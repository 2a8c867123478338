use super::model::{Event, Model, Page};
use super::sample::{Flow, Flows, Sample, Server, Service};
use super::view;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Size;
use std::time::{Duration, Instant};

fn server(number: usize, state: &str, counters: [u64; 5]) -> Server {
    Server {
        name: format!("web{number}"),
        addresses: vec![format!("10.0.0.{}", 10 + number % 200).parse().unwrap(), "fd00::11".parse().unwrap()],
        forward: "nat".into(),
        weight: 3,
        state: state.into(),
        seconds_left: (state == "draining").then_some(590),
        upper: 1000,
        active: 1234,
        inactive: 56,
        checks: match state {
            "down" => vec!["tcp/80 FAILS for 5m: connection refused, 3 times in a row".into(), "tcp/443 good".into()],
            _ => vec!["tcp/80 good".into(), "tcp/443 good".into()],
        },
        counters,
        ..Server::default()
    }
}

fn service(name: &str, servers: Vec<Server>) -> Service {
    Service {
        name: name.into(),
        vips: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        ports: vec!["tcp/80".into(), "tcp/443".into()],
        settings: "wlc nat persist 5m".into(),
        leaving: vec![],
        pool: servers.len() as u32,
        up: servers.iter().filter(|server| server.state == "up").count() as u32,
        active: servers.iter().map(|server| server.active).sum(),
        inactive: servers.iter().map(|server| server.inactive).sum(),
        states: states(&servers),
        servers,
        ..Service::default()
    }
}

fn states(servers: &[Server]) -> std::collections::BTreeMap<String, u32> {
    let mut states = std::collections::BTreeMap::new();
    servers.iter().for_each(|server| *states.entry(server.state.clone()).or_default() += 1);
    states
}

/// A director at a second, whose every server counts in proportion to it.
fn sample(second: u64, services: Vec<Service>) -> Sample {
    let mut services = services;
    for server in services.iter_mut().flat_map(|service| &mut service.servers) {
        server.counters = server.counters.map(|each| each * second);
    }
    for service in &mut services {
        service.at = Duration::from_secs(1000 + second);
        service.counters = std::array::from_fn(|i| service.servers.iter().map(|server| server.counters[i]).sum());
    }
    Sample {
        at: Duration::from_secs(1000 + second),
        took: Duration::from_millis(3),
        daemon: Some(4242),
        interfaces: vec![("eth0".into(), "native XDP".into()), ("eth1".into(), "native XDP".into())],
        services,
        tables: vec![
            ("flows".into(), 129_000, 1 << 20),
            ("half_open".into(), 40, 1 << 18),
            ("templates".into(), 0, 1 << 18),
        ],
        reasons: [("nat".into(), 100 * second), ("rate_limited".into(), 7 * second)].into(),
        drops: vec![],
    }
}

fn site() -> Vec<Service> {
    let fast = [120, 4_500, 2_250_000, 8_900, 11_000_000];
    let slow = [1, 3, 300, 2, 2_000];
    vec![
        service("shop", vec![server(1, "up", fast), server(2, "up", slow), server(3, "down", [0; 5])]),
        service("mail", vec![server(1, "draining", slow)]),
        service("an-uncommonly-long-name-of-a-service.example", vec![server(1, "up", slow), server(2, "up", slow)]),
    ]
}

/// After two looks, a second apart.
fn model() -> Model {
    let mut model = Model::new(Duration::from_secs(2), String::new());
    model.update(Event::Sample(sample(1, site())));
    model.update(Event::Sample(sample(2, site())));
    model
}

fn press(model: &mut Model, keys: impl IntoIterator<Item = KeyCode>) {
    keys.into_iter().for_each(|key| model.update(Event::Key(KeyEvent::new(key, KeyModifiers::NONE))));
}

fn write(model: &mut Model, text: &str) {
    press(model, text.chars().map(KeyCode::Char));
}

fn screen(model: &Model) -> String {
    let Size { width, height } = model.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(model, frame.buffer_mut())).unwrap();
    // It cannot be written when there is nothing of it.
    if width == 0 { String::new() } else { terminal.backend().to_string() }
}

/// The names in the list, as they stand on the screen.
fn listed(model: &Model) -> Vec<String> {
    let first = model.list().first;
    let rows = model.list().order.iter().skip(first).take(model.rows());
    match model.page {
        Page::Services => rows.map(|row| model.services()[*row as usize].name.clone()).collect(),
        Page::Servers(_) => rows.map(|row| model.servers()[*row as usize].name.clone()).collect(),
        Page::Flows(..) => rows.map(|row| model.connections()[*row as usize].client.to_string()).collect(),
    }
}

#[test]
fn services_fit_a_small_terminal() {
    insta::assert_snapshot!(screen(&model()));
}

#[test]
fn real_servers_of_a_service() {
    let mut model = model();
    press(&mut model, [KeyCode::Enter, KeyCode::Down, KeyCode::Down]);
    insta::assert_snapshot!(screen(&model));
}

#[test]
fn connections_of_a_real_server() {
    let mut model = model();
    press(&mut model, [KeyCode::Enter, KeyCode::Enter]);
    assert_eq!(model.wanted().flows_of, Some(("shop".into(), "web1".into())));
    let flow = |port, state, idle| Flow {
        protocol: "tcp".into(),
        client: format!("198.51.100.7:{port}").parse().unwrap(),
        vip: "[2001:db8::10]:443".parse().unwrap(),
        state: String::from(state),
        idle: Duration::from_secs(idle),
    };
    let flows = vec![flow(4242, "established", 12), flow(4243, "half-open", 0), flow(4244, "closing", 119)];
    model.update(Event::Flows(Flows { service: "shop".into(), server: "web1".into(), flows, more: false }));
    insta::assert_snapshot!(screen(&model));
    write(&mut model, "/4244");
    assert_eq!(listed(&model), ["198.51.100.7:4244"]);
}

#[test]
fn the_keys_are_explained() {
    let mut model = model();
    write(&mut model, "?");
    insta::assert_snapshot!(screen(&model));
    write(&mut model, "x");
    assert!(!model.help);
}

#[test]
fn the_busiest_service_is_first_and_arrows_sort_otherwise() {
    let mut model = model();
    assert_eq!(listed(&model)[0], "shop");
    press(&mut model, [KeyCode::Left; 20]);
    assert_eq!(listed(&model)[0], "an-uncommonly-long-name-of-a-service.example");
    write(&mut model, "r");
    assert_eq!(listed(&model)[0], "shop");
    press(&mut model, [KeyCode::Right]);
    assert_eq!(
        listed(&model),
        ["mail", "shop", "an-uncommonly-long-name-of-a-service.example"],
        "by the share that is up"
    );
    press(&mut model, [KeyCode::Right; 20]);
    assert_eq!(listed(&model)[0], "shop");
}

#[test]
fn a_filter_is_of_names_vips_and_ports_and_escape_takes_it_away() {
    let mut model = model();
    write(&mut model, "/MAI");
    press(&mut model, [KeyCode::Enter]);
    assert_eq!(listed(&model), ["mail"]);
    press(&mut model, [KeyCode::Enter]);
    assert_eq!(model.page, Page::Servers("mail".into()));
    press(&mut model, [KeyCode::Esc]);
    assert_eq!((listed(&model), model.filter.as_str()), (vec!["mail".to_owned()], "MAI"));
    press(&mut model, [KeyCode::Esc]);
    assert_eq!(listed(&model).len(), 3);
    write(&mut model, "/192.0.2.10");
    assert_eq!(listed(&model).len(), 3);
    write(&mut model, "9");
    assert!(listed(&model).is_empty());
    press(&mut model, [KeyCode::Enter, KeyCode::Enter, KeyCode::Down, KeyCode::End]);
    assert_eq!(model.page, Page::Services);
}

#[test]
fn the_cursor_stays_with_its_row_and_at_the_top_with_the_top() {
    let mut model = model();
    press(&mut model, [KeyCode::Down]);
    let name = listed(&model)[1].clone();
    let mut site = site();
    let place = site.iter().position(|service| service.name == name).unwrap();
    site[place].servers[0].counters = [1_000_000; 5];
    model.update(Event::Sample(sample(3, site.clone())));
    assert_eq!(listed(&model)[0], name, "it is the busiest now");
    assert_eq!(model.list().cursor, 0);
    press(&mut model, [KeyCode::Home]);
    site[place].servers[0].counters = [0; 5];
    model.update(Event::Sample(sample(4, site)));
    assert_eq!((model.list().cursor, listed(&model)[0].as_str()), (0, "shop"));
}

#[test]
fn a_service_that_is_gone_is_left() {
    let mut model = model();
    press(&mut model, [KeyCode::Enter, KeyCode::Enter]);
    assert_eq!(model.page, Page::Flows("shop".into(), "web1".into()));
    model.update(Event::Sample(sample(3, vec![site().remove(1)])));
    assert_eq!((model.page.clone(), listed(&model)), (Page::Services, vec!["mail".to_owned()]));
}

#[test]
fn rates_are_differences_and_a_counter_that_has_fallen_has_begun_anew() {
    let before =
        sample(1, vec![service("shop", vec![server(1, "up", [10, 100, 1000, 0, 0]), server(2, "up", [5; 5])])]);
    let mut after =
        sample(1, vec![service("shop", vec![server(2, "up", [1; 5]), server(1, "up", [30, 100, 5000, 8, 0])])]);
    after.at += Duration::from_secs(2);
    after.services[0].at += Duration::from_secs(2);
    let after = after.after(&before);
    let [web2, web1] = &after.services[0].servers[..] else { panic!("two") };
    assert_eq!((web1.rates.connections, web1.rates.in_packets, web1.rates.in_bytes), (10.0, 0.0, 2000.0));
    assert_eq!(web2.rates.connections, 0.5);
    assert_eq!(after.services[0].rates.connections, 8.0);
    // A moment that has not passed has no rates.
    assert_eq!(before.clone().after(&before).services[0].rates.connections, 0.0);
}

#[test]
fn servers_of_a_service_are_read_when_it_is_looked_at() {
    let mut model = model();
    let bare = |second| {
        let mut sample = sample(second, site());
        sample.services.iter_mut().for_each(|service| service.servers.clear());
        sample
    };
    model.update(Event::Sample(bare(3)));
    assert_eq!(model.wanted().service, None);
    press(&mut model, [KeyCode::Enter]);
    assert_eq!((model.wanted().service.as_deref(), model.servers().len()), (Some("shop"), 0));
    let looked_at = |second| sample(second, site()).services.remove(0);
    model.update(Event::Service(looked_at(3)));
    assert_eq!((model.servers().len(), model.servers()[0].rates.connections), (3, 0.0), "nothing to compare with yet");
    let mut next = bare(5);
    next.put(looked_at(5));
    model.update(Event::Sample(next));
    assert_eq!(model.servers()[0].rates.connections, 120.0);
    // Of a service that is smaller than it was.
    let mut fewer = bare(6);
    fewer.services[0].counters = [0; 5];
    model.update(Event::Sample(fewer));
    assert_eq!(model.services()[0].rates.connections, 0.0);
}

#[test]
fn an_unreadable_director_is_told_above_what_was_read_last() {
    let mut model = model();
    model.update(Event::Failed("no director runs here".into()));
    let told = screen(&model);
    assert!(told.contains("no director runs here") && told.contains("shop"), "{told}");
    model.update(Event::Sample(sample(3, site())));
    assert!(!screen(&model).contains("no director"));
}

#[test]
fn q_and_control_c_end_it_also_while_a_filter_is_written() {
    for (before, key) in
        [("", KeyEvent::from(KeyCode::Char('q'))), ("/q", KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL))]
    {
        let mut model = model();
        write(&mut model, before);
        assert!(!model.is_over());
        model.update(Event::Key(key));
        assert!(model.is_over());
    }
}

#[test]
fn any_terminal_is_drawn_without_a_panic() {
    for (width, height) in [(1, 1), (10, 3), (40, 8), (79, 9), (80, 24), (300, 100), (0, 0)] {
        let mut model = model();
        model.update(Event::Resize(Size { width, height }));
        for keys in [&[][..], &[KeyCode::End], &[KeyCode::Enter], &[KeyCode::Enter], &[KeyCode::Char('?')]] {
            press(&mut model, keys.iter().copied());
            let _ = screen(&model);
        }
    }
}

#[test]
fn ten_thousand_services_are_looked_at_in_time() {
    let servers = |_| (0..10).map(|number| server(number, "up", [1, 10, 1000, 10, 1000])).collect();
    let site: Vec<Service> = (0..10_000).map(|n| service(&format!("service{n:05}"), servers(n))).collect();
    let (first, second) = (sample(1, site.clone()), sample(2, site));
    let mut model = Model::new(Duration::from_secs(2), String::new());
    model.update(Event::Sample(first));
    let began = Instant::now();
    model.update(Event::Sample(second));
    press(&mut model, [KeyCode::End, KeyCode::PageUp, KeyCode::Left, KeyCode::Right]);
    let told = screen(&model);
    assert!(told.contains("services 10000   real servers 100000 up"), "{told}");
    // A terminal's refresh, in a build without optimisation, on a machine with something else to do.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(listed(&model).len(), 16);
}

#[test]
fn a_script_gets_every_service_whole() {
    let text = view::plain(&model());
    assert_eq!(text.lines().count(), 4);
    assert!(text.contains("\nan-uncommonly-long-name-of-a-service.example     2/2"), "{text}");
    assert!(text.contains("\nshop"), "{text}");
}

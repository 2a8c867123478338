use super::*;
use std::net::IpAddr;

const SERVERS: [&str; 3] = ["web1", "web2", "web3"];

/// A shop with these weights; `None`: not in the configuration.
fn plan(drain: &str, weights: [Option<u16>; 3]) -> Plan {
    let mut text = format!(
        "[router]\noutside = 'eth0'\n[service.shop]\nvip = ['192.0.2.10', '2001:db8::10']\nports = 'tcp/80'\n{drain}\n"
    );
    for (number, weight) in weights.into_iter().enumerate() {
        let (name, last) = (SERVERS[number], number + 11);
        let Some(weight) = weight else { continue };
        text.push_str(&format!(
            "[[service.shop.server]]\nname = '{name}'\naddress = ['10.0.0.{last}', 'fd00::{last}']\nweight = {weight}\n"
        ));
    }
    Plan::of(&marca_config::load("marca.toml", &text).unwrap().config).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The standings of the IPv4 service's servers.
fn standings(standings: &Standings, plan: &Plan) -> Vec<Standing> {
    standings.apply(plan).services[0].reals.iter().map(|real| real.standing).collect()
}

fn keys(due: Vec<Due>) -> Vec<(String, bool)> {
    due.into_iter().map(|due| (due.key, due.removed)).collect()
}

#[test]
fn a_server_that_has_failed_has_no_weight_until_it_is_restored() {
    let configured = plan("", [Some(3), Some(1), None]);
    let mut standings = Standings::default();
    standings.settle(&configured, Some(&Plan::default()), seconds(1));
    assert_eq!(standings.apply(&configured), configured);
    let (shop, web1) = (&configured.services[0], &configured.services[0].reals[0]);
    assert!(standings.set_failed(shop, web1, true));
    assert!(!standings.set_failed(shop, web1, true), "it has failed already");
    let plan = standings.apply(&configured);
    assert_eq!((plan.services[0].reals[0].weight, plan.services[0].reals[0].standing), (0, Standing::Failed));
    assert_eq!(plan.services[1], configured.services[1], "the other family is another server");
    standings.settle(&configured, Some(&Plan::default()), seconds(2));
    assert_eq!(standings.causes(shop, web1), [Cause::ByHand], "a reload changes nothing");
    assert!(standings.set_failed(shop, web1, false));
    assert_eq!(standings.apply(&configured), configured);
}

#[test]
fn one_that_leaves_the_configuration_is_forgotten_to_have_failed() {
    let (with, without) = (plan("", [Some(1), Some(1), None]), plan("", [None, Some(1), None]));
    let mut standings = Standings::default();
    standings.set_failed(&with.services[0], &with.services[0].reals[0], true);
    standings.settle(&without, Some(&Plan::default()), seconds(1));
    standings.settle(&with, Some(&Plan::default()), seconds(2));
    assert_eq!(standings, Standings::default());
}

#[test]
fn weight_0_lasts_for_the_time_to_drain() {
    let (served, drained) = ([Some(1), Some(1), None], [Some(0), Some(1), None]);
    let mut of = Standings::default();
    of.settle(&plan("drain = '10m'", served), Some(&Plan::default()), seconds(100));
    assert_eq!(of, Standings::default());
    let configured = plan("drain = '10m'", drained);
    of.settle(&configured, Some(&Plan::default()), seconds(200));
    let left = |of: &Standings, now| {
        of.draining(&configured.services[0], &configured.services[0].reals[0]).map(|d| d.left(seconds(now)))
    };
    assert_eq!(left(&of, 260), Some(seconds(540)));
    assert!(of.due(seconds(799)).is_empty());
    // Another time, counted from the same moment; and back again.
    of.settle(&plan("drain = '5m'", drained), Some(&Plan::default()), seconds(300));
    assert_eq!(left(&of, 300), Some(seconds(200)));
    of.settle(&configured, Some(&Plan::default()), seconds(310));
    assert_eq!(left(&of, 310), Some(seconds(490)));
    assert_eq!(standings(&of, &configured), [Standing::Serving; 2]);
    let both = [("shop/4/10.0.0.11".to_owned(), false), ("shop/6/fd00::11".to_owned(), false)];
    assert_eq!(keys(of.due(seconds(800))), both);
    assert_eq!(keys(of.due(seconds(801))), [], "once");
    assert_eq!(standings(&of, &configured), [Standing::Drained, Standing::Serving]);
    of.settle(&configured, Some(&Plan::default()), seconds(900));
    assert_eq!(standings(&of, &configured), [Standing::Drained, Standing::Serving]);
    of.settle(&plan("", drained), Some(&Plan::default()), seconds(900));
    assert_eq!(of, Standings::default(), "without a deadline clients may stay");
    of.settle(&plan("drain = '0s'", drained), Some(&Plan::default()), seconds(1000));
    assert_eq!(of.due(seconds(1000)).len(), 2, "at once");
}

#[test]
fn a_removed_server_has_a_time_of_its_own() {
    let (with, without) =
        (plan("drain = '1m'", [Some(0), Some(1), Some(1)]), plan("drain = '1m'", [None, Some(1), Some(1)]));
    let mut ids = Ids::default();
    ids.assign(&with, 64, 64).unwrap();
    let mut of = Standings::default();
    of.settle(&with, Some(&Plan::default()), seconds(0));
    of.part(&with, &Plan::default(), &ids, seconds(0));
    assert_eq!(of.due(seconds(60)).len(), 2);
    ids.assign(&without, 64, 64).unwrap();
    of.settle(&without, Some(&Plan::default()), seconds(70));
    of.part(&without, &with, &ids, seconds(70));
    let entry = of.removed("shop/4/10.0.0.11").unwrap();
    assert_eq!((entry.name.as_str(), entry.left(seconds(80))), ("web1", seconds(50)));
    // Reloads, and a new daemon, which has the file and does not know the former plan.
    let text = serde_json::to_string(&of).unwrap();
    let mut of: Standings = serde_json::from_str(&text).unwrap();
    of.settle(&without, Some(&Plan::default()), seconds(90));
    of.part(&without, &Plan::default(), &ids, seconds(90));
    assert_eq!(of.removed("shop/4/10.0.0.11").unwrap().left(seconds(90)), seconds(40));
    let both = [("shop/4/10.0.0.11".to_owned(), true), ("shop/6/fd00::11".to_owned(), true)];
    assert_eq!(keys(of.due(seconds(130))), both);
    // It comes back.
    ids.assign(&with, 64, 64).unwrap();
    let with = plan("drain = '1m'", [Some(1), Some(1), Some(1)]);
    of.settle(&with, Some(&Plan::default()), seconds(140));
    of.part(&with, &without, &ids, seconds(140));
    assert_eq!(of, Standings::default());
}

#[test]
fn servers_are_meant_by_service_by_name_and_by_address() {
    let plan = plan("", [Some(1), Some(1), None]);
    let meant = |text: &str| -> Vec<Option<IpAddr>> {
        let meant = Meant::of(text);
        let all = plan.services.iter().flat_map(|service| service.reals.iter().map(move |real| (service, real)));
        all.filter(|(service, real)| meant.is(service, real)).map(|(_, real)| real.address).collect()
    };
    let both = [Some("10.0.0.12".parse().unwrap()), Some("fd00::12".parse().unwrap())];
    assert_eq!(meant("shop/web2"), both);
    assert_eq!(meant("web2"), both);
    assert_eq!(meant("10.0.0.12"), both[..1]);
    assert_eq!(meant("shop/fd00::12"), both[1..]);
    assert_eq!(meant("files/web2"), []);
    assert_eq!(meant("web4"), []);
}

/// A shop with these keys whose servers have these weights.
fn shop(keys: &str, weights: &[u16]) -> Plan {
    let mut text = format!(
        "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nscheduler = 'wlc'\n{}{keys}\n",
        if keys.contains("ports = ") { "" } else { "ports = 'tcp/80'\n" }
    );
    for (number, weight) in weights.iter().enumerate() {
        let (name, last) = (SERVERS[number], number + 11);
        text.push_str(&format!(
            "[[service.shop.server]]\nname = '{name}'\naddress = '10.0.0.{last}'\nweight = {weight}\n"
        ));
    }
    Plan::of(&marca_config::load("marca.toml", &text).unwrap().config).unwrap()
}

/// Settled as when a daemon starts.
fn started(plan: &Plan) -> Standings {
    let mut standings = Standings::default();
    standings.settle(plan, None, seconds(0));
    standings
}

/// Weights in force, the sorry server's last.
fn weights(standings: &Standings, plan: &Plan) -> Vec<u16> {
    standings.apply(plan).services[0].reals.iter().map(|real| real.weight).collect()
}

/// A verdict, and what the service makes of it.
fn verdict(of: &mut Standings, plan: &Plan, server: usize, up: bool) -> Option<Strength> {
    let service = &plan.services[0];
    of.judge(service, &service.reals[server], up);
    of.weigh(service)
}

#[test]
fn a_server_serves_if_neither_somebody_nor_its_checks_have_anything_against_it() {
    let plan = shop("", &[3, 1]);
    let mut of = started(&plan);
    let (service, web1) = (&plan.services[0], &plan.services[0].reals[0]);
    assert!(of.judge(service, web1, false) && !of.judge(service, web1, false));
    assert!(of.set_failed(service, web1, true));
    assert_eq!(of.causes(service, web1), [Cause::ByHand, Cause::ByChecks]);
    assert!(of.judge(service, web1, true));
    assert_eq!(weights(&of, &plan), [0, 1], "by hand it is still down");
    assert!(of.judge(service, web1, false) && of.set_failed(service, web1, false));
    assert_eq!((weights(&of, &plan), of.causes(service, web1)), (vec![0, 1], vec![Cause::ByChecks]));
    assert!(of.judge(service, web1, true));
    assert_eq!(weights(&of, &plan), [3, 1]);
}

#[test]
fn the_sorry_server_takes_new_clients_below_the_quorum() {
    let plan = shop("quorum = 3\nsorry = { address = '10.0.0.99' }", &[3, 1, 1]);
    let mut of = started(&plan);
    assert_eq!(of.apply(&plan), plan, "there is enough");
    assert_eq!(plan.services[0].sorry().map(|sorry| sorry.name.as_str()), Some("sorry"));
    assert_eq!(verdict(&mut of, &plan, 1, false), None);
    assert_eq!(weights(&of, &plan), [3, 0, 1, 0]);
    assert_eq!(verdict(&mut of, &plan, 0, false), Some(Strength { up: 1, is_below: true }));
    assert_eq!(weights(&of, &plan), [0, 0, 0, 1]);
    let standings = standings(&of, &plan);
    assert_eq!(
        standings,
        [Standing::Failed, Standing::Failed, Standing::Serving, Standing::Serving],
        "web3 keeps its clients"
    );
    let (service, sorry) = (&plan.services[0], plan.services[0].sorry().unwrap());
    assert!(!of.judge(service, sorry, false), "nobody checks it");
    assert!(of.set_failed(service, sorry, true));
    assert_eq!(weights(&of, &plan), [0, 0, 0, 0]);
    assert_eq!(verdict(&mut of, &plan, 0, true), Some(Strength { up: 4, is_below: false }));
    assert_eq!(weights(&of, &plan), [3, 0, 1, 0]);
}

#[test]
fn without_a_sorry_server_new_clients_go_nowhere_or_to_whoever_is_left() {
    let nobody = [vec![0, 0], vec![0, 0], vec![0, 1]];
    for (policy, then) in std::iter::zip(["refuse", "drop", "serve"], nobody) {
        let plan = shop(&format!("quorum = {{ servers = 2 }}\nbelow_quorum = '{policy}'"), &[3, 1]);
        let mut of = started(&plan);
        assert_eq!(verdict(&mut of, &plan, 0, false), Some(Strength { up: 1, is_below: true }), "{policy}");
        assert_eq!(weights(&of, &plan), then, "{policy}");
        assert_eq!(verdict(&mut of, &plan, 0, true), Some(Strength { up: 2, is_below: false }));
        assert_eq!(of.apply(&plan), plan);
    }
}

#[test]
fn hysteresis_keeps_a_quorum_from_flapping() {
    let plan = shop("quorum = { servers = 2, hysteresis = 1 }", &[1, 1, 1]);
    let mut of = started(&plan);
    assert_eq!(verdict(&mut of, &plan, 0, false), None, "two of two");
    assert_eq!(verdict(&mut of, &plan, 1, false), None, "one is in its bounds");
    assert_eq!(verdict(&mut of, &plan, 2, false), Some(Strength { up: 0, is_below: true }));
    assert_eq!(verdict(&mut of, &plan, 0, true), None);
    assert_eq!(verdict(&mut of, &plan, 1, true), None, "two are not enough any more");
    assert_eq!(verdict(&mut of, &plan, 2, true), Some(Strength { up: 3, is_below: false }));
}

#[test]
fn a_pool_that_is_drained_by_its_weights_is_below_its_quorum() {
    let plan = shop("sorry = { forward = 'local' }\ndrain = '5m'", &[0, 0]);
    let of = started(&plan);
    assert_eq!((weights(&of, &plan), of.strength_of(&plan.services[0]).is_below), (vec![0, 0, 1], true));
    assert_eq!(standings(&of, &plan)[..2], [Standing::Serving; 2], "who comes back is served");
    assert!(of.draining(&plan.services[0], plan.services[0].sorry().unwrap()).is_none());
}

#[test]
fn a_server_begins_as_its_service_says() {
    let plan = |start: &str, servers| shop(&format!("start = '{start}'"), &vec![1; servers]);
    // The last verdicts, as the file has them.
    let mut last = started(&plan("last", 2));
    verdict(&mut last, &plan("last", 2), 0, false);
    let file = serde_json::to_string(&last).unwrap();
    for (start, expected) in [("last", [0, 1]), ("up", [1, 1]), ("down", [0, 0])] {
        let mut of: Standings = serde_json::from_str(&file).unwrap();
        of.settle(&plan(start, 2), None, seconds(1));
        assert_eq!(weights(&of, &plan(start, 2)), expected, "{start}");
    }
    // A reload: who was there stays as it is.
    for (start, expected) in [("last", [0, 1, 1]), ("up", [0, 1, 1]), ("down", [0, 1, 0])] {
        let mut of: Standings = serde_json::from_str(&file).unwrap();
        of.settle(&plan(start, 3), Some(&plan("last", 2)), seconds(1));
        assert_eq!(weights(&of, &plan(start, 3)), expected, "{start}");
    }
    let plan = plan("down", 2);
    let mut of = started(&plan);
    assert_eq!(standings(&of, &plan), [Standing::Waiting; 2], "its connections go on");
    assert_eq!(verdict(&mut of, &plan, 1, true), Some(Strength { up: 1, is_below: false }));
    verdict(&mut of, &plan, 0, false);
    assert_eq!(standings(&of, &plan), [Standing::Failed, Standing::Serving]);
}

#[test]
fn a_server_may_have_a_time_to_drain_of_its_own() {
    let text = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\ndrain = '10m'\n\
                [[service.shop.server]]\nname = 'web1'\naddress = '10.0.0.11'\nweight = 0\ndrain = '1m'\n\
                [[service.shop.server]]\nname = 'web2'\naddress = '10.0.0.12'\nweight = 0\n\
                [[service.shop.server]]\nname = 'web3'\naddress = '10.0.0.13'\n";
    let plan = |text: &str| Plan::of(&marca_config::load("marca.toml", text).unwrap().config).unwrap();
    let (with, without) = (plan(text), plan(&text.replace("weight = 0\ndrain = '1m'", "drain = '1m'")));
    let mut of = started(&with);
    assert_eq!(keys(of.due(seconds(60))), [("shop/4/10.0.0.11".to_owned(), false)]);
    assert_eq!(keys(of.due(seconds(600))), [("shop/4/10.0.0.12".to_owned(), false)]);
    // Removed, it keeps its own.
    let mut ids = Ids::default();
    ids.assign(&without, 64, 64).unwrap();
    let removed = plan(
        &text
            .split("[[service.shop.server]]\nname = 'web1'")
            .collect::<Vec<_>>()
            .concat()
            .replace("\naddress = '10.0.0.11'\nweight = 0\ndrain = '1m'\n", "\n"),
    );
    ids.assign(&removed, 64, 64).unwrap();
    of.settle(&removed, Some(&without), seconds(700));
    of.part(&removed, &without, &ids, seconds(700));
    assert_eq!(of.removed("shop/4/10.0.0.11").unwrap().left(seconds(700)), seconds(60));
}

#[test]
fn a_reboot_ends_what_only_had_connections_and_moves_deadlines() {
    let (with, without) =
        (plan("drain = '10m'", [Some(0), Some(1), Some(1)]), plan("drain = '10m'", [Some(0), Some(1), None]));
    let mut ids = Ids::default();
    ids.assign(&with, 64, 64).unwrap();
    let mut of = Standings::default();
    of.settle(&with, Some(&Plan::default()), seconds(1000));
    of.set_failed(&with.services[0], &with.services[0].reals[1], true);
    ids.assign(&without, 64, 64).unwrap();
    of.settle(&without, Some(&Plan::default()), seconds(1000));
    of.part(&without, &with, &ids, seconds(1000));
    assert!(of.removed("shop/4/10.0.0.13").is_some());
    let of = of.rebooted(|time| time.saturating_sub(seconds(1100)));
    let (shop, reals) = (&without.services[0], &without.services[0].reals);
    assert_eq!(of.causes(shop, &reals[1]), [Cause::ByHand]);
    assert_eq!(of.draining(shop, &reals[0]).map(|drain| drain.left(seconds(100))), Some(seconds(400)));
    assert_eq!(of.removed("shop/4/10.0.0.13"), None);
}

#[test]
fn what_checks_say_and_what_operators_say_are_two_things() {
    let configured = plan("", [Some(3), Some(1), None]);
    let (shop, web1) = (&configured.services[0], &configured.services[0].reals[0]);
    let down = Health { is_down: true, ..Health::default() };
    let mut of = Standings::default();
    assert_eq!(of.set_health(shop, web1, down.clone()), (Health::default(), true));
    of.set_failed(shop, web1, true);
    of.settle(&configured, Some(&configured), seconds(1));
    assert_eq!(of.health(shop, web1), Some(&down), "a reload changes nothing");
    assert_eq!(of.set_health(shop, web1, Health::default()), (down, true));
    assert_eq!(standings(&of, &configured), [Standing::Failed, Standing::Serving], "the operator's word stands");
    of.set_failed(shop, web1, false);
    assert_eq!(of, Standings::default());
    assert!(!of.alter());
}

#[test]
fn a_check_that_is_no_more_says_nothing() {
    let (with, without) = (plan("", [Some(1); 3]), plan("check = 'none'", [Some(1); 3]));
    let mut of = Standings::default();
    let down = Health { is_down: true, ..Health::default() };
    of.set_health(&with.services[0], &with.services[0].reals[0], down);
    of.settle(&with, Some(&with), seconds(1));
    assert!(of.alter());
    of.settle(&without, Some(&with), seconds(2));
    assert_eq!(of, Standings::default());
    let waiting = plan("check = 'none'\nstart = 'down'", [Some(1); 3]);
    of.settle(&waiting, None, seconds(3));
    assert_eq!(of, Standings::default(), "nobody would say when to begin");
}

#[test]
fn a_check_may_say_a_weight() {
    let configured = plan("", [Some(4), Some(1), None]);
    let (shop, web1) = (&configured.services[0], &configured.services[0].reals[0]);
    let weights = |of: &Standings| -> Vec<u16> {
        of.apply(&configured).services[0].reals.iter().map(|real| real.weight).collect()
    };
    let mut of = Standings::default();
    of.set_health(shop, web1, Health { weight: Some(2), ..Health::default() });
    assert_eq!(weights(&of), [2, 1]);
    of.set_health(shop, web1, Health { weight: Some(2), is_down: true, ..Health::default() });
    assert_eq!(weights(&of), [0, 1], "down is down");
}

#[test]
fn a_port_that_fails_its_check_is_closed_and_takes_nothing_else_away() {
    let plan = shop("ports = ['tcp/80', 'tcp/443', 'udp/443']\ncheck_policy = 'per-port'\nquorum = 2", &[3, 1]);
    let mut of = started(&plan);
    let (service, web1) = (&plan.services[0], &plan.services[0].reals[0]);
    let https = service.parts[1];
    let without = Health { ports: [HealthPort::from(https)].into(), ..Health::default() };
    assert!(of.set_health(service, web1, without.clone()).1);
    assert_eq!(of.weigh(service), None, "it counts for the quorum");
    let closed = |of: &Standings| of.apply(&plan).services[0].reals.iter().map(|real| real.closed).collect::<Vec<_>>();
    assert_eq!((closed(&of), weights(&of, &plan)), (vec![0b10, 0], vec![3, 1]));
    // It outlives reloads.
    of.settle(&plan, Some(&plan), seconds(1));
    assert_eq!(closed(&of), [0b10, 0]);
    let all = shop("ports = ['tcp/80', 'tcp/443', 'udp/443']", &[3, 1]);
    assert_eq!(of.apply(&all).services[0].reals[0].closed, 0, "by another policy nobody asks");
    assert!(of.set_health(service, web1, Health::default()).1);
    assert_eq!(of.apply(&plan), plan);
}

#[test]
fn the_quorum_counts_the_weights_that_checks_say() {
    let plan = shop("quorum = 4", &[3, 3, 0]);
    let mut of = started(&plan);
    let service = &plan.services[0];
    let mut says = |server: usize, weight| {
        let health = Health { weight, ..Health::default() };
        of.set_health(service, &service.reals[server], health);
        (of.weigh(service), of.strength_of(service).up)
    };
    assert_eq!(says(0, Some(1)), (None, 4));
    assert_eq!(says(1, Some(2)), (Some(Strength { up: 3, is_below: true }), 3));
    assert_eq!(says(2, Some(100)), (None, 3), "whom the configuration gives no clients, no check does");
    assert_eq!(says(0, None), (Some(Strength { up: 5, is_below: false }), 5));
    assert_eq!(says(1, Some(0)), (Some(Strength { up: 3, is_below: true }), 3));
    let plan = shop("quorum = { servers = 2 }", &[3, 3, 0]);
    let mut of = started(&plan);
    let (service, web1) = (&plan.services[0], &plan.services[0].reals[0]);
    of.set_health(service, web1, Health { weight: Some(1), ..Health::default() });
    assert_eq!(of.weigh(service), None, "a server is one whatever its weight");
    of.set_health(service, web1, Health { weight: Some(0), ..Health::default() });
    assert_eq!(of.weigh(service), Some(Strength { up: 1, is_below: true }), "but one that drains");
}

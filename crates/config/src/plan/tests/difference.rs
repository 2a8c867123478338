//! Differences of plans.

use super::*;

const TWO: &str = "[service.shop]
    vip = '192.0.2.10'
    ports = 'tcp/80'
    server = [{ address = '10.0.0.11' }, { address = '10.0.0.12' }]
    [service.mail]
    vip = '192.0.2.20'
    ports = 'tcp/25'
    server = [{ address = '10.0.0.13' }]\n";

/// Destinations, replies and hosts in words.
fn touched(difference: &Difference) -> [Vec<String>; 3] {
    let Touched { destinations, replies, hosts } = &difference.classifier;
    let reply = |from: &ReplyPort| format!("{}:{}", from.address, from.port);
    [
        destinations.iter().map(|net| net.addr().to_string()).collect(),
        replies.iter().map(reply).collect(),
        hosts.iter().map(|host| host.to_string()).collect(),
    ]
}

fn difference(old: &str, new: &str) -> Difference {
    Difference::of(&plan(old), &plan(new))
}

#[test]
fn the_same_plan_is_no_difference() {
    assert!(difference(TWO, TWO).is_empty());
}

#[test]
fn another_weight_is_a_change_of_one_service_and_not_of_the_classifier() {
    let new = TWO.replace("'10.0.0.12'", "'10.0.0.12', weight = 5");
    assert_eq!(difference(TWO, &new), Difference { changed: vec![(Some(0), 0)], ..Difference::default() });
}

#[test]
fn another_server_under_nat_answers_from_another_address() {
    let new = TWO.replace("10.0.0.13", "10.0.0.14");
    let found = difference(TWO, &new);
    assert_eq!(found.changed, [(Some(1), 1)]);
    let [destinations, replies, hosts] = touched(&found);
    assert_eq!((destinations.len(), replies), (0, vec!["10.0.0.13:25".into(), "10.0.0.14:25".into()]));
    assert_eq!(hosts, ["10.0.0.13", "10.0.0.14"]);
}

#[test]
fn a_server_whose_port_gets_another_meaning_stays_a_real_server() {
    let new = TWO.replace("'10.0.0.13'", "'10.0.0.13' }, { address = '10.0.0.11'").replace("tcp/25", "tcp/80");
    let [destinations, replies, hosts] = touched(&difference(&TWO.replace("tcp/25", "tcp/80"), &new));
    assert_eq!((destinations.len(), replies, hosts.len()), (0, vec!["10.0.0.11:80".into()], 0));
}

#[test]
fn another_port_changes_the_classifier_and_what_is_checked() {
    let found = difference(TWO, &TWO.replace("tcp/25", "tcp/587"));
    assert_eq!((&found.changed, &found.gained), (&vec![(Some(1), 1)], &BTreeSet::from([1])));
    let [destinations, replies, hosts] = touched(&found);
    assert_eq!(destinations, ["192.0.2.20"]);
    assert_eq!((replies, hosts), (vec!["10.0.0.13:25".into(), "10.0.0.13:587".into()], vec!["10.0.0.13".into()]));
}

#[test]
fn a_service_in_front_moves_the_others_and_one_that_is_gone_is_found() {
    let first = "[service.first]\nvip = '192.0.2.30'\nports = 'tcp/80'\nserver = [{ address = '10.0.0.15' }]\n";
    let new = difference(TWO, &format!("{first}{TWO}"));
    assert_eq!(touched(&new), [["192.0.2.30"], ["10.0.0.15:80"], ["10.0.0.15"]], "places are not what counts");
    assert_eq!((new.changed, new.moved, new.gone), (vec![(None, 0)], vec![(0, 1), (1, 2)], vec![]));
    let new = difference(&format!("{first}{TWO}"), TWO);
    assert_eq!((new.changed, new.moved, new.gone), (vec![], vec![(1, 0), (2, 1)], vec![0]));
    let renamed = difference(TWO, &TWO.replace("shop", "store"));
    assert_eq!(touched(&renamed), [vec!["192.0.2.10"], vec!["10.0.0.11:80", "10.0.0.12:80"], vec![]]);
    assert_eq!((renamed.changed, renamed.gone), (vec![(None, 0)], vec![0]));
}

#[test]
fn a_service_gains_what_others_may_have_had() {
    let two = |more: &str, ports: &str| {
        plan(&format!(
            "{more}
            [service.a]\nvip = '192.0.2.1'\nports = ['tcp/80']\nserver = [{{ address = '10.0.0.1' }}]
            [service.b]\nvip = '192.0.2.2'\nports = {ports}\nserver = [{{ address = '10.0.0.1' }}]"
        ))
    };
    let old = two("", "['tcp/80']");
    let gained = |new: &Plan| {
        let gained = Difference::of(&old, new).gained;
        gained.into_iter().map(|index| new.services[index].name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(gained(&old), [""; 0]);
    assert_eq!(gained(&two("", "['tcp/80', 'tcp/443']")), ["b"]);
    let in_front = "[service.c]\nvip = '192.0.2.3'\nports = ['tcp/80']\nserver = [{ address = '10.0.0.1' }]";
    assert_eq!(gained(&two(in_front, "['tcp/80']")), ["c"], "places are not what counts");
    let marked = "[[mark]]\nvalue = 1\nto = '192.0.2.1'\nports = 'tcp/80'
        [service.m]\nmark = 1\nserver = [{ address = '10.0.0.1' }]";
    assert_eq!(gained(&two(marked, "['tcp/80']")), ["m"]);
}

#[test]
fn datagrams_one_by_one_change_what_a_real_servers_port_means() {
    let tracked = TWO.replace("tcp/80", "udp/53");
    let single = tracked.replace("ports = 'udp/53'", "ports = 'udp/53'\nudp = 'one-packet'");
    let found = difference(&tracked, &single);
    assert_eq!(found.changed, [(Some(0), 0)]);
    assert_eq!(touched(&found), [vec![], vec!["10.0.0.11:53", "10.0.0.12:53"], vec![]]);
}

//! Numbers of services, real servers and hosts, and the words of keys.

use crate::configuration::{config, server, service, tcp};
use marca_config::plan::{Difference, Plan};
use marca_engine::flow::Key;
use marca_engine::layout::Address;
use marca_tables::ids::{IdKind, Ids};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Services by number, each with these servers.
fn plan(services: &BTreeMap<u8, BTreeSet<u16>>) -> Plan {
    let services: Vec<_> = services
        .iter()
        .map(|(number, servers)| {
            let vip = format!("192.0.2.{number}");
            let mut service = service(&format!("service{number}"), &[&vip], &[tcp(80)]);
            service.servers = servers.iter().map(|&server_number| server(server_number, 1)).collect();
            service
        })
        .collect();
    Plan::of(&config(services)).unwrap()
}

fn services() -> impl Strategy<Value = BTreeMap<u8, BTreeSet<u16>>> {
    proptest::collection::btree_map(0u8..5, btree_set(0u16..6, 0..5), 0..5)
}

/// Everybody's number, by name.
fn numbers(ids: &Ids, plan: &Plan) -> (BTreeMap<String, u32>, BTreeMap<String, u32>) {
    let services = plan.services.iter();
    let number = |service: &str, family| ids.service(service, family).expect("every service has a number");
    let of_services = services.clone().map(|s| (s.name.clone(), number(&s.name, s.family))).collect();
    let of_reals = services.flat_map(|s| s.reals.iter().map(move |real| (s, real)));
    let of_reals = of_reals.map(|(s, real)| {
        let number = ids.real(&s.name, s.family, real.address).expect("every real server has a number");
        (format!("{} {:?}", s.name, real.address), number)
    });
    (of_services, of_reals.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_stay_until_they_are_released_and_nobody_shares_one(
        steps in vec((services(), btree_set(0u32..30, 0..30)), 1..8),
    ) {
        let mut ids = Ids::default();
        let mut known: (BTreeMap<String, u32>, BTreeMap<String, u32>) = Default::default();
        for (services, in_use) in steps {
            let plan = plan(&services);
            ids.assign(&plan, 100, 100).unwrap();
            let now = numbers(&ids, &plan);
            for (known, now) in [(&mut known.0, &now.0), (&mut known.1, &now.1)] {
                for (name, number) in now {
                    prop_assert!(*number > 0);
                    prop_assert_eq!(known.get(name).unwrap_or(number), number, "{} has kept its number", name);
                    known.insert(name.clone(), *number);
                }
                let distinct: BTreeSet<u32> = known.values().copied().collect();
                prop_assert_eq!(distinct.len(), known.len(), "also those that are leaving: {:?}", known);
            }
            // What is in the plan, or in use, is as it was.
            ids.release(|kind| match kind {
                IdKind::Real(number) | IdKind::Service(number) => in_use.contains(number),
            });
            prop_assert_eq!(&numbers(&ids, &plan), &now);
            known.0.retain(|name, number| now.0.contains_key(name) || in_use.contains(number));
            known.1.retain(|name, number| now.1.contains_key(name) || in_use.contains(number));
        }
    }

    #[test]
    fn plans_that_follow_each_other_share_no_number_and_what_follows_them_is_the_same(
        steps in vec((services(), btree_set(0u32..30, 0..30)), 1..8),
    ) {
        let (mut ids, mut follower) = (Ids::default(), Ids::default());
        // Whoever has assigned numbers knows them by more than their names.
        ids.assign(&Plan::default(), 100, 100).unwrap();
        let mut old = Plan::default();
        for (services, in_use) in steps {
            let new = plan(&services);
            let difference = Difference::of(&old, &new);
            follower.follow(&ids.replace((&old, &new), &difference, 100, 100).unwrap());
            prop_assert_eq!(&ids, &follower);
            let now = numbers(&ids, &new);
            prop_assert_eq!(&numbers(&follower, &new), &now);
            for numbers in [&now.0, &now.1] {
                let distinct: BTreeSet<u32> = numbers.values().copied().collect();
                prop_assert_eq!(distinct.len(), numbers.len());
            }
            let leaving: BTreeSet<u32> = ids.leaving_reals().collect();
            prop_assert!(now.1.values().all(|number| !leaving.contains(number)), "{:?} {:?}", leaving, now);
            let released = ids.release(|kind| match kind {
                IdKind::Real(number) | IdKind::Service(number) => in_use.contains(number),
            });
            follower.follow(&released);
            prop_assert_eq!(&ids, &follower);
            prop_assert_eq!(numbers(&follower, &new), numbers(&ids, &new));
            old = new;
        }
    }

    #[test]
    fn assigning_the_same_plan_again_changes_nothing(services in services()) {
        let plan = plan(&services);
        let mut ids = Ids::default();
        ids.assign(&plan, 100, 100).unwrap();
        let before = ids.clone();
        prop_assert_eq!(ids.assign(&plan, 100, 100), Ok(Vec::new()));
        prop_assert_eq!(ids, before);
    }

    #[test]
    fn a_plan_that_asks_for_too_many_numbers_gets_none(services in services()) {
        let plan = plan(&services);
        let reals: u32 = plan.services.iter().map(|service| service.reals.len() as u32).sum();
        prop_assume!(reals > 0);
        let mut ids = Ids::default();
        // The number 0 is nobody's.
        prop_assert!(ids.assign(&plan, 100, reals).is_err());
        prop_assert!(ids.assign(&plan, plan.services.len() as u32, 100).is_err());
        prop_assert_eq!(&ids, &Ids::default());
        prop_assert!(ids.assign(&plan, plan.services.len() as u32 + 1, reals + 1).is_ok());
    }

    #[test]
    fn a_key_comes_back_from_its_words(
        client: [u32; 4], vip: [u32; 4], client_port: u16, vip_port: u16, protocol: u8, family: u8,
    ) {
        let key = Key { client: Address::new(client), vip: Address::new(vip), client_port, vip_port, protocol, family };
        prop_assert_eq!(Key::from_words(key.words()), key);
    }
}

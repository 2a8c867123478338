//! How full a connection table gets before it refuses: what `docs/configuration.md` promises of `limits.flows`.

use crate::director::SMALL;
use marca_engine::flow::{self, Key, Place, Record, WhenFull};
use marca_engine::hash;
use marca_engine::layout::{Address, TCP, V4, V6};
use marca_engine::tables::CellTable;
use marca_tables::{Capacity, Memory, View};
use proptest::prelude::*;

const CELLS: u32 = 1 << 17;

/// Who the clients are.
#[derive(Clone, Copy, Debug)]
enum Clients {
    /// Anybody.
    Scattered,
    /// One network, one port each.
    Neighbours,
    /// A few, with many connections each: behind address translation.
    Few,
    SixNeighbours,
}

fn key(clients: Clients, number: u32) -> Key {
    let (client, port) = match clients {
        Clients::Scattered => (hash::word(7, u64::from(number)) as u32, number % 60_000),
        Clients::Neighbours | Clients::SixNeighbours => (0x0a00_0000 + number, 40_000),
        Clients::Few => (0x0a00_0000 + number / 50_000, 10_000 + number % 50_000),
    };
    let (family, client) = match clients {
        Clients::SixNeighbours => (V6, Address::new([0xb80d_0120, 0, 0, client.to_be()])),
        _ => (V4, Address::v4(client.to_be_bytes())),
    };
    let vip = Address::v4([192, 0, 2, 10]);
    Key { client, vip, client_port: port as u16, vip_port: 443, protocol: TCP, family }
}

/// How many of a million connections are refused while the table is filled to each of these percentages of its cells.
fn refused<const N: usize>(clients: Clients, seed: u64, percentages: [u32; N]) -> [u32; N] {
    let memory = Memory::on_heap(Capacity { flows: CELLS, ..SMALL }, seed);
    let view = View::new(&memory, 0);
    let control = memory.control();
    let (mut tried, mut refused) = (0, 0u64);
    percentages.map(|percentage| {
        let wanted = (u64::from(CELLS) * u64::from(percentage) / 100) as u32;
        while tried < wanted {
            let record = Record { real: 1, service: 1, state: 443, seen: 0 };
            let key = key(clients, tried);
            let inserted = flow::insert(&view, &control, CellTable::Flows, &key, &record, WhenFull::Refuse);
            refused += u64::from(inserted.place != Place::Free);
            tried += 1;
        }
        (refused * 1_000_000 / u64::from(wanted)) as u32
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_refuses_next_to_nobody_until_it_is_three_quarters_full(
        clients in prop_oneof![
            Just(Clients::Scattered), Just(Clients::Neighbours), Just(Clients::Few), Just(Clients::SixNeighbours)
        ],
        seed in any::<u64>(),
    ) {
        let [half, five_eighths, three_quarters] = refused(clients, seed, [50, 62, 75]);
        prop_assert!(half <= 100, "{half} of a million at half load");
        prop_assert!(five_eighths <= 1_000, "{five_eighths} of a million at five eighths");
        prop_assert!(three_quarters <= 10_000, "{three_quarters} of a million at three quarters");
    }
}

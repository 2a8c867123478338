//! What a processor remembers of the copied routes.

use crate::director::SMALL;
use marca_engine::layout::{Address, NextHop};
use marca_engine::route;
use marca_engine::tables::Tables;
use marca_tables::{Memory, View, classifier};
use std::net::IpAddr;

const NOW: u32 = 1000;

/// The interface to which a packet to this address leaves, while the copied routes say `says` of everything.
fn leaves(memory: &Memory, says: NextHop, address: &str) -> Option<u32> {
    let mut view = View::new(memory, NOW).with_shortcuts();
    view.hop = Some(says);
    let (family, address): (u8, Address) = classifier::address(address.parse::<IpAddr>().unwrap());
    let control = view.control().unwrap();
    route::recalled(&view, &control, view.processor().unwrap(), family, &address).map(|next| next.interface)
}

/// What is the same for an address's block of this size: 0: for no block.
fn to(interface: u32, whole: u32) -> NextHop {
    NextHop { interface, whole, ..NextHop::default() }
}

fn memory() -> Memory {
    let memory = Memory::on_heap(SMALL, 7);
    memory.set_routes_until(NOW + 100, true);
    memory
}

#[test]
fn clients_of_a_block_with_one_way_are_remembered_together() {
    const SMALL_BLOCK: u32 = 1;
    const LARGE_BLOCK: u32 = 2;
    let stories = [
        (LARGE_BLOCK, "198.51.7.7", "198.51.100.200", "198.52.7.7"),
        (LARGE_BLOCK, "2001:db8:7::7", "2001:db8:8::9", "2001:db9:7::7"),
        (SMALL_BLOCK, "198.51.7.7", "198.51.7.200", "198.51.8.7"),
        (SMALL_BLOCK, "2001:db8:7::7", "2001:db8:7:1::9", "2001:db8:8::7"),
    ];
    for (size, first, other, outside) in stories {
        let memory = memory();
        assert_eq!(leaves(&memory, to(1, size), first), Some(1));
        assert_eq!(leaves(&memory, to(2, size), other), Some(1), "the copy is not asked");
        assert_eq!(leaves(&memory, to(2, size), outside), Some(2));
        memory.outdate_shortcuts();
        assert_eq!(leaves(&memory, to(3, size), first), Some(3), "it has been written anew");
    }
}

#[test]
fn a_client_of_another_block_is_remembered_alone() {
    let memory = memory();
    assert_eq!(leaves(&memory, to(1, 0), "198.51.7.7"), Some(1));
    assert_eq!(leaves(&memory, to(2, 0), "198.51.7.7"), Some(1));
    assert_eq!(leaves(&memory, to(2, 0), "198.51.7.8"), Some(2));
    memory.set_routes_until(NOW, true);
    assert_eq!(leaves(&memory, to(2, 0), "198.51.7.7"), None, "the copy is too old");
}

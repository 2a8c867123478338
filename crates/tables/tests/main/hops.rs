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
    let hash = address.words()[1] >> 56;
    let control = view.control().unwrap();
    route::recalled(&view, &control, view.processor().unwrap(), family, &address, hash).map(|next| next.interface)
}

fn to(interface: u32, whole: bool) -> NextHop {
    NextHop { interface, whole: whole.into(), ..NextHop::default() }
}

fn memory() -> Memory {
    let memory = Memory::on_heap(SMALL, 7);
    memory.set_routes_until(NOW + 100, true);
    memory
}

#[test]
fn clients_of_a_block_with_one_way_are_remembered_together() {
    let memory = memory();
    for (first, other, outside) in
        [("198.51.7.7", "198.51.100.200", "198.52.7.7"), ("2001:db8:7::7", "2001:db8:8::9", "2001:db9::7")]
    {
        assert_eq!(leaves(&memory, to(1, true), first), Some(1));
        assert_eq!(leaves(&memory, to(2, true), other), Some(1), "the copy is not asked");
        assert_eq!(leaves(&memory, to(2, true), outside), Some(2));
        memory.outdate_shortcuts();
        assert_eq!(leaves(&memory, to(3, true), first), Some(3), "it has been written anew");
    }
}

#[test]
fn a_client_of_another_block_is_remembered_alone() {
    let memory = memory();
    assert_eq!(leaves(&memory, to(1, false), "198.51.7.7"), Some(1));
    assert_eq!(leaves(&memory, to(2, false), "198.51.7.7"), Some(1));
    assert_eq!(leaves(&memory, to(2, false), "198.51.100.200"), Some(2));
    memory.set_routes_until(NOW, true);
    assert_eq!(leaves(&memory, to(2, false), "198.51.7.7"), None, "the copy is too old");
}

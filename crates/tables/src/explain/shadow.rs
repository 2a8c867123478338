//! Tables that take every write and change nothing: what packets write goes into copies, made when they are first
//! looked at. So a packet can go its whole way through a running director's tables without leaving a trace.

use crate::view::View;
use marca_engine::layout::{
    Address, AddressCell, Cell, Condition, Control, Destination, Fragment, Load, Neighbour, PortCell, Processor,
    RangeCell, Real, Server, Service, Slot, Vip, Word32, Word64, real_flags,
};
use marca_engine::reason::Reason;
use marca_engine::tables::{CellTable, Route, RouteQuery, Scan, Step, Tables};
use std::cell::OnceCell;

/// A view whose records are copies.
pub(super) struct Shadow<'a> {
    view: View<'a>,
    /// Real servers without a next hop count as resolved: nobody runs who could resolve them.
    pretend: bool,
    cells: [Copies<Cell>; 4],
    slots: Copies<Word64>,
    loads: Copies<Load>,
    cursors: Copies<Word64>,
    watch: Copies<Word64>,
    neighbours: Copies<Neighbour>,
    fragments: Copies<Fragment>,
    answers: Copies<Word64>,
    rates: Copies<Word64>,
}

impl<'a> Shadow<'a> {
    pub fn new(view: View<'a>, pretend: bool) -> Self {
        Self {
            view,
            pretend,
            cells: Default::default(),
            slots: Copies::default(),
            loads: Copies::default(),
            cursors: Copies::default(),
            watch: Copies::default(),
            neighbours: Copies::default(),
            fragments: Copies::default(),
            answers: Copies::default(),
            rates: Copies::default(),
        }
    }

    pub fn take_steps(&self) -> Vec<Step> {
        self.view.take_steps()
    }
}

/// Copies by index, handed out by reference while more are added: a few chains, each link written once.
struct Copies<T> {
    chains: [Link<T>; CHAINS],
}

type Link<T> = OnceCell<Box<Copied<T>>>;

struct Copied<T> {
    index: u32,
    record: T,
    next: Link<T>,
}

/// A packet looks at some dozens of records, but a least-connection scheduler at every server's load.
const CHAINS: usize = 256;

impl<T> Default for Copies<T> {
    fn default() -> Self {
        Self { chains: std::array::from_fn(|_| OnceCell::new()) }
    }
}

impl<T> Copies<T> {
    /// The copy at `index`, which `copy` makes the first time.
    fn at(&self, index: u32, copy: impl FnOnce() -> Option<T>) -> Option<&T> {
        let mut link = &self.chains[index as usize % CHAINS];
        while let Some(copied) = link.get() {
            if copied.index == index {
                return Some(&copied.record);
            }
            link = &copied.next;
        }
        let record = copy()?;
        Some(&link.get_or_init(|| Box::new(Copied { index, record, next: OnceCell::new() })).record)
    }
}

/// A copy of one moment: packets may be writing the record.
fn copy_cell(cell: &Cell) -> Cell {
    loop {
        let stamp = cell.stamp.get();
        let copy = Cell {
            stamp: Word32::new(stamp),
            seen: Word32::new(cell.seen.get()),
            key: std::array::from_fn(|i| Word64::new(cell.key[i].get())),
            owner: Word64::new(cell.owner.get()),
            state: Word64::new(cell.state.get()),
        };
        if cell.stamp.get() == stamp {
            return copy;
        }
        std::hint::spin_loop();
    }
}

fn copy_word(word: &Word64) -> Word64 {
    Word64::new(word.get())
}

impl Tables for Shadow<'_> {
    fn control(&self) -> Option<Control> {
        self.view.control()
    }

    fn address(&self, index: u32) -> Option<AddressCell> {
        self.view.address(index)
    }

    fn port(&self, index: u32) -> Option<PortCell> {
        self.view.port(index)
    }

    fn range(&self, index: u32) -> Option<RangeCell> {
        self.view.range(index)
    }

    fn condition(&self, index: u32) -> Option<Condition> {
        self.view.condition(index)
    }

    fn destination(&self, index: u32) -> Option<Destination> {
        self.view.destination(index)
    }

    fn prefix(&self, half: u32, family: u8, address: &Address) -> Option<u32> {
        self.view.prefix(half, family, address)
    }

    fn vip(&self, index: u32) -> Option<Vip> {
        self.view.vip(index)
    }

    fn source(&self, number: u32) -> Option<Address> {
        self.view.source(number)
    }

    fn service(&self, index: u32) -> Option<Service> {
        self.view.service(index)
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.at(index, || self.view.slot(index).map(copy_word))
    }

    fn server(&self, index: u32) -> Option<Server> {
        self.view.server(index)
    }

    fn real(&self, index: u32) -> Option<Real> {
        let mut real = self.view.real(index)?;
        if self.pretend {
            real.flags |= real_flags::RESOLVED;
        }
        Some(real)
    }

    fn load(&self, index: u32) -> Option<&Load> {
        let copy = |load: &Load| Load {
            active: copy_word(&load.active),
            inactive: copy_word(&load.inactive),
            bounds: copy_word(&load.bounds),
        };
        self.loads.at(index, || self.view.load(index).map(copy))
    }

    fn cursor(&self, service: u32) -> Option<&Word64> {
        self.cursors.at(service, || self.view.cursor(service).map(copy_word))
    }

    fn cell(&self, table: CellTable, index: u32) -> Option<&Cell> {
        let copies = match table {
            CellTable::Flows => &self.cells[0],
            CellTable::HalfOpen => &self.cells[1],
            CellTable::Templates => &self.cells[2],
            CellTable::Localities => &self.cells[3],
        };
        copies.at(index, || self.view.cell(table, index).map(copy_cell))
    }

    fn watch(&self, index: u32) -> Option<&Word64> {
        self.watch.at(index, || self.view.watch(index).map(copy_word))
    }

    fn neighbour(&self, index: u32) -> Option<&Neighbour> {
        let copy = |neighbour: &Neighbour| Neighbour {
            family: Word32::new(neighbour.family.get()),
            interface: Word32::new(neighbour.interface.get()),
            address: std::array::from_fn(|i| copy_word(&neighbour.address[i])),
            macs: std::array::from_fn(|i| copy_word(&neighbour.macs[i])),
            asked: copy_word(&neighbour.asked),
        };
        self.neighbours.at(index, || self.view.neighbour(index).map(copy))
    }

    fn fragment(&self, index: u32) -> Option<&Fragment> {
        let copy = |fragment: &Fragment| Fragment {
            stamp: Word32::new(fragment.stamp.get()),
            seen: Word32::new(fragment.seen.get()),
            key: std::array::from_fn(|i| copy_word(&fragment.key[i])),
            vip: std::array::from_fn(|i| copy_word(&fragment.vip[i])),
            peer: std::array::from_fn(|i| copy_word(&fragment.peer[i])),
            way: copy_word(&fragment.way),
        };
        self.fragments.at(index, || self.view.fragment(index).map(copy))
    }

    /// What a shortcut does is no explanation.
    fn processor(&self) -> Option<&Processor> {
        None
    }

    fn answers(&self, group: u32) -> Option<&Word64> {
        self.answers.at(group, || self.view.answers(group).map(copy_word))
    }

    fn rate(&self, service: u32) -> Option<&Word64> {
        self.rates.at(service, || self.view.rate(service).map(copy_word))
    }

    fn now(&self) -> u32 {
        self.view.now
    }

    fn route(&self, query: &RouteQuery) -> Route {
        self.view.route(query)
    }

    fn scan<S: Scan<Self>>(&self, count: u32, visitor: &mut S) {
        for index in 0..count {
            if !visitor.visit(self, index) {
                return;
            }
        }
    }

    // What would be counted interests nobody.
    fn count_in(&mut self, _: u32, _: u32, _: bool) {}

    fn count_out(&mut self, _: u32, _: u32) {}

    fn traffic(&self, real: u32) -> u32 {
        real
    }

    fn count_at(&self, _: u32, _: u32, _: bool) {}

    fn count(&mut self, _: Reason) {}

    fn count_refused(&mut self, _: u32) {}

    fn note(&self, step: Step) {
        self.view.note(step);
    }
}

//! The tables in BPF maps: the engine's [`Tables`]. Sizes here are the least; the loader sets the real ones.
//!
//! All but the counters and the prefixes can be mapped into the daemon's memory, which is how it fills and sweeps them.

use aya_ebpf::bindings::bpf_fib_lookup as FibLookup;
use aya_ebpf::btf_maps::lpm_trie::Key as LpmKey;
use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_get_smp_processor_id, bpf_loop};
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use marca_engine::Between;
use marca_engine::layout::Word64;
use marca_engine::layout::{
    Address, AddressCell, Cell, Condition, Control, Destination, Fragment, Load, Macs, Neighbour, NextHop, PortCell,
    Processor, RangeCell, Real, Server, Service, ServiceCell, Slot, TICK_SHIFT, Traffic, V4, Vip, limits,
};
use marca_engine::reason::Reason;
use marca_engine::tables::{CellTable, Route, RouteQuery, Scan, Tables};

/// `BPF_F_MMAPABLE`.
const MMAP: usize = 1 << 10;

#[btf_map]
static CONTROL: Array<Control, 1, MMAP> = Array::new();
#[btf_map]
static ADDRESSES: Array<AddressCell, 2, MMAP> = Array::new();
#[btf_map]
static PORTS: Array<PortCell, 2, MMAP> = Array::new();
#[btf_map]
static RANGES: Array<RangeCell, 2, MMAP> = Array::new();
#[btf_map]
static CONDITIONS: Array<Condition, 2, MMAP> = Array::new();
#[btf_map]
static DESTINATIONS: Array<Destination, 2, MMAP> = Array::new();
/// Half of the classifier, family, address.
#[btf_map]
static PREFIXES: LpmTrie<[u32; 6], u32, 1024> = LpmTrie::new();
#[btf_map]
static VIPS: Array<Vip, 2, MMAP> = Array::new();
#[btf_map]
static SOURCES: Array<Address, { limits::SOURCES as usize }, MMAP> = Array::new();
#[btf_map]
static SERVICES: Array<ServiceCell, 2, MMAP> = Array::new();
#[btf_map]
static SLOTS: Array<Slot, 2, MMAP> = Array::new();
#[btf_map]
static SERVERS: Array<Server, 2, MMAP> = Array::new();
#[btf_map]
static REALS: Array<Real, 2, MMAP> = Array::new();
#[btf_map]
static LOADS: Array<Load, 2, MMAP> = Array::new();
#[btf_map]
static CURSORS: Array<Word64, 2, MMAP> = Array::new();
#[btf_map]
static RATES: Array<Word64, 2, MMAP> = Array::new();
/// New connections beyond the rate limit, by service.
#[btf_map]
static REFUSED: PerCpuArray<u64, 2> = PerCpuArray::new();
#[btf_map]
static FLOWS: Array<Cell, 8, MMAP> = Array::new();
#[btf_map]
static HALF_OPEN: Array<Cell, 8, MMAP> = Array::new();
#[btf_map]
static TEMPLATES: Array<Cell, 8, MMAP> = Array::new();
#[btf_map]
static LOCALITIES: Array<Cell, { limits::LOCALITIES as usize }, MMAP> = Array::new();
#[btf_map]
static WATCH: Array<Word64, { (limits::WATCH_BITS / 64 * 2) as usize }, MMAP> = Array::new();
#[btf_map]
static NEIGHBOURS: Array<Neighbour, { limits::NEIGHBOURS as usize }, MMAP> = Array::new();
#[btf_map]
static FRAGMENTS: Array<Fragment, { limits::FRAGMENTS as usize }, MMAP> = Array::new();
#[btf_map]
static ANSWERS: Array<Word64, { limits::ANSWERS as usize }, MMAP> = Array::new();
/// Family, address, and a word of nothing that keeps the values aligned.
#[btf_map]
static ROUTES: LpmTrie<[u32; 6], NextHop, { limits::ROUTES as usize }> = LpmTrie::new();
/// Of each processor a part of [`TRAFFIC_STRIDE`].
#[btf_map]
static TRAFFIC: Array<Traffic, 2, MMAP> = Array::new();
#[btf_map]
static PROCESSORS: Array<Processor, 1, MMAP> = Array::new();
/// For tail calls: the stages, at their numbers (`marca_engine::Stage`). The loader fills them (`marca_bpf::TAIL_CALLS`).
#[btf_map]
pub static PROGRAMS: ProgramArray<STAGES> = ProgramArray::new();
/// The same in TC: the kernel keeps programs of different types apart (`marca_bpf::TAIL_CALLS_TC`).
#[btf_map]
pub static PROGRAMS_TC: ProgramArray<STAGES> = ProgramArray::new();
/// What stages leave for each other, on each processor.
#[btf_map]
pub static BETWEEN: PerCpuArray<Between, 1> = PerCpuArray::new();

/// What the kernel is asked about a route: outside of the stack.
#[btf_map]
pub static QUESTION: PerCpuArray<[u64; QUESTION_WORDS], 1> = PerCpuArray::new();
const QUESTION_WORDS: usize = size_of::<FibLookup>() / size_of::<u64>();

/// Real servers whose traffic is counted. Arrays with a part for each processor are mapped and found more cheaply than the
/// kernel's own arrays for each processor. The loader sets it, and the verifier takes it for a constant.
#[unsafe(no_mangle)]
static TRAFFIC_STRIDE: u32 = 2;

/// Room for that many stages.
const STAGES: usize = 24;

/// The maps, for one packet.
pub struct Maps {
    ctx: *mut c_void,
    processor: u32,
}

impl Maps {
    #[inline(always)]
    pub fn new(ctx: *mut c_void) -> Self {
        // SAFETY: a helper without preconditions.
        Self { ctx, processor: unsafe { bpf_get_smp_processor_id() } }
    }
}

impl Tables for Maps {
    // Configuration records are copied from memory that the daemon may be writing. What must change as one is switched
    // by a single word (`Control::half`, `ServiceCell::current`), so a copy is of one version.

    #[inline(always)]
    fn control(&self) -> Option<Control> {
        CONTROL.get(0).copied()
    }

    #[inline(always)]
    fn address(&self, index: u32) -> Option<AddressCell> {
        ADDRESSES.get(index).copied()
    }

    #[inline(always)]
    fn port(&self, index: u32) -> Option<PortCell> {
        PORTS.get(index).copied()
    }

    #[inline(always)]
    fn range(&self, index: u32) -> Option<RangeCell> {
        RANGES.get(index).copied()
    }

    #[inline(always)]
    fn condition(&self, index: u32) -> Option<Condition> {
        CONDITIONS.get(index).copied()
    }

    #[inline(always)]
    fn destination(&self, index: u32) -> Option<Destination> {
        DESTINATIONS.get(index).copied()
    }

    #[inline(always)]
    fn prefix(&self, half: u32, family: u8, address: &Address) -> Option<u32> {
        let [a, b, c, d] = address.parts();
        // IPv4 addresses are in the last word: its prefix begins there.
        let data =
            if family == V4 { [half, u32::from(family), d, 0, 0, 0] } else { [half, u32::from(family), a, b, c, d] };
        let bits = if family == V4 { 96 } else { 192 };
        PREFIXES.get(&LpmKey::new(bits, data)).copied()
    }

    #[inline(always)]
    fn vip(&self, index: u32) -> Option<Vip> {
        VIPS.get(index).copied()
    }

    #[inline(always)]
    fn source(&self, number: u32) -> Option<Address> {
        SOURCES.get(number).copied()
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<Service> {
        let cell = SERVICES.get(index)?;
        // SAFETY: it is initialised. Volatile, or LLVM makes a choice of each field's address.
        let current = unsafe { (&raw const cell.current).read_volatile() };
        cell.versions.get(current as usize & 1).copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<&Slot> {
        SLOTS.get(index)
    }

    #[inline(always)]
    fn server(&self, index: u32) -> Option<Server> {
        SERVERS.get(index).copied()
    }

    #[inline(always)]
    fn real(&self, index: u32) -> Option<Real> {
        REALS.get(index).copied()
    }

    #[inline(always)]
    fn load(&self, index: u32) -> Option<&Load> {
        LOADS.get(index)
    }

    #[inline(always)]
    fn cursor(&self, service: u32) -> Option<&Word64> {
        CURSORS.get(service)
    }

    #[inline(always)]
    fn cell(&self, table: CellTable, index: u32) -> Option<&Cell> {
        match table {
            CellTable::Flows => FLOWS.get(index),
            CellTable::HalfOpen => HALF_OPEN.get(index),
            CellTable::Templates => TEMPLATES.get(index),
            CellTable::Localities => LOCALITIES.get(index),
        }
    }

    #[inline(always)]
    fn watch(&self, index: u32) -> Option<&Word64> {
        WATCH.get(index)
    }

    #[inline(always)]
    fn neighbour(&self, index: u32) -> Option<&Neighbour> {
        NEIGHBOURS.get(index)
    }

    #[inline(always)]
    fn fragment(&self, index: u32) -> Option<&Fragment> {
        FRAGMENTS.get(index)
    }

    #[inline(always)]
    fn processor(&self) -> Option<&Processor> {
        PROCESSORS.get(self.processor)
    }

    #[inline(always)]
    fn answers(&self, group: u32) -> Option<&Word64> {
        ANSWERS.get(group)
    }

    #[inline(always)]
    fn rate(&self, service: u32) -> Option<&Word64> {
        RATES.get(service)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        ticks()
    }

    #[inline(always)]
    fn next_hop(&self, family: u8, address: &Address) -> Option<NextHop> {
        let [a, b, c, d] = address.parts();
        let family_word = u32::from(family);
        let data = if family == V4 { [family_word, d, 0, 0, 0, 0] } else { [family_word, a, b, c, d, 0] };
        let bits = if family == V4 { 64 } else { 160 };
        ROUTES.get(&LpmKey::new(bits, data)).copied()
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        let Some(place) = QUESTION.get_ptr_mut(0) else { return Route::None };
        // SAFETY: this processor's own copy, of the same size and a greater alignment; plain bytes, all of which may be zero.
        let fib = unsafe {
            place.write([0; QUESTION_WORDS]);
            &mut *place.cast::<FibLookup>()
        };
        fib.ifindex = query.interface;
        if query.family == V4 {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = query.source.last();
            fib.__bindgen_anon_4.ipv4_dst = query.destination.last();
        } else {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = query.source.parts();
            fib.__bindgen_anon_4.ipv6_dst = query.destination.parts();
        }
        // SAFETY: the context and the parameter block are valid, and the length is the block's.
        let answer = unsafe { bpf_fib_lookup(self.ctx, &raw mut *fib, size_of::<FibLookup>() as i32, 0) };
        match answer {
            // In TC the kernel also looks whether the packet is too long for the interface. XDP finds that out by sending it.
            FIB_SUCCESS | FIB_FRAGMENTATION_NEEDED => {
                Route::Via { interface: fib.ifindex, macs: Macs::new(fib.dmac, fib.smac) }
            }
            FIB_NO_NEIGHBOUR => Route::NoNeighbour { interface: fib.ifindex },
            FIB_NOT_FORWARDED => Route::Here,
            _ => Route::None,
        }
    }

    #[inline(always)]
    fn scan<S: Scan<Self>>(&self, count: u32, visitor: &mut S) {
        // SAFETY: the callback gets the context that is handed over here, and only while this call lasts.
        unsafe { bpf_loop(count, visit::<S> as *mut c_void, (&raw mut *visitor).cast(), 0) };
    }

    #[inline(always)]
    fn count_in(&mut self, real: u32, bytes: u32, new_connection: bool) {
        if let Some(traffic) = TRAFFIC.get_ptr_mut(self.traffic(real)) {
            // SAFETY: this processor's own part, and programs do not interrupt each other on one.
            let traffic = unsafe { &mut *traffic };
            traffic.in_packets += 1;
            traffic.in_bytes += u64::from(bytes);
            if new_connection {
                traffic.connections += 1;
            }
        }
    }

    #[inline(always)]
    fn count_out(&mut self, real: u32, bytes: u32) {
        self.count_at(self.traffic(real), bytes, true);
    }

    #[inline(always)]
    fn count(&mut self, reason: Reason) {
        if let Some(Processor { reasons, .. }) = self.processor() {
            let number = reason as usize;
            // SAFETY: it is initialised. Volatile, or LLVM, which knows what reasons there are, leaves out the mask, by which
            // the verifier sees it.
            let number = unsafe { (&raw const number).read_volatile() };
            let count = &reasons[number & (limits::REASONS - 1)];
            count.set(count.get() + 1);
        }
    }

    #[inline(always)]
    fn traffic(&self, real: u32) -> u32 {
        // SAFETY: a static. Volatile, or LLVM takes what stands there for what the loader has put there.
        let stride = unsafe { (&raw const TRAFFIC_STRIDE).read_volatile() };
        if real < stride { self.processor * stride + real } else { u32::MAX }
    }

    #[inline(always)]
    fn count_at(&self, place: u32, bytes: u32, out: bool) {
        if let Some(traffic) = TRAFFIC.get_ptr_mut(place) {
            // SAFETY: as in `count_in`.
            let traffic = unsafe { &mut *traffic };
            if out {
                traffic.out_packets += 1;
                traffic.out_bytes += u64::from(bytes);
            } else {
                traffic.in_packets += 1;
                traffic.in_bytes += u64::from(bytes);
            }
        }
    }

    #[inline(always)]
    fn count_refused(&mut self, service: u32) {
        if let Some(count) = REFUSED.get_ptr_mut(service) {
            // SAFETY: as in `count_in`.
            unsafe { *count += 1 }
        }
    }
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// `enum` of `BPF_FIB_LKUP_RET_*` in `include/uapi/linux/bpf.h`.
const FIB_SUCCESS: i64 = 0;
const FIB_NOT_FORWARDED: i64 = 4;
const FIB_NO_NEIGHBOUR: i64 = 7;
const FIB_FRAGMENTATION_NEEDED: i64 = 8;

/// Now, in ticks.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: a helper without preconditions.
    (unsafe { aya_ebpf::helpers::generated::bpf_jiffies64() } >> TICK_SHIFT) as u32
}

/// One step of a scan. The context is not handed through: a scan looks only into maps.
extern "C" fn visit<S: Scan<Maps>>(index: u32, visitor: *mut S) -> i64 {
    // SAFETY: `scan` passes its visitor and waits.
    let visitor = unsafe { &mut *visitor };
    let maps = Maps { ctx: core::ptr::null_mut(), processor: 0 };
    if visitor.visit(&maps, index) { 0 } else { 1 }
}

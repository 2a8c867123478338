//! The BPF objects, embedded: built by `cargo xtask bpf`, committed, and compared in CI.
//!
//! Nothing here decides anything, and nothing here loads: see `marca-daemon` for that.

/// Bytes at an address that an ELF header can be read from.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static ROUTER_BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/router.bpf.o"));
static REAL_SERVER_BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/real_server.bpf.o"));
static BENCH_BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../objects/bench.bpf.o"));

/// The director's object: programs [`ENTRY`], [`TAIL_CALLS`] and [`CLOCK`], those for TC, and all its maps.
pub fn router() -> &'static [u8] {
    &ROUTER_BYTES.0
}

/// The real servers' object: programs [`DECAP`] and [`PASS`].
pub fn real_server() -> &'static [u8] {
    &REAL_SERVER_BYTES.0
}

/// The benchmark's object.
pub fn bench() -> &'static [u8] {
    &BENCH_BYTES.0
}

macro_rules! tail_calls {
    ($($name:literal,)* only xdp: $($only_xdp:literal,)*) => {
        /// Programs that the others call, in the order of their places in the map `PROGRAMS`: the engine's stages.
        pub const TAIL_CALLS: &[&str] = &[$($name,)* $($only_xdp,)*];
        /// The same for TC, in the map `PROGRAMS_TC`, as far as it has them.
        pub const TAIL_CALLS_TC: &[&str] = &[$(concat!($name, "_tc"),)*];
    };
}

pub const ENTRY: &str = "marca";
pub const ENTRY_TC: &str = "marca_tc";
tail_calls! {
    "marca_judge",
    "marca_act",
    "marca_tell",
    "marca_full",
    "marca_back",
    "marca_borrow",
    "marca_hide",
    "marca_follow",
    "marca_quote",
    "marca_relate",
    "marca_relay",
    "marca_unwrap",
    "marca_choose",
    "marca_give",
    "marca_ftp",
    only xdp:
    "marca_serve",
    "marca_remember",
}
/// Those of [`TAIL_CALLS`] that only packets of services with real servers under fullnat come to.
pub const FULLNAT: [&str; 5] = ["marca_full", "marca_back", "marca_borrow", "marca_hide", "marca_give"];
/// The one that only packets of services with `protocol = "ftp"` come to.
pub const FTP: &str = "marca_ftp";
pub const CLOCK: &str = "marca_clock";
pub const DECAP: &str = "marca_decap";
pub const PASS: &str = "marca_pass";

/// The maps that are pinned and shared from one load to the next.
/// Not among them: `PROGRAMS`, `PROGRAMS_TC`, `BETWEEN` and `QUESTION`, which belong to one load's programs.
pub const MAPS: [&str; 28] = [
    "CONTROL",
    "ADDRESSES",
    "PORTS",
    "RANGES",
    "CONDITIONS",
    "DESTINATIONS",
    "PREFIXES",
    "VIPS",
    "SOURCES",
    "SERVICES",
    "SLOTS",
    "SERVERS",
    "REALS",
    "LOADS",
    "CURSORS",
    "RATES",
    "REFUSED",
    "FLOWS",
    "HALF_OPEN",
    "TEMPLATES",
    "LOCALITIES",
    "WATCH",
    "NEIGHBOURS",
    "FRAGMENTS",
    "ANSWERS",
    "ROUTES",
    "TRAFFIC",
    "PROCESSORS",
];

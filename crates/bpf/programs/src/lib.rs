//! The programs for XDP and TC: glue between the kernel and the engine, no decisions.
//!
//! Compiled for the host as LTO bitcode and linked to BPF by `cargo xtask bpf`; see `crates/bpf/README.md`. One archive
//! gives three objects, which export different symbols: the router, what runs on real servers, and the benchmark.
#![cfg_attr(feature = "programs", no_std)]

#[cfg(feature = "programs")]
mod bench;
#[cfg(feature = "programs")]
mod frame;
#[cfg(feature = "programs")]
mod maps;
#[cfg(feature = "programs")]
mod real_server;
#[cfg(feature = "programs")]
mod router;
#[cfg(feature = "programs")]
mod skb;

#[cfg(feature = "programs")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call some helpers; this names the licence as it knows it.
#[cfg(feature = "programs")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! Words that several processors, the kernel and the daemon write without locks.
//!
//! Relaxed atomics, but for one thing: LLVM 22 cannot select plain atomic loads and stores for BPF before v4
//! ("cannot select: AtomicLoad"), so there they are volatile accesses of the same width, which the kernel's JITs turn
//! into the same single instruction. Read-modify-write operations are atomics everywhere; in BPF those that return a
//! value are fully ordered.
//!
//! A crate of its own because it holds the only unsafe code that the engine needs.
#![no_std]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

macro_rules! word {
    ($name:ident, $atomic:ident, $int:ident) => {
        /// A shared word.
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name($atomic);

        impl $name {
            pub const fn new(value: $int) -> Self {
                Self($atomic::new(value))
            }

            #[inline(always)]
            pub fn get(&self) -> $int {
                #[cfg(marca_bpf)]
                // SAFETY: the pointer is to this word, which is aligned and lives; the access is one instruction.
                unsafe {
                    self.0.as_ptr().read_volatile()
                }
                #[cfg(not(marca_bpf))]
                self.0.load(Relaxed)
            }

            #[inline(always)]
            pub fn set(&self, value: $int) {
                #[cfg(marca_bpf)]
                // SAFETY: as in `get`; interior mutability makes the write through `&self` allowed.
                unsafe {
                    self.0.as_ptr().write_volatile(value)
                }
                #[cfg(not(marca_bpf))]
                self.0.store(value, Relaxed)
            }

            /// The value before.
            #[inline(always)]
            pub fn swap(&self, value: $int) -> $int {
                self.0.swap(value, Relaxed)
            }

            /// Whether the word was `before` and is now `after`.
            #[inline(always)]
            pub fn replace(&self, before: $int, after: $int) -> bool {
                self.0.compare_exchange(before, after, Relaxed, Relaxed).is_ok()
            }

            /// Wraps.
            #[inline(always)]
            pub fn add(&self, value: $int) {
                self.0.fetch_add(value, Relaxed);
            }

            /// Wraps.
            #[inline(always)]
            pub fn sub(&self, value: $int) {
                self.0.fetch_add(value.wrapping_neg(), Relaxed);
            }

            /// Sets bits.
            #[inline(always)]
            pub fn or(&self, bits: $int) {
                self.0.fetch_or(bits, Relaxed);
            }

            /// Clears the bits that are not in `bits`.
            #[inline(always)]
            pub fn and(&self, bits: $int) {
                self.0.fetch_and(bits, Relaxed);
            }
        }
    };
}

word!(Word32, AtomicU32, u32);
word!(Word64, AtomicU64, u64);

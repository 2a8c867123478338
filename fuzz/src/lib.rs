//! Fuzz targets: functions that take any bytes, and panic when something is wrong.
//!
//! `cargo xtask fuzz TARGET` looks for new inputs with libFuzzer; `fuzz/corpus/TARGET` holds those worth keeping, which the
//! tests replay. A finding becomes a file there whose name says what it was.

// The model of clients, operator and daemon is that of the property tests.
#[path = "../../crates/tables/tests/main/configuration.rs"]
#[allow(dead_code)]
mod configuration;
#[path = "../../crates/tables/tests/main/director.rs"]
#[allow(dead_code)]
mod director;
mod frames;
mod ftp;
mod operations;
#[path = "../../crates/tables/tests/main/packet.rs"]
#[allow(dead_code)]
mod packet;
#[path = "../../crates/tables/tests/main/simulation.rs"]
#[allow(dead_code)]
mod simulation;

pub use frames::frames;
pub use ftp::ftp;
pub use operations::operations;

/// A target: its name, which is also that of its folder in the corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("frames", frames), ("ftp", ftp), ("operations", operations)];

/// Takes bytes off the front of an input; an input that is too short goes on as if with zeros.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// At most as many as there are.
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count.min(self.0.len()));
        self.0 = left;
        taken
    }
}

//! A frame as the engine sees it: bounded copies in and out, no references.

/// The furthest offset that a frame is ever asked for; beyond it there is nothing to read. Ethernet, two tags, and headers
/// fit many times over, and the verifier gives up on packet ranges beyond 0xffff. All bits below it are set.
pub const FURTHEST: usize = 0x3ff;

/// A frame. `N` is 2 at least: the verifier learns nothing from comparing the end of a single byte. Offsets count from the first byte of the Ethernet header, and move when the frame grows or shrinks.
pub trait Packet {
    /// The `N` bytes at `at`, or `None` when they are not all there.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Overwrites the `N` bytes at `at`; false, and nothing written, when they are not all there.
    #[must_use]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool;

    /// Adds `by` bytes of unspecified content in front; false when there is no room.
    #[must_use]
    fn grow_front(&mut self, by: usize) -> bool;

    /// Removes the first `by` bytes; false when there are not as many.
    #[must_use]
    fn shrink_front(&mut self, by: usize) -> bool;

    /// Cuts the frame off at its end, to `length` bytes; false when it has not as many.
    #[must_use]
    fn truncate(&mut self, length: usize) -> bool;

    /// Whether the frame has at least `length` bytes, those of a multi-buffer frame's later buffers included.
    fn reaches(&self, length: usize) -> bool;

    /// The interface that the frame came in on.
    fn interface(&self) -> u32;
}

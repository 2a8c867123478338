//! A frame in memory as the engine's [`Packet`]: what tests and explanations hand to it.

use marca_engine::Packet;
use marca_engine::packet::FURTHEST;

/// A frame, and the interface that it came in on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub interface: u32,
    /// How far it can grow in front, in bytes.
    pub headroom: usize,
}

/// What XDP leaves in front: `XDP_PACKET_HEADROOM` less a `struct xdp_frame` (`net/core/filter.c`,
/// `bpf_xdp_adjust_head`).
const HEADROOM: usize = 256 - 40;

impl Frame {
    /// With the room in front that XDP gives.
    pub fn new(bytes: Vec<u8>, interface: u32) -> Self {
        Self { bytes, interface, headroom: HEADROOM }
    }
}

impl Packet for Frame {
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at > FURTHEST {
            return None;
        }
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn copy<const N: usize>(&self, at: usize, length: usize, to: &mut [u8; N]) -> bool {
        match (self.bytes.get(at..at.saturating_add(length)), to.get_mut(..length)) {
            (Some(from), Some(to)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }

    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        match self.bytes.get_mut(at..at.saturating_add(N)) {
            Some(place) if at <= FURTHEST => {
                place.copy_from_slice(&bytes);
                true
            }
            _ => false,
        }
    }

    fn grow_front(&mut self, by: usize) -> bool {
        let Some(headroom) = self.headroom.checked_sub(by) else { return false };
        self.headroom = headroom;
        self.bytes.splice(..0, std::iter::repeat_n(0, by));
        true
    }

    fn shrink_front(&mut self, by: usize) -> bool {
        // As in XDP, an Ethernet header must be left (`net/core/filter.c`, `bpf_xdp_adjust_head`).
        if by + ETHERNET > self.bytes.len() {
            return false;
        }
        self.headroom += by;
        self.bytes.drain(..by);
        true
    }

    fn truncate(&mut self, length: usize) -> bool {
        // As in XDP (`net/core/filter.c`, `bpf_xdp_adjust_tail`).
        if length < ETHERNET || length > self.bytes.len() {
            return false;
        }
        self.bytes.truncate(length);
        true
    }

    fn reaches(&self, length: usize) -> bool {
        length <= self.bytes.len()
    }

    fn interface(&self) -> u32 {
        self.interface
    }
}

const ETHERNET: usize = marca_engine::wire::ETHERNET;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_or_written_beyond_the_end() {
        let mut frame = Frame::new(vec![1, 2, 3, 4], 0);
        assert_eq!(frame.read::<2>(2), Some([3, 4]));
        assert_eq!(frame.read::<2>(3), None);
        assert_eq!(frame.read::<2>(usize::MAX), None);
        assert!(frame.write(2, [7, 8]));
        assert!(!frame.write(3, [9, 9]));
        assert!(!frame.write(usize::MAX, [9, 9]));
        assert_eq!(frame.bytes, [1, 2, 7, 8]);
    }

    #[test]
    fn growing_takes_of_the_room_in_front_and_shrinking_gives_it_back() {
        let mut frame = Frame::new(vec![5; 20], 0);
        assert!(!frame.grow_front(HEADROOM + 1));
        assert!(frame.grow_front(HEADROOM));
        assert!(!frame.grow_front(1));
        assert!(frame.shrink_front(HEADROOM));
        assert_eq!(frame.bytes, [5; 20]);
        assert!(!frame.shrink_front(7), "an Ethernet header must be left");
        assert!(frame.shrink_front(6));
    }
}

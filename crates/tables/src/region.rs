//! A piece of memory as an array of records: on the heap, or a BPF map that the kernel shares.
//!
//! Records that only the daemon writes are copied in and out, a word of 64 bits at a time; records of shared words are
//! handed out by reference.

use marca_engine::layout::{Cell, Fragment, Load, Neighbour, Processor, Word64};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An array of `T`s in shared memory.
pub struct Region<T> {
    memory: Memory,
    len: u32,
    record: PhantomData<fn() -> T>,
}

enum Memory {
    Heap(Box<[Word64]>),
    Mapped { start: NonNull<Word64>, words: usize },
}

// SAFETY: the memory is only accessed through shared words, which are atomics; the mapping belongs to the region.
unsafe impl<T> Send for Region<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Region<T> {}

/// A record made of shared words alone.
///
/// # Safety
/// Any bytes must be valid, its alignment at most 8, and everything in it interior mutable and atomic.
pub unsafe trait SharedRecord {}
// SAFETY: made of `Word32` and `Word64`.
unsafe impl SharedRecord for Cell {}
// SAFETY: as above.
unsafe impl SharedRecord for Fragment {}
// SAFETY: as above.
unsafe impl SharedRecord for Load {}
// SAFETY: as above.
unsafe impl SharedRecord for Neighbour {}
// SAFETY: as above.
unsafe impl SharedRecord for Processor {}
// SAFETY: as above.
unsafe impl SharedRecord for Word64 {}

impl<T> Region<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// `len` records of zeros.
    pub fn on_heap(len: u32) -> Self {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) }
        let words = (0..len as usize * Self::WORDS).map(|_| Word64::new(0)).collect();
        Self { memory: Memory::Heap(words), len, record: PhantomData }
    }

    /// The values of a BPF array that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// What mmap says: `EACCES` or `EPERM` for a map that may not be mapped.
    pub fn map(fd: impl AsFd, len: u32) -> nix::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) }
        let words = len as usize * Self::WORDS;
        let bytes = NonZeroUsize::new(words * 8).ok_or(nix::Error::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { memory: Memory::Mapped { start: start.cast(), words }, len, record: PhantomData })
    }

    /// How many records there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numbers of the records that are not all zeros.
    pub fn touched(&self) -> Vec<u32> {
        touched(self.words(), Self::WORDS)
    }

    /// Makes these records zeros, as far as there are so many.
    pub fn clear(&self, records: Range<u32>) {
        let (start, end) = (records.start as usize * Self::WORDS, records.end as usize * Self::WORDS);
        let words = self.words();
        words.get(start..end.min(words.len())).into_iter().for_each(clear);
    }

    fn words(&self) -> &[Word64] {
        match &self.memory {
            Memory::Heap(words) => words,
            // SAFETY: `words` words from `start` are mapped as long as the region lives, page-aligned.
            Memory::Mapped { start, words } => unsafe { std::slice::from_raw_parts(start.as_ptr(), *words) },
        }
    }

    fn record_words(&self, index: u32) -> Option<&[Word64]> {
        let at = index as usize * Self::WORDS;
        self.words().get(at..at + Self::WORDS)
    }
}

/// Not generic: optimised as this crate is, whoever calls it.
fn touched(words: &[Word64], record: usize) -> Vec<u32> {
    let is_zero = |record: &[Word64]| record.iter().all(|word| word.get() == 0);
    (0..).zip(words.chunks_exact(record)).filter(|(_, words)| !is_zero(words)).map(|(number, _)| number).collect()
}

/// As [`touched`]. Most words are zeros already, and stay in clean pages.
fn clear(words: &[Word64]) {
    words.iter().filter(|word| word.get() != 0).for_each(|word| word.set(0));
}

impl<T: FromBytes + IntoBytes + Immutable> Region<T> {
    /// A copy of the record; `None` out of bounds.
    pub fn get(&self, index: u32) -> Option<T> {
        let words = self.record_words(index)?;
        let mut record = T::new_zeroed();
        for (chunk, word) in record.as_mut_bytes().chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.get().to_ne_bytes());
        }
        Some(record)
    }

    /// Overwrites the record, word after word; false out of bounds. Words that are the same are not written.
    pub fn set(&self, index: u32, record: &T) -> bool {
        let Some(words) = self.record_words(index) else { return false };
        for (chunk, word) in record.as_bytes().chunks_exact(8).zip(words) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            let value = u64::from_ne_bytes(value);
            if word.get() != value {
                word.set(value);
            }
        }
        true
    }
}

impl<T: SharedRecord> Region<T> {
    /// The record itself; `None` out of bounds.
    pub fn at(&self, index: u32) -> Option<&T> {
        let words = self.record_words(index)?;
        // SAFETY: as many words as T has, aligned to 8, valid for any bytes, and shared by its own contract.
        Some(unsafe { &*words.as_ptr().cast::<T>() })
    }
}

impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        if let Memory::Mapped { start, words } = &self.memory {
            // SAFETY: this region's own mapping, which nothing refers to any more. It fails only for bad arguments.
            let _ = unsafe { munmap(start.cast::<c_void>(), words * 8) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marca_engine::layout::{Real, Server};

    #[test]
    fn a_record_comes_back_as_it_was_set_and_nothing_lies_out_of_bounds() {
        let region = Region::<Server>::on_heap(3);
        assert!(region.set(2, &Server { real: 7, weight: 9 }));
        assert_eq!(region.get(2), Some(Server { real: 7, weight: 9 }));
        assert_eq!(region.get(1), Some(Server::default()));
        assert!(!region.set(3, &Server::default()));
        assert_eq!(region.get(3), None);
    }

    #[test]
    fn records_that_are_cleared_are_zeros_and_the_others_are_known() {
        let region = Region::<Real>::on_heap(5);
        for number in [1, 3, 4] {
            region.set(number, &Real { last_weight: 7, ..Real::default() });
        }
        assert_eq!(region.touched(), [1, 3, 4]);
        region.clear(0..4);
        assert_eq!(region.touched(), [4]);
        assert_eq!(region.get(3), Some(Real::default()));
        region.clear(2..9);
        assert_eq!(region.touched(), []);
    }
}

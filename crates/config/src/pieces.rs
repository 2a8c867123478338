//! Work on thousands of services by all processors: a start reads its file while nothing else is to be done.

use std::num::NonZero;
use std::thread;

/// What `work` makes of pieces of `items`, several at a time, in their order.
pub(crate) fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let size = items.len().div_ceil(processors).max(LEAST);
    let Some((first, others)) = items.split_at_checked(size) else { return vec![work(items)] };
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = others.chunks(size).map(|piece| scope.spawn(move || work(piece))).collect();
        let first = work(first);
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(first).chain(others).collect()
    })
}

/// Fewer take less time than a thread's start and end.
const LEAST: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_order_and_whole() {
        for len in [0, 1, LEAST - 1, LEAST, LEAST + 1, 10 * LEAST + 7] {
            let items: Vec<usize> = (0..len).collect();
            assert_eq!(each(&items, <[usize]>::to_vec).concat(), items);
        }
    }
}

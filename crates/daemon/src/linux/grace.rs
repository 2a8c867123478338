//! membarrier(2), which waits until whatever was running in the kernel when it was called has come to an end: packets in the
//! programs of XDP and TC among it (`kernel/sched/membarrier.c`: `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu`).

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A thread that waits for the packets that were on their way when it was begun: 8 to 25 ms.
#[derive(Debug)]
pub struct Grace(Option<JoinHandle<()>>);

impl Grace {
    pub fn begin() -> Self {
        let waiting = thread::Builder::new().name("grace".into()).spawn(wait);
        if waiting.is_err() {
            wait();
        }
        Self(waiting.ok())
    }

    /// Whether all those packets are gone.
    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for it.
    pub fn end(self) {
        if self.0.is_some_and(|waiting| waiting.join().is_err()) {
            wait();
        }
    }
}

fn wait() {
    if membarrier(MEMBARRIER_CMD_GLOBAL).is_err() {
        thread::sleep(WITHOUT);
    }
}

/// A packet takes microseconds; the kernel that cannot be asked (`nohz_full`) and one that may not be (seccomp) get many.
const WITHOUT: Duration = Duration::from_millis(100);

/// Of `linux/membarrier.h`, Linux 4.16.
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

fn membarrier(command: libc::c_long) -> io::Result<()> {
    let (flags, processor): (libc::c_long, libc::c_long) = (0, 0);
    // SAFETY: it takes three integers, and touches no memory of the process.
    if unsafe { libc::syscall(libc::SYS_membarrier, command, flags, processor) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked() {
        membarrier(MEMBARRIER_CMD_GLOBAL).unwrap();
        assert!(membarrier(-1).is_err());
    }

    #[test]
    fn it_is_over_by_itself() {
        let grace = Grace::begin();
        while !grace.is_over() {
            thread::yield_now();
        }
        grace.end();
    }
}

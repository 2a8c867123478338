//! What the service manager is told, by sd_notify(3). To nobody when nobody asks to be told.
//!
//! The watchdog's pings come from whoever owns the director, between two events: an event loop that hangs sends none.

use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// The service manager that started this process, if one did.
pub struct Manager {
    /// How often it wants to hear that the process lives: half of its patience.
    ping_every: Option<Duration>,
    pinged: Option<Instant>,
    status: String,
}

impl Manager {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn of_environment() -> Self {
        let ping_every = sd_notify::watchdog_enabled().map(|patience| patience / 2);
        Self { ping_every, pinged: None, status: String::new() }
    }

    /// Packets flow; also the end of a reload.
    pub fn ready(&mut self, status: String) {
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// systemd 253 and later want to know when it began, to tell it from an earlier one.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The line that `systemctl status` shows; said once.
    pub fn status(&mut self, status: String) {
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// The event loop has come round.
    pub fn alive(&mut self, now: Instant) {
        let Some(every) = self.ping_every else { return };
        if self.pinged.is_none_or(|pinged| now.duration_since(pinged) >= every) {
            tell(&[NotifyState::Watchdog]);
            self.pinged = Some(now);
        }
    }
}

fn tell(what: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!("tell the service manager: {error}");
    }
}

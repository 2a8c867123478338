//! The event loop: one task owns the director, everything else is an event to it.

use crate::director::{Director, DirectorError, Started, TICK};
use crate::linux::network::Changes;
use crate::place::Place;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a director until SIGTERM or SIGINT; the data plane goes on without it. `ready` is called once packets flow.
///
/// # Errors
/// When it cannot start; what ran before goes on running.
pub async fn run(place: Place, file: &str, text: &str, ready: impl FnOnce(&Started)) -> Result<(), DirectorError> {
    // Opened before the state is read, so that no change falls between.
    let mut changes = Changes::open()?;
    // And these before anybody is told that packets flow, and ends the daemon for it.
    let mut terminate = signal(SignalKind::terminate()).map_err(DirectorError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DirectorError::Signal)?;
    let (mut director, started) = Director::start(place, file, text).await?;
    ready(&started);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Ok(change) => director.change(change).await,
                Err(error) => tracing::warn!("{error}"),
            },
            _ = tick.tick() => {
                if let Err(error) = director.tick().await {
                    tracing::error!("{error}");
                }
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

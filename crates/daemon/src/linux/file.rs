//! Changes of one file. Its folder is watched, since editors and package managers put another file in the place of the old
//! one; and while one is being written, many things happen to it.

use marca_config::model::ReloadWhen;
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Watches a file, or nothing.
#[derive(Default)]
pub struct FileWatch {
    watcher: Option<INotifyWatcher>,
    happened: Arc<Notify>,
    /// When it has been quiet for long enough.
    due: Option<Instant>,
}

impl FileWatch {
    /// Begins or ends.
    pub fn set(&mut self, file: &Path, when: ReloadWhen) {
        match when {
            ReloadWhen::Told => self.watcher = None,
            ReloadWhen::OnChange if self.watcher.is_some() => {}
            ReloadWhen::OnChange => match watcher(file, Arc::clone(&self.happened)) {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    // What has happened since the file was read.
                    self.happened.notify_one();
                }
                Err(error) => {
                    tracing::error!("watch {} for changes: {error}; a reload must be asked for", file.display())
                }
            },
        }
    }

    /// Something has happened to the file, and has come to an end. May be given up at any time, and asked again.
    pub async fn changed(&mut self) {
        if self.watcher.is_none() {
            return std::future::pending().await;
        }
        loop {
            let quiet = self.due;
            tokio::select! {
                () = self.happened.notified() => self.due = Some(Instant::now() + QUIET),
                () = async { sleep_until(quiet.unwrap_or_else(Instant::now)).await }, if quiet.is_some() => {
                    self.due = None;
                    return;
                }
            }
        }
    }
}

/// How long nothing must have happened.
const QUIET: Duration = Duration::from_millis(300);

fn watcher(file: &Path, happened: Arc<Notify>) -> notify::Result<INotifyWatcher> {
    // A link's own folder, and that of the file to which it leads.
    let paths: Vec<PathBuf> =
        [std::path::absolute(file).ok(), file.canonicalize().ok()].into_iter().flatten().collect();
    let names: BTreeSet<OsString> = paths.iter().filter_map(|path| path.file_name()).map(OsString::from).collect();
    let folders: BTreeSet<PathBuf> = paths.iter().filter_map(|path| path.parent()).map(PathBuf::from).collect();
    let is_link = paths.first() != paths.last();
    let tell = move |event: notify::Result<Event>| match event {
        // Whoever only reads it, as the daemon does, changes nothing.
        Ok(event) if matches!(event.kind, EventKind::Access(_)) => {}
        Ok(event) => {
            let concerns = |path: &PathBuf| path.file_name().is_some_and(|name| names.contains(name));
            // Of a link's folders anything may lead elsewhere now.
            if is_link || event.paths.iter().any(concerns) {
                happened.notify_one();
            }
        }
        Err(_) => happened.notify_one(),
    };
    let mut watcher = notify::recommended_watcher(tell)?;
    for folder in folders {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_file_that_is_replaced_or_written_is_told_of_once_it_is_quiet() {
        let dir = std::env::temp_dir().join(format!("marca-watch-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("marca.toml");
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::default();
        watch.set(&file, ReloadWhen::OnChange);
        let mut within =
            async |millis: u64| tokio::time::timeout(Duration::from_millis(millis), watch.changed()).await.is_ok();
        assert!(within(5000).await, "what it was before is looked at");
        fs::write(&file, "two").unwrap();
        assert!(!within(50).await, "not yet");
        assert!(within(5000).await);
        fs::write(dir.join("other"), "x").unwrap();
        let _ = fs::read(&file).unwrap();
        assert!(!within(600).await, "another file, and a look at this one");
        fs::write(dir.join("marca.toml.new"), "three").unwrap();
        fs::rename(dir.join("marca.toml.new"), &file).unwrap();
        assert!(within(5000).await);
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! The BPF file system, in which programs and maps outlive the daemon. Owns the mount and the directory; what is
//! pinned there is not its business.

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// Where everybody, libbpf and bpftool included, looks for pinned objects.
pub const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Makes sure that a BPF file system is mounted at [`MOUNT_POINT`] and that the directory `path` exists below it.
/// `path` is relative (`marca/maps`) or starts with the mount point. Returns the directory, absolute.
///
/// Changes nothing that is there already. Needs `CAP_SYS_ADMIN` to mount.
pub fn ensure(path: &Path) -> Result<PathBuf, BpffsError> {
    let below = path.strip_prefix(MOUNT_POINT).unwrap_or(path);
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(BpffsError::Outside(path.to_owned()));
    }
    let is_mounted =
        statfs(MOUNT_POINT).map_err(|errno| BpffsError::Look(errno.into()))?.filesystem_type() == BPF_FS_MAGIC;
    if !is_mounted {
        // As systemd mounts it: src/shared/mount-setup.c, `mount_table`.
        mount(
            Some("bpf"),
            MOUNT_POINT,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=700"),
        )
        .map_err(|errno| BpffsError::Mount(errno.into()))?;
        tracing::info!("mounted a BPF file system at {MOUNT_POINT}");
    }
    let directory = Path::new(MOUNT_POINT).join(below);
    // Who can open a pinned map can change where packets go.
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory) {
        Ok(()) => Ok(directory),
        Err(cause) => Err(BpffsError::Create { directory, cause }),
    }
}

/// What kept the BPF file system from being ready.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    #[error("{} is not below {MOUNT_POINT}", .0.display())]
    Outside(PathBuf),
    #[error("look at {MOUNT_POINT}: {0} (is sysfs mounted, and the kernel built with CONFIG_BPF_SYSCALL?)")]
    Look(io::Error),
    #[error("mount a BPF file system at {MOUNT_POINT}: {0}")]
    Mount(io::Error),
    #[error("create the directory {}: {cause}", directory.display())]
    Create { directory: PathBuf, cause: io::Error },
}

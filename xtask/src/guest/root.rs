//! The guest's root file system: Debian 12 by mmdebstrap, with its kernel, in a folder below cargo's target.

use crate::process::{run, target};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the guest has beside Debian's essential packages: what this module's scripts need, the peers of the tests that run
/// in it, what IPVS is measured with, and what the test of the package boots.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "curl",
    "ethtool",
    "iproute2",
    "iputils-ping",
    "ipvsadm",
    "kmod",
    "nginx-light",
    "openssl",
    "python3-minimal",
    "systemd",
];

const SUITE: &str = "bookworm";
const KERNEL: &str = include_str!("kernel.sh");
const INITRAMFS: &str = include_str!("initramfs.sh");

/// Where the root file system is, within cargo's target folder.
pub const ROOT: &str = "guest/root";

/// The root file system, built if there is none or its recipe has changed. Some 30 seconds, most of them `apt`.
pub fn ensure() -> Result<PathBuf> {
    let root = target().join(ROOT);
    let recipe_file = root.with_file_name("recipe");
    let recipe = [SUITE, &PACKAGES.join(","), KERNEL, INITRAMFS].join("\n");
    if fs::read_to_string(&recipe_file).is_ok_and(|built| built == recipe) {
        return Ok(root);
    }
    println!("building the guest's root file system in {}", root.display());
    let dir = root.parent().context("the target folder has a parent")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    // Gone first, written last: what is between them may be half a system.
    remove(&recipe_file)?;
    remove(&root)?;
    build(dir, &root)?;
    fs::write(&recipe_file, recipe)?;
    Ok(root)
}

fn build(dir: &Path, root: &Path) -> Result<()> {
    let (kernel, initramfs) = (dir.join("kernel.sh"), dir.join("initramfs.sh"));
    fs::write(&kernel, KERNEL)?;
    fs::write(&initramfs, INITRAMFS)?;
    // Quoted for the shell that runs the hooks.
    let quoted = |path: &Path| format!("'{}'", path.display());
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        // The kernel's and nobody's manuals; a third of the size.
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .arg(format!("--customize-hook=cp {} \"$1/initramfs.sh\"", quoted(&initramfs)))
        .arg(format!("--customize-hook=chroot \"$1\" sh -s < {}", quoted(&kernel)))
        .arg(SUITE)
        .arg(root);
    run(&mut mmdebstrap).context("build the guest's root file system (mmdebstrap needs root and a Debian mirror)")
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

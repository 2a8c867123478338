//! The BPF file system, in a mount namespace of its own.

use marca_daemon::linux::bpffs::{BpffsError, MOUNT_POINT, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Runs `work` on a thread that sees no BPF file system, and whose mounts nobody else sees.
fn without_bpffs(work: impl FnOnce() + Send + 'static) {
    let worker = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        while is_mounted() {
            umount2(MOUNT_POINT, MntFlags::MNT_DETACH).unwrap();
        }
        work();
    });
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn is_mounted() -> bool {
    statfs(MOUNT_POINT).unwrap().filesystem_type() == BPF_FS_MAGIC
}

#[test]
fn it_is_mounted_once_and_the_directory_made_for_root_alone() {
    without_bpffs(|| {
        assert!(!is_mounted());
        let directory = ensure(Path::new("marca-test/maps")).unwrap();
        assert!(is_mounted());
        assert_eq!(directory, Path::new(MOUNT_POINT).join("marca-test/maps"));
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);

        std::fs::create_dir(directory.join("kept")).unwrap();
        assert_eq!(ensure(&directory).unwrap(), directory, "an absolute path means the same");
        assert!(directory.join("kept").is_dir(), "a second mount would hide the first");
        umount2(MOUNT_POINT, MntFlags::MNT_DETACH).unwrap();
        assert!(!is_mounted(), "it was mounted once");
    });
}

#[test]
fn a_path_that_leads_out_is_refused_before_anything_is_mounted() {
    without_bpffs(|| {
        for path in ["/tmp/marca", "../marca", "marca/../../marca", "/sys/fs/bpf/../marca"] {
            let error = ensure(Path::new(path)).unwrap_err();
            assert!(matches!(&error, BpffsError::Outside(refused) if refused.as_os_str() == path));
            assert_eq!(error.to_string(), format!("{path} is not below /sys/fs/bpf"));
        }
        assert!(!is_mounted());
    });
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    without_bpffs(|| {
        // A BPF file system reserves names with dots: kernel/bpf/inode.c, `bpf_lookup`.
        assert_eq!(
            ensure(Path::new("marca.test")).unwrap_err().to_string(),
            "create the directory /sys/fs/bpf/marca.test: Operation not permitted (os error 1)"
        );
    });
}

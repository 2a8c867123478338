//! Ends pinned BPF links. Removing a pin alone is not enough for whoever goes on at once: the kernel lets go of the link
//! some time later (`kernel/bpf/inode.c`, `bpf_free_inode`), and until then the interface is taken.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Takes the program off its interface and removes the pin. When this returns, the interface is free.
pub fn end(pin: &Path) -> io::Result<()> {
    detach(&open(pin)?)?;
    fs::remove_file(pin)
}

/// The pin's name for an interface. The BPF file system keeps names with a dot to itself (`kernel/bpf/inode.c`,
/// `bpf_lookup`), and interfaces are named with one; no interface has a colon in its name.
pub fn name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// The interface of a pin of this name.
pub fn interface(name: &str) -> String {
    name.replace(':', ".")
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = ObjectGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn detach(link: &OwnedFd) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &LinkDetach { link: link.as_raw_fd() as u32 }).map(drop)
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_GET`; the kernel takes the rest as zero.
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is the beginning of the command's `union bpf_attr`, as long as said, and what it points to
    // outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

// From `linux/bpf.h`. aya has neither: its links let go of their file descriptors alone.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

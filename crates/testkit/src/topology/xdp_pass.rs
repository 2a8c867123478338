//! The XDP program that lets everything pass, and how to put it on a veth.
//!
//! A frame that a program sends by `XDP_TX` or redirects goes to the veth's peer, and the peer only takes such frames
//! if it has a program of its own (`drivers/net/veth.c`, `veth_xdp_xmit`): without it, all are lost without a trace.
//! Two instructions do not need a compiler, a loader, or a dependency on either.

use super::Error;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Loads `return XDP_PASS`.
pub(super) fn load() -> Result<OwnedFd, Error> {
    load_constant(XDP_PASS)
}

/// Loads a program that says the same of every frame.
pub(super) fn load_constant(verdict: i32) -> Result<OwnedFd, Error> {
    let instructions = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: verdict }, // r0 = verdict
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },       // exit
    ];
    let attributes = ProgramLoad {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &attributes).map_err(|error| Error::new("load the XDP pass program", error))
}

/// Attaches it, natively, to an interface of this thread's namespace, until the result is dropped.
pub(super) fn attach(program: &OwnedFd, interface: &str) -> Result<OwnedFd, Error> {
    let doing = || format!("attach the XDP pass program to {interface}");
    let name = CString::new(interface).map_err(|error| Error::new(doing(), error.into()))?;
    // SAFETY: the name is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(Error::last_os_error(doing()));
    }
    let attributes = LinkCreate {
        program: program.as_raw_fd() as u32,
        interface: index,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf(BPF_LINK_CREATE, &attributes).map_err(|error| Error::new(doing(), error))
}

/// `struct bpf_insn`
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Both commands used here return a new file descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is the beginning of the command's `union bpf_attr`, as long as said, and what it points to
    // outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

const XDP_PASS: i32 = 2;
// From `linux/bpf.h` and `linux/if_link.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

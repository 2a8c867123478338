//! The program `marca`; see the library.

/// Ten thousand services are millions of small pieces of memory, by several threads: glibc's takes half as long again for
/// reading them, and keeps twice as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    marca::main()
}

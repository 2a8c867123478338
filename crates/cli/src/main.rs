//! The program `marca`; see the library.

/// Ten thousand services are millions of small pieces of memory, by several threads: with glibc's allocator reading them takes
/// half as long again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    marca::main()
}

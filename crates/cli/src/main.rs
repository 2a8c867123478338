//! The program `marca`; see the library.

fn main() -> std::process::ExitCode {
    marca::main()
}

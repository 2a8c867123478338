//! With the feature `bpf`: links against the libLLVM that rustc itself ships.
use std::{env, fs, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return;
    }
    let rustc = env::var("RUSTC").expect("cargo sets RUSTC");
    let out = Command::new(rustc).args(["--print", "sysroot"]).output().expect("rustc runs");
    let lib = format!("{}/lib", String::from_utf8(out.stdout).expect("a path").trim());
    let so = fs::read_dir(&lib)
        .expect("rustc's library folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("libLLVM.so."))
        .expect("rustc's libLLVM");
    println!("cargo:rustc-link-arg-bins={lib}/{so}");
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{lib}");
    println!("cargo:rerun-if-changed={lib}/{so}");
}

//! `cargo xtask bpf`: Rust → LTO bitcode (rustc) → BPF objects (bpf-linker). See `crates/bpf/README.md`.

use crate::process::{cargo, root};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The objects: file, and exported symbols. The rest of the archive falls away.
fn objects() -> [(&'static str, Vec<&'static str>); 3] {
    let mut router = vec!["LICENSE", marca_bpf::ENTRY, marca_bpf::ENTRY_TC, marca_bpf::CLOCK];
    router.extend(["PROGRAMS", "PROGRAMS_TC", "BETWEEN", "QUESTION", "TRAFFIC_STRIDE"]);
    router.extend(marca_bpf::TAIL_CALLS.iter().chain(marca_bpf::TAIL_CALLS_TC));
    router.extend(marca_bpf::MAPS);
    let real_server = vec!["LICENSE", marca_bpf::DECAP, marca_bpf::PASS, "DIRECTORS", "GUE_PORT", "DECAP_REASONS"];
    let bench = [
        "LICENSE",
        "bench_entry",
        "bench_empty",
        "bench_lookup",
        "bench_send",
        "BENCH_SENT",
        "BENCH_TEMPLATE",
        "BENCH_NEXT",
        "BENCH_PROGRAMS",
        "BENCH_VIPS",
    ];
    [("router.bpf.o", router), ("real_server.bpf.o", real_server), ("bench.bpf.o", bench.to_vec())]
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the objects, or with `check` compares them to those that are committed.
pub fn run(check: bool) -> Result<()> {
    if cfg!(feature = "bpf") { build(check) } else { with_llvm(check) }
}

/// Runs this task again in an xtask that is linked to LLVM.
fn with_llvm(check: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "xtask", "--features", "bpf", "--", "bpf"]);
    command.args(check.then_some("--check"));
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "the build of the BPF objects failed");
    Ok(())
}

fn build(check: bool) -> Result<()> {
    let archive = compile()?;
    for (name, exports) in objects() {
        let object = link(&archive, &exports).with_context(|| format!("link {name}"))?;
        let file = root().join("crates/bpf/objects").join(name);
        if check {
            let committed = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            ensure!(committed == object, "{} is stale: run `cargo xtask bpf` and commit it", file.display());
            println!("{name}: up to date, {} bytes", object.len());
        } else {
            fs::write(&file, &object).with_context(|| format!("write {}", file.display()))?;
            println!("{name}: {} bytes", object.len());
        }
    }
    Ok(())
}

/// The archive of LTO bitcode. Paths are remapped, so that every checkout gives the same bytes.
fn compile() -> Result<PathBuf> {
    let target = root().join("target/bpf");
    let rustc = env::var("RUSTC").unwrap_or("rustc".into());
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output().context("run rustc")?.stdout;
    let sysroot = String::from_utf8(sysroot)?;
    let home = match env::var("CARGO_HOME") {
        Ok(home) => home,
        Err(_) => format!("{}/.cargo", env::var("HOME").context("HOME is not set")?),
    };
    let sources = format!("{home}/registry/src");
    let mut flags = [
        "--cfg=marca_bpf",
        "-Clinker-plugin-lto",
        "-Cno-vectorize-loops",
        "-Cno-vectorize-slp",
        "-Cforce-unwind-tables=no",
        "-Crelocation-model=static",
        &format!("--remap-path-prefix={}=/marca", root().display()),
        &format!("--remap-path-prefix={}=/rust", sysroot.trim()),
    ]
    .map(str::to_owned)
    .to_vec();
    // A folder for each registry; a mirror's has another name. None: the sources are elsewhere, say vendored.
    for registry in fs::read_dir(&sources).into_iter().flatten() {
        flags.push(format!("--remap-path-prefix={}=/cargo", registry?.path().display()));
    }
    let flags = flags.join("\x1f");
    let status = cargo()
        .args(["build", "--quiet", "--package", "marca-bpf-programs", "--features", "programs", "--lib"])
        .args(["--profile", "bpf", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS")
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "rustc refused the BPF programs");
    Ok(target.join(TARGET).join("bpf/libmarca_bpf_programs.a"))
}

#[cfg(feature = "bpf")]
fn link(archive: &Path, exports: &[&str]) -> Result<Vec<u8>> {
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .with_writer(std::io::stderr)
        .try_init();
    use bpf_linker::{Cpu, Linker, LinkerInput, LinkerOptions, OptLevel, OutputType};
    let linker = Linker::new(LinkerOptions {
        target: Some(c"bpfel".into()),
        // v4 makes jump tables in .rodata, which the verifier refuses.
        cpu: Cpu::V3,
        cpu_features: Default::default(),
        optimize: OptLevel::Aggressive,
        unroll_loops: false,
        ignore_inline_never: false,
        llvm_args: vec![],
        // Without this memcpy becomes byte loops, 20 to 30 % slower.
        disable_expand_memcpy_in_order: true,
        disable_memory_builtins: true,
        btf: true,
        allow_bpf_trap: false,
    });
    let exports = exports.iter().copied();
    let object = linker.link_to_buffer([LinkerInput::new_from_file(archive)], OutputType::Object, exports)?;
    ensure!(!linker.has_errors(), "LLVM reported errors");
    strip(object.as_slice())
}

/// Without the sections that only a debugger reads; BTF and its line information stay.
#[cfg(feature = "bpf")]
fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let mut builder = object::build::elf::Builder::read(elf).context("read the linked object")?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        section.delete = name.contains(".debug_") || name.contains(".eh_frame");
    }
    builder.delete_orphans();
    // LLVM keeps the sections' names with the symbols'; the builder wants them apart.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("write the stripped object")?;
    Ok(stripped)
}

#[cfg(not(feature = "bpf"))]
fn link(_: &Path, _: &[&str]) -> Result<Vec<u8>> {
    anyhow::bail!("this xtask is not linked to LLVM")
}

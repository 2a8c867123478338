//! `cargo xtask bpf --verify`: every program of every object through this kernel's verifier.

use anyhow::{Context, Result, bail};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};

/// Loads every program and prints how much work it was to verify, out of the million instructions that the kernel
/// allows (`BPF_COMPLEXITY_LIMIT_INSNS`).
pub fn run() -> Result<()> {
    println!("{:<16} {:>9} {:>9} {:>9}", "program", "verified", "bytecode", "machine");
    for (object, bytes) in
        [("router", marca_bpf::router()), ("real_server", marca_bpf::real_server()), ("bench", marca_bpf::bench())]
    {
        let mut ebpf = EbpfLoader::new().load(bytes).with_context(|| format!("load the object {object}"))?;
        let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        for name in names {
            verify(&mut ebpf, &name)?;
        }
    }
    Ok(())
}

fn verify(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program = ebpf.program_mut(name).context("a program is gone")?;
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => bail!("{name} is neither for XDP nor for TC"),
    };
    if let Err(error) = loaded {
        // The verifier's last lines say what it did not like; its log may have a million.
        let log = format!("{:#}", anyhow::Error::from(error));
        let lines: Vec<&str> = log.lines().collect();
        bail!("{name} is refused:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
    let info = program.info()?;
    let number = |value: Option<u32>| value.map_or("?".into(), |value| value.to_string());
    println!(
        "{name:<16} {:>9} {:>9} {:>9}",
        number(info.verified_instruction_count()),
        number(info.size_translated()),
        info.size_jitted()
    );
    Ok(())
}

//! `marca decap`.

use anyhow::Result;
use marca_daemon::linux::decap;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// The interface on which tunnelled packets arrive
    #[arg(long, short)]
    interface: String,
    /// Takes apart only this director's tunnels; may be given several times. Without it: anybody's
    #[arg(long, value_name = "ADDRESS")]
    from: Vec<IpAddr>,
    /// The UDP port at which GUE arrives
    #[arg(long, value_name = "PORT", default_value_t = marca_config::model::Gue::DEFAULT.port)]
    gue_port: u16,
    /// Takes the decapsulator off the interface again
    #[arg(long)]
    detach: bool,
    /// Folder of the programs, in the BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/marca-decap")]
    pin_dir: PathBuf,
}

pub fn decap(options: &Options) -> Result<()> {
    let interface = &options.interface;
    if options.detach {
        let was_there = decap::detach(&options.pin_dir, interface)?;
        println!("{interface}: {}", if was_there { "decapsulator taken away" } else { "there was no decapsulator" });
        return Ok(());
    }
    let mode = decap::attach(&options.pin_dir, interface, &options.from, options.gue_port)?;
    println!(
        "{interface}: decapsulator attached, {}; it stays until `marca decap -i {interface} --detach`",
        mode.name()
    );
    if options.from.is_empty() {
        println!("it takes apart anybody's tunnels; name the directors with --from to take only theirs");
    }
    Ok(())
}

//! `marca token`.

use anyhow::{Context, Result};
use clap::ValueEnum;

#[derive(clap::Args)]
pub struct Options {
    /// Who is to have it
    #[arg(value_name = "NAME", default_value = "monitoring")]
    name: String,
    /// What it is good for
    #[arg(long, value_enum, default_value_t = Access::Read)]
    access: Access,
}

#[derive(Clone, Copy, ValueEnum)]
enum Access {
    /// Requests that change nothing
    Read,
    /// All requests
    Admin,
}

/// Makes a secret, which is kept nowhere, and what the configuration is to say of it.
pub fn token(options: &Options) -> Result<()> {
    let (secret, digest) = marca_daemon::api::new_token().context("draw a random number")?;
    let access = match options.access {
        Access::Read => "read",
        Access::Admin => "admin",
    };
    println!("# For its bearer, and for nobody else:\n# {secret}\n");
    println!("[[api.token]]\nname = \"{}\"\naccess = \"{access}\"\nsha256 = \"{digest}\"", options.name);
    Ok(())
}

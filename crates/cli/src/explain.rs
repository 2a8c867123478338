#[derive(clap::Args)]
pub struct Options {}
pub fn explain(_: &Options) -> anyhow::Result<()> {
    Ok(())
}

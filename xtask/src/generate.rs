//! `cargo xtask gen`: what is generated from the program's own tables.
//!
//! | module | owns |
//! |---|---|
//! | `pages` | man pages and completions, from the command line's definition |
//!
//! The reference pages, `docs/reference`, are written by the test `docs` of the program, and compared by it.
//!
//! Two kinds. What packages take and nobody reads here (man pages, completions) is written below cargo's target folder
//! and not committed: it cannot drift. What people read in the repository is committed, and `--check` compares it.

#[cfg(feature = "gen")]
mod pages;

use anyhow::Result;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// Writes nothing, and fails if something that is committed differs from what would be written
    #[arg(long)]
    pub check: bool,
}

/// One file: where it belongs, from the workspace's root, and what it holds.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "gen"), expect(dead_code, reason = "made in the other build"))]
pub struct Generated {
    pub path: PathBuf,
    pub text: String,
}

/// Where man pages and completions are written, within cargo's target folder.
pub const PAGES: &str = "gen";

#[cfg(feature = "gen")]
pub fn run(options: &Options) -> Result<()> {
    let committed: Vec<Generated> = Vec::new();
    if options.check {
        return compare(&committed);
    }
    let pages = pages::write(&crate::process::target().join(PAGES))?;
    committed.iter().try_for_each(|file| write(&crate::process::root().join(&file.path), &file.text))?;
    println!("{pages} man pages and completions in {}", crate::process::target().join(PAGES).display());
    Ok(())
}

#[cfg(feature = "gen")]
fn compare(files: &[Generated]) -> Result<()> {
    use anyhow::ensure;
    let differs = |file: &&Generated| {
        std::fs::read_to_string(crate::process::root().join(&file.path)).ok().as_deref() != Some(file.text.as_str())
    };
    let stale: Vec<String> = files.iter().filter(differs).map(|file| file.path.display().to_string()).collect();
    ensure!(stale.is_empty(), "stale: {}; run `cargo xtask gen` and commit what it writes", stale.join(", "));
    Ok(())
}

#[cfg(feature = "gen")]
fn write(path: &std::path::Path, text: &str) -> Result<()> {
    use anyhow::Context;
    let dir = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Has the program's tests write the reference pages, which they compare with its tables otherwise; then runs this task
/// again in an xtask that knows the program.
#[cfg(not(feature = "gen"))]
pub fn run(options: &Options) -> Result<()> {
    let mut reference = crate::process::cargo();
    reference.args(["test", "--quiet", "--workspace", "--test", "docs", "reference"]);
    crate::process::run(reference.envs((!options.check).then_some(("MARCA_UPDATE", "1"))))?;
    let arguments = ["run", "--quiet", "--package", "xtask", "--features", "gen", "--", "gen"];
    crate::process::run(crate::process::cargo().args(arguments).args(options.check.then_some("--check")))
}

//! Man pages and completions, from the command line's definition.

use anyhow::{Context, Result};
use clap_complete::{Shell, generate};
use std::fs;
use std::path::Path;

/// Writes `man/*.1` and `completions/*` below `dir`; answers how many files.
pub fn write(dir: &Path) -> Result<usize> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for folder in [&man, &completions] {
        // A command that is no more leaves no page.
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    clap_mangen::generate_to(marca::command(), &man).with_context(|| format!("write {}", man.display()))?;
    for (shell, name) in COMPLETIONS {
        let mut text = Vec::new();
        generate(shell, &mut marca::command(), "marca", &mut text);
        let file = completions.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(fs::read_dir(&man)?.count() + COMPLETIONS.len())
}

/// By the names that the shells look for.
const COMPLETIONS: [(Shell, &str); 3] = [(Shell::Bash, "marca"), (Shell::Zsh, "_marca"), (Shell::Fish, "marca.fish")];

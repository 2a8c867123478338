//! Writes the frames of `tests/vectors` into a folder, as inputs of the target `frames`: each vector's, one after another.

use anyhow::{Context, Result};
use marca_testkit::frame;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let into = PathBuf::from(std::env::args_os().nth(1).context("which folder?")?);
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let mut written = 0;
    for entry in fs::read_dir(&vectors).with_context(|| format!("read {}", vectors.display()))? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let table: toml::Table = toml::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (number, vector) in table["vector"].as_array().into_iter().flatten().enumerate() {
            let before = vector.get("before").and_then(|before| before.as_array()).into_iter().flatten();
            let frames = before.chain(vector.get("packet")).filter_map(|text| input(text.as_str()?));
            let seed = into.join(format!("{stem}-{number}"));
            fs::write(&seed, frames.collect::<Vec<_>>().concat())
                .with_context(|| format!("write {}", seed.display()))?;
            written += 1;
        }
    }
    println!("{written} vectors as inputs in {}", into.display());
    Ok(())
}

/// A frame as the target takes it; `None` of what is no frame (`age 5m`).
fn input(text: &str) -> Option<Vec<u8>> {
    let (interface, text) = match text.split_once(' ') {
        Some(("inside", frame)) => (2, frame),
        Some(("outside", frame)) => (1, frame),
        _ => (1, text),
    };
    let frame = frame::build(text).ok()?;
    let length = u16::try_from(frame.len()).ok()?.to_le_bytes();
    Some([&[interface], &length[..], &frame].concat())
}

//! Writes the frames of `tests/vectors` into a folder, as inputs of the target `frames`: each vector's, one after another,
//! and the same to each service that the target has.

use anyhow::{Context, Result};
use marca_testkit::frame;
use std::fs;
use std::net::IpAddr;
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
            let frames = frames.collect::<Vec<_>>().concat();
            for (vip, servers) in SERVICES {
                let seed = into.join(format!("{stem}-{number}-{vip}"));
                fs::write(&seed, moved(&frames, vip, *servers)).with_context(|| format!("write {}", seed.display()))?;
                written += 1;
            }
        }
    }
    println!("{written} vectors as inputs in {}", into.display());
    Ok(())
}

/// Last parts of the VIPs and of two real servers of the services in `everything.toml`; first those of most vectors.
const SERVICES: &[(&str, [&str; 2])] = &[
    ("10", ["11", "12"]),
    ("11", ["13", "14"]),
    ("12", ["15", "16"]),
    ("13", ["17", "18"]),
    ("14", ["22", "23"]),
    ("15", ["24", "25"]),
    ("16", ["28", "29"]),
    ("17", ["30", "31"]),
    ("18", ["32", "33"]),
    ("19", ["34", "35"]),
    ("20", ["36", "37"]),
    ("21", ["38", "39"]),
    ("22", ["40", "40"]),
    ("23", ["41", "42"]),
    ("24", ["43", "44"]),
];

/// The frames with other addresses; checksums are left as they are.
fn moved(frames: &[u8], vip: &str, servers: [&str; 2]) -> Vec<u8> {
    let (_, first) = SERVICES[0];
    let mut pairs = vec![(format!("192.0.2.{}", SERVICES[0].0), format!("192.0.2.{vip}"))];
    pairs.push((format!("2001:db8:10::{}", SERVICES[0].0), format!("2001:db8:10::{vip}")));
    for (old, new) in first.iter().zip(servers) {
        pairs.push((format!("10.0.0.{old}"), format!("10.0.0.{new}")));
        pairs.push((format!("fd00::{old}"), format!("fd00::{new}")));
    }
    let pairs: Vec<_> = pairs.iter().map(|(old, new)| (octets(old), octets(new))).collect();
    let mut moved = frames.to_vec();
    let mut at = 0;
    while at < frames.len() {
        match pairs.iter().find(|(old, _)| frames[at..].starts_with(old)) {
            Some((old, new)) => {
                moved[at..at + old.len()].copy_from_slice(new);
                at += old.len();
            }
            None => at += 1,
        }
    }
    moved
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse() {
        Ok(IpAddr::V4(ip)) => ip.octets().to_vec(),
        Ok(IpAddr::V6(ip)) => ip.octets().to_vec(),
        Err(_) => unreachable!("an address of the table above"),
    }
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

//! Every input of the corpora, once.

use std::fs;
use std::path::Path;

fn replay(name: &str) {
    let (_, target) = marca_fuzz::TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        target(&fs::read(&file).unwrap());
    }
}

#[test]
fn frames() {
    replay("frames");
}

#[test]
fn ftp() {
    replay("ftp");
}

#[test]
fn operations() {
    replay("operations");
}

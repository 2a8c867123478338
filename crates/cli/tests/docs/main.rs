//! The documentation beside the program: reference pages are made from the program's own tables and may not differ from
//! them, and what the other pages tell an operator to write or to type is what the program takes.
//!
//! `cargo xtask gen` writes the reference pages; it runs these tests with `MARCA_UPDATE=1`.

mod commands;
mod configurations;
mod links;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A page, by its path from the root, and its text.
struct Page {
    path: String,
    text: String,
}

/// README.md and everything in docs.
fn pages() -> Vec<Page> {
    let mut found = vec![read("README.md")];
    collect("docs", &mut found);
    assert!(found.len() > 8);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(path: &str) -> Page {
    Page { path: path.to_owned(), text: fs::read_to_string(root().join(path)).unwrap() }
}

fn collect(folder: &str, found: &mut Vec<Page>) {
    for entry in fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap()) {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            collect(&path, found);
        } else if path.ends_with(".md") {
            found.push(read(&path));
        }
    }
}

/// A fenced block of a page.
struct Block<'p> {
    /// `docs/ftp.md:19`, for messages.
    place: String,
    text: Vec<&'p str>,
}

impl Page {
    /// The blocks that are fenced with this word.
    fn blocks(&self, word: &str) -> Vec<Block<'_>> {
        let (mut blocks, mut open): (Vec<Block>, Option<(&str, Block)>) = (Vec::new(), None);
        for (number, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, &mut open) {
                (Some(kind), None) => {
                    open = Some((kind, Block { place: format!("{}:{}", self.path, number + 2), text: Vec::new() }));
                }
                (Some(_), Some(_)) => {
                    blocks.extend(open.take().filter(|(kind, _)| *kind == word).map(|(_, block)| block));
                }
                (None, Some((_, block))) => block.text.push(line),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block has no end", self.path);
        blocks
    }
}

//! Every link from one page to another leads somewhere.

use crate::{Page, pages, root};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let anchors: HashMap<PathBuf, Vec<String>> =
        pages.iter().map(|page| (PathBuf::from(&page.path), anchors(page))).collect();
    let mut followed = 0;
    for page in &pages {
        for link in links(&page.text) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => PathBuf::from(&page.path),
                path => plain(&Path::new(&page.path).parent().unwrap().join(path)),
            };
            assert!(root().join(&target).exists(), "{}: there is no {link}", page.path);
            if !anchor.is_empty() {
                let known = anchors.get(&target).is_some_and(|known| known.iter().any(|name| name == anchor));
                assert!(known, "{}: no heading is {link}", page.path);
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "{followed}");
}

fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)).collect()
}

/// As forges make them of headings.
fn anchors(page: &Page) -> Vec<String> {
    let headings = page
        .text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let anchor = |heading: &str| {
        let kept = heading.trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(anchor).collect()
}

fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

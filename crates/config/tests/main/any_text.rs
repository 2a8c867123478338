//! Whatever the text: a model or diagnostics that can be drawn, never a panic.

use marca_config::load;
use proptest::prelude::*;
use std::path::Path;

/// All files of this directory's subdirectories.
fn corpus() -> Vec<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let directories = ["good", "warned", "refused"].map(|name| std::fs::read_dir(tests.join(name)).unwrap());
    let mut paths: Vec<_> = directories.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Pieces that matter to TOML or to the decoder.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "#",
    "\\u00e9",
    "\u{feff}",
    "é",
    "\0",
    "-",
    "->",
    "/",
    ":",
    "0",
    "1",
    "-1",
    "99999999999999999999",
    "0x",
    "1e999",
    "nan",
    "true",
    "1979-05-27",
    "\"all\"",
    "\"tcp\"",
    "\"::\"",
    "\"local\"",
    "[]",
    "{}",
    "mark",
    "ports",
    "vip",
    "server",
    "service",
    "router",
    "[[mark]]\n",
    "[service.shop]\n",
    "[[service.shop.server]]\n",
    "service.shop.server",
    "[[service.shop.check]]\n",
    "check = { http = '/' }\n",
    "expect_regex",
];

#[derive(Clone, Debug)]
enum Mutation {
    Delete { at: usize, length: usize },
    Insert { at: usize, piece: usize },
    Copy { from: usize, length: usize, to: usize },
    Replace { at: usize, with: char },
    Truncate { at: usize },
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<usize>(), 0..40_usize).prop_map(|(at, length)| Mutation::Delete { at, length }),
        (any::<usize>(), 0..PIECES.len()).prop_map(|(at, piece)| Mutation::Insert { at, piece }),
        (any::<usize>(), 0..80_usize, any::<usize>()).prop_map(|(from, length, to)| Mutation::Copy {
            from,
            length,
            to
        }),
        (any::<usize>(), any::<char>()).prop_map(|(at, with)| Mutation::Replace { at, with }),
        any::<usize>().prop_map(|at| Mutation::Truncate { at }),
    ]
}

fn mutate(text: &mut Vec<char>, mutation: &Mutation) {
    let place = |at: usize| at % (text.len() + 1);
    let range = |at: usize, length: usize| place(at)..text.len().min(place(at) + length);
    match *mutation {
        Mutation::Delete { at, length } => drop(text.drain(range(at, length))),
        Mutation::Insert { at, piece } => drop(text.splice(range(at, 0), PIECES[piece].chars())),
        Mutation::Copy { from, length, to } => {
            let copy = text[range(from, length)].to_vec();
            drop(text.splice(range(to, 0), copy));
        }
        Mutation::Replace { at, with } => drop(text.splice(range(at, 1), [with])),
        Mutation::Truncate { at } => text.truncate(place(at)),
    }
}

fn load_and_draw(text: &str) {
    let diagnostics = match load("any.toml", text) {
        Ok(loaded) => {
            assert!(!loaded.warnings.has_errors());
            loaded.warnings
        }
        Err(diagnostics) => {
            assert!(diagnostics.has_errors());
            diagnostics
        }
    };
    for color in [false, true] {
        assert_eq!(diagnostics.render(color).is_empty(), diagnostics.is_empty());
    }
    for diagnostic in &diagnostics {
        let spans = diagnostic.primary.iter().chain(&diagnostic.further).map(|label| &label.span);
        for span in spans {
            assert!(text.get(span.clone()).is_some(), "{span:?} is no part of the text: {}", diagnostic.message);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_file_is_loaded_or_explained(
        file in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(any_mutation(), 1..6),
    ) {
        thread_local!(static CORPUS: Vec<String> = corpus());
        let mut text: Vec<char> = CORPUS.with(|corpus| file.get(corpus).chars().collect());
        for mutation in &mutations {
            mutate(&mut text, mutation);
        }
        load_and_draw(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_loaded_or_explained(text: String) {
        load_and_draw(&text);
    }
}

#[test]
fn the_files_as_they_are_have_spans_within_their_text() {
    for text in corpus() {
        load_and_draw(&text);
        load_and_draw(&text.replace('\n', "\r\n"));
        load_and_draw(&format!("\u{feff}{text}"));
    }
}

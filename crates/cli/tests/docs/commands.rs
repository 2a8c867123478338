//! Every command of the program in the tutorial and the how-tos is one that it takes.

use crate::{Page, pages, read};
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn every_command_in_the_tutorial_and_the_how_tos_is_taken() {
    let mut taken = 0;
    let guides = |page: &Page| page.path.starts_with("docs/howto/") || page.path == "docs/tutorial.md";
    for page in pages().into_iter().filter(guides) {
        for block in page.blocks("sh") {
            for line in &block.text {
                let words = words(line);
                let Some(start) = words.iter().position(|word| word == "marca") else { continue };
                let command = marca::command().try_get_matches_from(&words[start..]);
                command.unwrap_or_else(|error| panic!("{}: {line}\n{error}", block.place));
                taken += 1;
            }
        }
    }
    assert!(taken > 20, "{taken}");
}

#[test]
fn what_each_command_asks_of_the_api_is_told_and_is_there_to_be_asked() {
    let page = read("docs/api.md");
    let row = |line| str::strip_prefix(line, "| `marca ")?.split_once("` | ");
    let rows: BTreeMap<&str, &str> = page.text.lines().filter_map(row).collect();
    let command = marca::command();
    let names = command.get_subcommands().map(|command| command.get_name()).filter(|name| *name != "help");
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), names.collect());
    let document = serde_json::to_value(marca_daemon::api::document()).unwrap();
    for (name, row) in rows {
        for (method, path) in row.split('`').filter_map(|code| code.split_once(" /")) {
            let path = format!("/{}", path.split('?').next().unwrap_or_default());
            if method.bytes().all(|byte| byte.is_ascii_uppercase()) {
                assert!(document["paths"][&path][method.to_lowercase()].is_object(), "{name}: {method} {path}");
            }
        }
    }
}

/// As a shell takes them: up to a comment, a pipe or the next command; quotes keep words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&' | '>' | '<') => break,
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn words_are_a_shells() {
    assert_eq!(words("  sudo marca status --json | jq .  # all"), ["sudo", "marca", "status", "--json"]);
    assert_eq!(words("marca fail 'a b'c shop/web1 # it is dead"), ["marca", "fail", "a bc", "shop/web1"]);
}

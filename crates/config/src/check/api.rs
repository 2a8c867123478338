//! Requests over the network: whoever listens has a certificate, and asks for tokens.

use crate::diagnostic::Diagnostic;
use crate::draft::{ApiDraft, Located};

pub(super) fn check(api: &ApiDraft, found: &mut Vec<Diagnostic>) {
    let Some(header) = &api.header else { return };
    match &api.listen.span {
        Some(listen) => {
            for (name, field) in [("certificate", &api.certificate), ("key", &api.key)] {
                if field.is_absent() {
                    found.push(
                        Diagnostic::error(format!("`listen` takes requests by HTTPS, and there is no `{name}`"))
                            .at(listen, "listens here")
                            .help(format!(
                                "add `{name} = \"/etc/marca/api.{}\"`",
                                if name == "key" { "key" } else { "crt" }
                            )),
                    );
                }
            }
            if api.tokens.is_empty() {
                found.push(
                    Diagnostic::error("`listen` takes requests, and nobody may make any")
                        .at(listen, "without tokens every request is refused")
                        .help("`marca token` makes a secret and what to write here:\n\n[[api.token]]\nname = \"monitoring\"\naccess = \"read\"\nsha256 = \"…\""),
                );
            }
        }
        None if !api.listen.incomplete => {
            let named = [("certificate", &api.certificate), ("key", &api.key)];
            let idle = named.iter().find_map(|(name, field)| Some((*name, &field.given()?.span)));
            let (name, span) = match idle {
                Some(idle) => idle,
                None if !api.tokens.is_empty() => ("token", header),
                None => return,
            };
            found.push(
                Diagnostic::warning(format!("`{name}` is of no use without `listen`"))
                    .at(span, "nobody asks for it")
                    .help("add, for example, `listen = \"192.0.2.1:8443\"`; the Unix socket needs neither certificate nor tokens"),
            );
        }
        None => {}
    }
    let names: Vec<&Located<String>> = api.tokens.iter().filter_map(|token| token.name.given()).collect();
    twice(&names, "name", "give each token a name of its own: the log tells them apart by it", found);
    let digests: Vec<&Located<[u8; 32]>> = api.tokens.iter().filter_map(|token| token.digest.given()).collect();
    twice(&digests, "secret", "make another one with `marca token`: a secret has one bearer", found);
}

fn twice<T: PartialEq>(all: &[&Located<T>], what: &str, help: &str, found: &mut Vec<Diagnostic>) {
    for (index, one) in all.iter().enumerate() {
        if let Some(first) = all[..index].iter().find(|first| first.value == one.value) {
            found.push(
                Diagnostic::error(format!("two tokens have one {what}"))
                    .at(&one.span, "again")
                    .also(&first.span, "first here")
                    .help(help),
            );
        }
    }
}

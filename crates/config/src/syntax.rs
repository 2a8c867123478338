//! Text → TOML, with the one diagnostic that a fault of syntax becomes.

use crate::diagnostic::{Diagnostic, Span, quoted};
use toml::de::DeTable;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

/// Parses a file that is not unreasonably large or deep.
pub(crate) fn parse(text: &str) -> Result<DeTable<'_>, Box<Diagnostic>> {
    if text.len() > MAX_BYTES {
        let diagnostic = Diagnostic::error(format!("the file has {} MiB", text.len() >> 20));
        return Err(Box::new(diagnostic.help(format!("a configuration has at most {} MiB", MAX_BYTES >> 20))));
    }
    if let Some(dot) = first_dot_too_many(text) {
        let diagnostic = Diagnostic::error("a key has too many dots").at(&dot, "this is too deep");
        return Err(Box::new(diagnostic.help("the deepest keys are like `service.NAME.persist.timeout`")));
    }
    DeTable::parse(text).map(toml::Spanned::into_inner).map_err(|error| Box::new(diagnose(text, &error)))
}

/// 10,000 services with a hundred servers each fit.
const MAX_BYTES: usize = 64 << 20;

/// The parser limits the depth of brackets (to 80), but not of dotted keys, and dropping what it builds recurses.
const MAX_DOTS: usize = 16;

fn first_dot_too_many(text: &str) -> Option<Span> {
    let mut dots = 0;
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Atom | TokenKind::Whitespace | TokenKind::BasicString | TokenKind::LiteralString => {}
            _ => dots = 0,
        }
        if dots > MAX_DOTS {
            return Some(token.span().start()..token.span().end());
        }
    }
    None
}

fn diagnose(text: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let found = text.get(span.clone()).unwrap_or_default();
    let (fault, expected) = match error.message().split_once(", expected ") {
        Some((fault, expected)) => (fault, format!("expected {expected}")),
        None => (error.message(), error.message().to_string()),
    };
    let help = match fault {
        "duplicate key" => {
            format!("{} stands above already: merge the two, or give one another name", quoted(found))
        }
        "string values must be quoted" if found.is_empty() => "write a value after the `=`".to_string(),
        "string values must be quoted" => format!("write \"{}\"", found.escape_debug()),
        "unclosed array" | "missing comma between array elements" => {
            "between two elements comes a comma, and after the last a `]`".to_string()
        }
        "unclosed inline table" => "end the table with `}`".to_string(),
        "unclosed table" | "unclosed array table" => {
            "a table's header stands alone on its line: [router], [[mark]], [service.shop]".to_string()
        }
        _ => "after `key =` comes \"text\", a number, a [list] or a { table }, and then the line ends".to_string(),
    };
    Diagnostic::error(format!("the file is not TOML: {fault}")).at(&span, expected).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_file_does_not_exhaust_the_stack() {
        let dotted = format!("a{} = 1", ".a".repeat(200_000));
        let header = format!("[a{}]", ".a".repeat(200_000));
        let quoted = format!("'a'{} = 1", ".'a'".repeat(200_000));
        let inline = format!("a = {{ a{} = 1 }}", " . a".repeat(200_000));
        for text in [dotted, header, quoted, inline] {
            let diagnostic = parse(&text).unwrap_err();
            assert_eq!(diagnostic.message, "a key has too many dots");
        }
        let brackets = format!("a = {}", "[".repeat(200_000));
        assert!(parse(&brackets).is_err());
        let both = format!("a = {}", format!("{{a{} = ", ".a".repeat(MAX_DOTS)).repeat(200_000));
        assert!(parse(&both).is_err());
    }

    #[test]
    fn dots_outside_of_keys_do_not_count() {
        let addresses = format!("a = [{}] # {}", "'192.0.2.10', ".repeat(1_000), ".".repeat(1_000));
        assert!(parse(&addresses).is_ok());
        let numbers = format!("a = [{}]", "1.5, ".repeat(1_000));
        assert!(parse(&numbers).is_ok());
    }

    #[test]
    fn a_file_of_unreasonable_size_is_refused() {
        assert!(parse(&" ".repeat(MAX_BYTES)).is_ok());
        assert!(parse(&" ".repeat(MAX_BYTES + 1)).is_err());
    }
}

//! What to tell the operator about a file: what is wrong, where, and what to do next.
//!
//! Owns the shape and the drawing of diagnostics. Does not know what can be wrong: that is the decoder's and the
//! checks' business.

use annotate_snippets::{AnnotationKind, Group, Origin, Renderer, Snippet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A range of bytes of the file.
pub type Span = Range<usize>;

/// Whether the file can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// It cannot.
    Error,
    /// It can, and probably does not do what was meant.
    Warning,
}

/// A place in the file and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    /// The headline: lower case, no full stop.
    pub message: String,
    /// The text that is wrong. `None` when the fault is the lack of something, or the file as a whole.
    pub primary: Option<Label>,
    /// Places that one must know to understand the fault (`first claimed here`).
    pub further: Vec<Label>,
    /// What to do next. May have several lines.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Level::Error, message.into())
    }

    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Level::Warning, message.into())
    }

    /// Sets the primary place.
    pub fn at(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.primary = Some(Label { span: span.clone(), text: label.into() });
        self
    }

    /// Adds a further place.
    pub fn also(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.further.push(Label { span: span.clone(), text: label.into() });
        self
    }

    /// Sets the next step.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn new(level: Level, message: String) -> Self {
        Self { level, message, primary: None, further: Vec::new(), help: None }
    }
}

/// The diagnostics of one file, in the order of the file, with the text that they point into.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostics {
    file: Arc<str>,
    text: Arc<str>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// `file` is the name to print, `text` what the spans of `list` refer to.
    pub fn new(file: &str, text: &str, mut list: Vec<Diagnostic>) -> Self {
        // Faults of the file as a whole come first.
        list.sort_by_key(|d| d.primary.as_ref().map(|label| (label.span.start, label.span.end)));
        Self { file: file.into(), text: text.into(), list }
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.level == Level::Error)
    }

    /// Line and column of a byte of the file, both from 1, the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (1 + newlines(before), 1 + before[line_start..].chars().count())
    }

    /// Draws each diagnostic: headline, file and line, the text underlined, the next step. `color` adds terminal
    /// escapes. Of a very long list only the first [`MAX_RENDERED`] are drawn.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut drawn = String::new();
        for (index, diagnostic) in self.list.iter().take(MAX_RENDERED).enumerate() {
            if index > 0 {
                drawn.push('\n');
            }
            // The empty lines of a help text come indented.
            for line in renderer.render(&[self.group(diagnostic)]).lines() {
                drawn.push_str(line.trim_end());
                drawn.push('\n');
            }
        }
        if self.list.len() > MAX_RENDERED {
            drawn.push_str(&format!("\n… and {} more\n", self.list.len() - MAX_RENDERED));
        }
        drawn
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.level {
            Level::Error => annotate_snippets::Level::ERROR,
            Level::Warning => annotate_snippets::Level::WARNING,
        };
        let group = level.primary_title(diagnostic.message.as_str());
        let mut group = match &diagnostic.primary {
            Some(primary) => group.element(self.snippet(primary, &diagnostic.further)),
            None => group.element(Origin::path(&*self.file)),
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(annotate_snippets::Level::HELP.message(help.as_str()));
        }
        group
    }

    /// Only the lines between the first and the last label go to the renderer: it walks all that it is given, and
    /// a file may have thousands of diagnostics.
    fn snippet<'a>(
        &'a self,
        primary: &'a Label,
        further: &'a [Label],
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let labels = || further.iter().chain([primary]);
        let spans = labels().map(|label| self.first_line_of(&label.span));
        let (first, last) = spans.fold((usize::MAX, 0), |(first, last), s| (first.min(s.start), last.max(s.end)));
        let first = self.text[..first].rfind('\n').map_or(0, |newline| newline + 1);
        let last = self.text[last..].find('\n').map_or(self.text.len(), |newline| last + newline);

        let annotate = |kind: AnnotationKind, label: &'a Label| {
            let span = self.first_line_of(&label.span);
            kind.span(span.start - first..span.end - first).label(label.text.as_str())
        };
        Snippet::source(&self.text[first..last])
            .path(&*self.file)
            .line_start(1 + newlines(&self.text[..first]))
            .annotation(annotate(AnnotationKind::Primary, primary))
            .annotations(further.iter().map(|label| annotate(AnnotationKind::Context, label)))
    }

    /// A value that covers many lines is underlined on its first only, which is enough to find it. Also makes any
    /// span fit to be drawn.
    fn first_line_of(&self, span: &Span) -> Span {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.ceil_char_boundary(span.end.max(start));
        let line = self.text[start..end].lines().next().unwrap_or("");
        start..start + line.len()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Leaves the source out: `unwrap` in a test should show the diagnostics, not the file.
impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#?}", self.file, self.list)
    }
}

impl std::error::Error for Diagnostics {}

/// Text from the file between backticks, fit for a message: escapes for what a terminal could misread, and an end.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("`");
    for (index, c) in text.chars().enumerate() {
        if index == MAX_QUOTED_CHARS {
            quoted.push('…');
            break;
        }
        match c {
            '"' | '\'' | '\\' => quoted.push(c),
            c => quoted.extend(c.escape_debug()),
        }
    }
    quoted.push('`');
    quoted
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() { last } else { format!("{} and {last}", items.join(", ")) }
}

/// More than anyone reads in one go, few enough to be drawn at once even from a file of many megabytes.
pub const MAX_RENDERED: usize = 100;

/// A longer quotation is found sooner by its underline than by reading it.
const MAX_QUOTED_CHARS: usize = 60;

fn newlines(text: &str) -> usize {
    text.bytes().filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_span_can_be_drawn() {
        for text in ["", "a", "ä\nö\n", "\r\n", "a\tb\r\nc"] {
            for start in 0..text.len() + 3 {
                for end in 0..text.len() + 3 {
                    let diagnostic = Diagnostic::error("e").at(&(start..end), "here").also(&(0..end), "and there");
                    let drawn = Diagnostics::new("f", text, vec![diagnostic]).render(false);
                    assert!(drawn.starts_with("error: e"), "{text:?} {start}..{end}: {drawn}");
                }
            }
        }
    }

    #[test]
    fn a_value_of_many_lines_is_underlined_on_its_first() {
        let diagnostics = Diagnostics::new("f", "a = [\n1,\n2]", vec![Diagnostic::error("e").at(&(4..12), "here")]);
        let drawn = diagnostics.render(false);
        assert!(drawn.contains("1 | a = [\n  |     ^ here"), "{drawn}");
        assert!(!drawn.contains("2]"), "{drawn}");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let list = vec![Diagnostic::error("e"); MAX_RENDERED + 7];
        let drawn = Diagnostics::new("f", "", list).render(false);
        assert_eq!(drawn.matches("error: e").count(), MAX_RENDERED);
        assert!(drawn.ends_with("… and 7 more\n"));
    }

    #[test]
    fn positions_count_from_one_in_characters() {
        let diagnostics = Diagnostics::new("f", "a\nöb", Vec::new());
        assert_eq!(diagnostics.position(0), (1, 1));
        assert_eq!(diagnostics.position(4), (2, 2));
        assert_eq!(diagnostics.position(99), (2, 3));
    }

    #[test]
    fn colors_are_escapes_and_only_on_request() {
        let diagnostics = Diagnostics::new("f", "a", vec![Diagnostic::error("e").at(&(0..1), "here")]);
        assert!(diagnostics.render(true).contains('\u{1b}'));
        assert!(!diagnostics.render(false).contains('\u{1b}'));
    }

    #[test]
    fn quotations_cannot_drive_a_terminal() {
        assert_eq!(quoted("a\u{1b}[2J\"b\"\n"), "`a\\u{1b}[2J\"b\"\\n`");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), MAX_QUOTED_CHARS + 3);
    }

    #[test]
    fn lists_read_as_english() {
        assert_eq!(listed(["a"]), "a");
        assert_eq!(listed(["a", "b"]), "a and b");
        assert_eq!(listed(["a", "b", "c"]), "a, b and c");
    }
}

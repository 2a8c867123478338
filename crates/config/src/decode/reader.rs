//! Reading tables and values of any kind, with a diagnostic for each that is not what its key takes.

use crate::diagnostic::{Diagnostic, Span, listed, quoted};
use crate::draft::{Field, List, Located};
use crate::keys::{self, Key};
use crate::similar::closest;
use crate::text::{TextError, duration};
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table that is being read. Dropping it without [`Table::finish`] forgets the unknown keys.
pub(super) struct Table<'t> {
    /// As in [`keys`].
    path: &'static str,
    header: Span,
    entries: &'t DeTable<'t>,
    taken: Vec<&'static str>,
}

impl<'t> Table<'t> {
    /// `header` is where to point when something is missing.
    pub fn new(path: &'static str, header: Span, entries: &'t DeTable<'t>) -> Self {
        Self { path, header, entries, taken: Vec::new() }
    }

    pub fn header(&self) -> &Span {
        &self.header
    }

    /// The entry of a key. A key that [`keys`] does not list for this table is a mistake of the caller, and a panic.
    pub fn take(&mut self, name: &'static str) -> Option<Entry<'t>> {
        let Some(key) = keys::find(self.path, name) else { panic!("`{name}` of `{}` is not in the table", self.path) };
        self.taken.push(name);
        let (name, value) = self.entries.get_key_value(name)?;
        Some(Entry { key, key_span: name.span(), value })
    }

    /// As [`Table::take`], with a diagnostic if the key is absent.
    pub fn require(&mut self, reader: &mut Reader<'t>, name: &'static str) -> Option<Entry<'t>> {
        let entry = self.take(name);
        if entry.is_none() {
            reader.missing(self.path, &self.header, name);
        }
        entry
    }

    /// Where a key stands, if it does.
    pub fn span_of(&self, name: &str) -> Option<Span> {
        self.entries.get_key_value(name).map(|(name, _)| name.span())
    }

    /// Complains about the keys that do not belong here.
    pub fn finish(self, reader: &mut Reader<'t>) {
        debug_assert!(
            keys::children(self.path).all(|key| self.taken.contains(&key.name())),
            "the decoder ignores a key of `{}`: it took {:?}",
            self.path,
            self.taken
        );
        for (name, _) in self.entries {
            if keys::find(self.path, name.get_ref()).is_none() {
                reader.unknown_key(self.path, name);
            }
        }
    }
}

/// A key of a table and its value.
#[derive(Clone)]
pub(super) struct Entry<'t> {
    pub key: &'static Key,
    pub key_span: Span,
    pub value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Entry<'t> {
    /// One of the values in this entry's array.
    pub fn element(&self, value: &'t Spanned<DeValue<'t>>) -> Self {
        Self { value, ..self.clone() }
    }

    pub fn span(&self) -> Span {
        self.value.span()
    }

    /// The elements of an array, or the value itself.
    pub fn elements(&self) -> Vec<Entry<'t>> {
        match self.value.get_ref() {
            DeValue::Array(array) => array.iter().map(|value| self.element(value)).collect(),
            _ => vec![self.clone()],
        }
    }
}

/// Collects the diagnostics of the decoder.
pub(super) struct Reader<'t> {
    text: &'t str,
    diagnostics: Vec<Diagnostic>,
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Self {
        Self { text, diagnostics: Vec::new() }
    }

    /// One of the same text, for whoever reads beside.
    pub fn another(&self) -> Self {
        Self::new(self.text)
    }

    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub fn missing(&mut self, table: &str, header: &Span, name: &str) {
        let Some(key) = keys::find(table, name) else { return };
        self.report(
            Diagnostic::error(format!("`{name}` is missing")).at(header, format!("has no `{name}`")).help(format!(
                "add, for example, `{}`\n{}",
                key.shown(),
                key.doc
            )),
        );
    }

    /// A table. `path` is its path as the table of its members, when that is not its key's.
    pub fn table(&mut self, entry: &Entry<'t>, path: &'static str) -> Option<Table<'t>> {
        match entry.value.get_ref() {
            DeValue::Table(entries) => Some(Table::new(path, entry.span(), entries)),
            _ => {
                self.wrong_type::<()>(entry);
                None
            }
        }
    }

    /// The tables of an array of tables.
    pub fn tables(&mut self, entry: &Entry<'t>, path: &'static str) -> Vec<Option<Table<'t>>> {
        match entry.value.get_ref() {
            DeValue::Array(array) => array.iter().map(|value| self.table(&entry.element(value), path)).collect(),
            _ => {
                self.wrong_type::<()>(entry);
                vec![None]
            }
        }
    }

    /// A string, as `parse` reads it.
    pub fn string<T>(&mut self, entry: Option<Entry<'t>>, parse: fn(&str) -> Result<T, TextError>) -> Field<T> {
        let Some(entry) = entry else { return Field::Absent };
        let DeValue::String(text) = entry.value.get_ref() else { return self.wrong_type(&entry) };
        match parse(text) {
            Ok(value) => Field::Given(Located { value, span: entry.span() }),
            Err(error) => self.refuse(&entry.span(), text, error),
        }
    }

    /// A string or a list of strings, each as `parse` reads it.
    pub fn strings<T>(&mut self, entry: Option<Entry<'t>>, parse: fn(&str) -> Result<T, TextError>) -> List<T> {
        let Some(entry) = entry else { return List::default() };
        let mut list = List { span: Some(entry.span()), ..List::default() };
        for element in entry.elements() {
            match self.string(Some(element), parse) {
                Field::Given(located) => list.items.push(located),
                Field::Absent | Field::Refused => list.incomplete = true,
            }
        }
        list
    }

    /// As [`Reader::strings`]; an empty list is refused with `consequence`, as what it would mean is not what an
    /// absent key means.
    pub fn some_strings<T>(
        &mut self,
        entry: Option<Entry<'t>>,
        parse: fn(&str) -> Result<T, TextError>,
        consequence: &str,
    ) -> List<T> {
        let mut list = self.strings(entry.clone(), parse);
        if let (Some(entry), true, false) = (entry, list.items.is_empty(), list.incomplete) {
            list.incomplete = true;
            self.report(
                Diagnostic::error(format!("`{}` is an empty list", entry.key.name()))
                    .at(&entry.span(), consequence)
                    .help(format!("for example `{}`", entry.key.shown())),
            );
        }
        list
    }

    pub fn integer<T: TryFrom<i64>>(&mut self, entry: Option<Entry<'t>>, range: RangeInclusive<i64>) -> Field<T> {
        let Some(entry) = entry else { return Field::Absent };
        let DeValue::Integer(integer) = entry.value.get_ref() else { return self.wrong_type(&entry) };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok()) {
            Some(value) => Field::Given(Located { value, span: entry.span() }),
            None => self.out_of_range(&entry),
        }
    }

    pub fn boolean(&mut self, entry: Option<Entry<'t>>) -> Field<bool> {
        let Some(entry) = entry else { return Field::Absent };
        match entry.value.get_ref() {
            DeValue::Boolean(value) => Field::Given(Located { value: *value, span: entry.span() }),
            _ => self.wrong_type(&entry),
        }
    }

    /// A duration in words (`"5m"`), or an integer: seconds.
    pub fn duration(&mut self, entry: Option<Entry<'t>>) -> Field<Duration> {
        let Some(entry) = entry else { return Field::Absent };
        let DeValue::Integer(integer) = entry.value.get_ref() else { return self.string(Some(entry), duration::parse) };
        let seconds = i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i64::MAX);
        match duration::from_seconds(seconds) {
            Ok(value) => Field::Given(Located { value, span: entry.span() }),
            Err(error) => self.refuse(&entry.span(), "", error),
        }
    }

    /// A duration that may be shorter than a second, as `parse` reads it, or an integer: seconds.
    pub fn fine_duration(
        &mut self,
        entry: Option<Entry<'t>>,
        parse: fn(&str) -> Result<Duration, TextError>,
    ) -> Field<Duration> {
        let Some(entry) = entry else { return Field::Absent };
        let DeValue::Integer(integer) = entry.value.get_ref() else { return self.string(Some(entry), parse) };
        match parse(&format!("{}s", i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i64::MAX))) {
            Ok(value) => Field::Given(Located { value, span: entry.span() }),
            Err(error) => self.refuse(&entry.span(), "", error),
        }
    }

    /// As [`Reader::duration`]; 0 is a duration, too.
    pub fn duration_or_none(&mut self, entry: Option<Entry<'t>>) -> Field<Duration> {
        let is_none = entry.as_ref().is_some_and(|entry| match entry.value.get_ref() {
            DeValue::String(text) => text.trim() == duration::print(Duration::ZERO),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()) == Ok(0),
            _ => false,
        });
        match entry {
            Some(entry) if is_none => Field::Given(Located { value: Duration::ZERO, span: entry.span() }),
            entry => self.duration(entry),
        }
    }

    /// A word or a list of words, each one of a few.
    pub fn choices<T: Copy>(&mut self, entry: Option<Entry<'t>>, what: &str, names: &[(&'static str, T)]) -> List<T> {
        let Some(entry) = entry else { return List::default() };
        let mut list = List { span: Some(entry.span()), ..List::default() };
        for element in entry.elements() {
            match self.choice(Some(element), what, names) {
                Field::Given(located) => list.items.push(located),
                Field::Absent | Field::Refused => list.incomplete = true,
            }
        }
        list
    }

    /// One of a few words. `what` is what they name, `names` all that are taken.
    pub fn choice<T: Copy>(&mut self, entry: Option<Entry<'t>>, what: &str, names: &[(&'static str, T)]) -> Field<T> {
        let Some(entry) = entry else { return Field::Absent };
        let DeValue::String(text) = entry.value.get_ref() else { return self.wrong_type(&entry) };
        if let Some((_, value)) = names.iter().find(|(name, _)| *name == text) {
            return Field::Given(Located { value: *value, span: entry.span() });
        }
        let known = || names.iter().map(|(name, _)| *name);
        let proposal = closest(text, known()).map(|name| format!("did you mean `{name}`? "));
        self.report(
            Diagnostic::error(format!("{} is not a {what}", quoted(text)))
                .at(&entry.span(), format!("unknown {what}"))
                .help(format!("{}there are {}", proposal.unwrap_or_default(), listed(known().map(quoted)))),
        );
        Field::Refused
    }

    /// Complains about a value of a type that its key does not take.
    pub fn wrong_type<T>(&mut self, entry: &Entry<'t>) -> Field<T> {
        let (name, found) = (entry.key.name(), type_name(entry.value.get_ref()));
        let help = if entry.key.path.ends_with("[]") && entry.value.get_ref().is_table() {
            format!("there can be several of them: head each with two brackets, `{}`", entry.key.shown())
        } else {
            format!("write, for example, `{}`", entry.key.shown())
        };
        self.report(
            Diagnostic::error(format!("`{name}` takes {}, not {found}", entry.key.takes))
                .at(&entry.span(), format!("this is {found}"))
                .help(help),
        );
        Field::Refused
    }

    /// Complains about a number that its key does not take.
    pub fn out_of_range<T>(&mut self, entry: &Entry<'t>) -> Field<T> {
        self.report(
            Diagnostic::error(format!("`{}` is out of range", entry.key.name()))
                .at(&entry.span(), "out of range")
                .help(format!("it takes {}; for example `{}`", entry.key.takes, entry.key.shown())),
        );
        Field::Refused
    }

    /// Complains about a string. Underlines only the part at fault where the string stands in the file as it is.
    pub fn refuse<T>(&mut self, span: &Span, text: &str, error: TextError) -> Field<T> {
        let inner = span.start + 1..span.end.saturating_sub(1);
        let verbatim = self.text.get(inner.clone()) == Some(text);
        let at = match error.at.filter(|_| verbatim) {
            Some(part) => inner.start + part.start..inner.start + part.end,
            None => span.clone(),
        };
        let mut diagnostic = Diagnostic::error(error.message).at(&at, error.label);
        diagnostic.help = error.help;
        self.report(diagnostic);
        Field::Refused
    }

    fn unknown_key(&mut self, table: &str, name: &Spanned<toml::de::DeString<'t>>) {
        let known = || keys::children(table).map(Key::name);
        let elsewhere = || keys::KEYS.iter().find(|key| key.name() == name.get_ref().as_ref());
        let title = keys::title(table);
        let help = if let Some(proposal) = closest(name.get_ref(), known()) {
            format!("did you mean `{proposal}`?")
        } else if let Some(key) = elsewhere() {
            format!("`{}` belongs into {}", key.name(), keys::title(key.table()))
        } else {
            format!("{title} takes {}", listed(known().map(quoted)))
        };
        self.report(
            Diagnostic::error(format!("{} is not a key of {title}", quoted(name.get_ref())))
                .at(&name.span(), "unknown key")
                .help(help),
        );
    }
}

/// With its article, as the end of a sentence.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

//! `[[mark]]`.

use super::reader::{Entry, Reader, Table};
use crate::draft::{Field, List, Located, MarkDraft};
use crate::model::Mark;
use crate::text::{address, name, ports};
use std::num::NonZeroU32;

pub(super) fn read_all<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Vec<MarkDraft> {
    let tables = entry.map(|entry| reader.tables(&entry, "mark[]")).unwrap_or_default();
    // A table that was refused as a whole may have set any mark.
    tables.into_iter().map(|table| table.map_or_else(MarkDraft::refused, |table| read(reader, table))).collect()
}

/// A mark, wherever one is written.
pub(super) fn value<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Field<Mark> {
    match reader.integer::<u32>(entry, 1..=i64::from(u32::MAX)) {
        Field::Given(Located { value, span }) => match NonZeroU32::new(value) {
            Some(value) => Field::Given(Located { value: Mark(value), span }),
            None => Field::Refused,
        },
        Field::Absent => Field::Absent,
        Field::Refused => Field::Refused,
    }
}

fn read<'t>(reader: &mut Reader<'t>, mut table: Table<'t>) -> MarkDraft {
    let mark = table.require(reader, "value");
    let to = table.require(reader, "to");
    let mark = MarkDraft {
        value: match value(reader, mark) {
            Field::Absent => Field::Refused,
            field => field,
        },
        to: reader.some_strings(to, address::prefix, "matches no destination"),
        from: reader.some_strings(table.take("from"), address::prefix, "leave `from` out for any source"),
        ports: flat(reader.some_strings(table.take("ports"), ports::matches, "leave `ports` out for every port")),
        interfaces: reader.some_strings(
            table.take("interface"),
            name::interface,
            "leave `interface` out for any interface",
        ),
    };
    table.finish(reader);
    mark
}

/// `"all"` is one string and several ports.
pub(super) fn flat<T>(list: List<Vec<T>>) -> List<T> {
    let items = list
        .items
        .into_iter()
        .flat_map(|Located { value, span }| value.into_iter().map(move |value| Located { value, span: span.clone() }));
    List { span: list.span, items: items.collect(), incomplete: list.incomplete }
}

impl MarkDraft {
    fn refused() -> Self {
        Self {
            value: Field::Refused,
            to: List::default(),
            from: List::default(),
            ports: List::default(),
            interfaces: List::default(),
        }
    }
}

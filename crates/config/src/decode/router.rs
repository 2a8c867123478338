//! `[router]`.

use super::reader::{Entry, Reader, Table};
use crate::diagnostic::Diagnostic;
use crate::draft::{List, Located};
use crate::model::{Limits, Router};
use crate::text::name;

pub(super) fn read<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Router {
    let Some(entry) = entry else {
        reader.report(
            Diagnostic::error("the file has no [router]")
                .help("add a table that names the interfaces:\n\n[router]\noutside = [\"eth0\"]\ninside = [\"eth1\"]"),
        );
        return Router::default();
    };
    let Some(mut table) = reader.table(&entry, "router") else { return Router::default() };
    let outside = table.require(reader, "outside");
    let outside = reader.some_strings(outside, name::interface, "no interface for clients and VIPs");
    let inside = reader.strings(table.take("inside"), name::interface);
    refuse_repetition(reader, &outside, &inside);
    let limits = table.take("limits").and_then(|entry| reader.table(&entry, "router.limits"));
    let limits = limits.map_or_else(Limits::default, |table| limits_of(reader, table));
    table.finish(reader);
    let names = |list: List<String>| list.items.into_iter().map(|item| item.value).collect();
    Router { outside: names(outside), inside: names(inside), limits }
}

fn limits_of<'t>(reader: &mut Reader<'t>, mut table: Table<'t>) -> Limits {
    let mut limit = |name: &'static str, default: u32| {
        reader.integer(table.take(name), MIN_ENTRIES..=MAX_ENTRIES).value().unwrap_or(default)
    };
    let default = Limits::default();
    let limits = Limits {
        flows: limit("flows", default.flows),
        half_open: limit("half_open", default.half_open),
        templates: limit("templates", default.templates),
    };
    table.finish(reader);
    limits
}

/// Fewer would evict connections on an idle network.
const MIN_ENTRIES: i64 = 1024;

/// 16 GiB of 64 bytes each.
const MAX_ENTRIES: i64 = 1 << 28;

fn refuse_repetition(reader: &mut Reader<'_>, outside: &List<String>, inside: &List<String>) {
    let outside = outside.items.iter().map(|item| ("outside", item));
    let all: Vec<(&str, &Located<String>)> = outside.chain(inside.items.iter().map(|item| ("inside", item))).collect();
    for (index, (side, interface)) in all.iter().enumerate() {
        let Some((first_side, first)) = all[..index].iter().find(|(_, first)| first.value == interface.value) else {
            continue;
        };
        let help = if side == first_side {
            "name each interface once"
        } else {
            "a one-armed director needs only `outside`; otherwise leave the interface where the clients are"
        };
        reader.report(
            Diagnostic::error(format!("interface `{}` is listed twice", interface.value))
                .at(&interface.span, "listed again")
                .also(&first.span, format!("first listed here, in `{first_side}`"))
                .help(help),
        );
    }
}

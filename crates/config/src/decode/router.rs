//! `[router]`.

use super::reader::{Entry, Reader, Table};
use crate::diagnostic::{Diagnostic, listed, quoted};
use crate::draft::{List, Located};
use crate::model::{Attach, Limits, ReloadWhen, Router};
use crate::similar::closest;
use crate::text::name;
use toml::de::DeValue;

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
    let (attach, attach_on) = attachments(reader, table.take("attach"), &[&outside, &inside]);
    let limits = table.take("limits").and_then(|entry| reader.table(&entry, "router.limits"));
    let limits = limits.map_or_else(Limits::default, |table| limits_of(reader, table));
    let reload = reader.choice(table.take("reload"), "time to reload", RELOAD_NAMES).value().unwrap_or_default();
    table.finish(reader);
    let names = |list: List<String>| list.items.into_iter().map(|item| item.value).collect();
    Router { outside: names(outside), inside: names(inside), attach, attach_on, limits, reload }
}

const RELOAD_NAMES: &[(&str, ReloadWhen)] = &[("when-told", ReloadWhen::Told), ("on-change", ReloadWhen::OnChange)];

const ATTACH_NAMES: &[(&str, Attach)] = &[("auto", Attach::Auto), ("xdp", Attach::Xdp), ("tc", Attach::Tc)];

/// `attach = "tc"` or `attach = { eth0 = "xdp", eth1 = "tc" }`.
fn attachments<'t>(
    reader: &mut Reader<'t>,
    entry: Option<Entry<'t>>,
    interfaces: &[&List<String>],
) -> (Attach, Vec<(String, Attach)>) {
    let Some(entry) = entry else { return Default::default() };
    let entries = match entry.value.get_ref() {
        DeValue::Table(entries) => entries,
        DeValue::String(_) => {
            return (reader.choice(Some(entry), ATTACHMENT, ATTACH_NAMES).value().unwrap_or_default(), Vec::new());
        }
        _ => {
            reader.wrong_type::<()>(&entry);
            return Default::default();
        }
    };
    let known: Vec<&str> =
        interfaces.iter().flat_map(|list| &list.items).map(|interface| interface.value.as_str()).collect();
    let incomplete = interfaces.iter().any(|list| list.incomplete);
    let mut each = Vec::new();
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        if !known.contains(&name.get_ref().as_ref()) && !incomplete {
            let proposal = closest(name.get_ref(), known.iter().copied());
            let proposal = proposal.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
            let known = listed(known.iter().map(|name| quoted(name)));
            reader.report(
                Diagnostic::error(format!("{} is not an interface of [router]", quoted(name.get_ref())))
                    .at(&name.span(), "nothing is attached to it")
                    .help(format!("{proposal}there are {known}")),
            );
        }
        if let Some(attach) = reader.choice(Some(entry.element(value)), ATTACHMENT, ATTACH_NAMES).value() {
            each.push((name.get_ref().to_string(), attach));
        }
    }
    (Attach::default(), each)
}

const ATTACHMENT: &str = "way to meet packets";

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

//! `forward = "nat"`, or a tunnel with its settings: `forward = { tunnel = "gue", port = 6080 }`.

use super::reader::{Entry, Reader};
use crate::diagnostic::{Diagnostic, quoted};
use crate::draft::{Field, Located};
use crate::model::{Forward, Gue};
use toml::de::DeValue;

/// The names that `forward` takes.
const NAMES: &[(&str, Forward)] = &[
    ("nat", Forward::Nat),
    ("fullnat", Forward::FullNat),
    ("dr", Forward::Dr),
    ("tunnel", Forward::Tunnel),
    ("gue", Forward::Gue(Gue::DEFAULT)),
    ("gre", Forward::Gre),
    ("local", Forward::Local),
    ("masq", Forward::Nat),
    ("masquerade", Forward::Nat),
    ("direct", Forward::Dr),
    ("gateway", Forward::Dr),
    ("ipip", Forward::Tunnel),
];

/// As `ipvsadm --tun-type` has them.
const TUNNELS: &[(&str, Forward)] =
    &[("ipip", Forward::Tunnel), ("gue", Forward::Gue(Gue::DEFAULT)), ("gre", Forward::Gre)];

/// `path` is that of the key.
pub(super) fn read<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>, path: &'static str) -> Field<Forward> {
    let Some(entry) = entry else { return Field::Absent };
    match entry.value.get_ref() {
        DeValue::Table(_) => tunnel(reader, &entry, path),
        DeValue::String(_) => reader.choice(Some(entry), "forwarding method", NAMES),
        _ => reader.wrong_type(&entry),
    }
}

fn tunnel<'t>(reader: &mut Reader<'t>, entry: &Entry<'t>, path: &'static str) -> Field<Forward> {
    let Some(mut table) = reader.table(entry, path) else { return Field::Refused };
    let kind = table.require(reader, "tunnel");
    let kind = reader.choice(kind, "kind of tunnel", TUNNELS);
    let port: Field<u16> = reader.integer(table.take("port"), 1..=i64::from(u16::MAX));
    let checksum = reader.boolean(table.take("checksum"));
    table.finish(reader);
    let Field::Given(kind) = kind else { return Field::Refused };
    let Forward::Gue(default) = kind.value else {
        refuse_setting(reader, "port", &port, &kind);
        refuse_setting(reader, "checksum", &checksum, &kind);
        return Field::Given(Located { value: kind.value, span: entry.span() });
    };
    let gue = Gue { port: port.value().unwrap_or(default.port), checksum: checksum.value() };
    Field::Given(Located { value: Forward::Gue(gue), span: entry.span() })
}

fn refuse_setting<T>(reader: &mut Reader<'_>, name: &str, setting: &Field<T>, kind: &Located<Forward>) {
    let Some(setting) = setting.given() else { return };
    reader.report(
        Diagnostic::error(format!("{} is of the tunnel `gue` only", quoted(name)))
            .at(&setting.span, "there is no UDP header to put it into")
            .also(&kind.span, "this kind of tunnel")
            .help(format!("leave {} out, or write tunnel = \"gue\"", quoted(name))),
    );
}

//! `quorum = 2`, and what goes with it.

use super::reader::{Entry, Reader};
use crate::diagnostic::Diagnostic;
use crate::draft::{Field, Located};
use crate::model::{BelowQuorum, Measure, Quorum, Start};
use toml::de::DeValue;

const BELOW_QUORUM_NAMES: &[(&str, BelowQuorum)] =
    &[("refuse", BelowQuorum::Refuse), ("drop", BelowQuorum::Drop), ("serve", BelowQuorum::Serve)];

const START_NAMES: &[(&str, Start)] = &[("last", Start::Last), ("up", Start::Up), ("down", Start::Down)];

/// As keepalived has it.
const MAX_QUORUM: i64 = 1_000_000;

/// `quorum = 2` or `quorum = { servers = 2, hysteresis = 1 }`.
pub(super) fn quorum<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Field<Quorum> {
    let Some(entry) = entry else { return Field::Absent };
    let given = |value| Field::Given(Located { value, span: entry.span() });
    match entry.value.get_ref() {
        DeValue::Table(_) => {}
        DeValue::Integer(_) => {
            return match reader.integer(Some(entry.clone()), 1..=MAX_QUORUM).value() {
                Some(needed) => given(Quorum { needed, ..Quorum::default() }),
                None => Field::Refused,
            };
        }
        _ => return reader.wrong_type(&entry),
    }
    let Some(mut table) = reader.table(&entry, "service.*.quorum") else { return Field::Refused };
    let weight: Field<u32> = reader.integer(table.take("weight"), 1..=MAX_QUORUM);
    let servers: Field<u32> = reader.integer(table.take("servers"), 1..=MAX_QUORUM);
    let hysteresis: Field<u32> = reader.integer(table.take("hysteresis"), 0..=MAX_QUORUM);
    table.finish(reader);
    let (measure, needed) = match (weight, servers) {
        (Field::Given(weight), Field::Absent) => (Measure::Weight, weight.value),
        (Field::Absent, Field::Given(servers)) => (Measure::Servers, servers.value),
        (Field::Given(weight), Field::Given(servers)) => {
            reader.report(
                Diagnostic::error("a quorum is of `weight` or of `servers`")
                    .at(&servers.span, "servers are counted")
                    .also(&weight.span, "their weight is")
                    .help("keep one of the two"),
            );
            return Field::Refused;
        }
        (Field::Absent, Field::Absent) => {
            reader.report(
                Diagnostic::error("the quorum says neither `weight` nor `servers`")
                    .at(&entry.span(), "of what?")
                    .help("write, for example, quorum = { servers = 2, hysteresis = 1 }"),
            );
            return Field::Refused;
        }
        _ => return Field::Refused,
    };
    if hysteresis.is_refused() {
        return Field::Refused;
    }
    if let Some(given) = hysteresis.given().filter(|hysteresis| hysteresis.value >= needed) {
        reader.report(
            Diagnostic::error("the hysteresis is as large as the quorum")
                .at(&given.span, "no loss of servers would reach this")
                .also(&entry.span(), format!("{needed} are needed"))
                .help("write a smaller one, or leave `hysteresis` out"),
        );
        return Field::Refused;
    }
    given(Quorum { measure, needed, hysteresis: hysteresis.value().unwrap_or(0) })
}

pub(super) fn below_quorum<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Field<BelowQuorum> {
    reader.choice(entry, "policy below the quorum", BELOW_QUORUM_NAMES)
}

pub(super) fn start<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Field<Start> {
    reader.choice(entry, "state to start with", START_NAMES)
}

//! `[[service.NAME.server]]`.

use super::forward;
use super::reader::{Entry, Reader, Table};
use crate::diagnostic::Diagnostic;
use crate::draft::{Field, List, Located, ServerDraft};
use crate::text::{address, name};
use std::net::IpAddr;

/// The servers of a service; `None` stands for one whose table was refused as a whole.
pub(super) fn read_all<'t>(reader: &mut Reader<'t>, service: &mut Table<'t>, name: &str) -> Vec<Option<ServerDraft>> {
    let Some(entry) = service.take("server") else {
        refuse_none(reader, service, name);
        return vec![None];
    };
    let mut tables = reader.tables(&entry, "service.*.server[]");
    if tables.is_empty() {
        refuse_none(reader, service, name);
        return vec![None];
    }
    if let Some(excess) =
        tables.get(MAX_SERVERS).map(|table| table.as_ref().map_or(entry.span(), |t| t.header().clone()))
    {
        reader.report(
            Diagnostic::error(format!("the service has more than {MAX_SERVERS} servers"))
                .at(&excess, "one too many")
                .also(service.header(), "in this service")
                .help("spread the servers over several services, each with its own VIP"),
        );
        tables.truncate(MAX_SERVERS);
    }
    tables.into_iter().map(|table| table.map(|table| read(reader, table))).collect()
}

/// What the data plane numbers the servers of a service up to.
const MAX_SERVERS: usize = 4_096;

fn read<'t>(reader: &mut Reader<'t>, mut table: Table<'t>) -> ServerDraft {
    let name = reader.string(table.take("name"), name::server);
    let mut addresses = reader.some_strings(table.take("address"), address::server, "the server has no address");
    refuse_second_of_a_family(reader, &mut addresses);
    let weight = reader.integer(table.take("weight"), 0..=i64::from(u16::MAX)).value().unwrap_or(DEFAULT_WEIGHT);
    let upper = reader.integer(table.take("upper"), 0..=MAX_THRESHOLD);
    let lower = reader.integer(table.take("lower"), 0..=MAX_THRESHOLD);
    let forward = forward::read(reader, table.take("forward"), "service.*.server[].forward");
    let drain = reader.duration_or_none(table.take("drain"));
    let header = table.header().clone();
    table.finish(reader);
    ServerDraft { header, name, addresses, weight, upper, lower, forward, drain }
}

/// `sorry = { address = "10.0.0.99" }`.
pub(super) fn sorry<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Option<ServerDraft> {
    let mut table = reader.table(&entry?, "service.*.sorry")?;
    let header = table.header().clone();
    let name = match reader.string(table.take("name"), name::server) {
        Field::Absent => Field::Given(Located { value: SORRY.to_owned(), span: header.clone() }),
        given => given,
    };
    let mut addresses = reader.some_strings(table.take("address"), address::server, "the server has no address");
    refuse_second_of_a_family(reader, &mut addresses);
    let forward = forward::read(reader, table.take("forward"), "service.*.sorry.forward");
    table.finish(reader);
    let (upper, lower, drain) = (Field::Absent, Field::Absent, Field::Absent);
    Some(ServerDraft { header, name, addresses, weight: DEFAULT_WEIGHT, upper, lower, forward, drain })
}

/// What a sorry server is called that has no name.
const SORRY: &str = "sorry";

const DEFAULT_WEIGHT: u16 = 1;

/// What the data plane has bits for.
const MAX_THRESHOLD: i64 = i32::MAX as i64;

fn refuse_none<'t>(reader: &mut Reader<'t>, service: &Table<'t>, name: &str) {
    reader.report(
        Diagnostic::error("the service has no servers")
            .at(service.header(), "has no server")
            .help(format!("add one or more:\n\n[[service.{}.server]]\naddress = \"10.0.0.11\"", name.escape_debug())),
    );
}

/// Which of two addresses a client of their family would be sent to is nobody's guess.
fn refuse_second_of_a_family(reader: &mut Reader<'_>, addresses: &mut List<IpAddr>) {
    let mut kept: Vec<Located<IpAddr>> = Vec::new();
    for address in std::mem::take(&mut addresses.items) {
        let Some(first) = kept.iter().find(|first| first.value.is_ipv4() == address.value.is_ipv4()) else {
            kept.push(address);
            continue;
        };
        let family = if address.value.is_ipv4() { "IPv4" } else { "IPv6" };
        reader.report(
            Diagnostic::error(format!("a server has one {family} address"))
                .at(&address.span, "a second one")
                .also(&first.span, "the first")
                .help("write one [[service.NAME.server]] for each"),
        );
        addresses.incomplete = true;
    }
    addresses.items = kept;
}

//! TOML → draft: keys, types and single values. What contradicts what is [`crate::check`]'s business.

mod api;
mod availability;
mod check;
mod forward;
mod mark;
mod metrics;
mod reader;
mod router;
mod server;
mod service;

use crate::diagnostic::Diagnostic;
use crate::draft::Draft;
use reader::{Reader, Table};
use toml::de::DeTable;

/// Reads a whole file. The draft has holes where the diagnostics have errors.
pub(crate) fn decode<'t>(text: &'t str, root: &'t DeTable<'t>) -> (Draft, Vec<Diagnostic>) {
    let mut reader = Reader::new(text);
    let mut table = Table::new("", 0..0, root);
    let draft = Draft {
        router: router::read(&mut reader, table.take("router")),
        api: api::read(&mut reader, table.take("api")),
        metrics: metrics::read(&mut reader, table.take("metrics")),
        marks: mark::read_all(&mut reader, table.take("mark")),
        services: service::read_all(&mut reader, table.take("service")),
    };
    table.finish(&mut reader);
    (draft, reader.into_diagnostics())
}

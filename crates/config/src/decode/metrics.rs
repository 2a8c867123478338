//! `[metrics]`.

use super::reader::{Entry, Reader};
use crate::model::{Detail, Metrics};
use crate::text::address;

pub(super) fn read<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Metrics {
    let Some(mut table) = entry.and_then(|entry| reader.table(&entry, "metrics")) else { return Metrics::default() };
    let metrics = Metrics {
        listen: reader.string(table.take("listen"), address::listen).value(),
        detail: reader.choice(table.take("detail"), "detail of the metrics", DETAILS).value().unwrap_or_default(),
    };
    table.finish(reader);
    metrics
}

const DETAILS: &[(&str, Detail)] =
    &[("auto", Detail::Auto), ("servers", Detail::Servers), ("services", Detail::Services), ("totals", Detail::Totals)];

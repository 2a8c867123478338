//! The text of a scrape, in the two formats that Prometheus reads. They differ in what a counter's family is called, in the
//! line that names a unit, and in the end.
//!
//! Our own hundred lines, as the crate `prometheus-client` writes OpenMetrics only, which `promtool check metrics` and
//! older readers do not take, and writes the values of labels as they are: names of real servers are free text.

use super::{Metric, Number, Scrape};
use crate::live::Took;
use std::fmt::Write;

/// What the asker understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    Open,
    /// Prometheus's own text format, 0.0.4.
    Classic,
}

impl Format {
    /// From an `Accept` header, if there is one. Prometheus names OpenMetrics; people with `curl` see what they know.
    pub fn accepted(accept: Option<&str>) -> Self {
        let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if open { Format::Open } else { Format::Classic }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Scrape<'_> {
    /// The answer to a scrape.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        for metric in self.metrics() {
            head(&mut text, metric, format);
            let name = metric.name();
            self.histograms(metric, &mut |labels, took| histogram(&mut text, &name, metric.labels, labels, took));
            self.samples(metric, &mut |labels, number| sample(&mut text, &name, metric.labels, labels, number));
        }
        if format == Format::Open {
            text.push_str("# EOF\n");
        }
        text
    }
}

fn head(text: &mut String, metric: &Metric, format: Format) {
    let (name, kind) = match (format, metric.kind) {
        (Format::Open, kind) => (metric.family(), kind),
        (Format::Classic, kind) => (metric.name(), kind),
    };
    // Writing to a string does not fail, here and below.
    let _ = writeln!(text, "# HELP {name} {}", metric.help);
    let _ = writeln!(text, "# TYPE {name} {}", kind.name());
    if let (Format::Open, Some(unit)) = (format, metric.unit) {
        let _ = writeln!(text, "# UNIT {name} {}", unit.name());
    }
}

/// Bounds are written as OpenMetrics has numbers, `1.0`, which the older format takes as well.
fn histogram(text: &mut String, name: &str, labels: &[&str], values: &[&str], took: &Took) {
    let with_bound = [labels, &["le"]].concat();
    let bounds = took.within().map(|(bound, count)| (format!("{bound:?}"), count));
    for (bound, count) in bounds.chain([("+Inf".to_owned(), took.count)]) {
        let values = [values, &[bound.as_str()]].concat();
        sample(text, &format!("{name}_bucket"), &with_bound, &values, count.into());
    }
    sample(text, &format!("{name}_sum"), labels, values, Number::Fraction(took.seconds));
    sample(text, &format!("{name}_count"), labels, values, took.count.into());
}

fn sample(text: &mut String, name: &str, labels: &[&str], values: &[&str], number: Number) {
    debug_assert_eq!(labels.len(), values.len(), "{name}");
    text.push_str(name);
    for (index, (label, value)) in std::iter::zip(labels, values).enumerate() {
        let _ = write!(text, "{}{label}=\"", if index == 0 { '{' } else { ',' });
        escape(text, value);
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
    let _ = match number {
        Number::Whole(number) => writeln!(text, " {number}"),
        Number::Fraction(number) => writeln!(text, " {number}"),
    };
}

/// Both formats escape these three, and nothing else.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

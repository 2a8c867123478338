//! `cargo xtask bench scale`: ten thousand services, ten million flows. See `docs/benchmarks.md`.
//!
//! | module | owns |
//! |---|---|
//! | `configuration` | ten thousand services with ten real servers each: loaded, changed, replaced, while packets flow |
//! | `stream` | the packets that flow, and whether all of them arrive |
//! | `flows` | ten million flows: recorded, swept, expired |

mod configuration;
mod flows;
mod stream;

use super::Scale;
use anyhow::Result;

pub fn run(options: &Scale) -> Result<()> {
    let mut results = Vec::new();
    if options.wants("services") {
        configuration::measure(options.services, &mut results)?;
    }
    if options.wants("flows") {
        flows::measure(options.flows, &mut results)?;
    }
    if options.json {
        let array: Vec<_> = results.iter().map(Line::json).collect();
        println!("{}", serde_json::to_string_pretty(&array)?);
    } else {
        results.iter().for_each(|line| println!("{}", line.text()));
        let judged = results.iter().filter_map(Line::met);
        let (met, all) = judged.fold((0, 0), |(met, all), is_met| (met + usize::from(is_met), all + 1));
        println!("{met} of {all} targets met");
    }
    Ok(())
}

/// One result.
pub struct Line {
    what: String,
    value: f64,
    unit: &'static str,
    /// It may be so large.
    target: Option<f64>,
}

impl Line {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, target: None }
    }

    pub fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    fn met(&self) -> Option<bool> {
        self.target.map(|target| self.value <= target)
    }

    fn text(&self) -> String {
        let Self { what, value, unit, target } = self;
        let digits = if value.abs() < 100.0 && value.fract() != 0.0 { 2 } else { 0 };
        let text = format!("{what:<64} {value:>12.digits$} {unit}");
        match (target, self.met()) {
            (Some(target), Some(met)) => {
                format!("{text:<92} at most {target} {unit}, {}", if met { "met" } else { "MISSED" })
            }
            _ => text,
        }
    }

    fn json(&self) -> serde_json::Value {
        let Self { what, value, unit, target } = self;
        serde_json::json!({ "what": what, "value": super::report::round(*value, 3), "unit": unit, "target": target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_whether_it_is_within_its_target() {
        let met = Line::new("a load", 1.5, "s").at_most(2.0);
        assert!(met.text().ends_with("1.50 s                at most 2 s, met"), "{}", met.text());
        assert!(Line::new("a load", 2.5, "s").at_most(2.0).text().contains("MISSED"));
        assert_eq!(Line::new("a load", 2.5, "s").met(), None);
    }
}

//! Medians, ratios and targets: as a table for people, as JSON for programs.

use super::cases::{Case, Target};
use anyhow::Result;

/// A case and its cost in each round, a packet's without the stand's own: in nanoseconds, and in lookups as they were then.
pub struct Measured {
    pub case: Case,
    pub net_ns: Vec<f64>,
    pub lookups: Vec<f64>,
}

impl Measured {
    pub fn new(case: Case) -> Self {
        Self { case, net_ns: Vec::new(), lookups: Vec::new() }
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.case);
    }
}

pub fn print(measured: &[Measured], lookup: &[f64], empty: &[f64], json: bool) -> Result<()> {
    let unit = median(lookup);
    let rows: Vec<Row> = measured.iter().map(|m| Row::new(m, measured)).collect();
    if json {
        let mut array =
            vec![serde_json::json!({ "case": "lookup", "flows": 1, "net_ns": round(unit, 1), "ratio": 1.0 })];
        array.extend(rows.iter().map(|row| {
            serde_json::json!({
                "case": row.name, "flows": row.flows, "net_ns": round(row.net_ns, 1), "ratio": round(row.ratio, 2)
            })
        }));
        println!("{}", serde_json::to_string_pretty(&array)?);
    } else {
        println!("lookup {unit:.1} ns net; empty {:.1} ns gross", median(empty));
        println!("{:<28} {:>9} {:>8} {:>7} {:>9}  target", "case", "flows", "net ns", "lookups", "one flow");
        rows.iter().for_each(|row| println!("{}", row.line()));
        let missed = rows.iter().filter(|row| row.met == Some(false)).count();
        let judged = rows.iter().filter(|row| row.met.is_some()).count();
        println!("{} of {judged} targets met", judged - missed);
    }
    Ok(())
}

struct Row {
    name: String,
    flows: u32,
    net_ns: f64,
    /// To the lookup, and to the same case with one flow.
    ratio: f64,
    of_one_flow: Option<f64>,
    target: Target,
    met: Option<bool>,
}

impl Row {
    fn new(m: &Measured, all: &[Measured]) -> Self {
        let (net_ns, ratio) = (median(&m.net_ns), median(&m.lookups));
        let one = all.iter().find(|other| other.case == Case { flows: 1, ..m.case });
        let of_one_flow = one.map(|one| ratio / median(&one.lookups));
        let target = m.case.target();
        let met = match target {
            Target::Lookups(limit) => Some(ratio <= limit),
            Target::OfOneFlow(limit) => of_one_flow.map(|ratio| ratio <= limit),
            Target::None => None,
        };
        Self { name: m.case.name(), flows: m.case.flows, net_ns, ratio, of_one_flow, target, met }
    }

    fn line(&self) -> String {
        let of_one_flow = self.of_one_flow.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let target = match self.target {
            Target::Lookups(limit) => format!("{limit:.1} lookups"),
            Target::OfOneFlow(limit) => format!("{limit:.1} x one flow"),
            Target::None => String::new(),
        };
        let met = match self.met {
            Some(true) => ", met",
            Some(false) => ", MISSED",
            None => "",
        };
        format!(
            "{:<28} {:>9} {:>8.1} {:>7.2} {of_one_flow:>9}  {target}{met}",
            self.name, self.flows, self.net_ns, self.ratio
        )
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

//! What a list shows of each of its rows, and by what it can be sorted.

use super::sample::{Flow, Rates, Server, Service, duration};
use std::cmp::Ordering;

pub struct Column<T: 'static> {
    pub title: &'static str,
    /// Of the first one the least: it takes what the others leave.
    pub width: u16,
    /// Whether the greatest comes first when it is chosen.
    pub descending: bool,
    cell: Cell<T>,
}

enum Cell<T: 'static> {
    /// Sorted by one thing and written as another.
    Text(for<'t> fn(&'t T) -> Key<'t>, fn(&T) -> String),
    Number(fn(&T) -> f64),
}

enum Key<'t> {
    Number(f64),
    Text(&'t str),
    Owned(String),
}

impl<T> Column<T> {
    pub fn compare(&self, a: &T, b: &T) -> Ordering {
        let (a, b) = match self.cell {
            Cell::Number(number) => return number(a).total_cmp(&number(b)),
            Cell::Text(key, _) => (key(a), key(b)),
        };
        match (a, b) {
            (Key::Number(a), Key::Number(b)) => a.total_cmp(&b),
            (Key::Text(a), Key::Text(b)) => a.cmp(b),
            (Key::Owned(a), Key::Owned(b)) => a.cmp(&b),
            // One column gives one kind.
            _ => Ordering::Equal,
        }
    }

    pub fn text(&self, row: &T) -> String {
        match self.cell {
            Cell::Number(number) => short(number(row)),
            Cell::Text(_, text) => text(row),
        }
    }

    pub fn is_right(&self) -> bool {
        self.descending || self.title == "UP" || self.title == "IDLE"
    }
}

pub const SERVICES: &[Column<Service>] = &[
    text("SERVICE", 16, |s| Key::Text(&s.name), |s| s.name.clone()),
    Column {
        title: "UP",
        width: 7,
        descending: false,
        cell: Cell::Text(
            |s| Key::Number(f64::from(s.up) / f64::from(s.pool.max(1))),
            |s| format!("{}/{}", s.up, s.pool),
        ),
    },
    number("CONN/s", 6, |s| s.rates.connections),
    number("ACTIVE", 6, |s| s.active as f64),
    number("INACT", 6, |s| s.inactive as f64),
    number("IN p/s", 6, |s| s.rates.in_packets),
    number("OUT p/s", 7, |s| s.rates.out_packets),
    number("IN b/s", 6, |s| s.rates.in_bytes * 8.0),
    number("OUT b/s", 7, |s| s.rates.out_bytes * 8.0),
];

pub const SERVERS: &[Column<Server>] = &[
    text("SERVER", 8, |s| Key::Text(&s.name), |s| s.name.clone()),
    text("STATE", 12, |s| Key::Text(&s.state), state),
    number("WEIGHT", 6, |s| f64::from(s.weight)),
    number("CONN/s", 6, |s| s.rates.connections),
    number("ACTIVE", 6, |s| s.active as f64),
    number("INACT", 5, |s| s.inactive as f64),
    number("IN p/s", 6, |s| s.rates.in_packets),
    number("OUTp/s", 6, |s| s.rates.out_packets),
    number("IN b/s", 6, |s| s.rates.in_bytes * 8.0),
    number("OUTb/s", 6, |s| s.rates.out_bytes * 8.0),
];

pub const FLOWS: &[Column<Flow>] = &[
    text("CLIENT", 26, |f| Key::Owned(f.client.to_string()), |f| f.client.to_string()),
    text("VIP", 24, |f| Key::Owned(f.vip.to_string()), |f| f.vip.to_string()),
    text("PROTOCOL", 8, |f| Key::Text(&f.protocol), |f| f.protocol.clone()),
    text("STATE", 12, |f| Key::Text(&f.state), |f| f.state.clone()),
    Column {
        title: "IDLE",
        width: 6,
        descending: false,
        cell: Cell::Text(|f| Key::Number(f.idle.as_secs_f64()), |f| format!("{}s", f.idle.as_secs())),
    },
];

const fn text<T>(
    title: &'static str,
    width: u16,
    key: for<'t> fn(&'t T) -> Key<'t>,
    text: fn(&T) -> String,
) -> Column<T> {
    Column { title, width, descending: false, cell: Cell::Text(key, text) }
}

const fn number<T>(title: &'static str, width: u16, number: fn(&T) -> f64) -> Column<T> {
    Column { title, width, descending: true, cell: Cell::Number(number) }
}

fn state(server: &Server) -> String {
    match server.seconds_left {
        Some(seconds) if seconds > 0 => format!("{} {}", server.state, duration(seconds)),
        _ if server.overloaded => format!("{} full", server.state),
        _ => server.state.clone(),
    }
}

/// In five characters: `0`, `0.3`, `12`, `999`, `1.2K`, `34M`.
pub fn short(number: f64) -> String {
    let mut rest = number;
    for unit in ["", "K", "M", "G", "T", "P"] {
        let digits = match rest {
            0.0 => Some("0".to_owned()),
            // Whole numbers are counts, and stay whole.
            _ if rest < 9.95 && (!unit.is_empty() || rest.fract() != 0.0) => Some(format!("{rest:.1}")),
            _ if rest < 999.5 => Some(format!("{rest:.0}")),
            _ => None,
        };
        if let Some(digits) = digits {
            return digits + unit;
        }
        rest /= 1000.0;
    }
    "lots".into()
}

/// Both directions in a second, in words.
pub fn traffic(rates: &Rates) -> String {
    let one = |bytes: f64, packets: f64| format!("{} b/s {} p/s", short(bytes * 8.0), short(packets));
    format!("in {}  out {}", one(rates.in_bytes, rates.in_packets), one(rates.out_bytes, rates.out_packets))
}

//! The model on a screen. What is not seen is not formatted.

use super::columns::{Column, FLOWS, SERVERS, SERVICES, short, traffic};
use super::model::{List, Model, Page};
use super::sample::{Rates, Sample, Server, Service};
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};
use std::fmt::Write;

/// From top to bottom: four lines about the director, one about the list, its head, its rows, one about the row under the
/// cursor, one about keys.
pub fn draw(model: &Model, screen: &mut Buffer) {
    let area = screen.area;
    let mut lines = Lines { screen, y: area.y };
    match &model.sample {
        Some(sample) => director(model, sample, &mut lines),
        None => (0..4).for_each(|_| lines.put("", Style::new())),
    }
    if model.help {
        HELP.lines().for_each(|line| lines.put(line, Style::new()));
        return;
    }
    lines.put(&title(model), Style::new().add_modifier(Modifier::BOLD));
    match model.page {
        Page::Services => list(model, SERVICES, model.services(), service_style, &mut lines),
        Page::Servers(_) => list(model, SERVERS, model.servers(), server_style, &mut lines),
        Page::Flows(..) => list(model, FLOWS, model.connections(), |_| Style::new(), &mut lines),
    }
    lines.y = area.bottom().saturating_sub(2).max(lines.y);
    lines.put(&detail(model), Style::new());
    lines.put(KEYS, Style::new().fg(Color::DarkGray));
}

const KEYS: &str = "q quit  ? help  Enter into  Esc back  / filter  <> sort  r reverse  Space hold";

const HELP: &str = "
 Up Down k j PgUp PgDn Home End   the row under the cursor
 Enter     from a service to its servers, from one of these to its connections
 Esc       takes the filter away, then goes back
 /         filter: services by name, VIP, port; servers by name, address, state;
           connections by address, state. Enter keeps it, Esc takes it away
 < >       the column to sort by; r turns the order round
 Space     holds the picture; again: goes on
 + -       looks less often, more often
 q         quits

 b/s are bits of IP packets, p/s packets, in a second. OUT is seen under NAT and
 fullnat only. ACTIVE connections are established, INACT not yet or no longer.
 Any key closes this.";

struct Lines<'b> {
    screen: &'b mut Buffer,
    y: u16,
}

impl Lines<'_> {
    fn put(&mut self, text: &str, style: Style) {
        let area = self.screen.area;
        if self.y < area.bottom() {
            self.screen.set_stringn(area.x, self.y, text, area.width.into(), style);
            if style.add_modifier.contains(Modifier::REVERSED) {
                // The whole line.
                self.screen.set_style(ratatui::layout::Rect { y: self.y, height: 1, ..area }, style);
            }
        }
        self.y += 1;
    }
}

fn director(model: &Model, sample: &Sample, lines: &mut Lines) {
    let interfaces: Vec<String> = sample.interfaces.iter().map(|(name, how)| format!("{name} {how}")).collect();
    let daemon = sample.daemon.map_or("NO DAEMON, packets are forwarded".into(), |pid| format!("daemon {pid}"));
    let pace = super::source::pace(model.interval, sample.took).as_secs_f64();
    let look = if model.paused { "HELD".into() } else { format!("every {} s", (pace * 100.0).round() / 100.0) };
    let style = if sample.daemon.is_none() { Style::new().fg(Color::Yellow) } else { Style::new() };
    lines.put(&format!("marca top   {daemon}   {}   {look}", interfaces.join(", ")), style);
    match &model.error {
        Some(error) => lines.put(error, Style::new().fg(Color::Red)),
        None => lines.put(&servers(sample), Style::new()),
    }
    let mut rates = Rates::default();
    sample.services.iter().for_each(|service| rates.add(&service.rates));
    let sum = |of: fn(&Service) -> u64| short(sample.services.iter().map(of).sum::<u64>() as f64);
    let (active, inactive) = (sum(|s| s.active), sum(|s| s.inactive));
    lines.put(
        // With numbers of four characters these are eighty.
        &format!("conn/s {}  {}  active {active} inact {inactive}", short(rates.connections), traffic(&rates)),
        Style::new(),
    );
    let mut tables = String::from("tables:");
    for (name, used, size) in &sample.tables {
        let _ = write!(tables, " {name} {:.1}%", *used as f64 * 100.0 / (*size).max(1) as f64);
    }
    let drops: Vec<String> =
        sample.drops.iter().take(3).map(|(name, rate)| format!("{name} {}", short(*rate))).collect();
    if drops.is_empty() {
        lines.put(&format!("{tables}   drops/s: none"), Style::new());
    } else {
        lines.put(&format!("{tables}   drops/s: {}", drops.join(", ")), Style::new().fg(Color::Yellow));
    }
}

fn servers(sample: &Sample) -> String {
    let states: Vec<String> = ["up", "down", "waiting", "draining", "drained", "disabled", "serving", "standby"]
        .into_iter()
        .map(|state| (state, sample.servers_in(state)))
        .filter(|(state, count)| *state == "up" || *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let leaving: usize = sample.services.iter().map(|service| service.leaving.len()).sum();
    let leaving = if leaving > 0 { format!(", {leaving} leaving") } else { String::new() };
    format!("services {}   real servers {}{leaving}", sample.services.len(), states.join(", "))
}

/// What is listed, how many, in which order.
fn title(model: &Model) -> String {
    let (what, all, column) = match &model.page {
        Page::Services => ("services".to_owned(), model.services().len(), SERVICES[model.list().column].title),
        Page::Servers(service) => {
            (format!("{service}: real servers"), model.servers().len(), SERVERS[model.list().column].title)
        }
        Page::Flows(service, server) => {
            let all = model.connections().len();
            (format!("{service}/{server}: connections"), all, FLOWS[model.list().column].title)
        }
    };
    let (listed, order) = (model.list().order.len(), if model.list().descending { "down" } else { "up" });
    let more = if model.flows.as_ref().is_some_and(|flows| flows.more) { " and more" } else { "" };
    let count = if listed == all { format!("{all}{more}") } else { format!("{listed} of {all}{more}") };
    let filter = match (model.editing, model.filter.as_str()) {
        (true, filter) => format!("   filter: {filter}_"),
        (false, "") => String::new(),
        (false, filter) => format!("   filter: {filter}"),
    };
    format!("{what} ({count}) by {column} {order}{filter}")
}

fn list<T>(model: &Model, columns: &[Column<T>], rows: &[T], style: impl Fn(&T) -> Style, lines: &mut Lines) {
    let List { order, cursor, first, .. } = model.list();
    let widths = widths(columns, model.size.width);
    let mut head = String::new();
    for (column, width) in std::iter::zip(columns, &widths) {
        cell(&mut head, column.title, *width, column.is_right());
    }
    lines.put(head.trim_end(), Style::new().add_modifier(Modifier::REVERSED));
    for (place, row) in order.iter().enumerate().skip(*first).take(model.rows()) {
        let Some(row) = rows.get(*row as usize) else { continue };
        let style = style(row);
        let style = if place == *cursor { style.add_modifier(Modifier::REVERSED) } else { style };
        lines.put(&line(columns, &widths, row), style);
    }
}

fn line<T>(columns: &[Column<T>], widths: &[usize], row: &T) -> String {
    let mut text = String::new();
    for (column, width) in std::iter::zip(columns, widths) {
        cell(&mut text, &column.text(row), *width, column.is_right());
    }
    text.trim_end().to_owned()
}

/// The first column has what the others leave.
fn widths<T>(columns: &[Column<T>], screen: u16) -> Vec<usize> {
    let others: u16 = columns.iter().skip(1).map(|column| column.width + 1).sum();
    let mut widths: Vec<usize> = columns.iter().map(|column| column.width.into()).collect();
    if let Some(first) = widths.first_mut() {
        *first = (*first).max(screen.saturating_sub(others).min(WIDEST).into());
    }
    widths
}

/// On a wide screen the numbers shall not be far from their names.
const WIDEST: u16 = 64;

/// Appended after a space; what is too long is cut.
fn cell(line: &mut String, text: &str, width: usize, right: bool) {
    if !line.is_empty() {
        line.push(' ');
    }
    let length = text.chars().count();
    let (text, length) = if length > width {
        (text.chars().take(width.saturating_sub(1)).chain(['…']).collect(), width)
    } else {
        (text.to_owned(), length)
    };
    let space = " ".repeat(width - length);
    line.push_str(&if right { space + &text } else { text + &space });
}

fn service_style(service: &Service) -> Style {
    match service.up {
        0 => Style::new().fg(Color::Red),
        up if up < service.pool => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

fn server_style(server: &Server) -> Style {
    match server.state.as_str() {
        "up" if server.overloaded => Style::new().fg(Color::Yellow),
        "up" => Style::new(),
        "down" | "waiting" => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    }
}

/// What there is no column for.
fn detail(model: &Model) -> String {
    let list = model.list();
    if let Page::Flows(_, name) = &model.page {
        // Of the server whose connections are listed.
        let server = model.servers().iter().find(|server| server.name == *name);
        return server.map_or_else(String::new, checks);
    }
    let Some(row) = list.order.get(list.cursor).map(|row| *row as usize) else { return String::new() };
    let joined =
        |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match model.page {
        Page::Services => model.services().get(row).map_or_else(String::new, |service| {
            let leaving = service.leaving.iter().map(|server| format!("; {server}")).collect::<String>();
            let (ports, vips) = (service.ports.join(" "), joined(&service.vips));
            format!("{} on {vips}, {}{leaving}", ports, service.settings)
        }),
        Page::Servers(_) => model.servers().get(row).map_or_else(String::new, |server| {
            let upper =
                if server.upper > 0 { format!(", at most {} connections", server.upper) } else { String::new() };
            let address = if server.addresses.is_empty() { "local".into() } else { joined(&server.addresses) };
            let failing = server.checks.iter().filter(|check| check.contains(" FAILS "));
            let failing: String = failing.map(|check| format!("{check}; ")).collect();
            format!("{}: {failing}{address} by {}{upper}", server.name, server.forward)
        }),
        Page::Flows(..) => String::new(),
    }
}

fn checks(server: &Server) -> String {
    if server.checks.is_empty() {
        return format!("{}: no checks", server.name);
    }
    format!("{}: {}", server.name, server.checks.join("; "))
}

/// The list of services for a script: all of them, as wide as their names.
pub fn plain(model: &Model) -> String {
    let mut widths = widths(SERVICES, 0);
    let longest = model.services().iter().map(|service| service.name.chars().count()).max();
    widths[0] = widths[0].max(longest.unwrap_or(0));
    let mut text = String::new();
    for (column, width) in std::iter::zip(SERVICES, &widths) {
        cell(&mut text, column.title, *width, column.is_right());
    }
    text.push('\n');
    for row in model.list().order.iter().filter_map(|row| model.services().get(*row as usize)) {
        text.push_str(&line(SERVICES, &widths, row));
        text.push('\n');
    }
    text
}

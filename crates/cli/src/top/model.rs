//! What the operator looks at, and what keys do to it. No I/O: events in, a picture out ([`super::view`]).

use super::columns::{Column, FLOWS, SERVERS, SERVICES};
use super::sample::{Flow, Flows, Sample, Server, Service};
use super::source::Wanted;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Size;
use std::time::Duration;

pub enum Event {
    Key(KeyEvent),
    Resize(Size),
    Sample(Sample),
    /// One with its real servers.
    Service(Service),
    Flows(Flows),
    /// It could not be read.
    Failed(String),
    Quit,
}

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    Services,
    /// Of a service.
    Servers(String),
    /// Of a service, with a real server.
    Flows(String, String),
}

/// How a list is sorted, and where in it the operator is.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// A number of the list's columns.
    pub column: usize,
    pub descending: bool,
    /// Rows, as numbers of what is listed.
    pub order: Vec<u32>,
    /// A place in `order`.
    pub cursor: usize,
    /// The first row on the screen.
    pub first: usize,
    /// Who is under the cursor, to be found again when the order changes; nobody at the top of the list.
    held: Option<String>,
}

pub struct Model {
    pub sample: Option<Sample>,
    pub flows: Option<Flows>,
    pub error: Option<String>,
    pub page: Page,
    /// Of services, real servers and connections.
    pub lists: [List; 3],
    /// Of the page that is shown; each page begins without one.
    pub filter: String,
    /// The filter is being written.
    pub editing: bool,
    pub help: bool,
    pub paused: bool,
    pub interval: Duration,
    pub size: Size,
    over: bool,
    /// The filter of the services while something else is looked at.
    kept_filter: String,
}

/// Lines of the screen that are not rows of the list.
pub const OTHER_LINES: u16 = 8;

impl Model {
    pub fn new(interval: Duration, filter: String) -> Self {
        let by = |column: usize, descending| List { column, descending, ..List::default() };
        Self {
            sample: None,
            flows: None,
            error: None,
            page: Page::Services,
            // The busiest first; servers by name; the connections of last.
            lists: [by(7, true), by(0, false), by(4, false)],
            filter,
            editing: false,
            help: false,
            paused: false,
            interval,
            size: Size { width: 80, height: 24 },
            over: false,
            kept_filter: String::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What is to be read.
    pub fn wanted(&self) -> Wanted {
        let flows_of = match &self.page {
            Page::Flows(service, server) => Some((service.clone(), server.clone())),
            _ => None,
        };
        let service = match &self.page {
            Page::Services => None,
            Page::Servers(service) | Page::Flows(service, _) => Some(service.clone()),
        };
        Wanted { interval: self.interval, paused: self.paused, service, flows_of }
    }

    pub fn update(&mut self, event: Event) {
        match event {
            Event::Quit => self.over = true,
            Event::Resize(size) => self.size = size,
            Event::Failed(error) => self.error = Some(error),
            Event::Sample(sample) => {
                self.error = None;
                self.sample = Some(match &self.sample {
                    Some(before) => sample.after(before),
                    None => sample,
                });
                if self.page != Page::Services && self.service().is_none() {
                    // It has left the configuration.
                    self.show(Page::Services);
                }
            }
            Event::Service(service) => self.sample.iter_mut().for_each(|sample| sample.put(service.clone())),
            Event::Flows(flows) => self.flows = Some(flows),
            Event::Key(key) if self.editing => self.edit(key),
            Event::Key(key) => self.key(key),
        }
        self.arrange();
    }

    fn edit(&mut self, key: KeyEvent) {
        match key.code {
            KeyCode::Enter => self.editing = false,
            KeyCode::Esc => (self.editing, self.filter) = (false, String::new()),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.over = true,
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => self.filter.clear(),
            KeyCode::Char(c) if self.filter.len() < MOST_FILTER => self.filter.push(c),
            _ => {}
        }
    }

    fn key(&mut self, key: KeyEvent) {
        if self.help {
            self.help = false;
            return;
        }
        let page = self.rows().max(2) as isize - 1;
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.over = true,
            KeyCode::Char('q') => self.over = true,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('r') => self.list_mut().descending ^= true,
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(LONGEST_INTERVAL),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(SHORTEST_INTERVAL),
            KeyCode::Right | KeyCode::Char('>') => self.sort_by(1),
            KeyCode::Left | KeyCode::Char('<') => self.sort_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::PageDown => self.go(page),
            KeyCode::PageUp => self.go(-page),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            KeyCode::Enter => self.enter(),
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            _ => {}
        }
    }

    fn enter(&mut self) {
        let Some(name) = self.under_cursor() else { return };
        match &self.page {
            Page::Services => self.show(Page::Servers(name)),
            Page::Servers(service) => self.show(Page::Flows(service.clone(), name)),
            Page::Flows(..) => {}
        }
    }

    /// Out of the filter, then out of the page.
    fn back(&mut self) {
        match &self.page {
            _ if !self.filter.is_empty() => self.filter.clear(),
            Page::Services => {}
            Page::Servers(_) => self.show(Page::Services),
            Page::Flows(service, _) => self.show(Page::Servers(service.clone())),
        }
    }

    fn show(&mut self, page: Page) {
        if self.page == Page::Services {
            self.kept_filter = std::mem::take(&mut self.filter);
        }
        let deeper = !matches!((&self.page, &page), (Page::Flows(..), Page::Servers(_)) | (_, Page::Services));
        self.filter = if page == Page::Services { std::mem::take(&mut self.kept_filter) } else { String::new() };
        (self.page, self.flows) = (page, None);
        if deeper {
            let list = self.list_mut();
            (list.cursor, list.first, list.held) = (0, 0, None);
        }
    }

    fn sort_by(&mut self, step: isize) {
        let columns = match self.page {
            Page::Services => SERVICES.len(),
            Page::Servers(_) => SERVERS.len(),
            Page::Flows(..) => FLOWS.len(),
        };
        let column = self.list().column.saturating_add_signed(step).min(columns - 1);
        let descending = match self.page {
            Page::Services => SERVICES[column].descending,
            Page::Servers(_) => SERVERS[column].descending,
            Page::Flows(..) => FLOWS[column].descending,
        };
        let list = self.list_mut();
        if list.column != column {
            (list.column, list.descending) = (column, descending);
        }
    }

    fn go(&mut self, step: isize) {
        let list = self.list_mut();
        list.cursor = list.cursor.saturating_add_signed(step).min(list.order.len().saturating_sub(1));
        self.hold();
    }

    /// From now on the cursor stays with who is under it; at the top it stays at the top.
    fn hold(&mut self) {
        let held = if self.list().cursor == 0 { None } else { self.under_cursor() };
        self.list_mut().held = held;
    }

    /// How many rows of the list there is room for.
    pub fn rows(&self) -> usize {
        usize::from(self.size.height.saturating_sub(OTHER_LINES))
    }

    fn index(&self) -> usize {
        match self.page {
            Page::Services => 0,
            Page::Servers(_) => 1,
            Page::Flows(..) => 2,
        }
    }

    pub fn list(&self) -> &List {
        &self.lists[self.index()]
    }

    fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.index()]
    }

    /// The service whose servers or connections are looked at.
    pub fn service(&self) -> Option<&Service> {
        match &self.page {
            Page::Services => None,
            Page::Servers(name) | Page::Flows(name, _) => self.sample.as_ref()?.service(name),
        }
    }

    pub fn services(&self) -> &[Service] {
        self.sample.as_ref().map_or(&[], |sample| &sample.services)
    }

    pub fn servers(&self) -> &[Server] {
        self.service().map_or(&[], |service| &service.servers)
    }

    pub fn connections(&self) -> &[Flow] {
        self.flows.as_ref().map_or(&[], |flows| &flows.flows)
    }

    fn under_cursor(&self) -> Option<String> {
        let list = self.list();
        let row = *list.order.get(list.cursor)? as usize;
        match self.page {
            Page::Services => Some(self.services().get(row)?.name.clone()),
            Page::Servers(_) => Some(self.servers().get(row)?.name.clone()),
            Page::Flows(..) => Some(name_of_flow(self.connections().get(row)?)),
        }
    }

    /// Filters and sorts what is listed, and finds the cursor's row again.
    fn arrange(&mut self) {
        let (list, filter) = (self.list(), self.filter.to_lowercase());
        let has = |text: &str| text.to_lowercase().contains(&filter);
        let order = match self.page {
            Page::Services => sorted(self.services(), list, SERVICES, |service| {
                filter.is_empty()
                    || has(&service.name)
                    || service.vips.iter().any(|vip| has(&vip.to_string()))
                    || service.ports.iter().any(|port| has(port))
            }),
            Page::Servers(_) => sorted(self.servers(), list, SERVERS, |server| {
                let texts = [&server.name, &server.state];
                filter.is_empty()
                    || texts.iter().any(|text| has(text))
                    || server.addresses.iter().any(|address| has(&address.to_string()))
            }),
            Page::Flows(..) => sorted(self.connections(), list, FLOWS, |flow| {
                filter.is_empty()
                    || has(&flow.state)
                    || [flow.client, flow.vip].iter().any(|address| has(&address.to_string()))
            }),
        };
        let held = list.held.as_ref().and_then(|held| match self.page {
            Page::Services => place(&order, self.services(), |service| service.name == *held),
            Page::Servers(_) => place(&order, self.servers(), |server| server.name == *held),
            Page::Flows(..) => place(&order, self.connections(), |flow| name_of_flow(flow) == *held),
        });
        let rows = self.rows().max(1);
        let list = self.list_mut();
        list.cursor = held.unwrap_or(list.cursor).min(order.len().saturating_sub(1));
        list.order = order;
        if list.held.is_none() {
            list.cursor = 0;
        }
        list.first = list.first.min(list.cursor).max((list.cursor + 1).saturating_sub(rows));
        // No empty rows below while there is something above.
        list.first = list.first.min(list.order.len().saturating_sub(rows));
    }
}

/// A filter's bytes at the most.
const MOST_FILTER: usize = 64;
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(250);

fn name_of_flow(flow: &Flow) -> String {
    format!("{} {} {}", flow.protocol, flow.client, flow.vip)
}

fn place<T>(order: &[u32], rows: &[T], is: impl Fn(&T) -> bool) -> Option<usize> {
    order.iter().position(|&row| rows.get(row as usize).is_some_and(&is))
}

/// Equal ones stay in the order of the file.
fn sorted<T>(rows: &[T], list: &List, columns: &[Column<T>], wanted: impl Fn(&T) -> bool) -> Vec<u32> {
    let mut order: Vec<u32> =
        rows.iter().enumerate().filter(|(_, row)| wanted(row)).map(|(number, _)| number as u32).collect();
    if let Some(column) = columns.get(list.column) {
        order.sort_by(|&a, &b| {
            let compared = column.compare(&rows[a as usize], &rows[b as usize]);
            if list.descending { compared.reverse() } else { compared }
        });
    }
    order
}

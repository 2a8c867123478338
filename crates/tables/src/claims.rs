//! Whose a record's packets are by the classifier as it is now: not always the service that has recorded the connection.

use crate::memory::Memory;
use crate::view::View;
use marca_engine::classify::{self, Class};
use marca_engine::flow::{Key, Record};
use marca_engine::layout::{Control, state_bits};
use marca_engine::tables::{CellTable, Tables};
use marca_engine::wire::Headers;
use std::collections::BTreeSet;

/// What has to be known to ask.
pub struct Claims {
    /// Those that mark rules ask for; 0 stands for the others.
    interfaces: BTreeSet<u32>,
}

impl Claims {
    pub fn of(memory: &Memory) -> Self {
        let conditions = (0..memory.conditions.len()).filter_map(|index| memory.conditions.get(index));
        let interfaces = conditions.map(|condition| condition.interface).chain([0]).collect();
        Self { interfaces }
    }

    /// Gives a record to the service that has its packets, if that is another one: its slots must know of it.
    pub fn hand_over(
        &self,
        view: &View,
        control: &Control,
        (table, index): (CellTable, u32),
        key: &Key,
        record: &mut Record,
    ) {
        let others = state_bits::TEMPLATE | state_bits::DIRECT | state_bits::OUTBOUND | state_bits::REVERSE;
        if record.state & others != 0 {
            return;
        }
        let services = self.services(view, control, key, record.state as u16);
        // Where the client's packets come in is not recorded: what they may be of is good enough.
        let Some(&service) = services.first().filter(|_| !services.contains(&record.service)) else { return };
        let owner = |service: u32| u64::from(record.real) | u64::from(service) << 32;
        if view.cell(table, index).is_some_and(|cell| cell.owner.replace(owner(record.service), owner(service))) {
            record.service = service;
        }
    }

    /// Who may have the packets of a connection: one for each interface on which they may come in. A service that sends
    /// them to another port of the real servers knows nothing of the connection.
    fn services(&self, view: &View, control: &Control, key: &Key, server_port: u16) -> Vec<u32> {
        let headers = Headers {
            source: key.client,
            destination: key.vip,
            source_port: key.client_port,
            destination_port: key.vip_port,
            protocol: key.protocol,
            family: key.family,
            ..Headers::default()
        };
        let Some(party) = classify::party(view, control, &headers) else { return Vec::new() };
        let claim = |&interface: &u32| match classify::class(view, control, &party, &headers, interface) {
            Ok(Class::Request { service, port, .. }) if port == server_port => Some(service),
            _ => None,
        };
        let services = self.interfaces.iter().filter_map(claim).collect();
        view.take_steps();
        services
    }
}

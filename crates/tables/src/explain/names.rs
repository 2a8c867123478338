//! What people call the numbers in the tables.

use super::Director;
use crate::classifier::ip;
use marca_config::plan::{RealPlan, ServicePlan};
use marca_engine::layout::NOBODY;
use std::collections::HashMap;
use std::net::IpAddr;

pub(super) struct Names<'a> {
    director: &'a Director<'a>,
    services: HashMap<u32, &'a ServicePlan>,
    reals: HashMap<u32, (&'a ServicePlan, &'a RealPlan)>,
}

impl<'a> Names<'a> {
    pub fn new(director: &'a Director<'a>) -> Self {
        let (ids, mut services, mut reals) = (director.ids, HashMap::new(), HashMap::new());
        for service in &director.plan.services {
            services.extend(ids.numbers(service).map(|number| (number, service)));
            for real in &service.reals {
                if let Some(number) = ids.real(&service.name, service.family, real.address) {
                    reals.insert(number, (service, real));
                }
            }
        }
        Self { director, services, reals }
    }

    pub fn service_plan(&self, number: u32) -> Option<&'a ServicePlan> {
        self.services.get(&number).copied()
    }

    pub fn service(&self, number: u32) -> String {
        match self.services.get(&number) {
            Some(plan) => plan.name.clone(),
            None => format!("number {number}, which is no longer in the configuration"),
        }
    }

    /// The server's name; without one its address.
    pub fn real(&self, number: u32) -> String {
        if number == NOBODY {
            return "nobody any more, since it has been ended by hand".into();
        }
        if let Some((_, real)) = self.reals.get(&number) {
            return real.name.clone();
        }
        self.director.memory.reals.get(number).map_or_else(
            || format!("number {number}"),
            |real| format!("{}, no longer in the configuration", ip(real.family, &real.address)),
        )
    }

    /// Name, address and weight.
    pub fn real_in_full(&self, number: u32) -> String {
        let Some((_, real)) = self.reals.get(&number) else { return self.real(number) };
        match real.address {
            Some(address) if address.to_string() != real.name => {
                format!("{} ({address}, weight {})", real.name, real.weight)
            }
            _ => format!("{} (weight {})", real.name, real.weight),
        }
    }

    /// Who has this address, in which services.
    pub fn host(&self, address: IpAddr) -> String {
        let mut owners: Vec<String> = self
            .reals
            .values()
            .filter(|(_, real)| real.address == Some(address))
            .map(|(service, real)| format!("{} of `{}`", real.name, service.name))
            .collect();
        owners.sort_unstable();
        if owners.is_empty() { "no longer in the configuration".into() } else { owners.join(", ") }
    }

    pub fn interface(&self, index: u32) -> String {
        let known = self.director.interfaces.and_then(|all| all.iter().find(|(_, i)| **i == index));
        known.map_or_else(|| format!("interface {index}"), |(name, _)| name.clone())
    }
}

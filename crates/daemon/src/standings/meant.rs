//! What people call real servers.

use marca_config::plan::{RealPlan, ServicePlan};
use std::fmt;
use std::net::IpAddr;

/// Which real servers somebody means: `shop/web1` that of a service, `web1` or `10.0.0.11` those of all services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    service: Option<String>,
    server: String,
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}/{}", self.server),
            None => f.write_str(&self.server),
        }
    }
}

impl Meant {
    pub fn of(text: &str) -> Self {
        match text.split_once('/') {
            Some((service, server)) => Self { service: Some(service.to_owned()), server: server.to_owned() },
            None => Self { service: None, server: text.to_owned() },
        }
    }

    /// Whether this is one of them.
    pub fn is(&self, service: &ServicePlan, real: &RealPlan) -> bool {
        let address: Option<IpAddr> = self.server.parse().ok();
        self.service.as_ref().is_none_or(|name| *name == service.name)
            && (real.name == self.server || (address.is_some() && real.address == address))
    }
}

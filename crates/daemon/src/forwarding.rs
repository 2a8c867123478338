//! The sysctls that replies under NAT need: the kernel answers `bpf_fib_lookup` only for interfaces that forward.

use crate::linux::sysctl;
use crate::place::ChangedSysctl;
use crate::steps::{self, Step};
use marca_config::plan::{Family, Plan};

/// Which values the director's interfaces must have. `interfaces` are those on which real servers' replies arrive.
pub fn wanted(plan: &Plan, interfaces: &[String]) -> Vec<(String, &'static str)> {
    let nat = |family| {
        plan.services.iter().any(|service| service.family == family && service.reals.iter().any(|r| r.forward.is_nat()))
    };
    let mut wanted = Vec::new();
    for interface in interfaces {
        if nat(Family::V4) {
            wanted.push((format!("net.ipv4.conf.{interface}.forwarding"), "1"));
        }
        if nat(Family::V6) {
            wanted.push((format!("net.ipv6.conf.{interface}.forwarding"), "1"));
        }
    }
    wanted
}

/// A sysctl that has another value than it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    pub name: String,
    pub value: &'static str,
    pub before: String,
}

/// What has another value, in the order in which it must be set. An interface that forwards stops to accept router
/// advertisements unless it is told to (`Documentation/networking/ip-sysctl.rst`, `accept_ra`), so it is told.
pub fn needed(wanted: &[(String, &'static str)]) -> Result<Vec<Needed>, sysctl::SysctlError> {
    let mut needed = Vec::new();
    for (name, value) in wanted {
        if let Some(interface) = name.strip_prefix("net.ipv6.conf.").and_then(|n| n.strip_suffix(".forwarding")) {
            let name = format!("net.ipv6.conf.{interface}.accept_ra");
            let before = sysctl::read(&name)?.trim().to_owned();
            if before == "1" {
                needed.push(Needed { name, value: "2", before });
            }
        }
        let before = sysctl::read(name)?.trim().to_owned();
        if before != *value {
            needed.push(Needed { name: name.clone(), value, before });
        }
    }
    Ok(needed)
}

/// Sets them.
pub fn set(needed: &[Needed]) -> Result<(), sysctl::SysctlError> {
    for Needed { name, value, before } in needed {
        sysctl::write(name, value)?;
        steps::taken(Step::Sysctl);
        tracing::info!("set {name} from {before} to {value}");
    }
    Ok(())
}

/// Sets again what an interface that has gone and come again has forgotten.
pub fn keep(changed: &[ChangedSysctl]) -> Vec<sysctl::SysctlError> {
    let lost =
        |change: &&ChangedSysctl| sysctl::read(&change.name).is_ok_and(|is| is.trim() != set_value(&change.name));
    changed
        .iter()
        .filter(lost)
        .filter_map(|change| sysctl::write(&change.name, set_value(&change.name)).err())
        .collect()
}

/// What marca sets a sysctl to.
fn set_value(name: &str) -> &'static str {
    if name.ends_with(".accept_ra") { "2" } else { "1" }
}

/// Puts the former values back, the last change first.
pub fn restore(changed: &[ChangedSysctl]) -> Vec<sysctl::SysctlError> {
    changed.iter().rev().filter_map(|change| sysctl::write(&change.name, &change.before).err()).collect()
}

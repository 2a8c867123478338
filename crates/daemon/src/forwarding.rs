//! The sysctls that replies under NAT need: the kernel answers `bpf_fib_lookup` only for interfaces that forward.

use crate::linux::sysctl;
use crate::place::ChangedSysctl;
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

/// Sets what has another value, and answers what it was. An interface that forwards stops to accept router
/// advertisements unless it is told to (`Documentation/networking/ip-sysctl.rst`, `accept_ra`), so it is told.
pub fn set(wanted: &[(String, &'static str)]) -> Result<Vec<ChangedSysctl>, sysctl::SysctlError> {
    let mut changed = Vec::new();
    for (name, value) in wanted {
        if let Some(interface) = name.strip_prefix("net.ipv6.conf.").and_then(|n| n.strip_suffix(".forwarding")) {
            let accept_ra = format!("net.ipv6.conf.{interface}.accept_ra");
            if sysctl::read(&accept_ra)?.trim() == "1" {
                change(&accept_ra, "2", &mut changed)?;
            }
        }
        change(name, value, &mut changed)?;
    }
    Ok(changed)
}

fn change(name: &str, value: &str, changed: &mut Vec<ChangedSysctl>) -> Result<(), sysctl::SysctlError> {
    let before = sysctl::read(name)?.trim().to_owned();
    if before != value {
        sysctl::write(name, value)?;
        tracing::info!("set {name} from {before} to {value}");
        changed.push(ChangedSysctl { name: name.to_owned(), before });
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

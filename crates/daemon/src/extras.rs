//! What few configurations need of the data plane, and costs a quarter of the time that the kernel takes to verify it.

use marca_config::model::Forward;
use marca_config::plan::Plan;
use std::ops::BitOr;

/// Extras whose programs are loaded, or shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    pub fullnat: bool,
    pub ftp: bool,
}

impl Extras {
    pub const ALL: Self = Self { fullnat: true, ftp: true };

    /// What the services of a plan need.
    pub fn of(plan: &Plan) -> Self {
        let reals = || plan.services.iter().flat_map(|service| &service.reals);
        Self {
            fullnat: reals().any(|real| real.forward == Forward::FullNat),
            ftp: plan.services.iter().any(|service| service.ftp.is_some()),
        }
    }

    /// Whether a program is part of the data plane with these.
    pub fn include(self, program: &str) -> bool {
        match program.strip_suffix(TC).unwrap_or(program) {
            marca_bpf::FTP => self.ftp,
            name => self.fullnat || !marca_bpf::FULLNAT.contains(&name),
        }
    }
}

/// The end of the names of programs for TC.
const TC: &str = "_tc";

impl BitOr for Extras {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { fullnat: self.fullnat || other.fullnat, ftp: self.ftp || other.ftp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(text: &str) -> Extras {
        let router = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.1'\n";
        let loaded = marca_config::load("marca.toml", &format!("{router}{text}"));
        let config = loaded.unwrap_or_else(|faults| panic!("{}", faults.render(false))).config;
        Extras::of(&Plan::of(&config).unwrap())
    }

    #[test]
    fn a_configuration_says_which_it_needs() {
        let none = Extras::default();
        let nat = "ports = ['tcp/80']\nserver = [{ address = '10.0.0.1' }";
        assert_eq!(needed(&format!("{nat}]")), none);
        let one = format!("{nat}, {{ address = '10.0.0.2', forward = 'fullnat' }}]\nsource = '10.0.0.3'");
        assert_eq!(needed(&one), Extras { fullnat: true, ..none });
        let ftp = "ports = ['tcp/21']\nprotocol = 'ftp'\nserver = [{ address = '10.0.0.1' }]";
        assert_eq!(needed(ftp), Extras { ftp: true, ..none });
    }

    #[test]
    fn programs_of_extras_are_those_that_the_object_has() {
        let left_out = |calls: &[&'static str]| -> Vec<&'static str> {
            calls.iter().copied().filter(|name| !Extras::default().include(name)).collect()
        };
        assert_eq!(left_out(marca_bpf::TAIL_CALLS).len(), marca_bpf::FULLNAT.len() + 1);
        assert_eq!(left_out(marca_bpf::TAIL_CALLS_TC).len(), marca_bpf::FULLNAT.len() + 1);
        assert!(marca_bpf::TAIL_CALLS.iter().chain(marca_bpf::TAIL_CALLS_TC).all(|name| Extras::ALL.include(name)));
    }
}

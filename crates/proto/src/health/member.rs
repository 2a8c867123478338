//! One server of a service: what its checks together leave of it.

use std::collections::BTreeSet;

/// What a failed check takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The server.
    All,
    /// Nothing, while another one holds.
    Any,
    /// The ports that it looks at; the server if it looks at none, or if that leaves no port that is looked at.
    PerPort,
}

/// A check of the server, and the member ports that it speaks for.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a, P> {
    pub is_up: bool,
    pub ports: &'a [P],
}

/// What is left of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<P> {
    Serves,
    /// But takes no new flows at these ports; never empty.
    Without(BTreeSet<P>),
    Down,
}

/// A server without checks serves.
pub fn verdict<P: Ord + Clone>(policy: Policy, checks: &[Checked<'_, P>]) -> Verdict<P> {
    let mut failed = checks.iter().filter(|check| !check.is_up).peekable();
    if failed.peek().is_none() {
        return Verdict::Serves;
    }
    if checks.iter().all(|check| !check.is_up) {
        return Verdict::Down;
    }
    match policy {
        Policy::All => Verdict::Down,
        Policy::Any => Verdict::Serves,
        Policy::PerPort => {
            let mut ports = BTreeSet::new();
            for check in failed {
                if check.ports.is_empty() {
                    return Verdict::Down;
                }
                ports.extend(check.ports.iter().cloned());
            }
            let is_left = checks.iter().flat_map(|check| check.ports).any(|port| !ports.contains(port));
            if is_left { Verdict::Without(ports) } else { Verdict::Down }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Policy; 3] = [Policy::All, Policy::Any, Policy::PerPort];

    fn of(policy: Policy, checks: &[(bool, &[u16])]) -> Verdict<u16> {
        let checks: Vec<_> = checks.iter().map(|&(is_up, ports)| Checked { is_up, ports }).collect();
        verdict(policy, &checks)
    }

    #[test]
    fn without_failures_it_serves_and_without_successes_it_does_not() {
        for policy in ALL {
            assert_eq!(of(policy, &[]), Verdict::Serves);
            assert_eq!(of(policy, &[(true, &[80]), (true, &[443])]), Verdict::Serves);
            assert_eq!(of(policy, &[(false, &[80]), (false, &[443])]), Verdict::Down);
        }
    }

    #[test]
    fn one_failed_port_takes_away_what_the_policy_says() {
        let checks: [(bool, &[u16]); 2] = [(true, &[80]), (false, &[443])];
        assert_eq!(of(Policy::All, &checks), Verdict::Down);
        assert_eq!(of(Policy::Any, &checks), Verdict::Serves);
        assert_eq!(of(Policy::PerPort, &checks), Verdict::Without(BTreeSet::from([443])));
    }

    #[test]
    fn a_port_with_a_failed_check_is_gone_whatever_another_one_says() {
        let checks: [(bool, &[u16]); 3] = [(true, &[443]), (false, &[443]), (true, &[80])];
        assert_eq!(of(Policy::PerPort, &checks), Verdict::Without(BTreeSet::from([443])));
    }

    #[test]
    fn with_the_last_checked_port_the_server_is_gone() {
        let ports: [(bool, &[u16]); 3] = [(false, &[80]), (false, &[443]), (true, &[])];
        assert_eq!(of(Policy::PerPort, &ports), Verdict::Down);
        assert_eq!(of(Policy::PerPort, &[(false, &[80]), (true, &[80])]), Verdict::Down);
    }

    #[test]
    fn a_check_of_no_member_port_speaks_for_the_server() {
        assert_eq!(of(Policy::PerPort, &[(true, &[80]), (false, &[])]), Verdict::Down);
        assert_eq!(of(Policy::Any, &[(true, &[80]), (false, &[])]), Verdict::Serves);
    }
}

//! What changes of a real server's health are called, for logs.

use crate::standings::{Failure, Health};
use std::fmt;
use std::net::IpAddr;

/// A line for each check that fails now or no longer, and one for another weight.
pub fn told(server: &str, address: Option<IpAddr>, former: &Health, now: &Health) -> Vec<String> {
    let has = |health: &Health, check: &str| health.failures.iter().any(|failure| failure.check == check);
    let new = now.failures.iter().filter(|failure| !has(former, &failure.check));
    let mended = former.failures.iter().filter(|failure| !has(now, &failure.check));
    let address = address.map_or_else(String::new, |address| format!(" ({address})"));
    let consequence = Consequence { former, now };
    let mut lines: Vec<String> = new
        .map(|Failure { check, why, .. }| format!("{server}{address}: {check} fails: {why}; {consequence}"))
        .chain(mended.map(|Failure { check, .. }| format!("{server}{address}: {check} answers again; {consequence}")))
        .collect();
    if let (weight, true) = (now.weight, now.weight != former.weight) {
        lines.push(match weight {
            Some(weight) => format!("{server}{address}: says its weight: {weight}"),
            None => format!("{server}{address}: says no weight any more"),
        });
    }
    if lines.is_empty() && former.is_down != now.is_down {
        lines.push(format!("{server}{address}: {consequence}"));
    }
    lines
}

/// What a change means for clients.
struct Consequence<'a> {
    former: &'a Health,
    now: &'a Health,
}

impl fmt::Display for Consequence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.former.is_down, self.now.is_down) {
            (false, true) => return f.write_str("the server is down"),
            (true, true) => return f.write_str("the server stays down"),
            (true, false) => f.write_str("the server is up")?,
            (false, false) => f.write_str("the server stays up")?,
        }
        if self.now.ports.is_empty() {
            return Ok(());
        }
        let ports: Vec<String> = self.now.ports.iter().map(ToString::to_string).collect();
        write!(f, ", without {}", ports.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standings::HealthPort;
    use std::time::Duration;

    fn failing(checks: &[&str], is_down: bool) -> Health {
        let failure = |check: &&str| Failure {
            check: (*check).to_owned(),
            why: "connection refused, 3 times in a row".into(),
            since: Duration::ZERO,
        };
        Health { is_down, failures: checks.iter().map(failure).collect(), ..Health::default() }
    }

    fn told_of(former: &Health, now: &Health) -> Vec<String> {
        told("shop/web1", "10.0.0.11".parse().ok(), former, now)
    }

    #[test]
    fn a_change_is_one_line_with_the_check_and_what_is_wrong() {
        let (up, down) = (Health::default(), failing(&["tcp/80"], true));
        let fails = "shop/web1 (10.0.0.11): tcp/80 fails: connection refused, 3 times in a row; the server is down";
        assert_eq!(told_of(&up, &down), [fails]);
        assert_eq!(told_of(&down, &up), ["shop/web1 (10.0.0.11): tcp/80 answers again; the server is up"]);
        assert_eq!(told_of(&up, &up), [""; 0]);
    }

    #[test]
    fn it_says_what_is_left() {
        let one = failing(&["tcp/80"], true);
        let both = failing(&["tcp/80", "tcp/443"], true);
        assert!(told_of(&one, &both)[0].contains("tcp/443 fails"), "only what is new");
        assert!(told_of(&one, &both)[0].ends_with("; the server stays down"));
        let port = HealthPort { protocol: 6, first: 443, last: 443 };
        let without = Health { ports: [port].into(), ..failing(&["tls/443"], false) };
        assert!(told_of(&Health::default(), &without)[0].ends_with("; the server stays up, without tcp/443"));
        let weight = Health { weight: Some(3), ..Health::default() };
        assert_eq!(told_of(&Health::default(), &weight), ["shop/web1 (10.0.0.11): says its weight: 3"]);
    }
}

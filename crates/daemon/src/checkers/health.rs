//! What changes of a real server's health are called, for logs.

use crate::standings::{Failure, Health};
use std::fmt;
use std::net::IpAddr;

/// Something that has happened to a real server or to a service, in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub matter: Matter,
    pub service: String,
    pub server: Option<String>,
    pub line: String,
}

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matter {
    /// A real server.
    Server,
    /// The same, and the line of its check has said so.
    Consequence,
    /// A check of it.
    Check(String),
    /// The service's quorum.
    Quorum,
}

/// What checks say now of a real server: a line for each that fails now or no longer, one for another weight, and one if the
/// server is down or up for it.
pub fn said(service: &str, server: &str, address: Option<IpAddr>, former: &Health, now: &Health) -> Vec<Said> {
    let of = |(matter, line)| Said { matter, service: service.to_owned(), server: Some(server.to_owned()), line };
    let name = format!("{service}/{server}{}", address.map_or_else(String::new, |address| format!(" ({address})")));
    let mut said: Vec<Said> = told(&name, former, now).into_iter().map(of).collect();
    let is_said = said.iter().any(|said| !matches!(said.matter, Matter::Server));
    if former.is_down != now.is_down && is_said {
        said.push(of((Matter::Consequence, format!("{name}: {}", Consequence { former, now }))));
    }
    said
}

fn told(name: &str, former: &Health, now: &Health) -> Vec<(Matter, String)> {
    let has = |health: &Health, check: &str| health.failures.iter().any(|failure| failure.check == check);
    let new = now.failures.iter().filter(|failure| !has(former, &failure.check));
    let mended = former.failures.iter().filter(|failure| !has(now, &failure.check));
    let consequence = Consequence { former, now };
    let check = |failure: &Failure| Matter::Check(failure.check.clone());
    let new = new.map(|failure| {
        let Failure { check: called, why, .. } = failure;
        (check(failure), format!("{name}: {called} fails: {why}; {consequence}"))
    });
    let mended =
        mended.map(|failure| (check(failure), format!("{name}: {} answers again; {consequence}", failure.check)));
    let mut lines: Vec<(Matter, String)> = new.chain(mended).collect();
    if let (weight, true) = (now.weight, now.weight != former.weight) {
        let line = match weight {
            Some(weight) => format!("{name}: says its weight: {weight}"),
            None => format!("{name}: says no weight any more"),
        };
        lines.push((Matter::Server, line));
    }
    if lines.is_empty() && former.is_down != now.is_down {
        lines.push((Matter::Server, format!("{name}: {consequence}")));
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

    /// As the log has it.
    fn told_of(former: &Health, now: &Health) -> Vec<String> {
        let said = said("shop", "web1", "10.0.0.11".parse().ok(), former, now);
        let of_log = said.into_iter().filter(|said| said.matter != Matter::Consequence);
        of_log.map(|said| said.line).collect()
    }

    #[test]
    fn a_server_that_is_down_is_said_beside_its_check() {
        let said = said("shop", "web1", None, &Health::default(), &failing(&["tcp/80"], true));
        let matters: Vec<(&Matter, &str)> = said.iter().map(|said| (&said.matter, said.line.as_str())).collect();
        let fails = "shop/web1: tcp/80 fails: connection refused, 3 times in a row; the server is down";
        let (check, down) = (Matter::Check("tcp/80".into()), "shop/web1: the server is down");
        assert_eq!(matters, [(&check, fails), (&Matter::Consequence, down)]);
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

//! What one configuration has that another has not, in the words of the file: for people, before a reload. What that is
//! to packets is [`crate::plan::Difference`].
//!
//! A model's parts are taken apart without `..`, so that a new key cannot be forgotten here.

use crate::model::{
    Api, Attach, Availability, Check, Config, Exchange, Forward, MarkRule, Metrics, Persistence, Quorum, Router,
    Selector, Server, Service, Talk, Timeouts, Token, Via,
};
use crate::text::duration;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::time::Duration;

/// A change of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// Where: a service, and one of its real servers; neither: the router, or mark rules.
    pub service: Option<String>,
    pub server: Option<String>,
    /// What, as a phrase: `weight: 1 -> 3`.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Gone,
    Otherwise,
}

impl ChangeKind {
    pub fn name(self) -> &'static str {
        match self {
            ChangeKind::Added => "added",
            ChangeKind::Gone => "gone",
            ChangeKind::Otherwise => "changed",
        }
    }
}

/// Everything that is otherwise, in the order of the new file; what is gone comes last.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    let at = |service: &str, server: Option<&str>| (Some(service.to_owned()), server.map(str::to_owned));
    compare(&mut found, &(None, None), &of_router(&old.router), &of_router(&new.router));
    compare(&mut found, &(None, None), &of_api(&old.api), &of_api(&new.api));
    compare(&mut found, &(None, None), &of_metrics(&old.metrics), &of_metrics(&new.metrics));
    compare(&mut found, &(None, None), &of_marks(&old.marks), &of_marks(&new.marks));
    let known: BTreeMap<&str, &Service> = old.services.iter().map(|service| (service.name.as_str(), service)).collect();
    for service in &new.services {
        let Some(former) = known.get(service.name.as_str()) else {
            found.push(change(ChangeKind::Added, &at(&service.name, None), headline(service)));
            continue;
        };
        if *former == service {
            continue;
        }
        compare(&mut found, &at(&service.name, None), &of_service(former), &of_service(service));
        let servers: BTreeMap<&str, &Server> =
            former.servers.iter().map(|server| (server.name.as_str(), server)).collect();
        for server in &service.servers {
            let place = at(&service.name, Some(&server.name));
            match servers.get(server.name.as_str()) {
                Some(former) => compare(&mut found, &place, &of_server(former), &of_server(server)),
                None => found.push(change(ChangeKind::Added, &place, all(&of_server(server)))),
            }
        }
        for server in former.servers.iter().filter(|former| service.servers.iter().all(|s| s.name != former.name)) {
            found.push(change(ChangeKind::Gone, &at(&service.name, Some(&server.name)), all(&of_server(server))));
        }
    }
    let kept: BTreeMap<&str, ()> = new.services.iter().map(|service| (service.name.as_str(), ())).collect();
    for service in old.services.iter().filter(|service| !kept.contains_key(service.name.as_str())) {
        found.push(change(ChangeKind::Gone, &at(&service.name, None), headline(service)));
    }
    found
}

/// `~ shop/web1: weight: 1 -> 3`.
impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Added => '+',
            ChangeKind::Gone => '-',
            ChangeKind::Otherwise => '~',
        };
        let text = &self.text;
        match (&self.service, &self.server) {
            (Some(service), Some(server)) => write!(f, "{sign} {service}/{server}: {text}"),
            (Some(service), None) => write!(f, "{sign} {service}: {text}"),
            _ => write!(f, "{sign} {text}"),
        }
    }
}

type Place = (Option<String>, Option<String>);

fn change(kind: ChangeKind, (service, server): &Place, text: String) -> Change {
    Change { kind, service: service.clone(), server: server.clone(), text }
}

/// What a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    One(String),
    Many(Vec<String>),
}

type Values = Vec<(&'static str, Value)>;

/// Key by key; a key that one of them has not says nothing there.
fn compare(found: &mut Vec<Change>, place: &Place, old: &Values, new: &Values) {
    let value =
        |values: &Values, key: &str| values.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
    let only_old = old.iter().filter(|(key, _)| new.iter().all(|(name, _)| name != key));
    for (key, _) in new.iter().chain(only_old) {
        let text = match (value(old, key), value(new, key)) {
            (old, new) if shown(old.as_ref()) == shown(new.as_ref()) => continue,
            (Some(Value::Many(old)), Some(Value::Many(new))) => format!("{key}: {}", items(&old, &new)),
            (old, new) => format!("{key}: {} -> {}", shown(old.as_ref()), shown(new.as_ref())),
        };
        found.push(change(ChangeKind::Otherwise, place, text));
    }
}

/// `+ tcp/443, - tcp/80`.
fn items(old: &[String], new: &[String]) -> String {
    let added = new.iter().filter(|item| !old.contains(item)).map(|item| format!("+ {item}"));
    let gone = old.iter().filter(|item| !new.contains(item)).map(|item| format!("- {item}"));
    let items: Vec<String> = added.chain(gone).collect();
    if items.is_empty() { "in another order".into() } else { items.join(", ") }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "none".into(),
        Some(Value::One(value)) => value.clone(),
        Some(Value::Many(values)) if values.is_empty() => "none".into(),
        Some(Value::Many(values)) => values.join(" "),
    }
}

/// `address 10.0.0.11, weight 1`; what is nothing is left out.
fn all(values: &Values) -> String {
    let said = values.iter().map(|(key, value)| (key, shown(Some(value)))).filter(|(_, value)| value != "none");
    said.map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
}

fn headline(service: &Service) -> String {
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let members = match &service.selector {
        Selector::Ports { ports, .. } => texts(ports).join(" "),
        Selector::Mark { mark, .. } => format!("mark {mark}"),
    };
    let vips = texts(service.selector.vips()).join(" ");
    let scheduler = service.scheduler.name();
    format!("{members} on {vips}, {scheduler}, {}", many(service.servers.len(), "server"))
}

fn of_router(router: &Router) -> Values {
    let Router { outside, inside, attach, attach_on, limits, reload } = router;
    let on = |(interface, attach): &(String, Attach)| format!("{interface} {}", attach.name());
    vec![
        ("router.outside", Value::Many(outside.clone())),
        ("router.inside", Value::Many(inside.clone())),
        ("router.attach", one(attach.name())),
        ("router.attach on", Value::Many(attach_on.iter().map(on).collect())),
        ("router.limits.flows", one(limits.flows)),
        ("router.limits.half_open", one(limits.half_open)),
        ("router.limits.templates", one(limits.templates)),
        ("router.reload", one(reload.name())),
    ]
}

fn of_api(api: &Api) -> Values {
    let Api { listen, certificate, key, tokens } = api;
    let token = |token: &Token| {
        let Token { name, access, digest } = token;
        // Enough to see that it is another one.
        format!("{name} {} {:02x}{:02x}…", access.name(), digest[0], digest[1])
    };
    vec![
        ("api.listen", many(listen)),
        ("api.certificate", one(certificate)),
        ("api.key", one(key)),
        ("api.token", Value::Many(tokens.iter().map(token).collect())),
    ]
}

fn of_metrics(metrics: &Metrics) -> Values {
    let Metrics { listen, detail } = metrics;
    vec![("metrics.listen", many(listen.as_slice())), ("metrics.detail", one(detail.name()))]
}

fn of_marks(marks: &[MarkRule]) -> Values {
    let rule = |rule: &MarkRule| {
        let MarkRule { value, to, from, ports, interfaces } = rule;
        let part = |what: &str, items: Vec<String>| match items.is_empty() {
            true => String::new(),
            false => format!(" {what} {}", items.join(" ")),
        };
        let parts = [part("to", texts(to)), part("from", texts(from)), part("ports", texts(ports))];
        format!("{value}{}{}", parts.concat(), part("on", interfaces.clone()))
    };
    vec![("mark", Value::Many(marks.iter().map(rule).collect()))]
}

fn of_service(service: &Service) -> Values {
    let Service {
        name: _,
        selector,
        scheduler,
        scheduler_flags,
        persistence,
        forward,
        timeouts,
        udp,
        reuse,
        on_failure,
        drain,
        rate_limit,
        outbound,
        sources,
        ftp,
        availability,
        checks,
        check_policy,
        servers: _,
    } = service;
    let Availability { quorum, below_quorum, sorry, start } = availability;
    let mut values = match selector {
        Selector::Ports { vips, ports } => vec![("vip", many(vips)), ("ports", many(ports))],
        Selector::Mark { mark, vips, target } => {
            vec![("mark", one(mark)), ("vip", many(vips)), ("target", maybe(target.as_ref(), u16::to_string))]
        }
    };
    let flags = [(scheduler_flags.port, "port"), (!scheduler_flags.fallback, "no-fallback")];
    let flags = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag.to_owned()).collect();
    let Timeouts { established, closing, half_open, udp: datagrams, sctp, sctp_closing, locality } = timeouts;
    values.extend([
        ("scheduler", one(scheduler.name())),
        ("scheduler_flags", Value::Many(flags)),
        ("persist", maybe(persistence.as_ref(), of_persistence)),
        ("forward", one(of_forward(*forward))),
        ("timeouts.established", time(*established)),
        ("timeouts.closing", time(*closing)),
        ("timeouts.half_open", time(*half_open)),
        ("timeouts.udp", time(*datagrams)),
        ("timeouts.sctp", time(*sctp)),
        ("timeouts.sctp_closing", time(*sctp_closing)),
        ("timeouts.locality", time(*locality)),
        ("udp", one(udp.name())),
        ("reuse", word(reuse)),
        ("on_failure", word(on_failure)),
        ("drain", maybe(drain.as_ref(), |drain| duration::print(*drain))),
        (
            "rate_limit",
            maybe(rate_limit.as_ref(), |limit| format!("{} a second, burst {}", limit.connections, limit.burst)),
        ),
        ("outbound", many(outbound)),
        (
            "source",
            Value::Many(
                sources.iter().flat_map(|range| range.addresses()).map(|address| address.to_string()).collect(),
            ),
        ),
        ("passive", maybe(ftp.as_ref(), |ftp| format!("{}-{}", ftp.passive.first, ftp.passive.last))),
        ("quorum", one(of_quorum(quorum))),
        ("below_quorum", word(below_quorum)),
        ("sorry", maybe(sorry.as_ref(), of_sorry)),
        ("start", word(start)),
        ("check", Value::Many(checks.iter().map(of_check).collect())),
        ("check_policy", one(check_policy.name())),
    ]);
    values
}

fn of_server(server: &Server) -> Values {
    let Server { name: _, addresses, weight, upper, lower, forward, drain } = server;
    let limit = |limit: u32| if limit == 0 { one("none") } else { one(limit) };
    vec![
        ("address", many(addresses)),
        ("weight", one(weight)),
        ("upper", limit(*upper)),
        ("lower", limit(*lower)),
        ("forward", one(of_forward(*forward))),
        ("drain", maybe(drain.as_ref(), |drain| duration::print(*drain))),
    ]
}

fn of_quorum(quorum: &Quorum) -> String {
    let Quorum { measure, needed, hysteresis } = quorum;
    let hysteresis = if *hysteresis == 0 { String::new() } else { format!(" hysteresis {hysteresis}") };
    format!("{needed} of {}{hysteresis}", measure.name())
}

fn of_sorry(sorry: &Server) -> String {
    format!("{} {}", texts(&sorry.addresses).join(" "), of_forward(sorry.forward))
}

fn of_check(check: &Check) -> String {
    // What it is shortly called begins with its port.
    let Check { talk, port: _, via, interval, jitter, timeout, rise, fall } = check;
    let times = [("interval", interval), ("jitter", jitter), ("timeout", timeout)];
    let times = times.map(|(what, time)| format!(" {what} {}", duration::print(*time)));
    let asked = match talk {
        Talk::Tcp(exchange) | Talk::Udp(exchange) if *exchange == Exchange::default() => String::new(),
        Talk::Smtp | Talk::Ftp | Talk::Ping => String::new(),
        _ => format!(" {talk:?}"),
    };
    let via = if *via == Via::Server { String::new() } else { format!(" via {}", via.name()) };
    format!("{check}{via}{} rise {rise} fall {fall}{asked}", times.concat())
}

fn of_persistence(persistence: &Persistence) -> String {
    let Persistence { timeout, netmask, prefix_len_v6 } = persistence;
    let mut said = duration::print(*timeout);
    if !netmask.is_broadcast() {
        said.push_str(&format!(" netmask {netmask}"));
    }
    if *prefix_len_v6 != 128 {
        said.push_str(&format!(" IPv6 /{prefix_len_v6}"));
    }
    said
}

fn of_forward(forward: Forward) -> String {
    match forward {
        Forward::Gue(gue) => {
            let checksum = gue.checksum.map_or(String::new(), |checksum| format!(" checksum {checksum}"));
            format!("gue port {}{checksum}", gue.port)
        }
        other => other.name().into(),
    }
}

fn one(value: impl Display) -> Value {
    Value::One(value.to_string())
}

/// Of an enum whose words are those of the file.
fn word(value: &impl Debug) -> Value {
    Value::One(format!("{value:?}").to_lowercase())
}

fn time(value: Duration) -> Value {
    Value::One(duration::print(value))
}

fn maybe<T>(value: Option<&T>, print: impl FnOnce(&T) -> String) -> Value {
    Value::One(value.map_or("none".into(), print))
}

fn many<T: Display>(values: &[T]) -> Value {
    Value::Many(texts(values))
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        crate::load("marca.toml", text).unwrap().config
    }

    const FILE: &str = "
        [router]
        outside = 'eth0'
        [service.shop]
        vip = '192.0.2.10'
        ports = ['tcp/80', 'tcp/443']
        persist = '5m'
        server = [{ name = 'web1', address = '10.0.0.11' }, { name = 'web2', address = '10.0.0.12' }]
        [service.mail]
        vip = '192.0.2.11'
        ports = 'tcp/25'
        server = [{ address = '10.0.0.13' }]
    ";

    fn told(edits: &[(&str, &str)]) -> Vec<String> {
        let mut text = FILE.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        changes(&config(FILE), &config(&text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(told(&[]), [""; 0]);
    }

    #[test]
    fn services_and_servers_come_go_and_change() {
        let edits = [
            ("'tcp/80', 'tcp/443'", "'tcp/443', 'udp/443'"),
            ("persist = '5m'", "scheduler = 'rr'"),
            ("address = '10.0.0.11'", "address = '10.0.0.11', weight = 3"),
            ("name = 'web2', address = '10.0.0.12'", "name = 'web3', address = '10.0.0.14'"),
            ("[service.mail]", "[service.post]"),
            ("outside = 'eth0'", "outside = 'eth0'\ninside = 'eth1'"),
        ];
        assert_eq!(
            told(&edits),
            [
                "~ router.inside: + eth1",
                "~ shop: ports: + udp/443, - tcp/80",
                "~ shop: scheduler: wlc -> rr",
                "~ shop: persist: 5m -> none",
                "~ shop: check: - tcp/80 interval 2s jitter 0s timeout 2s rise 2 fall 3",
                "~ shop/web1: weight: 1 -> 3",
                "+ shop/web3: address 10.0.0.14, weight 1, forward nat",
                "- shop/web2: address 10.0.0.12, weight 1, forward nat",
                "+ post: tcp/25 on 192.0.2.11, wlc, 1 server",
                "- mail: tcp/25 on 192.0.2.11, wlc, 1 server",
            ]
        );
    }

    #[test]
    fn ports_become_a_mark() {
        let text = FILE
            .replace("vip = '192.0.2.11'\n        ports = 'tcp/25'", "mark = 25")
            .replace("[service.mail]", "[[mark]]\nvalue = 25\nto = '192.0.2.11'\nports = 'tcp/25'\n[service.mail]");
        let told: Vec<String> = changes(&config(FILE), &config(&text)).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["~ mark: + 25 to 192.0.2.11/32 ports tcp/25", "~ mail: mark: none -> 25", "~ mail: ports: tcp/25 -> none"]
        );
    }
}

//! Mark rules, and the services that go by a mark.

use crate::diagnostic::{Diagnostic, Label, listed, quoted};
use crate::draft::{Draft, List, Located, MarkDraft, ServiceDraft};
use crate::model::{Mark, PortMatch};
use crate::similar::closest;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) fn check(draft: &Draft, found: &mut Vec<Diagnostic>) {
    for rule in &draft.marks {
        no_common_family(rule, found);
        foreign_interfaces(rule, draft, found);
    }
    repeated_rules(&draft.marks, found);
    shared_marks(&draft.services, found);
    marks_without_rule(draft, found);
    rules_without_service(draft, found);
}

/// An IPv4 packet does not go from an IPv6 address.
fn no_common_family(rule: &MarkDraft, found: &mut Vec<Diagnostic>) {
    let (Some(from), Some(to)) = (&rule.from.span, &rule.to.span) else { return };
    if rule.from.incomplete || rule.to.incomplete {
        return;
    }
    let has_v4 = |list: &List<IpNet>| list.values().any(|net| net.addr().is_ipv4());
    let has_v6 = |list: &List<IpNet>| list.values().any(|net| net.addr().is_ipv6());
    if has_v4(&rule.from) && has_v4(&rule.to) || has_v6(&rule.from) && has_v6(&rule.to) {
        return;
    }
    let (from_family, to_family) = if has_v4(&rule.from) { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    let diagnostic = Diagnostic::error("the rule can match no packet")
        .at(from, format!("sources are {from_family}"))
        .also(to, format!("destinations are {to_family}"))
        .help("let `from` and `to` have prefixes of one family, or leave `from` out");
    found.push(diagnostic);
}

fn foreign_interfaces(rule: &MarkDraft, draft: &Draft, found: &mut Vec<Diagnostic>) {
    // Nothing to compare with: [router] was refused.
    if draft.router.outside.is_empty() {
        return;
    }
    for interface in &rule.interfaces.items {
        if draft.router.outside.contains(&interface.value) || draft.router.inside.contains(&interface.value) {
            continue;
        }
        let diagnostic = Diagnostic::warning(format!("no packet comes in on `{}`", interface.value))
            .at(&interface.span, "neither `outside` nor `inside`")
            .help("only the interfaces of [router] are watched: add it there, or correct the rule");
        found.push(diagnostic);
    }
}

/// Of two rules that match the same packets, the later one wins.
fn repeated_rules(marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    type Matched = (Vec<IpNet>, Vec<IpNet>, Vec<PortMatch>, Vec<String>);
    let mut seen: HashMap<Matched, &Located<Mark>> = HashMap::new();
    for rule in marks {
        let incomplete = [rule.to.incomplete, rule.from.incomplete, rule.ports.incomplete, rule.interfaces.incomplete];
        let (Some(value), false) = (rule.value.given(), incomplete.contains(&true)) else { continue };
        let matched = (sorted(&rule.to), sorted(&rule.from), sorted(&rule.ports), sorted(&rule.interfaces));
        if let Some(earlier) = seen.insert(matched, value) {
            let diagnostic = Diagnostic::warning(format!("this rule for mark {} has no effect", earlier.value))
                .at(&earlier.span, "overridden")
                .also(&value.span, "by this later rule, which matches the same packets")
                .help("remove one of the two rules");
            found.push(diagnostic);
        }
    }
}

fn sorted<T: Ord + Clone>(list: &List<T>) -> Vec<T> {
    let mut values: Vec<T> = list.values().cloned().collect();
    values.sort();
    values
}

fn shared_marks(services: &[ServiceDraft], found: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<Mark, (&ServiceDraft, &Located<Mark>)> = HashMap::new();
    for service in services {
        let Some(mark) = service.mark.given() else { continue };
        if let Some((owner, first)) = seen.get(&mark.value) {
            let diagnostic = Diagnostic::error(format!("two services have the mark {}", mark.value))
                .at(&mark.span, "used again")
                .also(&first.span, format!("first used here, by {}", quoted(&owner.name)))
                .help("give each service its own mark, and each mark its own [[mark]] rules");
            found.push(diagnostic);
        } else {
            seen.insert(mark.value, (service, mark));
        }
    }
}

fn marks_without_rule(draft: &Draft, found: &mut Vec<Diagnostic>) {
    if draft.marks.iter().any(|rule| rule.value.is_refused()) {
        return;
    }
    let set: BTreeMap<Mark, String> =
        draft.marks.iter().filter_map(|rule| rule.value.value()).map(|mark| (mark, mark.to_string())).collect();
    for service in &draft.services {
        let Some(mark) = service.mark.given().filter(|mark| !set.contains_key(&mark.value)) else { continue };
        let proposal = match closest(&mark.value.to_string(), set.values().map(String::as_str)) {
            Some(near) => format!("did you mean {near}? If not, add a rule:"),
            None if set.is_empty() => "add a rule:".to_string(),
            None => format!("rules set {}; add one for {}:", few(&set), mark.value),
        };
        let mut vips: Vec<String> = service.vips.values().map(|vip| format!("\"{vip}\"")).collect();
        if vips.is_empty() {
            vips.push("\"192.0.2.10\"".to_string());
        }
        let rule = format!("[[mark]]\nvalue = {}\nto = [{}]\nports = [\"tcp/80\"]", mark.value, vips.join(", "));
        let diagnostic = Diagnostic::error(format!("no rule sets mark {}", mark.value))
            .at(&mark.span, "no packet carries this mark")
            .help(format!("{proposal}\n\n{rule}"));
        found.push(diagnostic);
    }
}

/// The first few marks, for a sentence.
fn few(marks: &BTreeMap<Mark, String>) -> String {
    const SHOWN: usize = 5;
    let more = marks.len().checked_sub(SHOWN).filter(|more| *more > 0).map(|more| format!("{more} more"));
    listed(marks.values().take(SHOWN).cloned().chain(more))
}

fn rules_without_service(draft: &Draft, found: &mut Vec<Diagnostic>) {
    // A service whose mark was refused may be the one.
    if draft.services.iter().any(|service| service.mark.is_refused()) {
        return;
    }
    let used: HashSet<Mark> = draft.services.iter().filter_map(|service| service.mark.value()).collect();
    let mut unused: BTreeMap<Mark, Diagnostic> = BTreeMap::new();
    for rule in &draft.marks {
        let Some(value) = rule.value.given() else { continue };
        if used.contains(&value.value) {
            continue;
        }
        match unused.get_mut(&value.value) {
            Some(diagnostic) => diagnostic.further.push(Label { span: value.span.clone(), text: "and here".into() }),
            None => {
                let diagnostic = Diagnostic::warning(format!("no service uses mark {}", value.value))
                    .at(&value.span, "set for nothing")
                    .help(format!("add `mark = {}` to a service, or remove the rule", value.value));
                unused.insert(value.value, diagnostic);
            }
        }
    }
    found.extend(unused.into_values());
}

//! `docs/reference`: pages that are made of the program's own tables.

use crate::root;
use marca_config::keys::{self, Key, Presence};
use marca_config::model::Detail;
use marca_daemon::metrics::{METRICS, MOST_LABEL_SETS};
use marca_engine::reason::{Action, Reason};
use serde_json::Value;
use std::fmt::Write;
use std::fs;

/// Compares a page with what is committed, or writes it.
fn page(name: &str, text: &str) {
    let path = root().join("docs/reference").join(name);
    if std::env::var_os("MARCA_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    // Not `assert_eq`: two whole pages help nobody.
    let differs = std::iter::zip(committed.lines().chain([""]), text.lines().chain([""])).find(|(a, b)| a != b);
    if committed != text {
        panic!("docs/reference/{name} is not what the program says: run `cargo xtask gen`. First: {differs:?}");
    }
}

/// A head that says where a page comes from.
fn head(title: &str, about: &str) -> String {
    format!(
        "# {title}\n\n<!-- Written by `cargo xtask gen` from the program's own tables; a change belongs there. -->\n\n{about}\n"
    )
}

/// In a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn configuration_keys() {
    let mut text = head(
        "Configuration keys",
        "Every key that a configuration may have. What they mean together, what wins over what, and examples are in\n\
         [Configuration](../configuration.md).",
    );
    for table in tables() {
        let _ = write!(text, "\n## `{}`\n\n", keys::title(table));
        if let Some(key) = keys::KEYS.iter().find(|key| key.path == table) {
            let _ = writeln!(text, "{}\n", key.doc);
        }
        text += "| key | takes | without it | |\n|---|---|---|---|\n";
        for key in keys::children(table) {
            let Key { takes, doc, .. } = key;
            let (name, absent, shown) = (key.name(), absent(key), key.shown());
            let example =
                if shown.contains('[') && shown.starts_with('[') { String::new() } else { format!(" `{shown}`") };
            let _ =
                writeln!(text, "| `{name}` | {} | {} | {}{} |", cell(takes), cell(&absent), cell(doc), cell(&example));
        }
    }
    page("configuration.md", &text);
}

/// Tables in the order of the file's keys: each that has members.
fn tables() -> Vec<&'static str> {
    let mut tables: Vec<&str> = keys::KEYS.iter().map(|key| key.table()).collect();
    let mut seen = std::collections::HashSet::new();
    tables.retain(|table| !table.is_empty() && seen.insert(*table));
    tables
}

fn absent(key: &Key) -> String {
    match key.presence {
        Presence::Required => "refused".into(),
        Presence::Optional => "nothing".into(),
        // A value, or words.
        Presence::Default(value) if value.contains(' ') || value == "none" => value.into(),
        Presence::Default(value) => format!("`{}`", value.trim_matches('`')),
    }
}

#[test]
fn reasons() {
    let mut text = head(
        "Reasons",
        "Every packet that reaches a director leaves with one of these reasons. `marca status` counts them under `packets`,\n\
         the metric `marca_packets_total` has them as the label `reason`, and `marca explain` says the sentence. Which ones to\n\
         look into when they grow is in [Operation](../operation.md#reasons).",
    );
    for (action, title) in
        [(Action::Send, "Sent"), (Action::Pass, "Passed up to the director's own kernel"), (Action::Drop, "Dropped")]
    {
        let _ = write!(text, "\n## {title}\n\n| reason | |\n|---|---|\n");
        for reason in Reason::ALL.iter().filter(|reason| reason.action() == action) {
            let _ = writeln!(text, "| `{}` | {} |", reason.label(), cell(reason.sentence()));
        }
    }
    page("reasons.md", &text);
}

#[test]
fn metrics() {
    let mut text = head(
        "Metrics",
        &format!(
            "What `/metrics` tells Prometheus; how to have it served is in [Operation](../operation.md#metrics). Metrics of\n\
             services and of real servers are there as `[metrics] detail` says; with `auto` down to real servers while there are\n\
             at most {MOST_LABEL_SETS} of them, down to services while there are at most {MOST_LABEL_SETS} of those.\n\n\
             Counters of real servers are those of the kernel's tables and go on over restarts of the daemon. Those of services\n\
             and of the director are sums that do not fall when a real server leaves; they begin anew with the daemon. In all\n\
             of them a packet that stands for many, as TC sees them, counts as one."
        ),
    );
    for (detail, title) in
        [(Detail::Totals, "The director"), (Detail::Services, "Services"), (Detail::Servers, "Real servers")]
    {
        let _ = write!(text, "\n## {title}\n\n| metric | kind | labels | |\n|---|---|---|---|\n");
        for metric in METRICS.iter().filter(|metric| metric.needs() == detail) {
            let kind = metric.kind.name();
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name(), labels.join(" "), cell(metric.help));
        }
    }
    page("metrics.md", &text);
}

#[test]
fn command_line() {
    let mut text =
        head("Command line", "What `marca --help` and `marca COMMAND --help` say. The same is in the man pages.");
    text += "\n## Exit codes\n\n| code | |\n|---|---|\n";
    for exit in marca::Exit::ALL {
        let _ = writeln!(text, "| {} | {} |", *exit as u8, exit.sentence());
    }
    let mut program = marca::command().term_width(100);
    program.build();
    let names: Vec<String> =
        program.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        let command = program.find_subcommand_mut(name).unwrap();
        describe(&mut text, command, &format!("marca {name}"));
    }
    page("command-line.md", &text);
}

fn describe(text: &mut String, command: &mut clap::Command, name: &str) {
    let help = command.clone().term_width(100).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for below in names.iter().filter(|name| *name != "help") {
        describe(text, command.find_subcommand_mut(below).unwrap(), &format!("{name} {below}"));
    }
}

#[test]
fn api() {
    let document = serde_json::to_value(marca_daemon::api::document()).unwrap();
    let mut text = head(
        "API",
        "The requests that a daemon answers, from the document that it serves itself at `/openapi.json`. Where it listens, who may\n\
         ask, and examples are in [API](../api.md).",
    );
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            request(&mut text, path, &method.to_uppercase(), operation);
        }
    }
    text += "\n## Values\n";
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let _ = write!(text, "\n### {name}\n\n");
        if let Some(about) = schema["description"].as_str() {
            let _ = writeln!(text, "{about}\n");
        }
        fields(&mut text, schema);
    }
    page("api.md", &text);
}

fn request(text: &mut String, path: &str, method: &str, operation: &Value) {
    let _ = write!(text, "\n## `{method} {path}`\n\n");
    for about in ["summary", "description"] {
        if let Some(about) = operation[about].as_str() {
            let _ = writeln!(text, "{}\n", about.trim_end_matches('.').to_owned() + ".");
        }
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let mut lines: Vec<String> = parameters
        .map(|parameter| {
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            let about = parameter["description"].as_str().unwrap_or_default();
            let needed = if parameter["required"] == true { ", required" } else { "" };
            format!("- `{name}` ({place}, {}{needed}): {about}", type_of(&parameter["schema"]))
        })
        .collect();
    for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        lines.push(format!("- body: {} as `{kind}`", type_of(&content["schema"])));
    }
    if !lines.is_empty() {
        let _ = writeln!(text, "Takes\n\n{}\n", lines.join("\n"));
    }
    text.push_str("| answer | | |\n|---|---|---|\n");
    for (status, answer) in operation["responses"].as_object().unwrap() {
        let contents = answer["content"].as_object().into_iter().flatten();
        let contents: Vec<String> =
            contents.map(|(kind, content)| format!("{} as `{kind}`", type_of(&content["schema"]))).collect();
        let about = answer["description"].as_str().unwrap_or_default();
        let _ = writeln!(text, "| {status} | {} | {} |", cell(about), cell(&contents.join(", ")));
    }
}

/// The fields of an object; the values of an enumeration.
fn fields(text: &mut String, schema: &Value) {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().map(|value| format!("`{}`", value.as_str().unwrap_or("null"))).collect();
        let _ = writeln!(text, "One of {}.", values.join(", "));
        return;
    }
    if schema["allOf"].is_null() && schema["properties"].is_null() {
        let _ = writeln!(text, "{}.", type_of(schema));
        return;
    }
    text.push_str("| field | type | |\n|---|---|---|\n");
    let parts = schema["allOf"].as_array().map_or(std::slice::from_ref(schema), Vec::as_slice);
    for part in parts {
        if part["$ref"].is_string() {
            let _ = writeln!(text, "| | {} | its fields, too |", type_of(part));
        }
        let required = part["required"].as_array();
        for (name, field) in part["properties"].as_object().into_iter().flatten() {
            let optional = !required.is_some_and(|names| names.iter().any(|known| known == name));
            let kind = type_of(field) + if optional { ", may be missing" } else { "" };
            let about = field["description"].as_str().unwrap_or_default().replace('\n', " ");
            let _ = writeln!(text, "| `{name}` | {} | {} |", cell(&kind), cell(&about));
        }
    }
}

fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(kinds) = schema[several].as_array() {
            return kinds.iter().map(type_of).collect::<Vec<_>>().join(" or ");
        }
    }
    let named = |kind: &str| match kind {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", type_of(&schema["additionalProperties"]))
        }
        kind => kind.to_owned(),
    };
    match &schema["type"] {
        Value::String(kind) => named(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).map(named).collect::<Vec<_>>().join(" or "),
        _ => "anything".into(),
    }
}

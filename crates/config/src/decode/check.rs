//! `check = [{ http = "/healthz", port = 80 }, { tls = true }]`, `[[service.NAME.check]]`, or `check = "none"`.

use super::reader::{Entry, Reader, Table};
use crate::diagnostic::{Diagnostic, Span, listed, quoted};
use crate::draft::{CheckDraft, Field, List, Located};
use crate::model::{Check, Dns, DnsRecord, Exchange, Expect, Http, HttpVersion, Script, Talk, Tls, Via};
use crate::text::check as text;
use toml::de::DeValue;

/// The checks of a service; none if nothing is said about them.
pub(super) fn read_all<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> Option<Vec<CheckDraft>> {
    let entry = entry?;
    if let DeValue::String(_) = entry.value.get_ref() {
        reader.choice(Some(entry), "way to check", &[("none", ())]);
        return Some(Vec::new());
    }
    let mut drafts = Vec::new();
    for element in entry.elements() {
        let refused = CheckDraft { span: element.span(), check: None, port: None, via: Field::Absent };
        match element.value.get_ref() {
            DeValue::Table(entries) => {
                let table = Table::new("service.*.check[]", element.span(), entries);
                drafts.push(read(reader, table).unwrap_or(refused));
            }
            _ => {
                reader.wrong_type::<()>(&element);
                drafts.push(refused);
            }
        }
    }
    if let Some(excess) = drafts.get(MAX_CHECKS) {
        reader.report(
            Diagnostic::error(format!("the service has more than {MAX_CHECKS} checks"))
                .at(&excess.span, "one too many")
                .help("a script can ask for many things in one check"),
        );
    }
    Some(drafts)
}

/// Of one service.
const MAX_CHECKS: usize = 64;
const MAX_TIMES: i64 = 1000;

/// The key that says what is asked.
const KINDS: [&str; 11] = ["tcp", "udp", "tls", "http", "https", "dns", "smtp", "ftp", "ping", "script", "agent"];

/// Which kinds take a setting.
const SETTINGS: &[(&str, &[&str])] = &[
    ("port", &["tcp", "udp", "tls", "http", "https", "dns", "smtp", "ftp", "script", "agent"]),
    ("via", &["tcp", "udp", "tls", "http", "https", "dns", "smtp", "ftp"]),
    ("send", &["tcp", "udp", "tls", "agent"]),
    ("send_hex", &["tcp", "udp", "tls", "agent"]),
    ("expect", &["tcp", "udp", "tls", "http", "https"]),
    ("expect_hex", &["tcp", "udp", "tls", "http", "https"]),
    ("expect_regex", &["tcp", "udp", "tls", "http", "https"]),
    ("method", &["http", "https"]),
    ("host", &["http", "https"]),
    ("status", &["http", "https"]),
    ("version", &["http", "https"]),
    ("server_name", &["tls", "https"]),
    ("expiry", &["tls", "https"]),
    ("type", &["dns"]),
    ("weight", &["script"]),
];

const VERSIONS: &[(&str, HttpVersion)] = &[("1.1", HttpVersion::One), ("2", HttpVersion::Two)];

/// None: something was refused.
fn read<'t>(reader: &mut Reader<'t>, mut table: Table<'t>) -> Option<CheckDraft> {
    let header = table.header().clone();
    let kinds: Vec<(&str, Entry<'t>)> = KINDS.into_iter().filter_map(|kind| Some((kind, table.take(kind)?))).collect();
    let kind = one_kind(reader, &header, &kinds);
    if let Some((kind, _)) = &kind {
        misplaced(reader, &table, kind, &kinds);
    }
    let port: Field<u16> = reader.integer(table.take("port"), 1..=i64::from(u16::MAX));
    let via = reader.choice(table.take("via"), "way for a check", Via::NAMES);
    let send = exclusive(reader, &mut table, [("send", text::plain), ("send_hex", text::hex)]);
    let expect = expect(reader, &mut table);
    let http = HttpSettings {
        method: reader.string(table.take("method"), text::method),
        host: reader.string(table.take("host"), text::host),
        status: status(reader, table.take("status")),
        version: reader.choice(table.take("version"), "version of HTTP that checks speak", VERSIONS),
    };
    let server_name = reader.string(table.take("server_name"), text::server_name);
    let expiry = reader.duration_or_none(table.take("expiry"));
    let record = reader.choice(table.take("type"), "type of record that checks ask for", DnsRecord::NAMES);
    let weight = reader.boolean(table.take("weight"));
    let interval = reader.fine_duration(table.take("interval"), text::interval);
    let jitter = reader.fine_duration(table.take("jitter"), text::jitter);
    let timeout = reader.fine_duration(table.take("timeout"), text::interval);
    let rise: Field<u32> = reader.integer(table.take("rise"), 1..=MAX_TIMES);
    let fall: Field<u32> = reader.integer(table.take("fall"), 1..=MAX_TIMES);
    table.finish(reader);
    let is_refused = port.is_refused()
        || via.is_refused()
        || http.is_refused()
        || [server_name.is_refused(), expiry.is_refused(), record.is_refused(), weight.is_refused()].contains(&true)
        || [interval.is_refused(), jitter.is_refused(), timeout.is_refused()].contains(&true)
        || rise.is_refused()
        || fall.is_refused();
    let (kind, entry) = kind?;
    let exchange = Exchange { send: send.clone()?.unwrap_or_default(), expect: expect.clone()? };
    let tls = Tls { server_name: given(server_name), expiry: expiry.value() };
    let talk = match kind {
        "http" | "https" => {
            let path = reader.string(Some(entry), text::path);
            Some(Talk::Http(http.finish(given(path)?, expect?, (kind == "https").then_some(tls))))
        }
        "dns" => {
            let name = given(reader.string(Some(entry), text::dns_name));
            name.map(|name| Talk::Dns(Dns { name, record: record.value().unwrap_or_default() }))
        }
        "script" => {
            script(reader, entry).map(|command| Talk::Script(Script { command, weight: weight.value() == Some(true) }))
        }
        _ => switched_on(reader, kind, entry).then_some(match kind {
            "udp" => Talk::Udp(exchange),
            "tls" => Talk::Tls(tls, exchange),
            "smtp" => Talk::Smtp,
            "ftp" => Talk::Ftp,
            "ping" => Talk::Ping,
            "agent" => Talk::Agent { send: exchange.send },
            _ => Talk::Tcp(exchange),
        }),
    }?;
    if is_refused {
        return None;
    }
    let interval = interval.value().unwrap_or(Check::INTERVAL);
    let check = Check {
        talk,
        port: None,
        via: via.value().unwrap_or_default(),
        interval,
        jitter: jitter.value().unwrap_or(interval / Check::JITTER_PART),
        timeout: timeout.value().unwrap_or(Check::TIMEOUT),
        rise: rise.value().unwrap_or(Check::RISE),
        fall: fall.value().unwrap_or(Check::FALL),
    };
    Some(CheckDraft { span: header, check: Some(check), port: port.given().cloned(), via })
}

fn given<T>(field: Field<T>) -> Option<T> {
    match field {
        Field::Given(located) => Some(located.value),
        Field::Absent | Field::Refused => None,
    }
}

/// The one that there must be.
fn one_kind<'t>(
    reader: &mut Reader<'t>,
    header: &Span,
    kinds: &[(&'static str, Entry<'t>)],
) -> Option<(&'static str, Entry<'t>)> {
    match kinds {
        [one] => Some(one.clone()),
        [] => {
            reader.report(
                Diagnostic::error("the check does not say what to ask")
                    .at(header, "asks nothing")
                    .help(format!("add one of {}, for example `http = \"/\"`", listed(KINDS.into_iter().map(quoted)))),
            );
            None
        }
        [(first, before), (second, entry), ..] => {
            reader.report(
                Diagnostic::error(format!("a check is `{first}` or `{second}`, not both"))
                    .at(&entry.key_span, "another kind")
                    .also(&before.key_span, "one kind")
                    .help("write one check for each"),
            );
            None
        }
    }
}

/// Settings of other kinds.
fn misplaced<'t>(reader: &mut Reader<'t>, table: &Table<'t>, kind: &str, kinds: &[(&'static str, Entry<'t>)]) {
    for (setting, takers) in SETTINGS {
        let Some(span) = table.span_of(setting).filter(|_| !takers.contains(&kind)) else { continue };
        let takers: Vec<String> = takers.iter().map(|taker| quoted(taker)).collect();
        let mut diagnostic = Diagnostic::error(format!("a check of the kind `{kind}` does not take `{setting}`"))
            .at(&span, "has no meaning here")
            .help(format!("leave it out; it is for {}", listed(takers)));
        if let [(_, entry)] = kinds {
            diagnostic = diagnostic.also(&entry.key_span, "the kind");
        }
        reader.report(diagnostic);
    }
}

/// `tcp = true`.
fn switched_on<'t>(reader: &mut Reader<'t>, kind: &str, entry: Entry<'t>) -> bool {
    let span = entry.span();
    match reader.boolean(Some(entry)).value() {
        Some(false) => {
            reader.report(
                Diagnostic::error(format!("`{kind} = false` asks nothing"))
                    .at(&span, "a check that is none")
                    .help("remove the check; check = \"none\" for no check at all"),
            );
            false
        }
        on => on == Some(true),
    }
}

type Parse<T> = fn(&str) -> Result<T, crate::text::TextError>;

/// One of several ways to write the same; `None` if something was refused.
fn exclusive<'t, T: Clone, const N: usize>(
    reader: &mut Reader<'t>,
    table: &mut Table<'t>,
    ways: [(&'static str, Parse<T>); N],
) -> Option<Option<T>> {
    let mut first: Option<(&str, Located<T>)> = None;
    let mut is_whole = true;
    for (name, parse) in ways {
        match (reader.string(table.take(name), parse), &first) {
            (Field::Given(given), None) => first = Some((name, given)),
            (Field::Given(given), Some((before, located))) => {
                reader.report(
                    Diagnostic::error(format!("`{before}` and `{name}` exclude each other"))
                        .at(&given.span, "the same, written otherwise")
                        .also(&located.span, "written here")
                        .help("keep one of the two"),
                );
                is_whole = false;
            }
            (Field::Refused, _) => is_whole = false,
            (Field::Absent, _) => {}
        }
    }
    is_whole.then(|| first.map(|(_, located)| located.value))
}

fn expect<'t>(reader: &mut Reader<'t>, table: &mut Table<'t>) -> Option<Option<Expect>> {
    let ways: [(&str, Parse<Expect>); 3] = [
        ("expect", |text| text::something(text).map(Expect::Bytes)),
        ("expect_hex", |text| text::hex(text).map(Expect::Bytes)),
        ("expect_regex", |text| text::regex(text).map(Expect::Regex)),
    ];
    exclusive(reader, table, ways)
}

struct HttpSettings {
    method: Field<String>,
    host: Field<String>,
    status: List<(u16, u16)>,
    version: Field<HttpVersion>,
}

impl HttpSettings {
    fn is_refused(&self) -> bool {
        self.method.is_refused() || self.host.is_refused() || self.status.incomplete || self.version.is_refused()
    }

    fn finish(self, path: String, expect: Option<Expect>, tls: Option<Tls>) -> Http {
        let status: Vec<(u16, u16)> = self.status.values().copied().collect();
        Http {
            method: given(self.method).unwrap_or_else(|| "GET".into()),
            path,
            host: given(self.host),
            status: if status.is_empty() { vec![GOOD_STATUS] } else { status },
            expect,
            version: self.version.value().unwrap_or_default(),
            tls,
        }
    }
}

/// Whatever is no error.
const GOOD_STATUS: (u16, u16) = (200, 399);

/// `200`, `"200-399"`, or a list of them.
fn status<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> List<(u16, u16)> {
    let Some(entry) = entry else { return List::default() };
    let mut list = List { span: Some(entry.span()), ..List::default() };
    for element in entry.elements() {
        let field = if element.value.get_ref().is_integer() {
            match reader.integer::<u16>(Some(element), 100..=599) {
                Field::Given(Located { value, span }) => Field::Given(Located { value: (value, value), span }),
                _ => Field::Refused,
            }
        } else {
            reader.string(Some(element), text::status)
        };
        match field {
            Field::Given(located) => list.items.push(located),
            Field::Absent | Field::Refused => list.incomplete = true,
        }
    }
    if list.items.is_empty() && !list.incomplete {
        list.incomplete = true;
        reader.report(
            Diagnostic::error("`status` is an empty list")
                .at(&entry.span(), "no answer would be good")
                .help(format!("for example `{}`", entry.key.shown())),
        );
    }
    list
}

/// `"/usr/lib/checks/web"`, or a list with arguments.
fn script<'t>(reader: &mut Reader<'t>, entry: Entry<'t>) -> Option<Vec<String>> {
    let list = reader.some_strings(Some(entry), text::argument, "nothing to run");
    let program = list.items.first().filter(|_| !list.incomplete)?;
    if !program.value.starts_with('/') {
        reader.report(
            Diagnostic::error(format!("{} is not an absolute path", quoted(&program.value)))
                .at(&program.span, "begins without `/`")
                .help(
                    "write where the program is, and its arguments as strings of their own: [\"/usr/bin/x\", \"-q\"]",
                ),
        );
        return None;
    }
    Some(list.values().cloned().collect())
}

//! The vectors' file format: `tests/vectors/README.md` describes it.

use marca_config::model::PortMatch;
use marca_engine::reason::Reason;
use marca_testkit::frame;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file of vectors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Configurations by name, without their `[router]`.
    #[serde(default)]
    configuration: BTreeMap<String, String>,
    vector: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    configuration: Option<String>,
    #[serde(default)]
    before: Vec<String>,
    packet: String,
    reason: String,
    out: String,
    #[serde(default)]
    xdp_only: bool,
}

/// A packet, where it meets the director, and what is to become of it.
pub struct Vector {
    /// File and name.
    pub name: String,
    /// `None`: the packet meets the real servers' decapsulator.
    pub configuration: Option<String>,
    pub before: Vec<Step>,
    pub packet: Arrival,
    pub reason: Reason,
    pub out: Out,
    /// Nothing that TC would do.
    pub xdp_only: bool,
}

/// What happens before the packet comes.
pub enum Step {
    Packet(Arrival),
    /// Time passes: records grow older.
    Age(Duration),
    /// Another configuration takes the place of this one.
    Load(String),
    /// A real server has failed, or serves again.
    Health {
        name: String,
        up: bool,
    },
    /// Checks of a member port fail at a real server, or hold again.
    Port {
        name: String,
        port: PortMatch,
        open: bool,
    },
    Tamper(Tamper),
}

/// What no configuration can bring about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// Every flow's place is taken by somebody else's.
    FullFlows,
    /// The real servers have a forwarding method that does not exist.
    UnknownMethod,
    /// Every real server has failed.
    Failed,
    /// Fullnat has no source to lend.
    NoSources,
    /// The driver leaves no room in front of the next packet.
    NoHeadroom,
}

/// A frame, and the interface that it comes in on.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub interface: Side,
    pub frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Outside,
    Inside,
}

/// What becomes of a frame. Passed and dropped frames are as they were, unless a text says otherwise.
pub enum Out {
    Pass,
    /// Passed up, but changed.
    PassAs(Vec<u8>),
    Drop,
    Send(Arrival),
}

/// All vectors of all files, in the order of their names.
pub fn all() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.iter().flat_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Vec<Vector> {
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).unwrap();
    let file: File = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let vector = |entry: Entry| {
        let name = format!("{stem}: {}", entry.name);
        let fault = |what: String| -> ! { panic!("{name}: {what}") };
        let configuration = |name: &str| match file.configuration.get(name) {
            Some(text) => text.clone(),
            None => fault(format!("there is no configuration `{name}`")),
        };
        let arrival = |text: &str| parse_arrival(text).unwrap_or_else(|e| fault(e));
        Vector {
            configuration: entry.configuration.as_deref().map(configuration),
            before: entry.before.iter().map(|text| step(text, &configuration, &arrival)).collect(),
            packet: arrival(&entry.packet),
            reason: match Reason::ALL.iter().find(|reason| reason.label() == entry.reason) {
                Some(reason) => *reason,
                None => fault(format!("there is no reason `{}`", entry.reason)),
            },
            out: match (entry.out.as_str(), entry.out.strip_prefix("pass ")) {
                ("pass", _) => Out::Pass,
                ("drop", _) => Out::Drop,
                (_, Some(text)) => Out::PassAs(arrival(text).frame),
                (text, None) => Out::Send(arrival(text)),
            },
            xdp_only: entry.xdp_only,
            name: name.clone(),
        }
    };
    file.vector.into_iter().map(vector).collect()
}

fn step(text: &str, configuration: &impl Fn(&str) -> String, arrival: &impl Fn(&str) -> Arrival) -> Step {
    match text.split_once(' ') {
        Some(("age", duration)) => Step::Age(marca_config::text::duration::parse(duration).unwrap()),
        Some(("load", name)) => Step::Load(configuration(name)),
        Some(("fail", name)) => Step::Health { name: name.to_owned(), up: false },
        Some(("close", port)) => port_step(port, false),
        Some(("open", port)) => port_step(port, true),
        Some(("restore", name)) => Step::Health { name: name.to_owned(), up: true },
        Some(("tamper", "full-flows")) => Step::Tamper(Tamper::FullFlows),
        Some(("tamper", "unknown-method")) => Step::Tamper(Tamper::UnknownMethod),
        Some(("tamper", "failed")) => Step::Tamper(Tamper::Failed),
        Some(("tamper", "no-sources")) => Step::Tamper(Tamper::NoSources),
        Some(("tamper", "no-headroom")) => Step::Tamper(Tamper::NoHeadroom),
        Some(("tamper", other)) => panic!("nothing is tampered with by `{other}`"),
        _ => Step::Packet(arrival(text)),
    }
}

/// `web1 tcp/443`.
fn port_step(text: &str, open: bool) -> Step {
    let (name, port) = text.split_once(' ').expect("a server and its port");
    Step::Port { name: name.to_owned(), port: marca_config::text::ports::matches(port).unwrap()[0], open }
}

/// A frame's text, with `inside` in front when it is not outside.
fn parse_arrival(text: &str) -> Result<Arrival, String> {
    let (interface, frame) = match text.split_once(' ') {
        Some(("inside", rest)) => (Side::Inside, rest),
        Some(("outside", rest)) => (Side::Outside, rest),
        _ => (Side::Outside, text),
    };
    Ok(Arrival { interface, frame: frame::build(frame).map_err(|e| e.to_string())? })
}

//! `marca`: the command line. A library for whoever makes pages and completions of it ([`command`]); the program calls
//! [`main`] and nothing else.
//!
//! Exit codes are a contract: [`Exit`]; of `marca diff` those of diff(1).

mod api;
mod check;
mod decap;
mod diff;
mod doctor;
mod explain;
mod flows;
mod hand;
mod health;
mod init;
mod log;
mod persist;
mod reload;
mod run;
mod status;
mod stop;
mod token;
mod top;

use clap::{Args, CommandFactory, Parser, Subcommand};
use marca_daemon::place::Place;
use std::path::PathBuf;
use std::process::ExitCode;

/// An LVS router: one virtual service is many ports, and a client's connections to all of them meet one real server.
#[derive(Parser)]
#[command(name = "marca", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a director until it is told to stop; packets flow on without it
    Run(run::Options),
    /// Looks for faults in a configuration, changing nothing
    Check(check::Options),
    /// Prints services, real servers and counters
    Status(status::Options),
    /// Shows services, real servers and their connections as they go, in a terminal
    Top(top::Options),
    /// Says where a packet would go, and why
    Explain(explain::Options),
    /// Has the daemon read its configuration again; a faulty one changes nothing
    Reload(reload::Options),
    /// Says what a reload would change; exit codes as diff(1)
    Diff(diff::Options),
    /// Says that real servers have failed: their clients move, their connections end as `on_failure` says
    Fail(health::Options),
    /// Says that real servers which have failed serve again
    Restore(health::Options),
    /// Gives real servers no new clients; persistent ones stay as long as the configuration's `drain` says
    Drain(hand::Until),
    /// Takes a drain back
    Undrain(hand::Options),
    /// Gives real servers no clients at all; connections go on
    Disable(hand::Until),
    /// Takes that back
    Enable(hand::Options),
    /// Gives a real server another weight than the configuration
    Weight(hand::Weight),
    /// Lists connections, or ends them
    Flows(flows::Options),
    /// Lists clients that stay with their real server, or lets one go
    Persist(persist::Options),
    /// Makes a token for requests over the network
    Token(token::Options),
    /// Ends the daemon; with --detach also everything that it has set up
    Stop(stop::Options),
    /// Writes a first configuration for this host's interfaces; never over another one
    Init(init::Options),
    /// Looks for what is wrong with this host as a director, or as a real server, and says what mends it
    Doctor(doctor::Options),
    /// Takes packets out of IP-in-IP tunnels, on a real server
    Decap(decap::Options),
}

/// Where a director keeps its files.
#[derive(Args, Clone)]
struct PlaceOptions {
    /// Folder of state and lock
    #[arg(long, value_name = "DIR", default_value = "/run/marca", global = true)]
    run_dir: PathBuf,
    /// Folder of what outlives a reboot [default: /var/lib/marca, or the one of --run-dir if that is given]
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// Folder of programs and maps, in the BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/marca", global = true)]
    pin_dir: PathBuf,
}

impl PlaceOptions {
    fn place(&self) -> Place {
        let usual = Place::default();
        let beside = if self.run_dir == usual.run_dir { usual.state_dir } else { self.run_dir.clone() };
        let state_dir = self.state_dir.clone().unwrap_or(beside);
        Place { run_dir: self.run_dir.clone(), state_dir, pin_dir: self.pin_dir.clone(), ..usual }
    }
}

/// The command line or the configuration is wrong: exit code 2. The message is complete.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Writes to standard output. A reader that has seen enough is not a fault.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What the program ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Refused = 2,
}

impl Exit {
    pub const ALL: &'static [Exit] = &[Exit::Done, Exit::Failed, Exit::Refused];

    pub fn sentence(self) -> &'static str {
        match self {
            Exit::Done => "Done.",
            Exit::Failed => "It could not be done; standard error says why.",
            Exit::Refused => "The command line or the configuration is wrong; nothing was changed.",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The command line as a value.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Everything has been said: exit code 1.
#[derive(Debug)]
struct Told;

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("see above")
    }
}

impl std::error::Error for Told {}

/// The program.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let (format, level) = match &command {
        Command::Run(options) => (options.log_format, options.log_level),
        _ => (log::Format::Text, None),
    };
    let begun = log::begin(format, level);
    let done = begun.and_then(|()| match command {
        Command::Run(options) => run::run(&options),
        Command::Check(options) => check::check(&options),
        Command::Status(options) => status::status(&options),
        Command::Top(options) => top::top(&options),
        Command::Explain(options) => explain::explain(&options),
        Command::Reload(options) => reload::reload(&options),
        Command::Fail(options) => health::health(&options, false),
        Command::Restore(options) => health::health(&options, true),
        Command::Diff(options) => diff::diff(&options),
        Command::Drain(options) => hand::set(&options, "/v1/drain"),
        Command::Undrain(options) => hand::take_back(&options, "/v1/undrain"),
        Command::Disable(options) => hand::set(&options, "/v1/disable"),
        Command::Enable(options) => hand::take_back(&options, "/v1/enable"),
        Command::Weight(options) => hand::weight(&options),
        Command::Flows(options) => flows::flows(&options),
        Command::Persist(options) => persist::persist(&options),
        Command::Token(options) => token::token(&options),
        Command::Stop(options) => stop::stop(&options),
        Command::Init(options) => init::init(&options),
        Command::Doctor(options) => doctor::doctor(&options),
        Command::Decap(options) => decap::decap(&options),
    });
    match done {
        Ok(()) => Exit::Done.into(),
        Err(error) if error.is::<diff::Differs>() => Exit::Failed.into(),
        Err(error) if error.is::<Told>() => Exit::Failed.into(),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => {
                eprintln!("{refused}");
                Exit::Refused.into()
            }
            None => {
                eprintln!("marca: {error:#}");
                Exit::Failed.into()
            }
        },
    }
}

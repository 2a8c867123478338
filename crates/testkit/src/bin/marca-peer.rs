//! The servers and clients of tests and demonstrations, as a program.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use marca_testkit::peer::{self, Offer, Server, Session};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let done = match Peer::parse().action {
        Action::Serve(serve) => serve.run(),
        Action::Ask(ask) => ask.run(),
        Action::Talk(talk) => talk.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("marca-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Servers and clients to try a load balancer with.
#[derive(Parser)]
#[command(name = "marca-peer", version)]
struct Peer {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Serve(Serve),
    Ask(Ask),
    Talk(Talk),
}

/// Serve, saying the server's name in every answer. Prints `ready` when all ports are open.
#[derive(Args)]
struct Serve {
    /// The server's name
    #[arg(long)]
    name: String,
    /// Ports for HTTP
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    http: Vec<u16>,
    /// Ports for HTTPS, with a certificate made at the start
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    https: Vec<u16>,
    /// Ports for the UDP echo
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    udp: Vec<u16>,
    /// Ports for the TCP echo of lines
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    echo: Vec<u16>,
    /// The only address to listen on, instead of all
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
}

/// Ask once and print the name of the server that answered.
#[derive(Args)]
struct Ask {
    /// http://…, https://… (any certificate is good) or udp://HOST:PORT
    url: String,
    #[command(flatten)]
    way: Way,
    /// Print the body of the answer instead
    #[arg(long)]
    body: bool,
}

/// Keep one connection to an echo port open, say a line now and again, and print the name of the server that answers.
#[derive(Args)]
struct Talk {
    /// HOST:PORT
    to: SocketAddr,
    #[command(flatten)]
    way: Way,
    /// How many lines to say
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    lines: u64,
    /// Milliseconds between two lines
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    every_ms: u64,
}

#[derive(Args)]
struct Way {
    /// The source address
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// How long to wait for each step, in milliseconds
    #[arg(long, default_value_t = 3000, value_name = "MS")]
    timeout_ms: u64,
}

impl Serve {
    fn run(self) -> anyhow::Result<()> {
        let Serve { name, http, https, udp, echo, bind } = self;
        let _server = Server::start(Offer { name, http, https, udp, echo, bind })?;
        say("ready")?;
        loop {
            std::thread::park();
        }
    }
}

impl Ask {
    fn run(self) -> anyhow::Result<()> {
        let answer = peer::ask(self.way.from, &self.url, self.way.timeout())?;
        if self.body {
            return std::io::stdout().write_all(&answer.body).context("write the answer");
        }
        say(&answer.server)
    }
}

impl Talk {
    fn run(self) -> anyhow::Result<()> {
        let mut session = Session::open(self.way.from, self.to, self.way.timeout())?;
        for line in 1..=self.lines {
            say(&session.say(&format!("line {line}"))?)?;
            if line < self.lines {
                std::thread::sleep(Duration::from_millis(self.every_ms));
            }
        }
        Ok(())
    }
}

impl Way {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// `println!` would panic when nobody listens any more.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("write the answer")
}

//! `marca top`: services, real servers and their connections as they go, in a terminal.
//!
//! | module | owns |
//! |---|---|
//! | [`sample`] | what was read once, and the rates since what was read before |
//! | [`columns`] | what a list shows, and by what it can be sorted |
//! | [`model`] | what the operator looks at, and what keys do to it; no I/O |
//! | [`view`] | the model on a screen; formats what is seen and no more |
//! | [`source`] | the thread that reads |

mod columns;
mod model;
mod sample;
mod source;
#[cfg(test)]
mod tests;
mod view;

use crate::{PlaceOptions, Refused};
use anyhow::{Context, Result};
use model::{Event, Model};
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use ratatui::layout::Size;
use source::{Reader, Source};
use std::io::{IsTerminal, Write};
use std::sync::mpsc;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Seconds from one look to the next; more where a look takes long
    #[arg(long, short, value_name = "SECONDS", default_value_t = 2.0, value_parser = interval)]
    interval: f64,
    /// Only services whose name, VIP or port has this in it
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Prints the list of services after one interval, and ends: for scripts
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "it takes seconds from 0.1 to 3600".into())
}

pub fn top(options: &Options) -> Result<()> {
    let mut source = Source::new(options.place.clone());
    let first = source.sample(None)?;
    let mut model = Model::new(Duration::from_secs_f64(options.interval), options.filter.clone());
    model.update(Event::Sample(first));
    if options.once {
        std::thread::sleep(Duration::from_secs_f64(options.interval));
        model.update(Event::Sample(source.sample(None)?));
        return print(&view::plain(&model));
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Refused("marca top needs a terminal; `marca top --once` prints to anything".into()).into());
    }
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let ended = watch(&mut terminal, model, source);
    ratatui::restore();
    ended
}

fn watch(terminal: &mut ratatui::DefaultTerminal, mut model: Model, source: Source) -> Result<()> {
    let (events, coming) = mpsc::channel();
    let reader = Reader::start(source, model.wanted(), events.clone())?;
    let input = move || {
        loop {
            let event = match event::read() {
                Ok(Input::Key(key)) if key.kind != KeyEventKind::Release => Event::Key(key),
                Ok(Input::Resize(width, height)) => Event::Resize(Size { width, height }),
                Ok(_) => continue,
                // The terminal is gone.
                Err(_) => Event::Quit,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    // It waits for keys until the program ends.
    std::thread::Builder::new().name("keys".into()).spawn(input).context("start a thread for the keyboard")?;
    model.update(Event::Resize(terminal.size().context("ask for the terminal's size")?));
    loop {
        terminal.draw(|frame| view::draw(&model, frame.buffer_mut())).context("draw")?;
        // All that has come meanwhile, and then one picture of it.
        let first = coming.recv().context("wait for events")?;
        for event in std::iter::once(first).chain(coming.try_iter()) {
            model.update(event);
        }
        if model.is_over() {
            return Ok(());
        }
        reader.want(model.wanted());
    }
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough is not a fault.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

//! What has to be kept up: what is due now and then, and what changes in the network.

use super::{Director, DirectorError, TICK};
use crate::hops::{self, Hops};
use crate::linux::data_plane::since_boot;
use crate::linux::network::Change;
use crate::settling::Settling;
use marca_config::plan::Touched;
use marca_tables::classifier;
use marca_tables::ids::IdKind;
use marca_tables::memory::Memory;
use marca_tables::slots::Left;
use std::time::{Duration, Instant};

impl Director {
    /// Something in the network changed.
    pub async fn change(&mut self, change: Change) {
        match change {
            Change::Neighbour { interface, address, mac } => {
                if self.routes.neighbour(&self.plane.maps, interface, address, mac) {
                    self.copy_again.get_or_insert(Instant::now() + SETTLE);
                }
                let concerned = self.hops.neighbour(&self.plane.maps.memory, interface, address, mac);
                if concerned && mac.is_none() {
                    hops::ask(&self.network, interface, address).await;
                }
            }
            // Most likely its own doing, thousands at a time; and no way to a real server is otherwise for that.
            Change::Came { address } if self.plan.vips.contains(&address) || self.plan.sources.contains(&address) => {}
            // They come in bursts; one look is enough.
            Change::Link { .. } | Change::Route | Change::Address | Change::Came { .. } | Change::Missed => {
                self.interfaces.clear();
                self.routes.distrust(&self.plane.maps);
                self.copy_again.get_or_insert(Instant::now() + SETTLE);
                self.look_again.get_or_insert(Instant::now() + SETTLE);
            }
        }
    }

    /// What is due: announcements, neighbours that packets ask for, a piece of the sweep, and whatever has changed.
    pub async fn tick(&mut self) -> Result<(), DirectorError> {
        let now = Instant::now();
        self.announcements.iter_mut().for_each(|a| a.poll(now));
        self.wanted().await;
        self.end_drains()?;
        self.sweep_piece()?;
        if self.save_again.is_some_and(|at| at <= now) {
            self.save_again();
        }
        if self.settling.is_over(&self.plane.maps.memory) {
            self.classifier.catch_up(&self.plane.maps.memory, &self.plan, &self.state.ids, CATCH_UP);
        }
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            self.look_up_again().await;
        }
        if self.copy_again.is_some_and(|at| at <= now) {
            self.copy_again = None;
            self.copy_routes().await;
        }
        let until = self.plane.now()?.wrapping_add(self.plane.clock.ticks(LEASE));
        self.routes.renew(&self.plane.maps, until);
        self.hops.refresh(&self.network, REFRESH_TICKS).await;
        if now - self.refreshed > REFRESH {
            self.refreshed = now;
            self.routes.refresh(&self.network).await;
        }
        Ok(())
    }

    /// Without a copy packets ask the kernel: slower, and right.
    pub(super) async fn copy_routes(&mut self) {
        if let Err(error) = self.routes.look_up(&self.network, &mut self.plane.maps).await {
            tracing::warn!("replies are slower, because the routes cannot be copied: {error}");
        }
    }

    async fn look_up_again(&mut self) {
        let mut known = Vec::new();
        for attached in &self.state.attached {
            match self.network.interface(&attached.interface).await {
                Ok(interface) => known.push(interface),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        self.stand_again(&known).await;
        self.hops = Hops::look_up(&self.network, &self.plan, &self.state.ids, &known).await;
        self.interfaces = known;
        self.hops.write(&self.plane.maps.memory);
        self.hops.ask_for_unresolved(&self.network).await;
    }

    /// Neighbours that packets asked for in vain.
    async fn wanted(&mut self) {
        let memory = &self.plane.maps.memory;
        let mut asked = Vec::new();
        for index in 0..memory.neighbours.len() {
            let Some(wanted) = memory.neighbours.at(index) else { break };
            if wanted.asked.get() == 0 {
                continue;
            }
            wanted.asked.set(0);
            let family = wanted.family.get();
            let words = [wanted.address[0].get(), wanted.address[1].get()];
            let address = marca_engine::layout::Address::of_words(words);
            asked.push((wanted.interface.get(), classifier::ip(family as u8, &address)));
        }
        for (interface, address) in asked {
            match self.network.route_to(address).await {
                Ok(route) => hops::ask(&self.network, interface, route.gateway.unwrap_or(address)).await,
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }

    fn sweep_piece(&mut self) -> Result<(), DirectorError> {
        let now = self.plane.now()?;
        let memory = &self.plane.maps.memory;
        let (_, complete) = self.sweep.step(memory, now, sweep_piece(memory));
        if complete {
            self.sweep.counted().into_iter().for_each(|counted| self.place.live.set_counted(counted));
            let sweep = &self.sweep;
            let released = self.state.ids.release(|id| match id {
                IdKind::Real(real) => sweep.has_records(memory, *real),
                IdKind::Service(_) => false,
            });
            if !released.is_empty() {
                self.place.save_renumbered(&self.state, &released)?;
                self.standings.part(&self.configured, &self.configured, &self.state.ids, since_boot()?);
                self.save_standings();
                self.classify_again()?;
            }
        }
        Ok(())
    }

    /// Real servers whose last connections have ended answer for nobody any more: their addresses are themselves again,
    /// and those that share a port with them need no records.
    fn classify_again(&mut self) -> Result<(), DirectorError> {
        let maps = &mut self.plane.maps;
        let leaving = classifier::leaving(&maps.memory, &self.state.ids);
        if leaving == self.classified.leaving {
            return Ok(());
        }
        let (ids, interfaces, none) = (&self.state.ids, &self.classified.interfaces, Touched::default());
        self.settling.finish(&maps.memory);
        let half = self.classifier.write(&maps.memory, &self.plan, ids, interfaces, Some(&none))?;
        maps.write_prefixes(half.half, &half.prefixes)?;
        self.classifier.switch(&maps.memory, half);
        self.settling = Settling::of(Left::default());
        self.classified.leaving = leaving;
        Ok(())
    }
}

/// How many cells one call of [`Director::tick`] looks at. A whole pass takes two seconds, and longer with more than two
/// million cells.
pub fn sweep_piece(memory: &Memory) -> u32 {
    ((memory.flows.len() + memory.half_open.len()) / PASS_TICKS).clamp(1, MAX_PIECE)
}

/// Entries of the other half of the classifier that one tick writes, of each kind: some milliseconds' work.
const CATCH_UP: usize = 10_000;
/// Ticks in a pass of the sweep.
const PASS_TICKS: u32 = 20;
/// Cells that one tick looks at, at the most: about a millisecond's work.
const MAX_PIECE: u32 = 100_000;
/// Changes of the network come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// How long packets use the copied routes after the daemon has ended, or hangs.
const LEASE: Duration = Duration::from_secs(2);
/// How often the kernel is asked to make sure of neighbours: it would find out about dead ones only by sending, and
/// packets that XDP sends are not its own.
const REFRESH: Duration = Duration::from_secs(15);
/// The same in calls of [`Director::tick`].
const REFRESH_TICKS: usize = (REFRESH.as_millis() / TICK.as_millis()) as usize;

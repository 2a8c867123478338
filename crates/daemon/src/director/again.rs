//! An interface that has gone and come again, or that was switched off and on: what it has lost by that.

use super::interfaces::{attach, kept};
use super::{Classified, Director, DirectorError};
use crate::forwarding;
use crate::linux::attach::Wish;
use crate::linux::network::Interface;
use crate::settling::Settling;
use crate::vips::{self, Announcements};
use marca_tables::slots::Left;
use std::time::Instant;

impl Director {
    /// Whatever of ours these interfaces have no more is put there again. What cannot be is said, and tried again after the
    /// next change.
    pub(super) async fn stand_again(&mut self, known: &[Interface]) {
        let classified = &self.classified.interfaces;
        let returned: Vec<&str> = known
            .iter()
            .filter(|interface| classified.get(&interface.name).is_some_and(|index| *index != interface.index))
            .map(|interface| interface.name.as_str())
            .collect();
        if !returned.is_empty() {
            match self.attach_again(known) {
                Ok(()) => tracing::info!("{} has come again, and is attached again", returned.join(", ")),
                Err(error) => tracing::error!("{} has come again: {error}", returned.join(", ")),
            }
        }
        for error in forwarding::keep(&self.state.sysctls) {
            tracing::warn!("{error}");
        }
        if let Err(error) = self.put_vips_again(known).await {
            tracing::error!("{error}");
        }
    }

    fn attach_again(&mut self, known: &[Interface]) -> Result<(), DirectorError> {
        let is_there = |wish: &Wish| known.iter().any(|interface| interface.name == wish.interface);
        let wishes: Vec<Wish> = kept(&self.state.attached).into_iter().filter(is_there).collect();
        attach(&mut self.plane, (&mut self.state, &self.place), &wishes)?;
        // Mark rules know interfaces by their numbers.
        let mut classified = Classified::of(&self.plane.maps.memory, &self.state.ids, known);
        for (name, index) in &self.classified.interfaces {
            classified.interfaces.entry(name.clone()).or_insert(*index);
        }
        let maps = &mut self.plane.maps;
        self.settling.finish(&maps.memory);
        let (ids, interfaces) = (&self.state.ids, &classified.interfaces);
        let half = self.classifier.write(&maps.memory, &self.plan, ids, interfaces, None)?;
        maps.write_prefixes(half.half, &half.prefixes)?;
        self.classifier.switch(&maps.memory, half);
        self.settling = Settling::of(Left::default());
        self.classified = classified;
        Ok(())
    }

    async fn put_vips_again(&mut self, known: &[Interface]) -> Result<(), DirectorError> {
        let missing = vips::missing(&self.state.vips, &self.network.addresses().await?);
        let missing: Vec<_> =
            missing.into_iter().filter(|vip| known.iter().any(|interface| interface.name == vip.interface)).collect();
        vips::put(&self.network, &missing, known).await?;
        if !missing.is_empty() {
            tracing::info!("{} VIPs had gone from their interfaces, and are there again", missing.len());
        }
        let now = Instant::now();
        for interface in known {
            let mut own = self.state.vips.iter().filter(|vip| vip.interface == interface.name).peekable();
            if own.peek().is_none() {
                continue;
            }
            match self.announcements.iter_mut().find(|announcements| announcements.is_of(interface)) {
                Some(announcements) => {
                    let new = missing.iter().filter(|vip| vip.interface == interface.name);
                    new.for_each(|vip| announcements.add(vip.address.addr(), now));
                }
                None => {
                    let mut announcements = Announcements::open(interface)?;
                    own.for_each(|vip| announcements.add(vip.address.addr(), now));
                    self.announcements.retain(|old| !old.is_named(&interface.name));
                    self.announcements.push(announcements);
                }
            }
        }
        Ok(())
    }
}

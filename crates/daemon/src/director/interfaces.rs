//! What a configuration needs of the host: attachments to interfaces, VIPs on them, sysctls.

use super::{Director, DirectorError};
use crate::forwarding;
use crate::linux::attach::{Attachment, Mode, Wish};
use crate::linux::data_plane::{DataPlane, DataPlaneError};
use crate::linux::network::{Interface, Network, NetworkError};
use crate::linux::offload;
use crate::place::{Attached, ChangedSysctl, Place, PlacedVip, State};
use crate::steps::{self, Step};
use crate::vips::{self, Announcements};
use marca_config::model::{Attach, Config};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

impl Director {
    /// The interfaces that a configuration names; looked at again only after a change of the network, which also has
    /// everything looked up again that depends on them.
    pub(super) async fn known_interfaces(&mut self, config: &Config) -> Result<Vec<Interface>, NetworkError> {
        let names = interface_names(config);
        if !names.iter().map(|name| name.as_str()).eq(self.interfaces.iter().map(|known| known.name.as_str())) {
            self.interfaces = interfaces(&self.network, config).await?;
        }
        Ok(self.interfaces.clone())
    }

    pub(super) fn is_attached(&self, wishes: &[Wish]) -> bool {
        let attached =
            self.state.attached.iter().map(|attached| (attached.interface.as_str(), attached.asked.as_str()));
        attached.eq(wishes.iter().map(|wish| (wish.interface.as_str(), wish.attach.name())))
    }

    pub(super) fn set_sysctls(&mut self, config: &Config) -> Result<(), DirectorError> {
        let replies = if config.router.inside.is_empty() { &config.router.outside } else { &config.router.inside };
        let before = self.state.sysctls.len();
        let needed = forwarding::needed(&forwarding::wanted(&self.plan, replies))?;
        for needed in &needed {
            // A value that an earlier run changed has its first value on record.
            if !self.state.sysctls.iter().any(|known| known.name == needed.name) {
                self.state.sysctls.push(ChangedSysctl { name: needed.name.clone(), before: needed.before.clone() });
            }
        }
        // On record before it is done: whoever comes after a crash finds the new value there.
        if self.state.sysctls.len() != before {
            self.place.save_state(&self.state)?;
        }
        Ok(forwarding::set(&needed)?)
    }

    pub(super) fn attach(&mut self, wishes: &[Wish]) -> Result<Vec<Attachment>, DirectorError> {
        let attachments = attach(&mut self.plane, (&mut self.state, &self.place), wishes)?;
        let both = wishes.iter().zip(&attachments);
        self.state.attached = both.map(|(wish, attachment)| attached(wish, attachment)).collect();
        self.place.save_state(&self.state)?;
        Ok(attachments)
    }

    /// What about the interfaces breaks or weakens how packets are met there, each with what mends it.
    pub(super) fn findings(&self, interfaces: &[Interface]) -> Vec<String> {
        let mode = |name: &str| self.state.attached.iter().find(|a| a.interface == name).map(|a| a.mode);
        let modes = interfaces.iter().filter_map(|interface| Some((interface, mode(&interface.name)?)));
        findings(&modes.collect::<Vec<_>>())
    }

    pub(super) async fn put_vips(&mut self, config: &Config, interfaces: &[Interface]) -> Result<(), DirectorError> {
        let outside: Vec<Interface> =
            interfaces.iter().filter(|i| config.router.outside.contains(&i.name)).cloned().collect();
        let mut places = vips::places(&self.plan.vips, &outside);
        // What real servers answer to stands on the side where they are.
        let inside: Vec<Interface> =
            interfaces.iter().filter(|i| config.router.inside.contains(&i.name)).cloned().collect();
        let inside = if inside.is_empty() { &outside } else { &inside };
        places.extend(vips::places(&self.plan.sources, inside));
        let sides: Vec<Interface> = interfaces
            .iter()
            .filter(|i| outside.contains(i) || (inside.contains(i) && !self.plan.sources.is_empty()))
            .cloned()
            .collect();
        let wanted: BTreeSet<&PlacedVip> = places.iter().collect();
        let gone: Vec<PlacedVip> = self.state.vips.iter().filter(|vip| !wanted.contains(vip)).cloned().collect();
        vips::take(&self.network, &gone).await?;
        steps::taken(Step::VipsTaken);
        self.state.vips.retain(|vip| wanted.contains(vip));
        let missing = vips::missing(&places, &self.network.addresses().await?);
        let known: BTreeSet<PlacedVip> = self.state.vips.iter().cloned().collect();
        self.state.vips.extend(missing.iter().filter(|vip| !known.contains(vip)).cloned());
        if self.state.vips.len() != known.len() || !gone.is_empty() {
            self.place.save_state(&self.state)?;
        }
        vips::put(&self.network, &missing, &sides).await?;
        steps::taken(Step::VipsPut);
        self.announce(&sides, &places, &missing)
    }

    /// All VIPs, or on interfaces that have been there before those that are new.
    fn announce(
        &mut self,
        sides: &[Interface],
        places: &[PlacedVip],
        missing: &[PlacedVip],
    ) -> Result<(), DirectorError> {
        let kept: BTreeSet<IpAddr> = self.plan.vips.union(&self.plan.sources).copied().collect();
        let mut before = std::mem::take(&mut self.announcements);
        let now = Instant::now();
        for interface in sides {
            let known = before.iter().position(|announcements| announcements.is_of(interface));
            let (mut announcements, new) = match known {
                Some(index) => (before.swap_remove(index), missing),
                None => (Announcements::open(interface)?, places),
            };
            announcements.keep(&kept);
            for vip in new.iter().filter(|vip| vip.interface == interface.name) {
                announcements.add(vip.address.addr(), now);
            }
            self.announcements.push(announcements);
        }
        Ok(())
    }
}

/// Attaches the data plane. What it makes for that is on record before it is made, and off it where it was there.
pub(super) fn attach(
    plane: &mut DataPlane,
    (state, place): (&mut State, &Place),
    wishes: &[Wish],
) -> Result<Vec<Attachment>, DataPlaneError> {
    let own = state.qdiscs.clone();
    let attachments = plane.attach(wishes, &mut |interface| {
        if state.qdiscs.iter().any(|known| known == interface) {
            return Ok(());
        }
        state.qdiscs.push(interface.to_owned());
        place.save_state(state).map_err(io::Error::other)
    })?;
    let made = attachments.iter().filter(|attachment| attachment.made_qdisc);
    let made: Vec<&str> = made.map(|attachment| attachment.interface.as_str()).collect();
    state.qdiscs.retain(|interface| own.contains(interface) || made.contains(&interface.as_str()));
    Ok(attachments)
}

/// Outside and inside, each once.
fn attached_interfaces(config: &Config) -> Vec<String> {
    let mut names = config.router.outside.clone();
    names.extend(config.router.inside.iter().filter(|name| !config.router.outside.contains(name)).cloned());
    names
}

/// The director's own, and others that rules name.
fn interface_names(config: &Config) -> Vec<String> {
    let mut names = attached_interfaces(config);
    for name in config.marks.iter().flat_map(|rule| &rule.interfaces) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

pub(super) async fn interfaces(network: &Network, config: &Config) -> Result<Vec<Interface>, NetworkError> {
    let mut interfaces = Vec::new();
    for name in interface_names(config) {
        interfaces.push(network.interface(&name).await?);
    }
    Ok(interfaces)
}

/// How the interfaces' packets are to be met.
pub(super) fn wishes(config: &Config, interfaces: &[Interface]) -> Vec<Wish> {
    let kind = |name: &str| interfaces.iter().find(|interface| interface.name == name)?.kind.clone();
    let wish = |name: String| Wish { attach: config.router.attach(&name), kind: kind(&name), interface: name };
    attached_interfaces(config).into_iter().map(wish).collect()
}

/// Wishes for what there is.
pub(super) fn kept(attached: &[Attached]) -> Vec<Wish> {
    let wish = |attached: &Attached| Wish {
        interface: attached.interface.clone(),
        attach: if attached.mode == Mode::Tc { Attach::Tc } else { Attach::Xdp },
        kind: None,
    };
    attached.iter().map(wish).collect()
}

fn attached(wish: &Wish, attachment: &Attachment) -> Attached {
    Attached {
        interface: wish.interface.clone(),
        mode: attachment.mode,
        asked: wish.attach.name().to_owned(),
        why: attachment.why.clone(),
    }
}

fn findings(interfaces: &[(&Interface, Mode)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (interface, mode) in interfaces {
        match offload::findings(&interface.name, interface.kind.as_deref(), *mode) {
            Ok(findings) => {
                lines.extend(findings.iter().map(|f| format!("{}: {}. Mend it with: {}", f.what, f.why, f.mend)))
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let named = |wanted| interfaces.iter().find(|(_, mode)| *mode == wanted).map(|(interface, _)| &interface.name);
    if let (Some(xdp), Some(tc)) = (named(Mode::Native), named(Mode::Tc)) {
        lines.push(format!(
            "{xdp} has native XDP and {tc} has TC: what {xdp} hands to {tc} is lost unless the driver of {tc} takes frames from \
             XDP. Mend it with: attach = \"tc\" for both"
        ));
    }
    lines
}

//! Brings the data plane onto interfaces: by XDP, native or generic, or by TC; and off them again.
//!
//! What is attached otherwise than before is attached anew first and taken away then: no packet meets nobody.

use crate::linux::data_plane::{DataPlane, DataPlaneError, Hook};
use crate::linux::{link, tc};
use crate::steps::{self, Step};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpMode;
use marca_config::model::Attach;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP in the kernel's receive path, for drivers without it: slower, and frames have been copied.
    Generic,
    /// Traffic control, behind all that the kernel does to frames on their way in.
    Tc,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Native => "native XDP",
            Mode::Generic => "generic XDP",
            Mode::Tc => "TC",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        MODES.into_iter().find(|mode| mode.name() == name)
    }
}

/// An interface, and how its packets are to be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub interface: String,
    pub attach: Attach,
    /// As in `network::Interface`.
    pub kind: Option<String>,
}

/// How an interface's packets are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub interface: String,
    pub mode: Mode,
    /// Why it is this one, where it is not the one that was asked for by name.
    pub why: Option<String>,
    /// The qdisc `clsact` was made for it.
    pub made_qdisc: bool,
}

/// What has been decided about the interfaces.
struct Decision {
    modes: Vec<Mode>,
    why: Option<String>,
}

impl DataPlane {
    /// Loads the programs that these wishes will surely need, so that a kernel that refuses them does so in time.
    pub fn prepare(&mut self, wishes: &[Wish]) -> Result<(), DataPlaneError> {
        hooks(wishes).into_iter().try_for_each(|hook| self.need(hook))
    }

    /// Begins with that, and does not wait for it.
    pub fn begin_to_prepare(&mut self, wishes: &[Wish]) -> Result<(), DataPlaneError> {
        self.begin(&hooks(wishes))
    }

    /// Attaches the entries to these interfaces, and to no others.
    ///
    /// XDP is native, unless one of its interfaces cannot: then it is generic on all that must have XDP, because a driver
    /// without it takes no redirected frames either, and the others get TC. What is generic stays so until it is
    /// detached: a link cannot change over, and packets would meet no program in between.
    ///
    /// `will_make` is told the interface before its qdisc is made, or found to be there.
    pub fn attach(
        &mut self,
        wishes: &[Wish],
        will_make: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Vec<Attachment>, DataPlaneError> {
        self.prepare(wishes)?;
        let Decision { modes, why } = self.decide(wishes)?;
        let of = |mode| wishes.iter().zip(&modes).filter(move |(_, is)| **is == mode).map(|(wish, _)| wish);
        let mut made_qdiscs = Vec::new();
        for wish in of(Mode::Tc) {
            self.need(Hook::Tc)?;
            let dir = self.dir.clone();
            let entry = self.classifier(marca_bpf::ENTRY_TC)?;
            if tc::attach(entry, &dir, &wish.interface, tc::Kinds::LinkElseFilter, will_make)? {
                made_qdiscs.push(wish.interface.as_str());
            }
            steps::taken(Step::Attached);
        }
        for wish in of(Mode::Generic) {
            // A link of the other kind is in the way.
            let native = self.dir.join(links(Mode::Native)).join(link::name(&wish.interface));
            if native.exists() {
                end_attachment(&native)?;
                steps::taken(Step::Ended);
            }
            self.attach_xdp(&wish.interface, Mode::Generic)?;
        }
        let attachments: Vec<Attachment> = wishes
            .iter()
            .zip(&modes)
            .map(|(wish, &mode)| Attachment {
                interface: wish.interface.clone(),
                mode,
                why: why.clone().filter(|_| mode == Mode::Generic || wish.attach == Attach::Auto),
                made_qdisc: made_qdiscs.contains(&wish.interface.as_str()),
            })
            .collect();
        self.pin_entries()?;
        self.forget(&attachments)?;
        Ok(attachments)
    }

    /// What is native is attached thereby: no driver says beforehand whether it can.
    fn decide(&mut self, wishes: &[Wish]) -> Result<Decision, DataPlaneError> {
        let veth = veth_among(wishes);
        let may_be_xdp = |wish: &&Wish| match wish.attach {
            Attach::Xdp => true,
            Attach::Auto => veth.is_none(),
            Attach::Tc => false,
        };
        let generic = self.attached(Mode::Generic);
        let stays = wishes
            .iter()
            .filter(|wish| wish.attach == Attach::Xdp)
            .find(|wish| generic.iter().any(|pin| pin.ends_with(link::name(&wish.interface))));
        let refused = match stays {
            Some(wish) => Some(format!("{} is attached so already", wish.interface)),
            None => self.attach_natively(wishes.iter().filter(may_be_xdp))?,
        };
        let modes = wishes.iter().map(|wish| match wish.attach {
            Attach::Tc => Mode::Tc,
            Attach::Auto if veth.is_some() || refused.is_some() => Mode::Tc,
            Attach::Xdp if refused.is_some() => Mode::Generic,
            Attach::Auto | Attach::Xdp => Mode::Native,
        });
        Ok(Decision { modes: modes.collect(), why: refused.or(veth) })
    }

    /// Answers why it cannot be done. What was attached natively before stays attached: it is the caller who ends it.
    fn attach_natively<'w>(
        &mut self,
        wishes: impl Iterator<Item = &'w Wish>,
    ) -> Result<Option<String>, DataPlaneError> {
        let before = self.attached(Mode::Native);
        for wish in wishes {
            if let Err(error) = self.attach_xdp(&wish.interface, Mode::Native) {
                tracing::warn!("native XDP is not to be had: {error}");
                let new = self.attached(Mode::Native).into_iter().filter(|pin| !before.contains(pin));
                new.into_iter().try_for_each(|pin| end_attachment(&pin))?;
                return Ok(Some(format!("{} has no native XDP", wish.interface)));
            }
        }
        Ok(None)
    }

    fn attach_xdp(&mut self, interface: &str, mode: Mode) -> Result<(), DataPlaneError> {
        self.need(Hook::Xdp)?;
        let pin = self.dir.join(links(mode)).join(link::name(interface));
        let entry = self.xdp(marca_bpf::ENTRY)?;
        let failed = |cause| DataPlaneError::Program {
            doing: format!("attach to {interface} ({})", mode.name()),
            cause: Box::new(cause),
        };
        if let Ok(link) = PinnedLink::from_pin(&pin) {
            // An interface that has gone leaves its link behind, attached to nothing.
            if entry.attach_to_link(FdLink::from(link).try_into().map_err(|_| DataPlaneError::Lacks("a link"))?).is_ok()
            {
                steps::taken(Step::Attached);
                return Ok(());
            }
            end_attachment(&pin)?;
        }
        let flags = if mode == Mode::Generic { XdpMode::Skb } else { XdpMode::Driver };
        let id = entry.attach(interface, flags).map_err(failed)?;
        let link = entry.take_link(id).map_err(failed)?;
        let link: FdLink = link.try_into().map_err(|_| DataPlaneError::Lacks("a BPF link"))?;
        link.pin(&pin).map(drop).map_err(|cause| DataPlaneError::Io {
            doing: format!("pin {}", pin.display()),
            cause: io::Error::other(cause.to_string()),
        })?;
        steps::taken(Step::Attached);
        Ok(())
    }

    /// Pins of the attachments of this kind.
    fn attached(&self, mode: Mode) -> Vec<PathBuf> {
        attached(&self.dir, mode)
    }

    /// Lets go of attachments that are not among these, and of earlier loads' tail calls.
    fn forget(&self, attachments: &[Attachment]) -> Result<(), DataPlaneError> {
        for mode in MODES {
            let is_used = |pin: &PathBuf| {
                let mut of_mode = attachments.iter().filter(|attachment| attachment.mode == mode);
                of_mode.any(|attachment| pin.ends_with(link::name(&attachment.interface)))
            };
            for pin in self.attached(mode).iter().filter(|pin| !is_used(pin)) {
                end_attachment(pin)?;
                steps::taken(Step::Ended);
            }
        }
        self.forget_calls()
    }
}

const MODES: [Mode; 3] = [Mode::Native, Mode::Generic, Mode::Tc];

/// Where these wishes surely need programs.
fn hooks(wishes: &[Wish]) -> Vec<Hook> {
    let veth = veth_among(wishes).is_some();
    let is_tc = |wish: &Wish| wish.attach == Attach::Tc || (wish.attach == Attach::Auto && veth);
    let xdp = wishes.iter().any(|wish| !is_tc(wish)).then_some(Hook::Xdp);
    xdp.into_iter().chain(wishes.iter().any(is_tc).then_some(Hook::Tc)).collect()
}

/// An interface that makes TC the better choice for all those that may have either. A veth's driver has XDP, but it loses
/// frames that are sent there by XDP unless its other end has XDP itself, and frames that come from there have neither their
/// checksums nor, in bulk, their final length.
fn veth_among(wishes: &[Wish]) -> Option<String> {
    let veth = wishes.iter().find(|wish| wish.attach == Attach::Auto && wish.kind.as_deref() == Some("veth"))?;
    Some(format!("{} is a veth", veth.interface))
}

/// Takes every attachment below `dir` away.
pub fn detach(dir: &Path) -> io::Result<()> {
    for mode in MODES {
        for pin in attached(dir, mode) {
            tc::end(&pin)?;
            steps::taken(Step::Ended);
        }
    }
    for folder in FOLDERS {
        match fs::remove_dir(dir.join(folder)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    Ok(())
}

/// The folders of all pins.
pub const FOLDERS: [&str; 4] = ["links", "links-generic", tc::LINKS, tc::FILTERS];

fn attached(dir: &Path, mode: Mode) -> Vec<PathBuf> {
    match mode {
        Mode::Tc => tc::attached(dir),
        Mode::Native | Mode::Generic => {
            let entries = fs::read_dir(dir.join(links(mode))).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        }
    }
}

/// The folder of links to XDP: a link does not tell how it is attached.
fn links(mode: Mode) -> &'static str {
    if mode == Mode::Generic { FOLDERS[1] } else { FOLDERS[0] }
}

fn end_attachment(pin: &Path) -> Result<(), DataPlaneError> {
    tc::end(pin).map_err(|cause| DataPlaneError::Io { doing: format!("end the attachment {}", pin.display()), cause })
}

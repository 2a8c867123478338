//! Attachments to TC, the kernel's traffic control: by a link where there are such (Linux 6.6, tcx), else by a filter in
//! the qdisc `clsact`. Both outlive the daemon, a link by its pin, a filter by itself.
//!
//! Below the folder of the data plane:
//!
//! | pin | what |
//! |---|---|
//! | `links-tc/INTERFACE` | the attachment by a link |
//! | `filters-tc/INTERFACE` | the program of the attachment by a filter: says that there is one |

use crate::linux::data_plane::DataPlaneError;
use crate::linux::link;
use aya::programs::links::{FdLink, Link, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folders of both kinds of attachments.
pub const LINKS: &str = "links-tc";
pub const FILTERS: &str = "filters-tc";

/// Which kinds of attachments may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    LinkElseFilter,
    /// As if the kernel had no links: for tests.
    Filter,
}

/// Before all others: who else is there sees what marca leaves to the kernel, as behind XDP.
const PRIORITY: u16 = 1;
/// "ma".
const HANDLE: TcHandle = TcHandle::new(0, 0x6d61);

/// Attaches the entry to what comes in on an interface, replacing in one step what was attached before. True when it has
/// made the qdisc for that; `will_make` is called before it tries.
pub fn attach(
    entry: &mut SchedClassifier,
    dir: &Path,
    interface: &str,
    kinds: Kinds,
    will_make: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<bool, DataPlaneError> {
    let pin = dir.join(LINKS).join(link::name(interface));
    if let Ok(link) = PinnedLink::from_pin(&pin) {
        // An interface that has gone leaves its link behind, attached to nothing.
        let replaced = FdLink::from(link).try_into().is_ok_and(|link| entry.attach_to_link(link).is_ok());
        if replaced {
            return Ok(false);
        }
        link::end(&pin).map_err(|cause| io_error(format!("end the attachment {}", pin.display()), cause))?;
    }
    let refused = match kinds {
        Kinds::LinkElseFilter => match by_link(entry, interface, &pin) {
            Ok(()) => return Ok(false),
            Err(error) => error.to_string(),
        },
        Kinds::Filter => "not tried".to_owned(),
    };
    let failed = |cause| DataPlaneError::Program {
        doing: format!("attach to {interface} (TC, by a filter; by a link: {refused})"),
        cause: Box::new(cause),
    };
    will_make(interface).map_err(|cause| io_error(format!("write down the qdisc of {interface}"), cause))?;
    let made = qdisc_add_clsact(interface).is_ok();
    by_filter(entry, interface).map_err(failed)?;
    let marker = dir.join(FILTERS).join(link::name(interface));
    let _ = fs::remove_file(&marker);
    entry.pin(&marker).map_err(|cause| io_error(format!("pin {}", marker.display()), io::Error::other(cause)))?;
    Ok(made)
}

fn by_link(entry: &mut SchedClassifier, interface: &str, pin: &Path) -> Result<(), DataPlaneError> {
    let failed =
        |cause| DataPlaneError::Program { doing: format!("attach to {interface} (TC)"), cause: Box::new(cause) };
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = entry.attach_with_options(interface, TcAttachType::Ingress, options).map_err(failed)?;
    let link = entry.take_link(id).map_err(failed)?;
    let link: FdLink = link.try_into().map_err(|_| DataPlaneError::Lacks("a BPF link"))?;
    link.pin(pin).map(drop).map_err(|cause| io_error(format!("pin {}", pin.display()), io::Error::other(cause)))
}

fn by_filter(entry: &mut SchedClassifier, interface: &str) -> Result<(), ProgramError> {
    let replaced = filter(interface).ok().and_then(|filter| entry.attach_to_link(filter).ok());
    let id = match replaced {
        Some(id) => id,
        None => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            entry.attach_with_options(interface, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?
        }
    };
    // Whoever drops it takes the filter away.
    std::mem::forget(entry.take_link(id)?);
    Ok(())
}

/// Our filter on an interface, whether it is there or not.
fn filter(interface: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}

/// Takes away the filter that this pin stands for, and the pin.
pub fn end_filter(pin: &Path) -> io::Result<()> {
    let interface = pin.file_name().map(|name| link::interface(&name.to_string_lossy())).unwrap_or_default();
    // With its interface the filter has gone, too.
    if let Ok(filter) = filter(&interface)
        && let Err(error) = filter.detach()
    {
        tracing::debug!("the filter on {interface} was not there: {error}");
    }
    fs::remove_file(pin)
}

/// Pins of all attachments.
pub fn attached(dir: &Path) -> Vec<PathBuf> {
    let entries = |folder| fs::read_dir(dir.join(folder)).into_iter().flatten().flatten();
    entries(LINKS).chain(entries(FILTERS)).map(|entry| entry.path()).collect()
}

/// Takes an attachment away.
pub fn end(pin: &Path) -> io::Result<()> {
    if pin.parent().is_some_and(|folder| folder.ends_with(FILTERS)) { end_filter(pin) } else { link::end(pin) }
}

fn io_error(doing: String, cause: io::Error) -> DataPlaneError {
    DataPlaneError::Io { doing, cause }
}

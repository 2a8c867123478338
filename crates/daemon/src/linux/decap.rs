//! The decapsulator on a real server: loads it, attaches it to one interface, pins it, and takes it away.
//!
//! Pinned below one folder: `INTERFACE/link`. It goes on without any process.

use crate::linux::attach::Mode;
use crate::linux::data_plane::DataPlaneError;
use crate::linux::{bpffs, link};
use aya::EbpfLoader;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::Xdp;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode;
use marca_tables::classifier::address;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Attaches the decapsulator to an interface, in place of an earlier one of ours. `directors`: whose tunnels are taken
/// apart; empty: anybody's. `gue_port`: where GUE arrives.
///
/// # Errors
/// When another program has the interface, or XDP is not to be had.
pub fn attach(dir: &Path, interface: &str, directors: &[IpAddr], gue_port: u16) -> Result<Mode, DataPlaneError> {
    let dir = bpffs::ensure(&dir.join(link::name(interface)))
        .map_err(|e| io_error("prepare the BPF file system", io::Error::other(e.to_string())))?;
    detach_files(&dir)?;
    let mut ebpf = EbpfLoader::new().load(marca_bpf::real_server()).map_err(Box::new)?;
    let Some(map) = ebpf.take_map("DIRECTORS") else { return Err(DataPlaneError::Lacks("DIRECTORS")) };
    let failed = |cause| DataPlaneError::Map { doing: "write the directors' addresses".into(), cause };
    let mut map: HashMap<MapData, [u32; 5], u32> = map.try_into().map_err(failed)?;
    let anybody = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    for &director in if directors.is_empty() { &anybody[..] } else { directors } {
        let (family, address) = address(director);
        let [a, b, c, d] = address.parts();
        map.insert([a, b, c, d, u32::from(family)], 1, 0).map_err(failed)?;
    }
    let failed = |cause| DataPlaneError::Map { doing: "write the port of GUE".into(), cause };
    let Some(map) = ebpf.take_map("GUE_PORT") else { return Err(DataPlaneError::Lacks("GUE_PORT")) };
    let mut map: Array<MapData, u32> = map.try_into().map_err(failed)?;
    map.set(0, u32::from(gue_port), 0).map_err(failed)?;
    let program = ebpf.program_mut(marca_bpf::DECAP).ok_or(DataPlaneError::Lacks(marca_bpf::DECAP))?;
    let failed = |cause| DataPlaneError::Program {
        doing: format!("attach the decapsulator to {interface}"),
        cause: Box::new(cause),
    };
    let program: &mut Xdp = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let (link, mode) = match program.attach(interface, XdpMode::Driver) {
        Ok(link) => (link, Mode::Native),
        Err(native) => {
            tracing::warn!("native XDP is not to be had on {interface} ({native}); trying the generic one");
            (program.attach(interface, XdpMode::Skb).map_err(failed)?, Mode::Generic)
        }
    };
    let link: FdLink =
        program.take_link(link).map_err(failed)?.try_into().map_err(|_| DataPlaneError::Lacks("a BPF link"))?;
    link.pin(dir.join("link"))
        .map(drop)
        .map_err(|e| io_error("pin the decapsulator", io::Error::other(e.to_string())))?;
    Ok(mode)
}

/// Takes the decapsulator off an interface; false when it was not there.
pub fn detach(dir: &Path, interface: &str) -> Result<bool, DataPlaneError> {
    let dir = dir.join(link::name(interface));
    if !dir.exists() {
        return Ok(false);
    }
    detach_files(&dir)?;
    fs::remove_dir(&dir).map_err(|cause| io_error("remove the decapsulator's folder", cause))?;
    Ok(true)
}

fn detach_files(dir: &Path) -> Result<(), DataPlaneError> {
    for entry in fs::read_dir(dir).map_err(|cause| io_error("look for an earlier decapsulator", cause))? {
        let path = entry.map_err(|cause| io_error("look for an earlier decapsulator", cause))?.path();
        let taken = if path.ends_with("link") { link::end(&path) } else { fs::remove_file(&path) };
        taken.map_err(|cause| io_error("take away an earlier decapsulator", cause))?;
    }
    Ok(())
}

fn io_error(doing: &str, cause: io::Error) -> DataPlaneError {
    DataPlaneError::Io { doing: doing.to_owned(), cause }
}

//! Attachments to TC by a filter: what kernels have that know no links (before Linux 6.6).

use crate::namespace::Namespace;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use marca_daemon::doctor::facts::TcProgram;
use marca_daemon::doctor::gather::gather;
use marca_daemon::linux::bpffs;
use marca_daemon::linux::network::Network;
use marca_daemon::linux::tc::{self, Kinds};
use marca_daemon::place::Place;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of the BPF file system with the folders for pins, taken away on drop.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        let dir = bpffs::ensure(Path::new(&format!("marca-tc-{}", std::process::id()))).unwrap();
        for folder in [tc::LINKS, tc::FILTERS] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
        }
        Self(dir)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn loaded() -> Ebpf {
    let mut ebpf = EbpfLoader::new().load(marca_bpf::router()).unwrap();
    entry(&mut ebpf).load().unwrap();
    ebpf
}

fn entry(ebpf: &mut Ebpf) -> &mut SchedClassifier {
    ebpf.program_mut(marca_bpf::ENTRY_TC).unwrap().try_into().unwrap()
}

/// What `tc` says of the filters on eth0.
fn filters(namespace: &Namespace) -> String {
    namespace.run(|| {
        let output = Command::new("tc").args(["filter", "show", "dev", "eth0", "ingress"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    })
}

#[test]
fn a_filter_outlives_its_loader_is_replaced_in_its_place_and_taken_away() {
    let (near, far) = (Namespace::new("tc-near"), Namespace::new("tc-far"));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24"]), (&far, "eth0", &["192.0.2.2/24"]));
    let pins = Pins::new();
    let attach = || {
        near.run(|| {
            tc::attach(entry(&mut loaded()), &pins.0, "eth0", Kinds::Filter, &mut |_| Ok(()))
                .unwrap_or_else(|e| panic!("{e}"))
        })
    };
    assert!(attach(), "the qdisc was made");
    let before = filters(&near);
    assert_eq!(before.matches("handle 0x6d61").count(), 1, "{before}");
    assert!(!attach(), "the qdisc was there");
    let after = filters(&near);
    assert_eq!(after.matches("handle 0x6d61").count(), 1, "{after}");
    assert_ne!(before, after, "another program");
    let attached = tc::attached(&pins.0);
    assert_eq!(attached, [pins.0.join(tc::FILTERS).join("eth0")]);

    near.run(|| tc::end(&attached[0])).unwrap();
    assert_eq!(filters(&near), "");
    assert_eq!(tc::attached(&pins.0), [] as [PathBuf; 0]);
    assert!(near.run_async(|| async { Network::open().unwrap().remove_idle_clsact("eth0").await }).unwrap());
    assert!(
        !near
            .run(|| Command::new("tc").args(["qdisc", "show", "dev", "eth0"]).output())
            .unwrap()
            .stdout
            .windows(6)
            .any(|w| w == b"clsact")
    );
}

#[test]
fn a_qdisc_that_others_use_stays() {
    let (near, far) = (Namespace::new("tc-shared-near"), Namespace::new("tc-shared-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    let mut theirs = near.run(|| {
        qdisc_add_clsact("eth0").unwrap();
        let mut ebpf = loaded();
        let options = TcAttachOptions::Netlink(NlOptions { priority: 7, ..NlOptions::default() });
        entry(&mut ebpf).attach_with_options("eth0", TcAttachType::Egress, options).unwrap();
        ebpf
    });
    let remove = || near.run_async(|| async { Network::open().unwrap().remove_idle_clsact("eth0").await }).unwrap();
    assert!(!remove());
    near.run(|| entry(&mut theirs).unload()).unwrap();
    assert!(remove());
}

#[test]
fn programs_of_others_and_what_drivers_can_do_are_found() {
    let (near, far) = (Namespace::new("tc-others-near"), Namespace::new("tc-others-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    let nowhere = Place { pin_dir: "/sys/fs/bpf/marca-nowhere".into(), ..Place::default() };
    let eth0 = || {
        let facts = near.run(|| gather(&nowhere, Path::new("/nowhere"), None));
        assert_eq!(facts.link("lo").unwrap().native_xdp, Some(false));
        facts.link("eth0").unwrap().clone()
    };
    let before = eth0();
    assert_eq!((before.native_xdp, before.programs, before.filters_out), (Some(true), vec![], 0));
    // Any program is good enough to be somebody else's.
    const OTHER: &str = "marca_judge_tc";
    let mut other = EbpfLoader::new().load(marca_bpf::router()).unwrap();
    let program: &mut SchedClassifier = other.program_mut(OTHER).unwrap().try_into().unwrap();
    program.load().unwrap();
    for way in [TcAttachType::Ingress, TcAttachType::Egress] {
        let options = || TcAttachOptions::TcxOrder(aya::programs::LinkOrder::first());
        near.run(|| program.attach_with_options("eth0", way, options())).unwrap();
    }
    let found = |out, first| TcProgram { name: OTHER.to_owned(), out, first };
    assert_eq!(eth0().programs, [found(false, true), found(true, false)]);
    // marca goes before them.
    let pins = Pins::new();
    near.run(|| tc::attach(entry(&mut loaded()), &pins.0, "eth0", Kinds::LinkElseFilter, &mut |_| Ok(()))).unwrap();
    assert_eq!(eth0().programs, [found(false, false), found(true, false)]);
}

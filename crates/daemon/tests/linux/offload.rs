//! Offload findings on a real veth.

use crate::namespace::Namespace;
use marca_daemon::linux::attach::Mode;
use marca_daemon::linux::offload::{findings, set_tx_checksum};

#[test]
fn the_finding_on_a_veth_goes_and_comes_with_the_setting() {
    let (near, far) = (Namespace::new("offload-near"), Namespace::new("offload-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    near.run(|| {
        // As a veth is made.
        let found = findings("eth0", Some("veth"), Mode::Native).unwrap();
        assert_eq!(found.iter().map(|f| f.mend.as_str()).collect::<Vec<_>>(), ["ethtool -K eth0 tx off"]);
        set_tx_checksum("eth0", false).unwrap();
        assert_eq!(findings("eth0", Some("veth"), Mode::Native).unwrap(), []);
        set_tx_checksum("eth0", true).unwrap();
        assert_eq!(findings("eth0", Some("veth"), Mode::Native).unwrap(), found);
        // A card computes the checksum before the frame is on the wire.
        assert_eq!(findings("eth0", None, Mode::Native).unwrap(), []);
    });
    far.run(|| {
        assert_eq!(findings("eth0", Some("veth"), Mode::Native).unwrap().len(), 1, "the peer has its own setting")
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let namespace = Namespace::new("offload-error");
    namespace.run(|| {
        for name in ["eth7", "a-name-longer-than-fifteen-bytes"] {
            let error = findings(name, None, Mode::Native).unwrap_err();
            assert_eq!(error.to_string(), format!("read the offload flags of {name}: No such device (os error 19)"));
            let error = set_tx_checksum(name, false).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("switch transmit checksum offload off of {name}: No such device (os error 19)")
            );
        }
    });
}

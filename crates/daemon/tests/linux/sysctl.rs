//! Sysctls of a namespace.

use crate::namespace::Namespace;
use marca_daemon::linux::sysctl::{read, write};

#[test]
fn a_value_that_was_written_is_read_in_this_namespace_and_not_in_another() {
    let (one, two) = (Namespace::new("sysctl-one"), Namespace::new("sysctl-two"));
    one.run(|| {
        write("net.ipv4.ip_forward", "1").unwrap();
        assert_eq!(read("net.ipv4.ip_forward").unwrap(), "1");
    });
    two.run(|| {
        write("net.ipv4.ip_forward", "0").unwrap();
        assert_eq!(read("net.ipv4.ip_forward").unwrap(), "0");
    });
    one.run(|| assert_eq!(read("net.ipv4.ip_forward").unwrap(), "1"));
}

#[test]
fn an_interface_may_have_dots_in_its_name() {
    let (near, far) = (Namespace::new("sysctl-dots-near"), Namespace::new("sysctl-dots-far"));
    Namespace::connect((&near, "eth0.100", &[]), (&far, "eth0", &[]));
    near.run(|| {
        write("net.ipv4.conf.eth0.100.rp_filter", "2").unwrap();
        assert_eq!(read("net.ipv4.conf.eth0.100.rp_filter").unwrap(), "2");
        assert_eq!(read("net.ipv4.conf.eth0/100.rp_filter").unwrap(), "2");
        write("net.ipv4.conf.eth0/100.rp_filter", "0").unwrap();
        assert_eq!(read("net.ipv4.conf.eth0.100.rp_filter").unwrap(), "0");
    });
}

#[test]
fn an_error_says_which_sysctl_and_which_value() {
    let namespace = Namespace::new("sysctl-error");
    namespace.run(|| {
        assert_eq!(
            read("net.ipv4.conf.eth7.rp_filter").unwrap_err().to_string(),
            "read the sysctl net.ipv4.conf.eth7.rp_filter: No such file or directory (os error 2) (this kernel or \
             namespace has no such sysctl, or no such interface)"
        );
        assert_eq!(
            write("net.ipv4.ip_forward", "many").unwrap_err().to_string(),
            "set the sysctl net.ipv4.ip_forward to many: Invalid argument (os error 22)"
        );
        assert!(write("net.ipv4.no_such_thing", "1").is_err());
        assert_eq!(
            read("kernel.hostname").unwrap_err().to_string(),
            "kernel.hostname is not the name of a network sysctl, like net.ipv4.ip_forward"
        );
    });
}

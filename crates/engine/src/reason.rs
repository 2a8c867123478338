//! Why a packet left the engine the way it did. One table: counter index, metric label, docs row and sentence.

/// What becomes of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the director's own kernel.
    Pass,
    /// Nowhere.
    Drop,
    /// Out of an interface.
    Send,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $label:literal $action:ident $sentence:literal,)*) => {
        /// Why a packet left the engine the way it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* #[doc = $sentence] $name,)* }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// What becomes of the frame.
            #[inline(always)]
            pub fn action(self) -> Action {
                match self { $(Reason::$name => Action::$action,)* }
            }

            /// The metric label and JSON key.
            pub fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }

            /// What happened, as `marca explain` says it.
            pub fn sentence(self) -> &'static str {
                match self { $(Reason::$name => $sentence,)* }
            }
        }
    };
}

reasons! {
    Nat "nat" Send "Forwarded to the real server by NAT: destination rewritten.",
    FullNat "fullnat" Send "Forwarded to the real server by fullnat: destination and source rewritten.",
    DirectRouting "dr" Send "Forwarded to the real server by direct routing: only the MAC addresses changed.",
    Tunnel "tunnel" Send "Forwarded to the real server in a tunnel: IP in IP, GUE or GRE.",
    Local "local" Pass "Passed up: the director itself is the real server.",
    Reset "reset" Send "Answered: the connection's real server has failed, or a table service's connection has been ended by hand, and the client is told (TCP reset, SCTP abort).",
    Refused "refused" Send "Answered: no real server of the service takes new clients, and the client is told (TCP reset, SCTP abort, ICMP port unreachable).",
    TimeExceeded "time_exceeded" Send "Answered: its time to live ends at the director (ICMP time exceeded).",
    FragmentationNeeded "fragmentation_needed" Send "Answered: larger than the path to the real server takes, in a tunnel with the outer header (ICMP fragmentation needed, ICMPv6 packet too big).",
    Reply "reply" Send "A real server's reply under NAT: source rewritten to the VIP and sent to the client.",
    ErrorToServer "error_to_server" Send "Forwarded to the real server: an ICMP error about what it has sent to its client.",
    ErrorToClient "error_to_client" Send "Sent to the client as the VIP's: an ICMP error about what it has sent to its real server.",
    FtpAnnounced "ftp_announced" Send "Forwarded on an FTP control connection: it announces a data connection, which is expected now.",
    FtpUnfollowed "ftp_unfollowed" Send "Forwarded unchanged on an FTP control connection: it begins like the announcement of a data connection, but none can be expected.",
    NotIp "not_ip" Pass "Passed up: neither IPv4 nor IPv6.",
    NotOurs "not_ours" Pass "Passed up: no virtual service has this destination and no real server this source.",
    NotMember "not_member" Pass "Passed up: the destination is a VIP, but no virtual service has this port.",
    NotAReply "not_a_reply" Pass "Passed up: from a real server, but of no connection that the director knows.",
    Fragment "fragment" Pass "Passed up: an IP fragment without ports, and the first one of its packet has not been sent on before it.",
    Icmp "icmp" Pass "Passed up: ICMP that is about no connection, such as an echo request to a VIP, which the kernel answers.",
    OtherProtocol "other_protocol" Pass "Passed up: to a VIP or from a real server, but not TCP, UDP, SCTP or ICMP, or SCTP under fullnat.",
    NoFlow "no_flow" Pass "Passed up to be refused: a TCP packet of no known connection, and not a SYN.",
    ShortEthernet "short_ethernet" Pass "Passed up: the frame ends inside the Ethernet header.",
    ShortVlan "short_vlan" Pass "Passed up: the frame ends inside a VLAN tag.",
    ShortIpv4 "short_ipv4" Pass "Passed up: the frame ends inside the IPv4 header.",
    BadIpv4 "bad_ipv4" Pass "Passed up: version, header length or total length of the IPv4 header is wrong.",
    ShortIpv6 "short_ipv6" Pass "Passed up: the frame ends inside the IPv6 header.",
    BadIpv6 "bad_ipv6" Pass "Passed up: version or payload length of the IPv6 header is wrong.",
    ShortExtension "short_extension" Pass "Passed up: the packet ends inside an IPv6 extension header.",
    TooManyExtensions "too_many_extensions" Pass "Passed up: more IPv6 extension headers than the engine follows.",
    ShortTransport "short_transport" Pass "Passed up: the packet ends inside the TCP, UDP or SCTP header.",
    BadTransport "bad_transport" Pass "Passed up: the length fields of the TCP or UDP header are wrong.",
    ReplyTtl "reply_ttl" Pass "Passed up: a real server's reply whose time to live ends at the director; the kernel tells the real server.",
    TtlExceeded "ttl_exceeded" Drop "Dropped: its time to live ends at the director, and its sender may not be told, or has been told often enough.",
    TooBig "too_big" Drop "Dropped: larger than the path to the real server takes, in a tunnel with the outer header, and its sender may not be told, or has been told often enough.",
    ServerFailed "server_failed" Drop "Dropped: the connection's real server has failed.",
    NoServer "no_server" Drop "Dropped: no real server of the service takes new clients, and the service tells nobody, or the client may not be told, or has been told often enough.",
    RateLimited "rate_limited" Drop "Dropped: a new connection beyond its service's rate limit.",
    NoNeighbour "no_neighbour" Drop "Dropped: the next hop's MAC address is not known yet; the daemon has been asked for it.",
    NoRoute "no_route" Drop "Dropped: the director has no route to the client.",
    TableFull "table_full" Drop "Dropped: a new connection, and no room to remember it.",
    NoSource "no_source" Drop "Dropped: a new connection under fullnat, and none of the source addresses and ports that were tried is free for it.",
    NoRoom "no_room" Drop "Dropped: the driver left no room in front of the frame for an outer header.",
    Inconsistent "inconsistent" Drop "Dropped: the tables contradict each other. This is a bug; please report it.",
    Decapsulated "decapsulated" Pass "Passed up: taken out of its tunnel.",
    NotTunnelled "not_tunnelled" Pass "Passed up: not a tunnelled packet from a director.",
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_follow_the_table_and_labels_are_unique() {
        let mut labels = HashSet::new();
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(labels.insert(reason.label()));
            assert!(reason.sentence().ends_with('.'));
        }
    }
}

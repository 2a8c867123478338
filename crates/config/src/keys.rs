//! Every key that a configuration file may have.
//!
//! The decoder takes its unknown-key checks, proposals and type errors from this table, so a reference that is
//! generated from it cannot drift from the program.

use std::collections::HashMap;
use std::sync::LazyLock;

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it stands: `service.*.persist`. `*` is a name of the operator's choice, `[]` an array of tables.
    pub path: &'static str,
    /// What it takes, as a phrase that follows "takes".
    pub takes: &'static str,
    pub presence: Presence,
    /// A value in TOML; for a table its header or body.
    pub example: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

/// Whether the key must be there, and what holds when it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Required,
    Optional,
    /// The value that holds otherwise, or a phrase that describes it.
    Default(&'static str),
}

impl Key {
    /// The last part of the path, as the file has it: `server` of `service.*.server[]`.
    pub fn name(&self) -> &'static str {
        bare(self.path).rsplit('.').next().unwrap_or_default()
    }

    /// The path of the table that holds it; empty for the top level.
    pub fn table(&self) -> &'static str {
        bare(self.path).rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// As one would write it: `ports = ["tcp/80"]`, `[router]`.
    pub fn shown(&self) -> String {
        if self.example.starts_with('[') && self.example.contains(self.name()) {
            self.example.to_string()
        } else {
            format!("{} = {}", self.name(), self.example)
        }
    }
}

/// The key of this name in a table (`router.limits`; empty for the top level).
pub fn find(table: &str, name: &str) -> Option<&'static Key> {
    BY_NAME.get(&(table, name)).copied()
}

/// By table and name, of two the first: a file of thousands of services asks a million times.
static BY_NAME: LazyLock<HashMap<(&str, &str), &Key>> =
    LazyLock::new(|| KEYS.iter().rev().map(|key| ((key.table(), key.name()), key)).collect());

/// The keys of a table.
pub fn children(table: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.table() == table)
}

/// A table's name as the file has it: `[[service.NAME.server]]`.
pub fn title(table: &str) -> String {
    let name = table.replace('*', "NAME").replace("[].", ".");
    match name.strip_suffix("[]") {
        _ if name.is_empty() => "the file".to_string(),
        Some(array) => format!("[[{array}]]"),
        None => format!("[{name}]"),
    }
}

/// All keys, tables before their members.
pub const KEYS: &[Key] = &[
    key("router", "a table", Required, "[router]", "The director itself."),
    key(
        "router.outside",
        "an interface name or a list of them",
        Required,
        r#"["eth0"]"#,
        "The interfaces on which clients arrive and VIPs are put.",
    ),
    key(
        "router.inside",
        "an interface name or a list of them",
        Default("the interfaces of `outside`"),
        r#"["eth1"]"#,
        "The interfaces behind which the real servers are.",
    ),
    key(
        "router.attach",
        "\"auto\", \"xdp\" or \"tc\", or a table with one of them for interfaces",
        Default("\"auto\""),
        r#""auto""#,
        "Where in the kernel packets are met: by XDP in the driver, by TC behind it, or by XDP where every driver has it, else by TC.",
    ),
    key(
        "router.limits",
        "a table",
        Optional,
        "[router.limits]",
        "How much memory the data plane takes; each is rounded up to a power of two.",
    ),
    key(
        "router.limits.flows",
        "an integer from 1024 to 268435456",
        Default("1048576"),
        "1_048_576",
        "How many established connections are remembered, 64 bytes each.",
    ),
    key(
        "router.limits.half_open",
        "an integer from 1024 to 268435456",
        Default("262144"),
        "262_144",
        "How many half-open connections are remembered, 64 bytes each.",
    ),
    key(
        "router.limits.templates",
        "an integer from 1024 to 268435456",
        Default("262144"),
        "262_144",
        "How many persistence templates are remembered, 64 bytes each.",
    ),
    key(
        "router.reload",
        "\"when-told\" or \"on-change\"",
        Default("\"when-told\""),
        r#""on-change""#,
        "When the daemon puts its file in force anew: when it is told to, or also when the file changes.",
    ),
    key(
        "api",
        "a table",
        Optional,
        "[api]",
        "Requests to the daemon over the network; its Unix socket needs none of this.",
    ),
    key(
        "api.listen",
        "an address with a port or a list of them",
        Optional,
        r#"["192.0.2.1:8443"]"#,
        "Where requests by HTTPS are taken.",
    ),
    key(
        "api.certificate",
        "the path of a file",
        Optional,
        r#""/etc/marca/api.crt""#,
        "The certificate in PEM, with those that lead to it behind; read anew at each reload.",
    ),
    key("api.key", "the path of a file", Optional, r#""/etc/marca/api.key""#, "The certificate's private key in PEM."),
    key(
        "api.token[]",
        "tables, each headed `[[api.token]]`",
        Optional,
        "[[api.token]]",
        "A secret with which requests by HTTPS are made.",
    ),
    key("api.token[].name", "a name", Required, r#""monitoring""#, "Who has it, for the log; unique."),
    key(
        "api.token[].access",
        "\"read\" or \"admin\"",
        Required,
        r#""read""#,
        "What it is good for: requests that change nothing, or all.",
    ),
    key(
        "api.token[].sha256",
        "64 hexadecimal digits",
        Required,
        r#""0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#,
        "The SHA-256 digest of the secret; `marca token` makes both.",
    ),
    key("metrics", "a table", Optional, "[metrics]", "What is told to Prometheus, and where."),
    key(
        "metrics.listen",
        "an address with a port such as \"127.0.0.1:9797\"",
        Default("nowhere but on the API's socket"),
        r#""127.0.0.1:9797""#,
        "Where `/metrics` is served to whoever asks, without encryption and without a question.",
    ),
    key(
        "metrics.detail",
        "\"auto\", \"servers\", \"services\" or \"totals\"",
        Default("\"auto\""),
        r#""auto""#,
        "What has series of its own: real servers, services, or only the director; `auto` is the finest of them with at \
         most 2,000 sets of labels.",
    ),
    key(
        "mark[]",
        "tables, each headed `[[mark]]`",
        Optional,
        "[[mark]]",
        "A rule that gives a firewall mark to the packets that it matches; a later rule overrides an earlier one.",
    ),
    key("mark[].value", "an integer from 1 to 4294967295", Required, "80", "The mark that the rule sets."),
    key(
        "mark[].to",
        "an address, a prefix or a list of them",
        Required,
        r#"["192.0.2.10"]"#,
        "The destinations that the rule matches.",
    ),
    key(
        "mark[].from",
        "an address, a prefix or a list of them",
        Default("any source"),
        r#"["198.51.100.0/24"]"#,
        "The sources that the rule matches.",
    ),
    key(
        "mark[].ports",
        "a port such as \"tcp/80\" or a list of them",
        Default("every TCP, UDP and SCTP port"),
        r#"["tcp/80", "tcp/443"]"#,
        "The protocols and destination ports that the rule matches: `tcp/80`, `tcp/10000-20000`, `tcp` or `all`.",
    ),
    key(
        "mark[].interface",
        "an interface name or a list of them",
        Default("any interface"),
        r#""eth0""#,
        "The interfaces on which a packet must arrive for the rule to match.",
    ),
    key(
        "service.*",
        "tables, each headed `[service.NAME]`",
        Optional,
        "[service.shop]",
        "A virtual service: many ports, one choice of real server; a name has 1 to 64 letters, digits, `_`, `.` or `-`.",
    ),
    key(
        "service.*.vip",
        "an address or a list of them",
        Default("with `mark`: the host prefixes in `to` of the mark's rules"),
        r#"["192.0.2.10", "2001:db8::10"]"#,
        "The virtual addresses of the service, IPv4 and IPv6 mixed freely.",
    ),
    key(
        "service.*.ports",
        "a port such as \"tcp/80\" or a list of them",
        Default("`tcp/21` with `protocol = \"ftp\"`"),
        r#"["tcp/80", "tcp/443 -> 8443"]"#,
        "The member ports: `tcp/80`, `tcp/443 -> 8443`, `udp/10000-20000`, `tcp` or `all`; either this or `mark`.",
    ),
    key(
        "service.*.mark",
        "an integer from 1 to 4294967295",
        Optional,
        "80",
        "Makes every packet with this firewall mark a packet of the service; either this or `ports`.",
    ),
    key(
        "service.*.target",
        "an integer from 1 to 65535",
        Default("each packet's own port"),
        "8080",
        "With `mark` under NAT: the one port of the real servers to which everything goes.",
    ),
    key(
        "service.*.scheduler",
        "the name of a scheduler",
        Default("wlc"),
        r#""wlc""#,
        "How a real server is chosen: `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `fo`, `ovf`, `twos`, `sh`, `maglev` (also \
         called `mh`), `dh`, `lblc` or `lblcr`.",
    ),
    key(
        "service.*.scheduler_flags",
        "a flag such as \"port\" or a list of them",
        Default("fallback"),
        r#"["port", "no-fallback"]"#,
        "With `sh` and `maglev`: `port` hashes the client's port as well; with these and `dh`: `fallback` or \
         `no-fallback` for clients whose server takes nobody.",
    ),
    key(
        "service.*.persist",
        "a duration or a table",
        Default("no persistence"),
        r#""5m""#,
        "How long a client stays with its real server after its last new connection, whatever the port.",
    ),
    key(
        "service.*.persist.timeout",
        "a duration such as \"5m\" or a number of seconds",
        Required,
        r#""5m""#,
        "How long a client stays with its real server after its last new connection.",
    ),
    key(
        "service.*.persist.netmask",
        "a netmask such as \"255.255.255.0\" or a prefix length from 0 to 32",
        Default("255.255.255.255"),
        r#""255.255.255.0""#,
        "Clients whose IPv4 addresses agree under this mask are one client.",
    ),
    key(
        "service.*.persist.prefix_v6",
        "an integer from 0 to 128",
        Default("128"),
        "64",
        "Clients whose IPv6 addresses agree in this many leading bits are one client.",
    ),
    key(
        "service.*.forward",
        "the name of a forwarding method, or a table",
        Default("nat"),
        r#""nat""#,
        "How packets reach the real servers: `nat` (also `masq`, `masquerade`), `fullnat`, `dr` (also `direct`, `gateway`), \
         `tunnel` (also `ipip`), `gue`, `gre` or `local`; tunnels also as `{ tunnel = \"gue\", port = 6080 }`.",
    ),
    key(
        "service.*.forward.tunnel",
        "the name of a kind of tunnel",
        Required,
        r#""gue""#,
        "What stands between the two IP headers: nothing (`ipip`), GRE (`gre`), or UDP and GUE (`gue`).",
    ),
    key(
        "service.*.forward.port",
        "an integer from 1 to 65535",
        Default("6080"),
        "6080",
        "The UDP port that a GUE tunnel goes to.",
    ),
    key(
        "service.*.forward.checksum",
        "`true` or `false`",
        Default("true if the outer header is IPv6"),
        "true",
        "Whether a GUE tunnel's UDP header has a checksum, where that of the packet inside tells it.",
    ),
    key(
        "service.*.source",
        "an address, a range such as \"10.0.0.100-10.0.0.110\", a prefix or a list of them",
        Default("none"),
        r#"["10.0.0.100-10.0.0.110", "fd00::100"]"#,
        "The director's addresses that real servers under `fullnat` take for the clients'; at most 256.",
    ),
    key(
        "service.*.udp",
        "\"tracked\", \"stateless\" or \"one-packet\"",
        Default("tracked"),
        r#""tracked""#,
        "Whether datagrams are remembered; `stateless` needs the scheduler `sh` or `maglev`, `one-packet` schedules \
         each datagram by itself.",
    ),
    key(
        "service.*.reuse",
        "\"schedule\" or \"keep\"",
        Default("schedule"),
        r#""schedule""#,
        "Whether a new connection on the addresses and ports of a closed one is scheduled, or goes to the same real server.",
    ),
    key(
        "service.*.outbound",
        "a port such as \"tcp/20\" or a list of them",
        Default("none"),
        r#"["tcp/20"]"#,
        "The ports from which real servers under NAT open connections with the address of the service's first VIP.",
    ),
    key(
        "service.*.protocol",
        "the name of a protocol",
        Optional,
        r#""ftp""#,
        "What is spoken on the service's ports, when its data connections need help: `ftp`.",
    ),
    key(
        "service.*.passive",
        "a range of ports such as \"10000-10100\"",
        Default("1024-65535 under NAT"),
        r#""10000-10100""#,
        "With `protocol = \"ftp\"`: the ports of passive data connections.",
    ),
    key(
        "service.*.timeouts",
        "a table",
        Optional,
        r#"{ established = "15m", udp = "5m" }"#,
        "How long a silent connection is remembered.",
    ),
    key(
        "service.*.timeouts.established",
        "a duration such as \"5m\" or a number of seconds",
        Default("15m"),
        r#""15m""#,
        "An established TCP connection.",
    ),
    key(
        "service.*.timeouts.closing",
        "a duration such as \"5m\" or a number of seconds",
        Default("2m"),
        r#""2m""#,
        "A TCP connection after its first FIN.",
    ),
    key(
        "service.*.timeouts.half_open",
        "a duration such as \"5m\" or a number of seconds",
        Default("1m"),
        r#""1m""#,
        "A TCP connection or SCTP association before its handshake is finished.",
    ),
    key(
        "service.*.timeouts.udp",
        "a duration such as \"5m\" or a number of seconds",
        Default("5m"),
        r#""5m""#,
        "A UDP client after its last datagram.",
    ),
    key(
        "service.*.timeouts.locality",
        "a duration such as \"5m\" or a number of seconds",
        Default("24h"),
        r#""24h""#,
        "With `lblc` and `lblcr`, a destination after its last new connection.",
    ),
    key(
        "service.*.timeouts.sctp",
        "a duration such as \"5m\" or a number of seconds",
        Default("15m"),
        r#""15m""#,
        "An established SCTP association.",
    ),
    key(
        "service.*.timeouts.sctp_closing",
        "a duration such as \"5m\" or a number of seconds",
        Default("1m"),
        r#""1m""#,
        "An SCTP association after its first SHUTDOWN.",
    ),
    key(
        "service.*.on_failure",
        "\"reset\", \"drop\" or \"keep\"",
        Default("reset"),
        r#""reset""#,
        "What becomes of TCP connections and SCTP associations to a real server that has failed.",
    ),
    key(
        "service.*.drain",
        "a duration such as \"10m\" or a number of seconds, 0 included",
        Default("no deadline"),
        r#""10m""#,
        "How long persistent clients stay with a server of weight 0, and connections with one that was removed.",
    ),
    key(
        "service.*.quorum",
        "an integer from 1 to 1000000 or a table",
        Default("1"),
        "2",
        "How much weight must be up, of each address family; with less, `sorry` or `below_quorum` says what becomes of new clients.",
    ),
    key(
        "service.*.below_quorum",
        "\"refuse\", \"drop\" or \"serve\"",
        Default("refuse"),
        r#""refuse""#,
        "What becomes of new clients below the quorum, without a sorry server: they are told, dropped, or served by those that are left.",
    ),
    key(
        "service.*.sorry",
        "a table",
        Default("none"),
        r#"{ address = "10.0.0.99" }"#,
        "The server that takes new clients while the service is below its quorum.",
    ),
    key(
        "service.*.sorry.address",
        "an address or a list of one IPv4 and one IPv6 address",
        Optional,
        r#""10.0.0.99""#,
        "Where the sorry server is; required unless it is `local`.",
    ),
    key(
        "service.*.sorry.name",
        "a string",
        Default("sorry"),
        r#""sorry""#,
        "What the sorry server is called in listings and commands.",
    ),
    key(
        "service.*.sorry.forward",
        "the name of a forwarding method, or a table",
        Default("the service's"),
        r#""dr""#,
        "How packets reach the sorry server.",
    ),
    key(
        "service.*.sorry.forward.tunnel",
        "the name of a kind of tunnel",
        Required,
        r#""gue""#,
        "What stands between the two IP headers: nothing (`ipip`), GRE (`gre`), or UDP and GUE (`gue`).",
    ),
    key(
        "service.*.sorry.forward.port",
        "an integer from 1 to 65535",
        Default("6080"),
        "6080",
        "The UDP port that a GUE tunnel goes to.",
    ),
    key(
        "service.*.sorry.forward.checksum",
        "`true` or `false`",
        Default("true if the outer header is IPv6"),
        "true",
        "Whether a GUE tunnel's UDP header has a checksum, where that of the packet inside tells it.",
    ),
    key(
        "service.*.start",
        "\"last\", \"up\" or \"down\"",
        Default("last"),
        r#""last""#,
        "What a server is until its checks have come to a first verdict: what it was before, up, or without new clients.",
    ),
    key(
        "service.*.rate_limit",
        "a table",
        Default("no limit"),
        "{ connections = 1000, burst = 2000 }",
        "How many new connections the service takes.",
    ),
    key(
        "service.*.rate_limit.connections",
        "an integer from 1 to 10000000",
        Required,
        "1000",
        "New connections in a second.",
    ),
    key(
        "service.*.rate_limit.burst",
        "an integer from 1 to 10000000",
        Default("`connections`"),
        "2000",
        "New connections at once after a quiet time.",
    ),
    key(
        "service.*.check[]",
        "tables, each headed `[[service.NAME.check]]`, or \"none\"",
        Default("a TCP connection to each single TCP port of the service"),
        "[[service.shop.check]]",
        "What is asked of each real server again and again; it has one key that says what kind of question that is.",
    ),
    key("service.*.check[].tcp", "`true`", Optional, "true", "A TCP connection, and what `send` and `expect` say."),
    key(
        "service.*.check[].udp",
        "`true`",
        Optional,
        "true",
        "A datagram, `send`; the answer is `expect`, or any but a refusal.",
    ),
    key("service.*.check[].tls", "`true`", Optional, "true", "A TLS handshake, and what `send` and `expect` say."),
    key(
        "service.*.check[].http",
        "a path such as \"/healthz\"",
        Optional,
        r#""/healthz""#,
        "An HTTP request for this path.",
    ),
    key("service.*.check[].https", "a path such as \"/healthz\"", Optional, r#""/healthz""#, "The same over TLS."),
    key(
        "service.*.check[].dns",
        "a domain name",
        Optional,
        r#""example.com""#,
        "A DNS question over UDP, which must have an answer.",
    ),
    key("service.*.check[].smtp", "`true`", Optional, "true", "An SMTP greeting, and an answer to `EHLO`."),
    key("service.*.check[].ftp", "`true`", Optional, "true", "An FTP greeting."),
    key("service.*.check[].ping", "`true`", Optional, "true", "An ICMP echo."),
    key(
        "service.*.check[].script",
        "a path, or a list of a path and arguments",
        Optional,
        r#"["/usr/local/lib/check-web", "--deep"]"#,
        "A program, which must end with exit code 0.",
    ),
    key(
        "service.*.check[].agent",
        "`true`",
        Optional,
        "true",
        "A line of text over TCP that says whether the server is up, and its weight.",
    ),
    key(
        "service.*.check[].port",
        "an integer from 1 to 65535",
        Default("the usual or only port of the service; `tcp` and `udp`: each of them"),
        "8080",
        "The real server's port that is asked.",
    ),
    key(
        "service.*.check[].via",
        "\"server\" or \"vip\"",
        Default("server"),
        r#""vip""#,
        "Whether it goes straight to the real server, or to each VIP of the service, forwarded as a client's packets are.",
    ),
    key("service.*.check[].send", "a string", Default("nothing"), r#""PING\r\n""#, "What is sent first."),
    key(
        "service.*.check[].send_hex",
        "a string of hexadecimal digits",
        Default("nothing"),
        r#""0d0a""#,
        "The same in bytes.",
    ),
    key(
        "service.*.check[].expect",
        "a string",
        Default("any answer, or none"),
        r#""+PONG""#,
        "What must be found in the answer, or in the body of an HTTP response.",
    ),
    key(
        "service.*.check[].expect_hex",
        "a string of hexadecimal digits",
        Default("any answer, or none"),
        r#""0d0a""#,
        "The same in bytes.",
    ),
    key(
        "service.*.check[].expect_regex",
        "a regular expression",
        Default("any answer, or none"),
        r#"'^\+PONG'"#,
        "The same as a pattern.",
    ),
    key("service.*.check[].method", "an HTTP method", Default("GET"), r#""HEAD""#, "The method of the request."),
    key(
        "service.*.check[].host",
        "a name or an address, with a port or without",
        Default("the address that is asked"),
        r#""shop.example.com""#,
        "What stands in `Host`; over TLS also what is asked for by SNI.",
    ),
    key(
        "service.*.check[].status",
        "a status code, a range such as \"200-399\" or a list of them",
        Default("\"200-399\""),
        r#"[200, "300-399"]"#,
        "Which HTTP responses are good.",
    ),
    key(
        "service.*.check[].version",
        "\"1.1\" or \"2\"",
        Default("\"1.1\""),
        r#""2""#,
        "The version of HTTP; without TLS, 2 is spoken from the first byte.",
    ),
    key(
        "service.*.check[].server_name",
        "a name or an address",
        Default("none; `https`: the name in `host`"),
        r#""shop.example.com""#,
        "What is asked for by SNI, and what the certificate must be for.",
    ),
    key(
        "service.*.check[].expiry",
        "a duration such as \"14d\" or a number of seconds, 0 included",
        Default("not looked at"),
        r#""14d""#,
        "For how long the certificate must still be valid.",
    ),
    key(
        "service.*.check[].type",
        "a type of record such as \"A\"",
        Default("\"A\""),
        r#""SOA""#,
        "What is asked for by DNS: `A`, `AAAA`, `CNAME`, `MX`, `NS`, `PTR`, `SOA`, `SRV` or `TXT`.",
    ),
    key(
        "service.*.check[].weight",
        "`true` or `false`",
        Default("false"),
        "true",
        "Whether the first line of a script's output is the server's weight.",
    ),
    key(
        "service.*.check[].interval",
        "a duration from \"10ms\" to \"1d\" or a number of seconds",
        Default("2s"),
        r#""2s""#,
        "How often it is asked.",
    ),
    key(
        "service.*.check[].jitter",
        "a duration from \"0s\" to \"1d\" or a number of seconds",
        Default("a tenth of `interval`"),
        r#""200ms""#,
        "By how much, at the most, each one is put off, so that not all come at once.",
    ),
    key(
        "service.*.check[].timeout",
        "a duration from \"10ms\" to \"1d\" or a number of seconds",
        Default("2s"),
        r#""2s""#,
        "How long an answer may take.",
    ),
    key(
        "service.*.check[].rise",
        "an integer from 1 to 1000",
        Default("2"),
        "2",
        "So many good answers in a row, and a server that was down is up.",
    ),
    key(
        "service.*.check[].fall",
        "an integer from 1 to 1000",
        Default("3"),
        "3",
        "So many bad answers in a row, and a server that was up is down.",
    ),
    key(
        "service.*.check_policy",
        "\"all\", \"any\" or \"per-port\"",
        Default("all"),
        r#""per-port""#,
        "What a failed check takes away: the server (`all`), the server when every check has failed (`any`), or new \
         connections to the member port that it looks at (`per-port`).",
    ),
    key(
        "service.*.server[]",
        "tables, each headed `[[service.NAME.server]]`",
        Required,
        "[[service.shop.server]]",
        "A real server.",
    ),
    key(
        "service.*.server[].name",
        "a string",
        Default("the address"),
        r#""web1""#,
        "What the server is called in listings and commands; unique within the service.",
    ),
    key(
        "service.*.server[].address",
        "an address or a list of one IPv4 and one IPv6 address",
        Optional,
        r#""10.0.0.11""#,
        "Where the server is; required unless it is `local`.",
    ),
    key(
        "service.*.server[].weight",
        "an integer from 0 to 65535",
        Default("1"),
        "3",
        "The server's share of new clients; 0 takes none.",
    ),
    key(
        "service.*.server[].upper",
        "an integer from 0 to 2147483647",
        Default("0, any number"),
        "1000",
        "So many connections, active and inactive, and the server takes no new clients for a while.",
    ),
    key(
        "service.*.server[].lower",
        "an integer from 0 to 2147483647",
        Default("0, three quarters of `upper`"),
        "800",
        "When its connections are fewer than that, it takes new clients again.",
    ),
    key(
        "service.*.server[].forward",
        "the name of a forwarding method, or a table",
        Default("the service's"),
        r#""tunnel""#,
        "How packets reach this server.",
    ),
    key(
        "service.*.server[].drain",
        "a duration such as \"10m\" or a number of seconds, 0 included",
        Default("the service's"),
        r#""10m""#,
        "How long persistent clients stay with this server at weight 0, and connections after its removal.",
    ),
    key(
        "service.*.server[].forward.tunnel",
        "the name of a kind of tunnel",
        Required,
        r#""gue""#,
        "What stands between the two IP headers: nothing (`ipip`), GRE (`gre`), or UDP and GUE (`gue`).",
    ),
    key(
        "service.*.server[].forward.port",
        "an integer from 1 to 65535",
        Default("6080"),
        "6080",
        "The UDP port that a GUE tunnel goes to.",
    ),
    key(
        "service.*.server[].forward.checksum",
        "`true` or `false`",
        Default("true if the outer header is IPv6"),
        "true",
        "Whether a GUE tunnel's UDP header has a checksum, where that of the packet inside tells it.",
    ),
    key(
        "service.*.quorum.weight",
        "an integer from 1 to 1000000",
        Optional,
        "2",
        "How much weight must be up; either this or `servers`.",
    ),
    key(
        "service.*.quorum.servers",
        "an integer from 1 to 1000000",
        Optional,
        "2",
        "How many servers with a weight must be up; either this or `weight`.",
    ),
    key(
        "service.*.quorum.hysteresis",
        "an integer from 0 to 1000000",
        Default("0"),
        "1",
        "So much less than the quorum is still enough, and so much more is needed once it is lost.",
    ),
];

use Presence::{Default, Optional, Required};

const fn key(
    path: &'static str,
    takes: &'static str,
    presence: Presence,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { path, takes, presence, example, doc }
}

fn bare(path: &'static str) -> &'static str {
    let path = path.strip_suffix("[]").unwrap_or(path);
    path.strip_suffix(".*").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_fall_into_tables_and_names() {
        let split = |path: &str| KEYS.iter().find(|key| key.path == path).map(|key| (key.table(), key.name()));
        assert_eq!(split("router"), Some(("", "router")));
        assert_eq!(split("mark[]"), Some(("", "mark")));
        assert_eq!(split("service.*"), Some(("", "service")));
        assert_eq!(split("service.*.server[]"), Some(("service.*", "server")));
        assert_eq!(split("service.*.server[].weight"), Some(("service.*.server[]", "weight")));
    }

    #[test]
    fn every_key_is_there_once_and_its_table_too() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} is there twice", key.path);
            let table = key.table();
            assert!(table.is_empty() || KEYS[..index].iter().any(|other| other.path == table), "{table} is missing");
        }
    }

    #[test]
    fn every_doc_is_a_sentence_and_every_example_is_toml() {
        for key in KEYS {
            assert!(key.doc.ends_with('.'), "{}", key.path);
            toml::de::DeTable::parse(&key.shown()).unwrap_or_else(|e| panic!("{}: {e}", key.path));
        }
    }

    #[test]
    fn tables_are_called_as_in_the_file() {
        assert_eq!(title(""), "the file");
        assert_eq!(title("router.limits"), "[router.limits]");
        assert_eq!(title("service.*.server[]"), "[[service.NAME.server]]");
    }
}

#!/usr/bin/env bash
# Installs, runs, breaks, reboots and removes the .deb in a container that systemd boots: check.sh SYSTEM DEB RPM.
# Started in mount and process namespaces of its own, which take everything with them at the end.
set -euo pipefail
system=$1 deb=$2 rpm=$3
mount --make-rprivate /
mkdir -p /run/netns
mount -t tmpfs none /run/netns
scratch=$(mktemp -d)
mount -t tmpfs none "$scratch"
mkdir "$scratch"/{upper,inner,tree,bpf}
mount -t overlay -o "lowerdir=$system,upperdir=$scratch/upper,workdir=$scratch/inner" none "$scratch/tree"
cp "$deb" "$scratch/tree/opt/marca.deb"
# Nobody waits here for what a container has not: networkd, and a watchdog's half minute.
mkdir -p "$scratch/tree/etc/systemd/system/marca.service.d"
printf '[Service]\nWatchdogSec=3\n' >"$scratch/tree/etc/systemd/system/marca.service.d/test.conf"

# Pipes end in a grep that reads all: one that is content early would end the writer by a signal, and fail the pipe.
say() { echo "-- $*"; }
die() {
    echo "check.sh: $*" >&2
    cat "$scratch/console" >&2 || true
    [ -z "${pid:-}" ] || inside journalctl --no-pager --quiet -u marca -n 60 >&2 || true
    exit 1
}
# until TEXT COMMAND…: waits until the command succeeds.
until_() {
    local what=$1
    shift
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    die "waited in vain until $what"
}

# A client, a director between them, a real server whose default route is the director.
wire() {
    mount -t bpf none "$scratch/bpf"
    for name in client director web; do ip netns add $name; ip -n $name link set lo up; done
    ip link add eth0 netns client type veth peer name out netns director
    ip link add eth0 netns web type veth peer name in netns director
    ip -n client addr add 198.51.100.7/24 dev eth0
    ip -n director addr add 198.51.100.1/24 dev out
    ip -n director addr add 10.0.0.1/24 dev in
    ip -n web addr add 10.0.0.11/24 dev eth0
    for end in "client eth0" "director out" "director in" "web eth0"; do
        set -- $end
        ip -n $1 link set $2 up
    done
    ip -n client route add default via 198.51.100.1
    ip -n web route add default via 10.0.0.1
    ip netns exec web python3 -m http.server --directory "$scratch/upper" 80 >/dev/null 2>&1 &
    web=$!
}
unwire() {
    kill $web
    wait $web 2>/dev/null || true
    for name in client director web; do ip netns del $name; done
    umount "$scratch/bpf"
}
boot() {
    systemd-nspawn --quiet --boot --register=no --keep-unit --directory="$scratch/tree" --bind="$scratch/bpf:/sys/fs/bpf" \
        --network-namespace-path=/run/netns/director --capability=all --system-call-filter="bpf perf_event_open" \
        --console=pipe </dev/null >"$scratch/console" 2>&1 &
    nspawn=$!
    until_ "systemd has booted" booted
}
# nspawn's first child is not yet the container.
booted() {
    pid=$(pgrep -P $nspawn -x systemd | head -1)
    [ -n "$pid" ] && inside systemctl is-system-running | grep -E 'running|degraded' >/dev/null
}
halt() {
    # SIGRTMIN+4: power off.
    kill -s RTMIN+4 "$pid"
    wait $nspawn || true
    pid=
}
inside() { nsenter --target "$pid" --mount --uts --ipc --net --pid --root --wd "$@"; }
is() {
    local said
    said=$(inside systemctl show marca.service --property="$1" --value)
    [ "$said" = "$2" ] || die "$1 is $said, not $2"
}
works() { ip netns exec client curl --silent --fail --max-time 2 --output /dev/null http://192.0.2.10/; }

wire
boot
say "installed, it does not start: there is no configuration"
inside env DEBIAN_FRONTEND=noninteractive dpkg --install /opt/marca.deb >"$scratch/dpkg" 2>&1 || die "$(cat "$scratch/dpkg")"
is UnitFileState enabled
is ActiveState inactive
inside getent group marca >/dev/null || die "there is no group marca"
for file in /usr/share/bash-completion/completions/marca /etc/marca/example.toml; do
    inside test -s $file || die "$file is missing"
done
dpkg-deb --contents "$deb" | grep /usr/share/man/man1/marca-run.1.gz >/dev/null || die "there is no manual"
inside systemd-analyze verify /usr/lib/systemd/system/marca.service 2>&1 | grep -v 'man ' >"$scratch/verify" || true
[ ! -s "$scratch/verify" ] || die "$(cat "$scratch/verify")"

say "with one it does, in its sandbox"
cat >"$scratch/tree/etc/marca/marca.toml" <<'CONFIG'
[router]
outside = ["out"]
inside = ["in"]
limits = { flows = 16384, half_open = 4096, templates = 1024 }
[service.shop]
vip = ["192.0.2.10"]
ports = ["tcp/80"]
[[service.shop.server]]
name = "web1"
address = "10.0.0.11"
CONFIG
inside systemctl start marca || die "it does not start"
is ActiveState active
is StatusText "1 services, 1 real servers, 0 failed"
until_ "a client is served" works
inside journalctl --quiet --no-pager -u marca | grep 'ready: data plane loaded' >/dev/null || die "the journal lacks it"
group=$(inside stat --format=%G:%a /run/marca/control)
[ "$group" = marca:660 ] || die "the socket is $group"
bounds=$(inside sh -c 'grep CapBnd /proc/$(systemctl show marca --property=MainPID --value)/status')
[ "${bounds##*[[:space:]]}" = "${CAPABILITIES:=000000c000003000}" ] || die "it has other capabilities: $bounds"

say "a reload, and one of a faulty file"
inside systemctl reload marca || die "it does not reload"
is ActiveState active
cp "$scratch/tree/etc/marca/marca.toml" "$scratch/good"
echo 'nonsense = 1' >>"$scratch/tree/etc/marca/marca.toml"
if inside systemctl reload marca 2>/dev/null; then die "a faulty file was taken"; fi
is ActiveState active
cp "$scratch/good" "$scratch/tree/etc/marca/marca.toml"
works || die "packets do not flow after a faulty reload"

say "one that hangs is found by the watchdog; packets flow meanwhile"
inside sh -c 'kill -STOP $(systemctl show marca --property=MainPID --value)'
sleep 1
works || die "packets do not flow while the daemon hangs"
restarted() { [ "$(inside systemctl show marca --property=NRestarts --value)" = 1 ]; }
until_ "the watchdog has acted" restarted
until_ "it runs again" inside systemctl is-active marca
works || die "packets do not flow after the watchdog"

say "after a reboot everything is as it was"
inside marca fail shop/web1 >/dev/null
halt
unwire
wire
boot
until_ "it runs again" inside systemctl is-active marca
inside ip -o addr show dev out | grep 192.0.2.10/32 >/dev/null || die "the VIP is not back"
[ "$(inside cat /proc/sys/net/ipv4/conf/in/forwarding)" = 1 ] || die "the sysctl is not back"
inside marca status | grep web1 | grep down >/dev/null || die "nobody knows that web1 has failed"
inside marca restore shop/web1 >/dev/null
until_ "a client is served" works

say "an upgrade is another daemon with the same connections"
inside env DEBIAN_FRONTEND=noninteractive dpkg --install /opt/marca.deb >"$scratch/dpkg" 2>&1 || die "$(cat "$scratch/dpkg")"
until_ "it runs again" inside systemctl is-active marca
inside journalctl --quiet --no-pager -u marca | grep 'ready: adopted' >/dev/null || die "it has not adopted what ran"
works || die "packets do not flow after an upgrade"

say "removed and purged, it leaves nothing"
inside dpkg --remove marca >"$scratch/dpkg" 2>&1 || die "$(cat "$scratch/dpkg")"
if inside ip -o addr show dev out | grep 192.0.2.10 >/dev/null; then die "the VIP is still there"; fi
[ ! -e "$scratch/bpf/marca" ] || die "pins are left: $(ls "$scratch/bpf/marca")"
inside test -e /etc/marca/marca.toml || die "removing took the configuration"
inside dpkg --purge marca >"$scratch/dpkg" 2>&1 || die "$(cat "$scratch/dpkg")"
for file in /etc/marca /var/lib/marca /usr/bin/marca /etc/systemd/system/multi-user.target.wants/marca.service; do
    if inside test -e $file; then die "$file is left"; fi
done
halt
unwire

say "the .rpm unpacks, runs, and wants no more than is there"
mkdir "$scratch/rpm"
(cd "$scratch/rpm" && rpm2cpio "$rpm" | cpio --quiet --extract --make-directories)
"$scratch/rpm/usr/bin/marca" check "$scratch/rpm/etc/marca/example.toml" >/dev/null
rpm --query --package --requires "$rpm" | grep '^libc.so.6(GLIBC_' >/dev/null || die "the .rpm does not say what it needs"
rpm --query --package --configfiles "$rpm" | grep /etc/marca/example.toml >/dev/null || die "the .rpm has no configuration file"
say "the package does what it should"

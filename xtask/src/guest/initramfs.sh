#!/bin/busybox sh
# The first program in the guest: reaches the file systems, and goes on with session.sh in the root that it makes.
b=/bin/busybox
$b mount -t proc proc /proc
for module in /modules/*; do $b insmod "$module" || $b echo "no $module"; done
for word in $($b cat /proc/cmdline); do case $word in
    guest.target=*) target=${word#*=};;
    guest.root=*) root=${word#*=};;
    guest.sources=*) sources=${word#*=};;
    guest.session=*) session=${word#*=};;
esac; done

# The root: Debian, read-only, below what the guest writes, which is in memory.
$b mount -t virtiofs target /target
$b mount -t tmpfs memory /memory
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/target/$root,upperdir=/memory/upper,workdir=/memory/work overlay /root

# The host's target folder and sources, in the same places as there: programs find by absolute paths what they were built
# with. Of all this, only the session's own folder can be written.
$b mkdir -p "/root$sources"
$b mount -t virtiofs -o ro sources "/root$sources"
$b mkdir -p "/root$target"
$b mount -o bind "/target" "/root$target"
$b mount -o remount,bind,ro "/root$target"
$b mkdir /root/session
$b mount -o bind "/target/$session" /root/session
$b umount /proc
exec $b switch_root /root /bin/sh /session/session.sh

# Runs inside the new root file system: adds Debian's kernel for clouds, unpacked and not installed (a virtual machine's
# drivers, BTF, IPVS as modules), and the initramfs that reaches virtiofs. `/initramfs.sh` is there already.
set -eu
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*cloud.*\)/\1/p' | head -1)
release=${image#linux-image-}
mkdir /tmp/kernel
cd /tmp/kernel
apt-get -q download -o APT::Sandbox::User=root "$image"
dpkg-deb -x ./*.deb .
mv lib/modules /usr/lib/
mv "boot/vmlinuz-$release" /boot/vmlinuz
depmod "$release"
cd /
rm -r /tmp/kernel

mkdir -p /tmp/initramfs
cd /tmp/initramfs
mkdir bin dev memory modules proc root target
cp /bin/busybox bin/
mv /initramfs.sh init
chmod 755 init
number=10
for module in virtio_pci virtiofs overlay; do
    modprobe -S "$release" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
    cp "$file" "modules/$number-${file##*/}"
    number=$((number + 1))
done
find . | busybox cpio -o -H newc | gzip -1 > /boot/initramfs
cd /
rm -r /tmp/initramfs

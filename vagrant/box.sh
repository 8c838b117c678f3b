#!/usr/bin/env bash
# Makes the local box of the lab: Debian 12 by debootstrap, Debian's cloud kernel beside it (the
# machines are booted with it directly, so there is no boot loader), and nothing that the lab
# does not need. What it was made from is kept: once made, it is made again without a network.
#
#   vagrant/box.sh         makes it, if it is not there or its recipe has changed
#   vagrant/box.sh again   makes it in any case, from what was fetched before
#
# The recipe is this file and the packages that were fetched; it is made again when either has
# changed. Dates and identifiers in the image are fixed; that two makings are the same to the byte
# has not been tried. Everything is in target/lab. Root.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
umask 022

lab=$PWD/target/lab
debs=$lab/debs.tar
box=$lab/box
mkdir -p "$lab"

# What is there beyond what a container has: an init, a way in, and what the smoke test types.
# No firewalld, no NetworkManager, no ifupdown: systemd-networkd, with its defaults.
packages=(systemd systemd-sysv udev dbus openssh-server sudo kmod initramfs-tools zstd
    linux-image-cloud-amd64 iproute2 nftables iputils-ping tcpdump procps busybox-static)

missing=()
for pair in debootstrap:debootstrap mke2fs:e2fsprogs qemu-img:qemu-utils ssh-keygen:openssh-client; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "lab-box: install what is missing: apt-get install ${missing[*]}" >&2
    exit 2
fi
[ "$(id -u)" -eq 0 ] || { echo "lab-box: debootstrap needs root: run it with sudo" >&2; exit 2; }

# Where this machine has its own packages from; not from a mirror that serves something else.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 || true)
root=$lab/root

# Something that runs as pid 1 of nothing may hold /proc of the tree: let go of it first.
drop_root() {
    local mounted
    for mounted in "$root"/{proc,sys,dev}; do ! mountpoint -q "$mounted" || umount "$mounted"; done
    rm -rf "$root"
}
trap drop_root EXIT

# How to get in: a key of this checkout, not the one that all the world has.
[ -e "$lab/key" ] || ssh-keygen -q -t ed25519 -N '' -C overlayd-lab -f "$lab/key"

list=$(IFS=,; echo "${packages[*]}")
if [ "$(cat "$debs.list" 2>/dev/null)" != "$list" ]; then
    echo "lab-box: fetching Debian 12 and its cloud kernel, once"
    drop_root
    debootstrap --variant=minbase --include="$list" --make-tarball="$debs" \
        bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >"$lab/debootstrap.log" 2>&1 ||
        { tail -5 "$lab/debootstrap.log" >&2; echo "lab-box: cannot fetch; see $lab/debootstrap.log" >&2; exit 1; }
    echo "$list" >"$debs.list"
fi
recipe=$(cat "$0" "$debs" "$lab/key.pub" | sha256sum | cut -d' ' -f1)
if [ "${1:-}" != again ] && [ "$(cat "$box/recipe" 2>/dev/null)" = "$recipe" ]; then
    echo "lab-box: $box/overlayd-lab.box is there, made from the same"
    exit 0
fi

echo "lab-box: unpacking and configuring"
start=$SECONDS
drop_root
# The day of the newest package: what has no date of its own gets this one.
epoch=$(tar -tvf "$debs" --full-time 2>/dev/null | awk '{ print $4 " " $5 }' | sort | tail -1)
SOURCE_DATE_EPOCH=$(date -d "${epoch:-2026-01-01}" +%s)
export SOURCE_DATE_EPOCH
debootstrap --variant=minbase --include="$list" --unpack-tarball="$debs" \
    bookworm "$root" >"$lab/debootstrap.log" 2>&1 ||
    { tail -5 "$lab/debootstrap.log" >&2; echo "lab-box: debootstrap failed; see $lab/debootstrap.log" >&2; exit 1; }

in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }

in_root useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
install -d -m 700 "$root/home/vagrant/.ssh"
install -m 600 "$lab/key.pub" "$root/home/vagrant/.ssh/authorized_keys"
in_root chown -R vagrant:vagrant /home/vagrant/.ssh
# Under emulation a name that nobody knows costs a minute.
printf 'UseDNS no\nGSSAPIAuthentication no\n' >"$root/etc/ssh/sshd_config.d/lab.conf"
# Host keys are each machine's own.
rm -f "$root"/etc/ssh/ssh_host_*
cat >"$root/etc/systemd/system/ssh-keys.service" <<'UNIT'
[Unit]
Description=Host keys of this machine
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=multi-user.target
UNIT
in_root systemctl --quiet enable ssh-keys ssh systemd-networkd
# The way to the one who runs the lab. Vagrant writes the underlay's file itself.
cat >"$root/etc/systemd/network/80-management.network" <<'NET'
[Match]
Name=en* eth*
[Network]
DHCP=ipv4
[DHCPv4]
ClientIdentifier=mac
NET
# Whichever link is up is network enough: two of them must not be waited for.
mkdir -p "$root/etc/systemd/system/systemd-networkd-wait-online.service.d"
printf '[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --timeout=60\n' \
    >"$root/etc/systemd/system/systemd-networkd-wait-online.service.d/lab.conf"
echo '/dev/vda / ext4 noatime 0 1' >"$root/etc/fstab"
echo 'localhost' >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
# A name server that is asked for what is not an endpoint; there is none.
: >"$root/etc/resolv.conf"
# What a machine of a day does not need and an emulated one waits for.
in_root systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service

# Only what the emulated machines have: a tenth of the size.
printf 'MODULES=list\nCOMPRESS=zstd\n' >"$root/etc/initramfs-tools/conf.d/lab"
printf 'virtio_pci\nvirtio_blk\next4\nvirtio_net\n' >>"$root/etc/initramfs-tools/modules"
in_root update-initramfs -u >>"$lab/debootstrap.log" 2>&1

# Whatever differs from one making to the next.
: >"$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/* \
    "$root"/var/cache/ldconfig "$root"/var/lib/systemd/random-seed "$root"/debootstrap
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

echo "lab-box: writing the image"
rm -rf "$box.part"
mkdir -p "$box.part"
cp "$root"/boot/vmlinuz-* "$box.part/vmlinuz"
cp "$root"/boot/initrd.img-* "$box.part/initrd"
rm "$root"/boot/initrd.img-*
# 3 GiB, of which the image holds what is written.
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -d "$root" \
    -U 00000000-0000-4000-8000-000000004097 -E hash_seed=00000000-0000-4000-8000-000000004097 \
    -O ^metadata_csum_seed -m 0 "$box.part/raw" 3G
qemu-img convert -O qcow2 "$box.part/raw" "$box.part/box.img"
rm "$box.part/raw"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 3}' >"$box.part/metadata.json"
echo 'Vagrant.configure("2") { |config| }' >"$box.part/Vagrantfile"
tar -C "$box.part" --owner=0 --group=0 --mtime="@$SOURCE_DATE_EPOCH" -cf "$box.part/overlayd-lab.box" \
    metadata.json Vagrantfile box.img
sha256sum <"$box.part/box.img" | cut -d' ' -f1 >"$box.part/sha256"
rm "$box.part/box.img" "$box.part/metadata.json" "$box.part/Vagrantfile"
echo "$recipe" >"$box.part/recipe"
rm -rf "$box"
mv "$box.part" "$box"
echo "lab-box: $box/overlayd-lab.box, $(du -h "$box/overlayd-lab.box" | cut -f1), in $((SECONDS - start)) s"

#!/usr/bin/env bash
# Runs labs in a virtual machine with Debian's cloud kernel, for what the kernel of
# this machine cannot do (bonds, VLANs). No KVM is needed: QEMU emulates, and all is
# some ten times as slow. The machine has this one's files, read only, and what
# it writes goes when it ends; it has no network but its own namespaces.
#
#   tests/vm.sh lab_underlay [argument of the test program...]
#
# Exit code: that of the lab. VM_SECONDS (900): how long it may take. Root.
set -euo pipefail
cd "$(dirname "$0")/.."

lab=${1:?say which lab, such as lab_underlay}
shift
top=$PWD
dir=$top/target/vm
mkdir -p "$dir"

daemon=
for path in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd; do
    [ ! -x "$path" ] || daemon=$path
done
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
[ -n "$daemon" ] || missing+=(virtiofsd)
[ -x /bin/busybox ] || missing+=(busybox-static)
command -v cpio >/dev/null || missing+=(cpio)
[ -x /sbin/modprobe ] || missing+=(kmod)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "vm: install what is missing: apt-get install ${missing[*]}" >&2
    echo "vm: (virtiofsd is in qemu-system-common on Debian 12)" >&2
    exit 2
fi

# The kernel and its modules, once.
if ! ls "$dir"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -1)
    [ -n "$image" ] || { echo "vm: apt knows no linux-image-cloud-amd64; run: apt-get update" >&2; exit 2; }
    rm -rf "$dir/deb" "$dir/kernel"
    mkdir "$dir/deb"
    (cd "$dir/deb" && apt-get download -qq "$image")
    dpkg-deb -x "$dir"/deb/*.deb "$dir/kernel.part"
    rm -r "$dir/deb"
    mv "$dir/kernel.part" "$dir/kernel"
fi
version=$(basename "$dir"/kernel/boot/vmlinuz-*)
version=${version#vmlinuz-}
/sbin/depmod -b "$dir/kernel" "$version"

# The first root: what it takes to see this machine's files.
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,lib,new,low,rw,proc,sys,dev}
cp /bin/busybox "$root/bin/"
ln -s busybox "$root/bin/sh"
for module in virtio_pci virtiofs overlay virtio_rng; do
    /sbin/modprobe -d "$dir/kernel" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    cp "$file" "$root/lib/"
    echo "/lib/$(basename "$file")"
done >"$root/modules"
cat >"$root/init" <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "$module"; done </modules
$b mount -t virtiofs -o ro host /low || $b poweroff -f
$b mount -t tmpfs rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/low,upperdir=/rw/upper,workdir=/rw/work root /new
for mounted in proc sys dev; do $b mount --move /$mounted /new/$mounted; done
$b mount -t tmpfs run /new/run
$b mount -t tmpfs tmp /new/tmp
run=$($b sed 's/.*vmrun=\([^ ]*\).*/\1/' /new/proc/cmdline)
exec $b switch_root /new /bin/bash "$run"
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initrd"

# The lab and the daemons are built here, and run there.
cargo build --locked -q -p overlayd -p overlayctl
program=$(cargo test --locked -p overlay-tests --test "$lab" --no-run 2>&1 |
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[ -n "$program" ] || { echo "vm: cannot build $lab" >&2; exit 2; }
case $program in /*) ;; *) program=$top/$program ;; esac
{
    echo "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root"
    echo "export OVERLAY_BIN_DIR='$top/target/debug' OVERLAY_PATIENCE=${OVERLAY_PATIENCE:-10} RUST_LIB_BACKTRACE=0"
    echo "mkdir -p /lib/modules && ln -s '$dir/kernel/lib/modules/$version' /lib/modules/"
    echo "mkdir -p /dev/pts /dev/shm && mount -t devpts devpts /dev/pts && mount -t tmpfs shm /dev/shm"
    echo "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    # A bond that is loaded by hand makes no bond0 of itself.
    echo "modprobe -a vxlan br_netfilter 8021q && modprobe bonding max_bonds=0"
    echo "ip link set lo up; cd '$top'"
    printf '%q ' timeout "${VM_SECONDS:-900}" "$program" --test-threads=1 "$@"
    echo
    echo 'echo "vm: the lab ended with $?"; echo o >/proc/sysrq-trigger; sleep 10'
} >"$dir/run.sh"

rm -f "$dir/socket"
"$daemon" --socket-path="$dir/socket" -o source=/ -o cache=always -o sandbox=chroot >"$dir/virtiofsd.log" 2>&1 &
files=$!
trap 'rm -rf "$root"; kill "$files" 2>/dev/null || true' EXIT
for _ in $(seq 50); do
    [ ! -S "$dir/socket" ] || break
    sleep 0.1
done
timeout "$((${VM_SECONDS:-900} + 60))" qemu-system-x86_64 \
    -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -nographic -no-reboot -nic none \
    -object memory-backend-memfd,id=mem,size=1536M,share=on -numa node,memdev=mem \
    -chardev "socket,id=files,path=$dir/socket" -device vhost-user-fs-pci,chardev=files,tag=host \
    -kernel "$dir/kernel/boot/vmlinuz-$version" -initrd "$dir/initrd" \
    -append "console=ttyS0 quiet panic=-1 vmrun=$dir/run.sh" </dev/null 2>&1 | tee "$dir/console"
code=$(tr -d '\r' <"$dir/console" | sed -n 's/^vm: the lab ended with \([0-9]*\)$/\1/p')
exit "${code:-1}"

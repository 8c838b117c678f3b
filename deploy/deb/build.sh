#!/usr/bin/env bash
# Builds the Debian packages from binaries that are built already: overlayd (the service),
# overlayctl (the command line), and overlay-cni where there is such a program. Needs dpkg-deb and
# binutils, no network and no root. The same tree gives the same files, to the byte.
#
#   deploy/deb/build.sh [DIRECTORY OF BINARIES [DIRECTORY FOR PACKAGES]]     target/release target/deb
#
# They run on the glibc that the binaries were linked with, or a newer one: built on Debian 12, they
# run on Debian 12, 13, Ubuntu 24.04. The packages say so in Depends. DEB_COMPRESS=none is quick, for tests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
bin=$(realpath "${1:-$top/target/release}")
mkdir -p "${2:-$top/target/deb}"
out=$(realpath "${2:-$top/target/deb}")
umask 022

for program in dpkg-deb objdump strip; do
    command -v "$program" >/dev/null || {
        echo "deb: there is no $program; install dpkg and binutils" >&2
        exit 2
    }
done
for program in overlayd overlayctl; do
    [ -x "$bin/$program" ] || { echo "deb: there is no $bin/$program; run: make release" >&2; exit 2; }
done

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$top/Cargo.toml")
arch=$(dpkg --print-architecture)
# The day of the tree, in every file of a package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# put PACKAGE MODE SOURCE DESTINATION
put() { install -D -m "$2" "$3" "$work/$1$4"; }
# From standard input, compressed as Debian wants documentation.
put_gz() { mkdir -p "$(dirname "$work/$1$2")" && gzip -9n >"$work/$1$2.gz"; }
put_program() {
    put "$1" 755 "$bin/$2" "$3/$2"
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$work/$1$3/$2"
}
# The oldest glibc with all that a program asks for.
glibc() {
    objdump -T "$@" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -1
}

# package NAME SECTION RELATIONS DESCRIPTION (first line, then the rest)
package() {
    local name=$1 section=$2 relations=$3 description=$4 root=$work/$1
    mkdir -p "$root/DEBIAN" "$root/usr/share/doc/$name"
    {
        echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
        echo
        echo "Files: *"
        echo "Copyright: $(date -u -d "@$SOURCE_DATE_EPOCH" +%Y) the overlayd contributors"
        echo "License: Apache-2.0"
        echo " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0."
    } >"$root/usr/share/doc/$name/copyright"
    printf '%s (%s) unstable; urgency=medium\n\n  * As in the tree that it was built from.\n\n -- %s  %s\n' \
        "$name" "$version" "overlayd contributors <overlayd@localhost>" \
        "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | put_gz "$name" "/usr/share/doc/$name/changelog"
    # Every file below /etc is the administrator's, once it is there.
    (cd "$root" && find etc -type f -printf '/%p\n' 2>/dev/null | sort) >"$root/DEBIAN/conffiles" || true
    [ -s "$root/DEBIAN/conffiles" ] || rm "$root/DEBIAN/conffiles"
    local script
    for script in postinst prerm postrm; do
        [ ! -e "$here/$name.$script" ] || install -m 755 "$here/$name.$script" "$root/DEBIAN/$script"
    done
    (cd "$root" && find usr etc lib -type f -print0 2>/dev/null | sort -z | xargs -0 md5sum) \
        >"$root/DEBIAN/md5sums" || true
    cat >"$root/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $arch
Section: $section
Priority: optional
Maintainer: overlayd contributors <overlayd@localhost>
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
$relations
Description: $description
CONTROL
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group "-Z${DEB_COMPRESS:-xz}" --build "$root" "$out/${name}_${version}_$arch.deb" >/dev/null
    echo "deb: $out/${name}_${version}_$arch.deb, $(du -h "$out/${name}_${version}_$arch.deb" | cut -f1)"
}

# ---- overlayd

put_program overlayd overlayd /usr/bin
put overlayd 644 "$top/deploy/systemd/overlayd.service" /lib/systemd/system/overlayd.service
put overlayd 644 "$here/overlayd.toml" /etc/overlayd/overlayd.toml
put overlayd 644 "$here/default" /etc/default/overlayd
# Where packages put them: an administrator's file of the same name below /etc goes before.
put overlayd 644 "$top/deploy/10-overlayd.network" /lib/systemd/network/10-overlayd.network
put overlayd 644 "$top/deploy/10-overlayd-unmanaged.conf" /usr/lib/NetworkManager/conf.d/10-overlayd-unmanaged.conf
"$bin/overlayd" man | put_gz overlayd /usr/share/man/man8/overlayd.8
package overlayd net "\
Depends: libc6 (>= $(glibc "$bin/overlayd")), libgcc-s1, init-system-helpers (>= 1.54), nftables, passwd
Recommends: overlayctl (= $version), iproute2
Suggests: docker.io" "one network for containers on many hosts
 overlayd joins network namespaces (containers, VMs) on different hosts into one
 Ethernet segment per network, with the VXLAN devices and bridges of the
 kernel. The hosts gossip who they are and what lives on them, and each
 programs its own kernel: there is nothing central, and no learning.
 .
 The service starts when there is a key in /etc/overlayd/key."

# ---- overlayctl

put_program overlayctl overlayctl /usr/bin
mkdir -p "$work/man"
"$bin/overlayctl" man "$work/man"
for page in "$work"/man/*.1; do
    put_gz overlayctl "/usr/share/man/man1/$(basename "$page")" <"$page"
done
completion() {
    mkdir -p "$work/overlayctl$(dirname "$2")"
    "$bin/overlayctl" completions "$1" >"$work/overlayctl$2"
}
completion bash /usr/share/bash-completion/completions/overlayctl
completion zsh /usr/share/zsh/vendor-completions/_overlayctl
completion fish /usr/share/fish/vendor_completions.d/overlayctl.fish
package overlayctl net "\
Depends: libc6 (>= $(glibc "$bin/overlayctl")), libgcc-s1
Suggests: overlayd" "command line of overlayd
 Attaches network namespaces to the networks of overlayd, and shows hosts,
 endpoints, and what the kernel holds beside what it should hold. It talks to
 the daemon of the same host."

# ---- overlay-cni

if [ -x "$bin/overlay-cni" ]; then
    # Where Debian's containerd, podman and CRI-O look beside /opt/cni/bin, which is no package's.
    put_program overlay-cni overlay-cni /usr/lib/cni
    drop_in=$top/deploy/cni/overlayd-cni.conf
    if [ -e "$drop_in" ]; then
        sed 's|/opt/cni/bin|/usr/lib/cni|' "$drop_in" >"$work/drop-in"
        put overlay-cni 644 "$work/drop-in" /lib/systemd/system/overlayd.service.d/cni.conf
    fi
    for example in "$top"/deploy/cni/*.conflist; do
        [ ! -e "$example" ] || put overlay-cni 644 "$example" "/usr/share/doc/overlay-cni/examples/$(basename "$example")"
    done
    package overlay-cni net "\
Depends: overlayd (= $version), libc6 (>= $(glibc "$bin/overlay-cni")), libgcc-s1
Suggests: containernetworking-plugins" "CNI plugin of overlayd
 Lets container runtimes attach their containers to networks of overlayd. No
 network is set up by itself: take one of the examples into /etc/cni/net.d."
fi

#!/usr/bin/env bash
# Installs what a fresh Debian 12 lacks for building, testing and the demo.
# Touches nothing that is there; running it again does nothing.
set -euo pipefail

# program:package, what each is for
wanted=(
    cc:build-essential          # to link; zstd and mimalloc are C, libFuzzer is C++
    pkg-config:pkg-config
    git:git
    curl:curl
    ip:iproute2
    nft:nftables
    nsenter:util-linux
    ping:iputils-ping
    ethtool:ethtool
    tcpdump:tcpdump
    tshark:tshark
    iperf3:iperf3
    jq:jq
    dig:dnsutils
    dnsmasq:dnsmasq-base
    dnsperf:dnsperf             # make bench-dns
    setpriv:util-linux
    stdbuf:coreutils
    sysctl:procps
    faketime:faketime           # one lab: clocks that jump
    iptables-legacy:iptables    # one lab, as all below: the rules of Docker
    /usr/lib/cni/portmap:containernetworking-plugins    # lab cni, make bench-cni
    podman:podman               # lab podman
    runc:runc
    busybox:busybox-static
    dbus-daemon:dbus-daemon
    networkctl:systemd
)

# Programs that would take this machine's network over if they were installed: they are
# unpacked here, where only labs look, and only if they are not there anyhow.
fetched=/var/cache/overlayd-labs
strangers=(NetworkManager:network-manager firewalld:firewalld ufw:ufw
    dockerd:docker.io docker-compose:docker-compose)

# Debian keeps administrators' programs where a user's PATH may not look.
PATH=$PATH:/usr/sbin:/sbin

missing=()
for pair in "${wanted[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done

unfetched=()
for pair in "${strangers[@]}"; do
    program=${pair%%:*}
    for place in usr/sbin usr/bin sbin bin; do
        [ ! -e "$fetched/$place/$program" ] || continue 2
    done
    command -v "$program" >/dev/null || unfetched+=("${pair#*:}")
done

# Unpacks packages, and what of their dependencies is not installed in any version.
fetch() {
    local debs=$fetched/debs deb name
    "${as_root[@]}" mkdir -p "$debs/partial"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends --download-only \
        -o Dir::Cache::archives="$debs" "$@" >/dev/null
    for deb in "$debs"/*.deb; do
        name=$(dpkg-deb -f "$deb" Package)
        if [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" != installed ]; then
            "${as_root[@]}" dpkg-deb -x "$deb" "$fetched"
        fi
    done
    # Where programs look for it: what is in /lib is in /usr/lib of this Debian.
    [ ! -d "$fetched/lib" ] || "${as_root[@]}" cp -a "$fetched/lib" "$fetched/usr/"
    "${as_root[@]}" rm -rf "$debs"
}

if [ "${#missing[@]}" -gt 0 ] || [ "${#unfetched[@]}" -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: ${missing[*]} ${unfetched[*]} must be installed: run this as root, or" \
                "install sudo" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || {
        echo "setup: this is no Debian; install these by your own means: ${missing[*]}" \
            "${unfetched[*]}" >&2
        exit 1
    }
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
fi
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    # tshark asks whether others than root may capture; no is the default.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ "${#unfetched[@]}" -gt 0 ]; then
    echo "setup: unpacking ${unfetched[*]} into $fetched, for labs"
    fetch "${unfetched[@]}"
fi

command -v cargo >/dev/null || {
    echo "setup: there is no cargo; install Rust from https://rustup.rs" >&2
    exit 1
}
echo "setup: $(cargo --version), $(ip -V), all programs are there"

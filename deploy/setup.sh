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
    setpriv:util-linux
    stdbuf:coreutils
    sysctl:procps
    faketime:faketime           # one lab: clocks that jump
)

# Debian keeps administrators' programs where a user's PATH may not look.
PATH=$PATH:/usr/sbin:/sbin

missing=()
for pair in "${wanted[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done

if [ "${#missing[@]}" -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: ${missing[*]} must be installed: run this as root, or install sudo" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || {
        echo "setup: this is no Debian; install these by your own means: ${missing[*]}" >&2
        exit 1
    }
    echo "setup: installing ${missing[*]}"
    # tshark asks whether others than root may capture; no is the default.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

command -v cargo >/dev/null || {
    echo "setup: there is no cargo; install Rust from https://rustup.rs" >&2
    exit 1
}
echo "setup: $(cargo --version), $(ip -V), all programs are there"

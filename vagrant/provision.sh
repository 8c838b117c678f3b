#!/bin/bash
# What is done on each machine, as root, by `vagrant up` and `vagrant provision`; again is fine.
#
#   provision.sh IPV6 NAME ADDRESS NAME ADDRESS...     IPV6: empty, or 1
set -euo pipefail
ipv6=$1
shift
me=$(hostname)

# Hosts by name: those of the lab, in place of a name server.
sed -i '/ # lab$/d' /etc/hosts
peers=()
while [ $# -gt 0 ]; do
    echo "$2 $1 # lab" >>/etc/hosts
    [ "$1" != "$me" ] || address=$2
    [ -z "$ipv6" ] || echo "2001:db8::${2##*.} $1 # lab" >>/etc/hosts
    peers+=("\"$1:7946\"")
    shift 2
done
device=$(ip -o -4 addr show to "$address" | awk '{ print $2 }')
[ -n "$device" ] || { echo "provision: no device has $address" >&2; exit 1; }

if [ -n "$ipv6" ]; then
    mkdir -p "/etc/systemd/network/50-vagrant-$device.network.d"
    printf '[Network]\nAddress=2001:db8::%s/64\n' "${address##*.}" \
        >"/etc/systemd/network/50-vagrant-$device.network.d/ipv6.conf"
    networkctl reload
    networkctl reconfigure "$device"
fi

# The packages, as users get them; the local box has what they need, another asks apt.
export DEBIAN_FRONTEND=noninteractive
# Kept where a reboot does not clean up, for the smoke test.
rm -rf /var/cache/lab && mkdir /var/cache/lab && cp /tmp/lab/*.deb /var/cache/lab/
dpkg --force-confdef --force-confold -i /tmp/lab/*.deb || { apt-get update -qq && apt-get install -y -qq --fix-broken; }
command -v busybox >/dev/null || apt-get install -y -qq busybox tcpdump

install -m 600 /tmp/lab/key /etc/overlayd/key
rm /tmp/lab/key
{
    echo 'key-file = "/etc/overlayd/key"'
    echo "join = [$(IFS=,; echo "${peers[*]}")]"
    echo "underlay-dev = \"$device\""
    [ -z "$ipv6" ] || echo 'vtep-families = "both"'
} >/etc/overlayd/overlayd.toml
systemctl restart overlayd

# The network, by whoever is first; hosts that make it at once with the same words make it once.
for _ in $(seq 60); do
    ! overlayctl net inspect demo >/dev/null 2>&1 || break
    [ "$me" != host-a ] || overlayctl net create demo --vni 4097 --subnet 10.0.9.0/24 || true
    sleep 1
done
install -m 644 /tmp/lab/lab-container@.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --quiet "lab-container@c-${me#host-}"
systemctl restart "lab-container@c-${me#host-}"
overlayctl hosts

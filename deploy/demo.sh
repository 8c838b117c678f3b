#!/usr/bin/env bash
# The demo: three hosts made of network namespaces, three real daemons, one
# overlay network, real packets.
#
#   deploy/demo.sh up      all of it; cleans up, unless KEEP=1
#   deploy/demo.sh down    removes demos that were kept
#
# Everything lives in namespaces called ovdemo<n>-<host> and one directory
# under /tmp: addresses and routes of this machine are not touched.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

VNI=4097
SUBNET=10.9.0.0/24
HOSTS=(a b c)
declare -A CONTAINER=([a]=web [b]=app [c]=db)
declare -A ADDRESS=([a]=192.0.2.1 [b]=192.0.2.2 [c]=192.0.2.3)

# ---- what it looks like

if [ -t 1 ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' off=$'\e[0m'
else
    bold='' dim='' green='' red='' off=''
fi
step_number=0
step() {
    step_number=$((step_number + 1))
    printf '\n%s%2d. %s%s\n' "$bold" "$step_number" "$*" "$off"
}
say() { printf '    %s\n' "$*"; }
ok() { printf '    %sok%s %s\n' "$green" "$off" "$*"; }
# Shows a command with the prompt of where it is typed.
show() { printf '    %s%s#%s %s\n' "$dim" "$1" "$off" "${*:2}"; }
indent() { sed 's/^/      /'; }

# ---- where it lives

# The namespace of a host, a container, or the underlay.
ns() { echo "$demo-$1"; }
in_ns() { nsenter --net="/run/netns/$(ns "$1")" -- "${@:2}"; }
# Types a command in a namespace: shown, run, its output indented.
at() {
    show "$1" "${*:2}"
    in_ns "$@" 2>&1 | indent
}
# Types overlayctl on a host. The prompt says which host, so that the socket need not be shown.
ctl() {
    show "host $1" "overlayctl ${*:2}"
    quiet_ctl "$@" 2>&1 | indent
}
quiet_ctl() { OVERLAYD_SOCKET=$dir/$1/overlayd.sock "$bin/overlayctl" "${@:2}"; }

# Waits until a command succeeds: waits for 30 s at most, and says for what.
until_ok() {
    local what=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            printf '    %sfailed%s: waited 30 s until %s\n' "$red" "$off" "$what"
            return 1
        fi
        sleep 0.1
    done
    ok "$what"
}

# ---- making and removing

remove_demo() {
    local demo=$1 dir=/tmp/$1 path netns pid
    for path in /run/netns/"$demo"-*; do
        [ -e "$path" ] || continue
        netns=${path##*/}
        # Daemons, iperf3 and tcpdump of this demo, each by its pid: nothing else runs in there.
        for pid in $(ip netns pids "$netns"); do kill -KILL "$pid" 2>/dev/null || true; done
        # Whoever is dying may still hold a file, or be writing one.
        local patience=50
        while [ -n "$(ip netns pids "$netns")" ] && [ "$((patience -= 1))" -gt 0 ]; do sleep 0.1; done
        ip netns del "$netns"
    done
    rm -rf "$dir"
}

# Run at the end with the exit code. A signal that comes while it begins runs it
# anew, from its own trap: going on would end with nothing cleaned.
on_exit() {
    local code=$1
    # An impatient second Ctrl-C, or `timeout` that tells the whole group, must not stop the cleaning.
    trap '' INT TERM
    trap - EXIT
    # Nor must a step of it that fails.
    set +e
    if [ "$code" -ne 0 ]; then
        printf '\n%sthe demo failed%s in step %d\n' "$red" "$off" "$step_number"
        local h
        for h in "${HOSTS[@]}"; do
            [ -s "$dir/$h/overlayd.log" ] || continue
            say "the last lines of overlayd on host $h:"
            tail -n 8 "$dir/$h/overlayd.log" | indent
        done
    fi
    if [ "${KEEP:-}" = 1 ] && [ -d "$dir" ]; then
        how_to_enter
    else
        [ "$finished" != 1 ] || step "Clean up"
        remove_demo "$demo"
        ok "removed: namespaces, daemons, files"
    fi
    [ "$finished" != 1 ] || printf '\n%sdone in %d s%s\n' "$bold" "$((SECONDS + spent))" "$off"
    exit "$code"
}

how_to_enter() {
    local h
    printf '\n%sIt is left running.%s A shell on each host, and its command line:\n\n' "$bold" "$off"
    for h in "${HOSTS[@]}"; do
        printf '    host %s    ip netns exec %s bash\n' "$h" "$(ns "$h")"
        printf '              export OVERLAYD_SOCKET=%s; %s/overlayctl status\n' "$dir/$h/overlayd.sock" "$bin"
        printf '              less %s\n' "$dir/$h/overlayd.log"
    done
    printf '\n    inside a container:   ip netns exec %s ping -c 3 %s\n' "$(ns web)" "${ip_of[db]:-10.9.0.4}"
    printf '    on the wire:          ip netns exec %s tcpdump -ni br0 udp port 4789\n' "$(ns underlay)"
    printf '    end it:               make demo-down\n\n'
}

# ---- the demo

prepare() {
    step "What this machine lacks"
    "$here/deploy/setup.sh" | indent

    step "Build overlayd and overlayctl"
    say "debug profile: built in a minute or two, and fast enough for a demo (make release optimises)"
    show "" "cargo build --locked -p overlayd -p overlayctl"
    (cd "$here" && cargo build --locked -p overlayd -p overlayctl)
    ok "built"
}

make_hosts() {
    step "Three hosts, joined by an underlay"
    cat <<'PICTURE'

       host a 192.0.2.1        host b 192.0.2.2        host c 192.0.2.3
         container web           container app           container db
              |                       |                       |
       =======+=== overlay "demo", VNI 4097, 10.9.0.0/24 =====+=======
              |                       |                       |
       -------+------- underlay 192.0.2.0/24, MTU 1500 -------+-------

PICTURE
    say "hosts and containers are network namespaces; the underlay is a bridge in one of its own"
    ip netns add "$(ns underlay)"
    in_ns underlay ip link add br0 type bridge mcast_snooping 0
    in_ns underlay ip link set br0 up
    local h
    for h in "${HOSTS[@]}"; do
        mkdir -p "$dir/$h"
        ip netns add "$(ns "$h")"
        in_ns "$h" ip link set lo up
        in_ns underlay ip link add "to-$h" type veth peer name eth0 netns "$(ns "$h")"
        in_ns underlay ip link set dev "to-$h" master br0 up
        in_ns "$h" ip addr add "${ADDRESS[$h]}/24" dev eth0
        in_ns "$h" ip link set eth0 up
    done
    until_ok "host c answers host a on the underlay" in_ns a ping -c 1 -W 1 "${ADDRESS[c]}"
}

start_daemons() {
    step "A key for the cluster, and a daemon on each host; each is told of one other"
    show "host a" "(umask 077; overlayd keygen > key)"
    (umask 077; "$bin/overlayd" keygen >"$dir/key")
    say "every host gets a copy of it: what they gossip is encrypted and authenticated"
    local -A join=([a]=b [b]=c [c]=a)
    local h args
    for h in "${HOSTS[@]}"; do
        args=(--name "$h" --vtep-ip "${ADDRESS[$h]}" --advertise "${ADDRESS[$h]}"
            --join "${ADDRESS[${join[$h]}]}:7946" --key-file "$dir/$h/key")
        install -m 600 "$dir/key" "$dir/$h/key"
        show "host $h" "overlayd ${args[*]}"
        nsenter --net="/run/netns/$(ns "$h")" -- "$bin/overlayd" "${args[@]}" \
            --state-dir "$dir/$h/state" --socket "$dir/$h/overlayd.sock" \
            </dev/null >"$dir/$h/overlayd.log" 2>&1 &
        disown
    done
    for h in "${HOSTS[@]}"; do
        until_ok "host $h sees all three" sees_three "$h"
    done
    ctl a hosts
}

sees_three() {
    [ "$(quiet_ctl "$1" --json hosts | jq '[.[] | select(.state == "up")] | length')" = 3 ]
}

make_network() {
    step "A network, created on host a, known everywhere"
    ctl a net create demo --vni "$VNI" --subnet "$SUBNET"
    local h
    for h in b c; do
        until_ok "host $h knows it" quiet_ctl "$h" net inspect demo
    done
}

attach_containers() {
    step "A container on each host, attached"
    local h c
    for h in "${HOSTS[@]}"; do
        c=${CONTAINER[$h]}
        ip netns add "$(ns "$c")"
        in_ns "$c" ip link set lo up
        ctl "$h" attach --net demo --netns "$(ns "$c")" --name "$c"
        ip_of[$c]=$(in_ns "$c" ip -4 -j addr show dev eth0 | jq -r '.[0].addr_info[0].local')
    done
    for h in "${HOSTS[@]}"; do
        until_ok "host $h has the entries of the other two in its kernel" has_entries "$h"
    done
    ctl a endpoints
}

has_entries() {
    [ "$(in_ns "$1" bridge -j fdb show dev "ovx$VNI" |
        jq '[.[] | select(.mac != "00:00:00:00:00:00" and .dst != null)] | length')" = 2 ]
}

ping_all() {
    step "Every container pings every other"
    local from to
    for from in web app db; do
        for to in web app db; do
            [ "$from" = "$to" ] && continue
            show "container $from" "ping -c 3 ${ip_of[$to]}"
            in_ns "$from" ping -n -q -c 3 -i 0.2 -W 2 "${ip_of[$to]}" | tail -n 2 | indent
        done
    done
}

transfer() {
    step "TCP from web on host a to db on host c"
    in_ns db iperf3 -s -1 >/dev/null 2>&1 &
    until_ok "iperf3 listens in db" listens
    show "container web" "iperf3 -c ${ip_of[db]} -t 2"
    in_ns web iperf3 -c "${ip_of[db]}" -t 2 -f g | grep -E 'sender|receiver' | indent
}

listens() { [ -n "$(in_ns db ss -Hltn 'sport = :5201')" ]; }

show_kernel() {
    step "How host a knows the way: entries in its kernel, none learned, none asked for"
    say "the VXLAN device: which MAC is behind which host, and who gets broadcast (00:00:...)"
    at a bridge fdb show dev "ovx$VNI"
    say "the bridge answers ARP for them, so that no question crosses the underlay"
    at a ip neigh show dev "ovb$VNI" nud permanent
    say "the daemon's own view: as it should be, beside as it is"
    ctl a fdb
    ctl a neigh
}

show_packet() {
    step "One packet on the underlay, decoded"
    local file=$dir/vxlan.pcap
    show underlay "tcpdump -ni br0 -w vxlan.pcap udp port 4789"
    # Not by in_ns: $! must be tcpdump itself, not a shell around it.
    nsenter --net="/run/netns/$(ns underlay)" -- \
        tcpdump -ni br0 -U --immediate-mode -Z root -w "$file" udp port 4789 \
        </dev/null 2>"$dir/tcpdump.log" &
    local tcpdump=$!
    until_ok "tcpdump captures" grep -q 'listening on' "$dir/tcpdump.log"
    show "container web" "ping -c 2 ${ip_of[app]}"
    in_ns web ping -n -q -c 2 -i 0.2 -W 2 "${ip_of[app]}" >/dev/null
    until_ok "it was captured" decoded "$file"
    # TERM: a shell starts what it puts in the background deaf to INT.
    kill -TERM "$tcpdump"
    wait "$tcpdump" || true
    show underlay "tshark -r vxlan.pcap -O vxlan"
    tshark -n -r "$file" -d udp.port==4789,vxlan -Y 'vxlan && icmp.type == 8' -O vxlan -c 1000 2>/dev/null |
        awk '/^Frame / && seen++ { exit } NF' | indent
    local arp
    arp=$(tshark -n -r "$file" -d udp.port==4789,vxlan -Y 'vxlan && arp' 2>/dev/null | wc -l)
    ok "VNI $VNI, UDP port 4789; ARP packets inside VXLAN: $arp"
}

decoded() {
    [ -n "$(tshark -n -r "$1" -d udp.port==4789,vxlan -Y 'vxlan && icmp.type == 0' 2>/dev/null)" ]
}

up() {
    # As whoever runs it: the build belongs to that user.
    if [ "${OVERLAY_DEMO_PREPARED:-}" != 1 ]; then
        prepare
        if [ "$(id -u)" -ne 0 ]; then
            say "namespaces need root: going on with sudo"
            exec sudo env OVERLAY_DEMO_PREPARED=1 OVERLAY_DEMO_SPENT="$SECONDS" KEEP="${KEEP:-}" \
                CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-}" "$0" up
        fi
    else
        step_number=2
    fi

    bin=${OVERLAY_BIN_DIR:-${CARGO_TARGET_DIR:-$here/target}/debug}
    # The first name that is free, so that a demo that was kept is in nobody's way.
    local n=${OVERLAY_DEMO_NUMBER:-}
    while compgen -G "/run/netns/ovdemo$n-*" >/dev/null || ! mkdir "/tmp/ovdemo$n" 2>/dev/null; do
        n=$((${n:-1} + 1))
    done
    demo=ovdemo$n
    dir=/tmp/$demo
    declare -gA ip_of=()
    finished=0
    spent=${OVERLAY_DEMO_SPENT:-0}
    trap 'on_exit $?' EXIT
    trap 'on_exit 130' INT TERM

    make_hosts
    start_daemons
    make_network
    attach_containers
    ping_all
    transfer
    show_kernel
    show_packet

    finished=1
}

down() {
    if [ "$(id -u)" -ne 0 ]; then exec sudo "$0" down; fi
    local demos found
    demos=$({ ls -d /tmp/ovdemo* 2>/dev/null; ls /run/netns 2>/dev/null | grep '^ovdemo'; } |
        sed -E 's#^/tmp/##; s#-.*##' | sort -u)
    for found in $demos; do
        remove_demo "$found"
        echo "removed $found"
    done
    [ -n "$demos" ] || echo "there is no demo"
}

case ${1:-} in
up) up ;;
down) down ;;
*)
    echo "usage: $0 up|down   (or: make demo, make demo KEEP=1, make demo-down)" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# The smoke test of the lab, from outside: what needs real machines, another kernel, a real systemd.
# Run by `vagrant/lab.sh test` inside the lab's namespaces. Prints what it saw; goes on after a failure;
# exit code 0 exactly if nothing failed. LAB_STEPS="ping reboot": these alone.
set -uo pipefail
cd "$(dirname "$0")/.."
lab=$PWD/target/lab
outside=$(uname -r)
hosts=()
for letter in a b c d e f g h; do
    [ "${#hosts[@]}" -ge "${LAB_HOSTS:-3}" ] || hosts+=("host-$letter")
done
# Steps that take a host away take this one; the others look on.
victim=${hosts[-1]}
c_victim=c-${victim#host-}
declare -A address
for i in "${!hosts[@]}"; do address[${hosts[i]}]=192.0.2.$((11 + i)); done

failed=()
passed=0
step=
start=$SECONDS

say() { printf '    %s\n' "$*"; }
indent() { sed 's/^/      /'; }
pass() { passed=$((passed + 1)); printf '    ok %s\n' "$*"; }
fail() { failed+=("$step: $*"); printf '    FAILED %s\n' "$*"; }
# ok WHAT COMMAND...: the command says whether; what it printed is shown if not.
ok() {
    local what=$1 out
    shift
    if out=$("$@" 2>&1); then pass "$what"; else fail "$what"; echo "$out" | tail -8 | indent; fi
}

# at HOST 'script': as root there. One connection a host is kept, since each costs a second under emulation.
ways=(-F "$lab/ssh-config" -o ControlMaster=auto -o ControlPath=/run/lab-%n -o ControlPersist=600
    -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o ConnectTimeout=5 -o LogLevel=ERROR)
at() { timeout "${LIMIT:-60}" ssh "${ways[@]}" "$1" "sudo bash -c $(printf %q "${*:2}")"; }
# Shows it as typed there, with what it says; the exit code is the command's.
show() {
    printf '    %s# %s\n' "$1" "${*:2}"
    at "$@" 2>&1 | indent
    return "${PIPESTATUS[0]}"
}
# within SECONDS WHAT COMMAND...: until it succeeds; says after how long.
within() {
    local limit=$1 what=$2 began=$EPOCHREALTIME until=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then fail "$what: not within $limit s"; return 1; fi
        sleep 0.2
    done
    pass "$what, after $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $began }") s"
}

knows_all() { at "$1" "overlayctl hosts --json" | jq -e "map(select(.state == \"up\").name) | length == ${#hosts[@]}"; }
# By its id: a host that was purged before has left another one of its name behind.
id_of() { at "$1" "overlayctl status --json" | jq -r .host.id; }
state_of() { at "$1" "overlayctl hosts --json" | jq -r ".[] | select(.id == \"$2\") | .state"; }
is_state() { [ "$(state_of "$1" "$2")" = "$3" ]; }
entries() { at "$1" "bridge fdb show dev ovx4097" | grep -v 00:00:00:00:00:00 | grep "dst ${address[$2]} "; }
no_entries() { at "$1" true && ! entries "$@"; }
ip_of() { at "${hosts[0]}" "overlayctl endpoints --json" | jq -r ".[] | select(.name == \"$1\") | .ips[0] | split(\"/\")[0]"; }
# ping_ FROM-HOST CONTAINER ADDRESS [OPTIONS]
ping_() { at "$1" "ip netns exec $2 ping -q ${4:--c 3 -i 0.3} -W 5 $3"; }
everybody_pings() {
    local from to
    for from in "${hosts[@]}"; do
        for to in "${hosts[@]}"; do
            [ "$from" = "$to" ] || ok "c-${from#host-} reaches c-${to#host-}" \
                ping_ "$from" "c-${from#host-}" "$(ip_of "c-${to#host-}")"
        done
    done
}

# ---- the steps

service() {
    local h at_ready at_start
    for h in "${hosts[@]}"; do
        ok "$h: overlayd is enabled and runs, nothing has failed" at "$h" "systemctl is-enabled overlayd && systemctl is-active overlayd && ! systemctl --failed --plain --no-legend | grep ."
        # Since the last boot, or since it was installed: either way the network was there before.
        at_ready=$(at "$h" "systemctl show -P ActiveEnterTimestampMonotonic network-online.target")
        at_start=$(at "$h" "systemctl show -P ExecMainStartTimestampMonotonic overlayd")
        ok "$h: it started after the network was online ($((at_ready / 1000)) ms, then $((at_start / 1000)) ms after boot)" \
            test "$at_ready" -gt 0 -a "$at_ready" -lt "$at_start"
        ok "$h: Docker, if it were there, would wait for it" at "$h" "systemctl show -P Before overlayd | grep -w docker.service"
    done
    show "${hosts[0]}" "systemctl status --no-pager --lines=0 overlayd"
}

kernel() {
    local h its
    for h in "${hosts[@]}"; do
        its=$(at "$h" "uname -r")
        ok "$h runs Linux $its, outside it is $outside" test -n "$its" -a "$its" != "$outside"
    done
}

names() {
    local h
    for h in "${hosts[@]}"; do
        within 60 "$h knows ${#hosts[@]} hosts by their names, all up" knows_all "$h"
        ok "$h was told names, no addresses" at "$h" "overlayctl status >/dev/null && grep '^join = .*\"${hosts[0]}:7946\"' /etc/overlayd/overlayd.toml && ! grep '^join.*192' /etc/overlayd/overlayd.toml"
    done
    show "${hosts[0]}" "overlayctl hosts | cut -c1-75"
}

ping_step() {
    everybody_pings
    show "${hosts[0]}" "ip netns exec c-a ping -c 3 -i 0.3 $(ip_of "$c_victim")"
    # Older kernels tell of a change in more than one way: none of them is somebody else's hand.
    ok "nothing had to be put back" at host-a "! overlayctl status | grep -A5 'put back'"
}

dns() {
    local ip
    ip=$(ip_of "$c_victim")
    ok "c-a is told where $c_victim.demo is, at 10.0.9.1" at host-a "ip netns exec c-a busybox nslookup $c_victim.demo.overlay.internal 10.0.9.1 | grep -w $ip"
    ok "and at 127.0.0.11" at host-a "ip netns exec c-a busybox nslookup $c_victim.demo.overlay.internal 127.0.0.11 | grep -w $ip"
    ok "of nobody it is told nothing" at host-a "! ip netns exec c-a busybox nslookup nobody.demo.overlay.internal 10.0.9.1"
}

port() {
    local h
    for h in "${hosts[@]}"; do
        ok "outside: http://${address[$h]}:8080 is c-${h#host-}'s page" sh -c "curl -sS -m 20 http://${address[$h]}:8080/ | grep 'a page of c-${h#host-} on $h'"
    done
    ok "c-a gets the page of $c_victim by its host's port" at host-a "ip netns exec c-a timeout 20 bash -c 'exec 3<>/dev/tcp/${address[$victim]}/8080; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; grep \"a page of $c_victim\" <&3'"
}

mtu() {
    local ip
    ip=$(ip_of "$c_victim")
    ok "1450 bytes of IP cross, unfragmented" ping_ host-a c-a "$ip" "-c 2 -M do -s 1422"
    ok "1451 are refused where they are sent" at host-a "ip netns exec c-a ping -c 1 -W 5 -M do -s 1423 $ip 2>&1 | grep -i 'message too long'"
}

decode() {
    local ip
    ip=$(ip_of "$c_victim")
    # virbr1 is the wire between the machines, seen from outside.
    timeout 60 tcpdump -nni "${LAB_WIRE:-virbr1}" -c 2 --immediate-mode 'udp port 4789 and src host 192.0.2.11' >/run/lab-decode 2>/run/lab-decode.err &
    local capture=$!
    within 20 "tcpdump listens" grep -q 'listening on' /run/lab-decode.err
    ping_ host-a c-a "$ip" "-c 3" >/dev/null 2>&1
    wait "$capture"
    ok "tcpdump reads VXLAN with VNI 4097 to ${address[$victim]}" grep -q "> ${address[$victim]}.4789: VXLAN, flags \[I\] (0x08), vni 4097" /run/lab-decode
    ok "with the containers' packet in it" grep -q "> $ip: ICMP echo request" /run/lab-decode
    indent </run/lab-decode
}

networkd() {
    local h=$victim what_is_ours='ip link show type bridge; ip -d addr show type vxlan; ip route; bridge fdb show dev ovx4097 | sort; ip neigh show nud permanent | sort; nft list tables'
    ok "$h: systemd-networkd runs, with no settings of its own" at "$h" "systemctl is-active systemd-networkd && ! ls /etc/systemd/networkd.conf.d 2>/dev/null && ! grep -q '^[A-Z]' <(grep -v '^\[' /etc/systemd/networkd.conf)"
    ok "$h: it leaves our links alone" at "$h" "networkctl list --no-legend --no-pager | grep ' ov' | grep -v unmanaged && exit 1; networkctl list --no-legend | grep -q ' ovb4097'"
    ok "$h: MACs are those that overlayd gave (MACAddressPolicy)" at "$h" "overlayctl plan | grep '^nothing to do' && ip link show ovb4097 | grep 02:42:"
    at "$h" "$what_is_ours" >/run/lab-before
    at host-a "ip netns exec c-a ping -i 0.2 -c 120 -W 5 $(ip_of "$c_victim")" >/run/lab-stream 2>&1 &
    local stream=$!
    within 10 "a stream of pings goes to $h" grep -q 'icmp_seq=3 ' /run/lab-stream
    ok "$h: networkd restarts" at "$h" "systemctl restart systemd-networkd && networkctl reload"
    wait "$stream"
    # A restart of networkd takes the underlay's address away, which it has given, and back: 0.4 s under emulation.
    ok "no ping was lost but for that" awk '/packets transmitted/ { seen = 1; if ($1 - $4 > 5) exit 1 } END { exit !seen }' /run/lab-stream
    grep 'packets transmitted' /run/lab-stream | indent
    at "$h" "$what_is_ours" >/run/lab-after
    ok "links, routes, entries and tables are as before" diff /run/lab-before /run/lab-after
}

watch_begin() { at host-a "systemd-run --quiet --unit lab-watch sh -c 'exec overlayctl watch --all >/run/lab-watch 2>&1'"; }
watch_end() {
    at host-a "systemctl stop lab-watch"
    printf '    host-a# overlayctl watch --all\n'
    at host-a "cat /run/lab-watch" | indent
}

reboot() {
    local ip booted id
    id=$(id_of "$victim")
    ip=$(ip_of "$c_victim")
    booted=$(at "$victim" "cat /proc/sys/kernel/random/boot_id")
    LIMIT=1800 watch_begin
    at "$victim" "systemctl reboot" >/dev/null 2>&1
    ssh "${ways[@]}" -O exit "$victim" >/dev/null 2>&1
    within 60 "host-a knows that $victim has stopped, in good order" is_state host-a "$id" stopped
    # Its containers end before overlayd does, and are detached by that: nothing is left to be kept.
    within 10 "the entries of its container are gone" no_entries host-a "$victim"
    fresh() { local now; now=$(at "$victim" "cat /proc/sys/kernel/random/boot_id") && [ -n "$now" ] && [ "$now" != "$booted" ]; }
    within 400 "$victim is back, after a real boot" fresh
    within 120 "it is up for host-a" is_state host-a "$id" up
    within 120 "its container is attached again, and reached under its address $ip" ping_ host-a c-a "$ip" "-c 1"
    ok "the address is the one before" test "$(ip_of "$c_victim")" = "$ip"
    watch_end
    service_after_boot
}
service_after_boot() {
    local ready start
    ready=$(at "$victim" "systemctl show -P ActiveEnterTimestampMonotonic network-online.target")
    start=$(at "$victim" "systemctl show -P ExecMainStartTimestampMonotonic overlayd")
    ok "$victim: overlayd started $(((start - ready) / 1000)) ms after the network was online" test "${ready:-0}" -gt 0 -a "${ready:-0}" -le "${start:-0}"
    ok "$victim: nothing has failed at the boot" at "$victim" "! systemctl --failed --plain --no-legend | grep ."
    ok "$victim: overlayd came up at the first try" at "$victim" "test \$(systemctl show -P NRestarts overlayd) = 0"
}

power() {
    local ip id
    id=$(id_of "$victim")
    ip=$(ip_of "$c_victim")
    ok "host-a has entries of $victim" entries host-a "$victim"
    watch_begin
    ssh "${ways[@]}" -O exit "$victim" >/dev/null 2>&1
    virsh -q -c qemu:///system destroy "overlayd-lab-$victim" >/dev/null 2>&1 || fail "cannot cut its power"
    within 30 "host-a holds it for down" is_state host-a "$id" down
    within 30 "its entries are gone from the kernel of host-a" no_entries host-a "$victim"
    (cd vagrant && vagrant up --no-provision "$victim") >/run/lab-up 2>&1 || { fail "vagrant up"; tail -3 /run/lab-up | indent; }
    within 200 "it is up again" is_state host-a "$id" up
    within 120 "its container is reached under its address $ip" ping_ host-a c-a "$ip" "-c 1"
    watch_end
}

# How long it takes from the word to attach on the victim until host-a forwards to it, ten times, by the clock outside:
# the way there and back over the management network, which no netem concerns, is in it.
converge() {
    local i watch begin
    at "$victim" "ip netns add probe" >/dev/null 2>&1
    for i in 1 2 3 4 5 6 7 8 9 10; do
        begin=$EPOCHREALTIME
        at host-a "for try in \$(seq 500); do ! bridge fdb show dev ovx4097 | grep -q '^02:00:00:00:99:01.* dst' || exit 0; done; exit 1" &
        watch=$!
        at "$victim" "overlayctl attach --net demo --netns probe --name probe --mac 02:00:00:00:99:01" >/dev/null
        wait "$watch" && awk "BEGIN { printf \"%d\n\", ($EPOCHREALTIME - $begin) * 1000 }"
        at "$victim" "overlayctl detach probe" >/dev/null
        at host-a "for try in \$(seq 500); do bridge fdb show dev ovx4097 | grep -q ^02:00:00:00:99:01 || exit 0; done; exit 1" || break
    done | sort -n | awk '{ t[NR] = $1 } END { printf "%d %d %d %d\n", NR, t[1], t[int((NR + 1) / 2)], t[NR] }'
    at "$victim" "ip netns del probe" >/dev/null 2>&1
}

netem() {
    local h n low half most
    read -r n low half most < <(converge)
    ok "without: $n attaches on $victim stand in host-a's FDB after $low to $most ms, half of them within $half ms" test "${n:-0}" -eq 10 -a "${most:-99999}" -lt 10000
    for h in "${hosts[@]}"; do
        ok "$h: 50 ms and a loss of 5 % on the underlay" at "$h" "tc qdisc add dev \$(ip -o -4 addr show to ${address[$h]} | awk '{ print \$2 }') root netem delay 50ms loss 5%"
    done
    show host-a "ip netns exec c-a ping -q -c 50 -i 0.1 $(ip_of "$c_victim")"
    read -r n low half most < <(converge)
    ok "with: after $low to $most ms, half of them within $half ms" test "${n:-0}" -eq 10 -a "${most:-99999}" -lt 10000
    for h in "${hosts[@]}"; do
        ok "$h: nobody is down for it" knows_all "$h"
        at "$h" "tc qdisc del dev \$(ip -o -4 addr show to ${address[$h]} | awk '{ print \$2 }') root" || fail "$h: netem stays"
    done
}

package() {
    local h=$victim was
    was=$(id_of "$h")
    ok "$h: the packages are installed, all files as packed" at "$h" "dpkg --verify overlayd overlayctl | grep -v ' c /etc/' | grep . && exit 1; getent group overlayd"
    ok "$h: removed, nothing of overlayd is in the kernel" at "$h" "cp -a /etc/overlayd /root/kept && systemctl stop lab-container@$c_victim && dpkg -r overlayd && ! ip link | grep -E ' ov[bxecd]' && ! nft list tables | grep -i overlay"
    ok "$h: purged, no file of it is left" at "$h" "dpkg -P overlayd && ! ls -d /etc/overlayd /var/lib/overlayd /etc/default/overlayd 2>/dev/null"
    ok "$h: installed without a key it is enabled, skipped and not failed" at "$h" "dpkg -i /var/cache/lab/overlayd_*.deb && systemctl is-enabled overlayd && test \$(systemctl show -P ActiveState overlayd) = inactive && test \$(systemctl show -P ConditionResult overlayd) = no && ! systemctl --failed --plain --no-legend | grep overlayd"
    ok "$h: with its settings again it starts" at "$h" "cp -a /root/kept/. /etc/overlayd && rm -r /root/kept && systemctl start overlayd && systemctl start lab-container@$c_victim"
    # Purged, it has forgotten who it was: it is a new host of the same name.
    within 60 "its container is reached" reached_by_name
    ok "$h: an upgrade under pings loses none" upgrade
    ok "who it was is forgotten by word" at host-a "overlayctl host forget --dead $was"
}
reached_by_name() { ping_ host-a c-a "$(ip_of "$c_victim")" "-c 1"; }
upgrade() {
    at host-a "ip netns exec c-a ping -i 0.2 -c 150 -W 5 $(ip_of "$c_victim")" >/run/lab-stream 2>&1 &
    local stream=$!
    at "$victim" "dpkg -i /var/cache/lab/overlayd_*.deb" || return 1
    wait "$stream"
    tail -2 /run/lab-stream
    grep -q ' 0% packet loss' /run/lab-stream
}

# Read whole before it runs: it may be edited meanwhile.
main() {
    for pair in service:"systemd: the unit and its order" kernel:"another kernel" names:"hosts by name" \
        ping_step:"ping across" dns:"DNS" port:"published ports" mtu:"the MTU's edge" decode:"VXLAN on the wire" \
        networkd:"systemd-networkd with its defaults" reboot:"a host reboots" power:"a host loses its power" \
        netem:"a bad underlay" package:"the packages come and go"; do
        step=${pair%%:*}
        [ -z "${LAB_STEPS:-}" ] || [[ " $LAB_STEPS " == *" ${step%_step} "* ]] || continue
        printf '\n%s (%d s)\n' "${pair#*:}" "$((SECONDS - start))"
        "$step"
    done
    for h in "${hosts[@]}"; do ssh "${ways[@]}" -O exit "$h" >/dev/null 2>&1; done
    printf '\nlab: %d passed, %d failed, in %d s\n' "$passed" "${#failed[@]}" "$((SECONDS - start))"
    [ "${#failed[@]}" -eq 0 ] || printf '  %s\n' "${failed[@]}"
    [ "${#failed[@]}" -eq 0 ] && [ "$passed" -gt 0 ]
}
main; exit

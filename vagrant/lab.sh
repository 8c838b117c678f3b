#!/usr/bin/env bash
# The lab of docs/lab.md: real machines by Vagrant and libvirt, all of it (libvirtd, its networks and
# DHCP, the machines and what they send) inside one network, mount and PID namespace: what is started
# there ends when that ends, and nothing of this machine's network is touched.
#
#   vagrant/lab.sh up           makes the machines and installs target/deb on them; again is fine
#   vagrant/lab.sh test         the smoke test; exit code
#   vagrant/lab.sh ssh HOST [COMMAND...]
#   vagrant/lab.sh vagrant ...  vagrant itself, inside
#   vagrant/lab.sh down         ends it; what was fetched and built stays
#
# Settings are variables, see vagrant/Vagrantfile: LAB_HOSTS=2 make lab. Root.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
lab=$top/target/lab
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

[ "$(id -u)" -eq 0 ] || { echo "lab: it makes namespaces and runs libvirtd: be root" >&2; exit 2; }

# A process by its number and when it began: numbers are used again.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
# Prints the number of the lab's first process, if there is a lab.
running() {
    local pid start
    read -r pid start 2>/dev/null <"$lab/pid" && [ "$(began "$pid")" = "$start" ] && echo "$pid"
}

inside() {
    local pid
    pid=$(running) || { echo "lab: there is none; make it with: make lab" >&2; exit 2; }
    nsenter --target "$pid" --net --mount --pid -- env -C "$top/vagrant" \
        LAB_STEPS="${LAB_STEPS:-}" HOME="$lab/home" VAGRANT_HOME="$lab/home/.vagrant.d" VAGRANT_DOTFILE_PATH="$lab/dotfile" \
        VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1 \
        LAB_DRIVER="$(cat "$lab/driver")" LAB_HOSTS="$(cat "$lab/hosts")" LAB_IPV6="$(cat "$lab/ipv6")" "$@"
}

# Whether KVM boots a kernel; that there is a /dev/kvm does not say it does.
driver() {
    if [ -w /dev/kvm ] && timeout 20 qemu-system-x86_64 -accel kvm -m 256 -nographic -no-reboot -nic none \
        -kernel "$lab/box/vmlinuz" -append 'console=ttyS0 panic=-1' </dev/null 2>/dev/null |
        grep -aq 'Linux version'; then
        echo kvm
    else
        echo qemu
    fi
}

# Runs as the first process of the lab's namespaces.
first() {
    ip link set lo up
    mount -t tmpfs run /run
    mkdir -p /run/libvirt
    for place in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
        mkdir -p "$lab/libvirt$place"
        [ ! -d "$place" ] || mount --bind "$lab/libvirt$place" "$place"
    done
    # Root in here is root out there: no confinement that this machine may lack, no cgroups.
    printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'cgroup_controllers = []' \
        'namespaces = []' 'remember_owner = 0' 'stdio_handler = "file"' >/etc/libvirt/qemu.conf
    printf '%s\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' 'unix_sock_group = "root"' \
        "log_outputs=\"2:file:$lab/libvirtd.log\"" >/etc/libvirt/libvirtd.conf
    # The shell stays: it buries who dies, as the first process must.
    libvirtd --config /etc/libvirt/libvirtd.conf </dev/null >"$lab/libvirtd.out" 2>&1 &
    wait "$!"
}

begin() {
    ! running >/dev/null || return 0
    local pid missing=() pair
    for pair in vagrant:vagrant libvirtd:libvirt-daemon qemu-system-x86_64:qemu-system-x86 \
        virsh:libvirt-clients qemu-img:qemu-utils dnsmasq:dnsmasq-base; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ "${#missing[@]}" -eq 0 ] || {
        echo "lab: install what is missing: apt-get install ${missing[*]} vagrant-libvirt libvirt-daemon-driver-qemu" >&2
        exit 2
    }
    rm -rf "$lab/libvirt" "$lab/dotfile"
    mkdir -p "$lab/home"
    driver >"$lab/driver"
    echo "${LAB_HOSTS:-3}" >"$lab/hosts"
    echo "${LAB_IPV6:-}" >"$lab/ipv6"
    echo "lab: machines by $(sed 's/qemu/emulation (KVM does not work here)/' "$lab/driver")"
    setsid unshare --net --mount --pid --fork --mount-proc --kill-child "$0" first </dev/null >"$lab/first.out" 2>&1 &
    local outer=$!
    for _ in $(seq 100); do
        pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null | tr -d ' ') || true
        if [ -n "$pid" ]; then
            echo "$pid $(began "$pid")" >"$lab/pid"
            ! inside virsh -q -c qemu:///system list >/dev/null 2>&1 || return 0
        fi
        sleep 0.2
    done
    cat "$lab/first.out" "$lab/libvirtd.out" "$lab/libvirtd.log" 2>/dev/null | tail -5 >&2
    echo "lab: libvirtd does not answer; see $lab/libvirtd.log" >&2
    exit 1
}

case ${1:-} in
first) first ;;
up)
    ls target/deb/overlayd_*.deb >/dev/null 2>&1 || { echo "lab: no packages; run: make deb" >&2; exit 2; }
    start=$SECONDS
    begin
    # A box that was made anew takes the place of the one before.
    if [ "$(cat "$lab/home/box" 2>/dev/null)" != "$(cat "$lab/box/sha256")" ]; then
        inside vagrant box add --force --name overlayd-lab --provider libvirt "$lab/box/overlayd-lab.box"
        cp "$lab/box/sha256" "$lab/home/box"
    fi
    inside vagrant up
    inside vagrant ssh-config >"$lab/ssh-config"
    echo "lab: up in $((SECONDS - start)) s; a shell: vagrant/lab.sh ssh host-a; the smoke test: make lab-test; the end: make lab-down"
    ;;
test) inside "$top/vagrant/smoke.sh" ;;
ssh)
    shift
    inside ssh -F "$lab/ssh-config" "$@"
    ;;
vagrant)
    shift
    inside vagrant "$@"
    ;;
down)
    if pid=$(running); then
        # The first of a PID namespace takes all others along.
        kill -KILL "$pid"
        for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    fi
    rm -rf "$lab/libvirt" "$lab/dotfile" "$lab/pid" "$lab/ssh-config" "$lab/home/box" "$lab/home/.vagrant.d"
    echo "lab: gone; the box and what was fetched for it are in target/lab"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac

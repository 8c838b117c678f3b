#!/usr/bin/env bash
# Installs the CNI plugin on this host: the program, the network, and the drop-in of
# overlayd.service. What is there already and differs is kept and said; running it again
# replaces the program alone.
#
#   deploy/cni/install.sh [--bin-dir DIR] [--conf-dir DIR] [--podman] [--from DIR]
#   deploy/cni/install.sh --remove [--bin-dir DIR] [--conf-dir DIR]
#
#   --bin-dir   where the runtime looks for plugins     /opt/cni/bin
#   --conf-dir  where it looks for networks             /etc/cni/net.d
#   --podman    the network as podman needs it: ports by `portmap`, behind ours
#   --from      where overlay-cni was built             target/release
#   --remove    takes all of it away again, but what containers still use: see docs/cni.md
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

bin_dir=/opt/cni/bin
conf_dir=/etc/cni/net.d
unit_dir=${UNIT_DIR:-/etc/systemd/system/overlayd.service.d}
from=$here/../../target/release
conflist=10-overlay.conflist
remove=
while [ $# -gt 0 ]; do
    case $1 in
    --bin-dir) bin_dir=${2:?--bin-dir needs a directory}; shift ;;
    --conf-dir) conf_dir=${2:?--conf-dir needs a directory}; shift ;;
    --from) from=${2:?--from needs a directory}; shift ;;
    --podman) conflist=10-overlay-podman.conflist ;;
    --remove) remove=1 ;;
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit ;;
    *) echo "install: what is $1? see --help" >&2; exit 2 ;;
    esac
    shift
done

if [ -n "$remove" ]; then
    rm -f "$bin_dir/overlay-cni" "$conf_dir/10-overlay.conflist" "$unit_dir/cni.conf"
    echo "install: removed overlay-cni from $bin_dir, and its network from $conf_dir"
    exit
fi

[ -x "$from/overlay-cni" ] || {
    echo "install: there is no $from/overlay-cni; build it with: make release" >&2
    exit 1
}

# Puts a file where it belongs, unless somebody has made it otherwise.
put() {
    if [ -e "$2" ] && ! cmp -s "$1" "$2"; then
        echo "install: $2 is there and differs: it stays; compare with $1"
    else
        install -m 644 "$1" "$2"
        echo "install: $2"
    fi
}

mkdir -p "$bin_dir" "$conf_dir" "$unit_dir"
# A runtime may be starting it just now: a new file takes its place.
install -m 755 "$from/overlay-cni" "$bin_dir/.overlay-cni.new"
mv "$bin_dir/.overlay-cni.new" "$bin_dir/overlay-cni"
echo "install: $bin_dir/overlay-cni"
put "$here/$conflist" "$conf_dir/10-overlay.conflist"
sed "s|/opt/cni/bin|$bin_dir|" "$here/overlayd-cni.conf" >"$unit_dir/.cni.conf"
put "$unit_dir/.cni.conf" "$unit_dir/cni.conf"
rm -f "$unit_dir/.cni.conf"
# Nothing but says hello: it is the right architecture, and can be started.
echo '{"cniVersion": "1.0.0"}' | CNI_COMMAND=VERSION "$bin_dir/overlay-cni" >/dev/null
command -v systemctl >/dev/null && systemctl daemon-reload 2>/dev/null || true
echo "install: done; edit vni and subnet in $conf_dir/10-overlay.conflist, the same on every host"

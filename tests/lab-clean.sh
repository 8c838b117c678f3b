#!/usr/bin/env bash
# Removes labs that were kept with OVERLAY_KEEP=1, and what a killed lab left:
# the namespaces that begin with ovlab, the processes in them, their files.
# A lab whose process still runs is left alone.
set -euo pipefail

cleaned=0
for path in /run/netns/ovlab*; do
    [ -e "$path" ] || continue
    netns=${path##*/}
    owner=${netns#ovlab}
    owner=${owner%%-*}
    if [ -d "/proc/$owner" ] && [ ! -e "/tmp/$(cut -d- -f1,2 <<<"$netns")/kept" ]; then
        echo "lab-clean: $netns belongs to the running process $owner: left alone"
        continue
    fi
    for pid in $(ip netns pids "$netns"); do
        kill -KILL "$pid" 2>/dev/null || true
    done
    ip netns del "$netns"
    rm -rf "/tmp/$(cut -d- -f1,2 <<<"$netns")"
    cleaned=$((cleaned + 1))
done
echo "lab-clean: $cleaned namespaces removed"

#!/bin/bash
# attend_nodes.sh: marks the nodes Alive as they have booted, in a cluster that was started with --no-wait. Otherwise `start` does that.
scripts=${0%/*}
up=()
while read -r -u 3 node; do
    # It goes on without a node that does not come.
    timeout 60 wait_ssh -h "$node" -p 6667 && up+=("$node")
done 3< /var/lib/container/nodes
[ ${#up[@]} -gt 0 ] || exit 1
# OAR's server boots beside them.
for _ in $(seq 240); do
    left=$(bash "$scripts/nodes_alive.sh" "${up[@]}" 2>&1) && [ -z "$left" ] && exit 0
    sleep 0.5
done
echo "OAR does not have as Alive: $left" >&2
exit 1

#!/bin/bash
# attend_nodes.sh: in a cluster that was started with --no-wait, has OAR look for its nodes each second as long as some boot. Otherwise
# `start` tells it which have. A node that comes later OAR finds by itself, within minutes.
. "${0%/*}/oar_database.sh"
port=$(sed -nE "s/^\s*SERVER_PORT\s*=\s*[\"']?([0-9]+).*/\1/p" /etc/oar/oar.conf | tail -n 1)
for _ in $(seq 120); do
    sleep 1
    left=$(psql -qAt -c "SELECT count(*) FROM resources WHERE state = 'Suspected' AND finaud_decision = 'YES'") || continue
    [ "$left" != 0 ] || break
    # It may boot as well, or be started by hand: then it looks by itself.
    echo Finaud 2>/dev/null > "/dev/tcp/localhost/${port:-6666}"
done

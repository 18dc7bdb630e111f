#!/bin/bash
# nodes_alive.sh NODE...: marks nodes that have booted as Alive, the way oarnodesetting does it.
# Prints the nodes that are not Alive afterwards; on stderr, which part of OAR's server does not work, and its last words.
units=(oardocker-postgresql oardocker-resources oar-server)
mapfile -t states < <(systemctl is-active "${units[@]}")
for i in "${!units[@]}"; do
    unit=${units[i]}
    [ "${states[i]}" != active ] || continue
    echo "$unit.service is ${states[i]}" >&2
    if [ $unit != oar-server ]; then
        journalctl -q -b -n 10 -o cat _SYSTEMD_UNIT=$unit.service >&2
    elif ! cat /run/oardocker-oar-fault >&2 2>/dev/null; then
        # It was fine when it started.
        bash "${0%/*}/wait_oar_server.sh" state | sed 1d >&2
    fi
    exit 1
done
. "${0%/*}/oar_database.sh"
list=$(printf "'%s'," "$@")
left=$(psql -qAt -v ON_ERROR_STOP=1 <<SQL
BEGIN;
WITH changed AS (
    UPDATE resources SET state = 'Alive', state_num = 1, next_state = 'UnChanged',
                         finaud_decision = 'NO', next_finaud_decision = 'NO'
    WHERE network_address IN (${list%,}) AND state <> 'Alive' RETURNING resource_id
), closed AS (
    UPDATE resource_logs SET date_stop = extract(epoch FROM now())::integer
    WHERE date_stop = 0 AND attribute = 'state' AND resource_id IN (SELECT resource_id FROM changed)
)
INSERT INTO resource_logs (resource_id, attribute, value, date_start)
SELECT resource_id, 'state', 'Alive', extract(epoch FROM now())::integer FROM changed;
COMMIT;
SELECT name FROM unnest(ARRAY[${list%,}]) AS name
WHERE NOT EXISTS (SELECT 1 FROM resources WHERE network_address = name AND state = 'Alive');
SELECT '+' WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'Waiting');
SQL
) || exit
# Jobs that wait for a node that was off are not kept waiting for the next look around.
port=$(sed -nE "s/^\s*SERVER_PORT\s*=\s*[\"']?([0-9]+).*/\1/p" /etc/oar/oar.conf | tail -n 1)
[[ $left != *+ ]] || echo Scheduling > "/dev/tcp/localhost/${port:-6666}"
echo "${left%+}"

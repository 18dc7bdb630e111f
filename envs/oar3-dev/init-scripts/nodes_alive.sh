#!/bin/bash
# nodes_alive.sh NODE...: marks nodes that have booted as Alive. Prints the nodes that are not Alive afterwards.
# OAR's server is not looked at: it starts by hand, after OAR 3 was installed from its mounted sources.
for unit in oardocker-postgresql oardocker-resources; do
    systemctl is-active --quiet $unit || { echo "$unit.service is not active" >&2; exit 1; }
done
. "${0%/*}/oar_database.sh"
list=$(printf "'%s'," "$@")
psql -qAt -v ON_ERROR_STOP=1 <<SQL
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
SQL

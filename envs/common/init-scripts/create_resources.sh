#!/bin/bash
# Creates one resource per core of every node that is online and that this cluster may use, in one transaction: oarnodesetting would start Perl for each.
# Jobs of every kind may have them, those of type deploy too.
# They begin as Absent and become Alive when their node has booted (nodes_alive.sh).
# Those that were Alive when the server boots again may boot beside it, so it takes none of them for granted: they begin as Suspected,
# in the way in which OAR itself makes them Alive again when it finds them up. So do all where nobody waits for them on the host.
. "${0%/*}/oar_database.sh"
# The kernel's lists are such as 0-3,8. This is on the way to the first job, so no programs are started.
read -r online < /sys/devices/system/cpu/online
while read -r key value; do
    [ "$key" != Cpus_allowed_list: ] || allowed=$value
done < /proc/self/status
declare -A is_online
for range in ${online//,/ }; do
    for ((id = ${range%-*}; id <= ${range#*-}; id++)); do is_online[$id]=1; done
done
ids=
for range in ${allowed//,/ }; do
    for ((id = ${range%-*}; id <= ${range#*-}; id++)); do [ -z "${is_online[$id]}" ] || ids+=,$id; done
done
ids=${ids#,}
# Once a boot: by hand later, nodes that run stay as they are.
booting=$([ -e /run/oardocker-resources ] && echo false || echo true)
: > /run/oardocker-resources
# A new cluster, of whose nodes `start` tells when they have booted: OAR need not look for them (wait_oar_server.sh).
[ -e /var/lib/oardocker-resources ] || [ -e /var/lib/container/unattended ] || : > /run/oardocker-none-alive
: > /var/lib/oardocker-resources
first="'Absent', 2, 'NO'"
[ ! -e /var/lib/container/unattended ] || first="'Suspected', 3, 'YES'"
mem=$(awk '/^MemTotal/ {print int($2 / 1024 / 1024) + 1}' /proc/meminfo)

{
    echo "BEGIN;"
    for property in "cpu integer NOT NULL DEFAULT 0" "core integer NOT NULL DEFAULT 0" \
                    "host varchar(255) NOT NULL DEFAULT ''" "mem integer NOT NULL DEFAULT 0"; do
        echo "ALTER TABLE resources ADD COLUMN IF NOT EXISTS $property;"
    done
    echo "CREATE TEMPORARY TABLE nodes (cpu integer, name varchar(100)) ON COMMIT DROP;"
    echo "COPY nodes FROM stdin;"
    awk 'NF {printf "%d\t%s\n", ++n, $1}' /var/lib/container/nodes
    printf '%s\n' '\.'
    cat <<SQL
WITH changed AS (
    UPDATE resources SET state = 'Suspected', state_num = 3, next_state = 'UnChanged',
                         finaud_decision = 'YES', next_finaud_decision = 'NO'
    WHERE $booting AND state IN ('Alive', 'Suspected') AND network_address IN (SELECT name FROM nodes)
    RETURNING resource_id
), closed AS (
    UPDATE resource_logs SET date_stop = extract(epoch FROM now())::integer
    WHERE date_stop = 0 AND attribute = 'state' AND resource_id IN (SELECT resource_id FROM changed)
)
INSERT INTO resource_logs (resource_id, attribute, value, date_start)
SELECT resource_id, 'state', 'Suspected', extract(epoch FROM now())::integer FROM changed;
DELETE FROM nodes WHERE name IN (SELECT network_address FROM resources);
WITH created AS (
    INSERT INTO resources (network_address, host, state, state_num, finaud_decision, deploy, cpu, core, cpuset, mem)
    SELECT name, name, $first, 'YES', cpu, (cpu - 1) * cardinality(ids) + i, ids[i], $mem
    FROM nodes, (SELECT ARRAY[$ids] AS ids) AS cpus, generate_series(1, cardinality(ids)) AS i ORDER BY cpu, i
    RETURNING resource_id, state
)
INSERT INTO resource_logs (resource_id, attribute, value, date_start)
SELECT resource_id, 'state', state, extract(epoch FROM now())::integer FROM created;
COMMIT;
SQL
} | psql -q -v ON_ERROR_STOP=1 || exit

if $booting && [ -e /var/lib/container/unattended ]; then
    systemd-run -q --no-block --unit=oardocker-attend /bin/bash "${0%/*}/attend_nodes.sh"
fi

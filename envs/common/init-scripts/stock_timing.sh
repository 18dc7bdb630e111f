#!/bin/bash
# What makes jobs quick in our clusters, back to what OAR ships: for `start --stock-timing`, before anything of OAR runs.
set -e
sed -i -e 's/^SCHEDULER_MIN_TIME_BETWEEN_2_CALLS=.*/SCHEDULER_MIN_TIME_BETWEEN_2_CALLS="5"/' \
    -e 's/^\(TAKTUK_CMD=.*\) -g [0-9.]*/\1/' /etc/oar/oar.conf
[ ! -e /etc/oardocker/postgresql.env ] ||
    PGPASSWORD=oar psql -q -h localhost -U oar oar -v ON_ERROR_STOP=1 \
        -c "DROP FUNCTION IF EXISTS oardocker_gantt_date() CASCADE"

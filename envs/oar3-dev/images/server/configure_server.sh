#!/bin/bash
# Turns the database of OAR 2 into that of OAR 3.
set -e
. /etc/oardocker/postgresql.env
install -d -o postgres -g postgres -m 2775 /run/postgresql
DATA=/var/lib/postgresql/$PGVERSION/main
pg() {
    (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "/usr/lib/postgresql/$PGVERSION/bin/pg_ctl" -s -w \
        -D "$DATA" "$@")
}
pg -o "-c config_file=/etc/postgresql/$PGVERSION/main/postgresql.conf" start
PGPASSWORD=oar psql -q -v ON_ERROR_STOP=1 -h localhost -U oar oar -f /tmp/oar3_schema.sql
pg -m fast stop

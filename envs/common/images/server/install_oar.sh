#!/bin/bash
# install_oar.sh SOURCE: installs OAR's server part and the user commands, and creates OAR's database.
set -e
. /usr/local/lib/oardocker/oar_source.sh

. /etc/oardocker/postgresql.env
install -d -o postgres -g postgres -m 2775 /run/postgresql
BIN=/usr/lib/postgresql/$PGVERSION/bin
DATA=/var/lib/postgresql/$PGVERSION/main
pg() {
    (cd / && runuser -u postgres -- "$@")
}
# While OAR is built.
pg "$BIN/pg_ctl" -s -w -D "$DATA" -o "-c config_file=/etc/postgresql/$PGVERSION/main/postgresql.conf" start &
STARTED=$!

install_oar server user
configure_common
set_conf OAREXEC_DEBUG_MODE 1
# Energy saving is off until ENERGY_SAVING_INTERNAL says yes.
for script in wake_up_nodes.sh shut_down_nodes.sh; do
    sed "s|@PREFIX@|$PREFIX|" /usr/local/lib/oardocker/$script > /etc/oar/$script
    chmod 755 /etc/oar/$script
done
set_conf ENERGY_SAVING_NODE_MANAGER_WAKE_UP_CMD /etc/oar/wake_up_nodes.sh
set_conf ENERGY_SAVING_NODE_MANAGER_SLEEP_CMD /etc/oar/shut_down_nodes.sh
install_oar_keys
install_unit oar-server.service

# While the database is made.
check_programs > "$WORK/check" 2>&1 &
CHECK=$!

# sql_fault FILE: where and why, of what psql has said.
sql_fault() {
    local script statement
    script=$(sed -n 's/^Fail.* to execute \(.*\.sql\).*/\1/p' "$1")
    statement=$(sed -n 's/^STATEMENT: *//p' "$1" | head -n 1)
    [ -f "$script" ] && [ -n "$statement" ] || { cat "$1"; return; }
    echo "${script##*/}, line $(grep -nF -m 1 -- "$statement" "$script" | cut -d : -f 1): $(grep -m 1 ERROR: "$1")"
    echo "$statement"
}

wait $STARTED
pg psql -q -c "ALTER USER postgres PASSWORD 'postgres'"
# psql goes on after an error, and oar-database cannot tell; with this it says which statement fails, and in which line.
PSQLRC=$WORK/psqlrc
printf '%s\n' '\set ON_ERROR_STOP 1' '\set ECHO errors' > "$PSQLRC"
export PSQLRC
$PREFIX/sbin/oar-database --create --db-host localhost --db-admin-user postgres --db-admin-pass postgres 2>"$WORK/sql" ||
    fail "OAR's database cannot be made: $(sql_fault "$WORK/sql")"
cat "$WORK/sql" >&2
unset PSQLRC
# OAR 3 does not wait so.
[ $GENERATION = 3 ] || PGPASSWORD=oar psql -q -v ON_ERROR_STOP=1 -h localhost -U oar oar -f /usr/local/lib/oardocker/quick_gantt.sql
check_rules
pg "$BIN/pg_ctl" -s -w -m fast -D "$DATA" stop
wait $CHECK || { cat "$WORK/check" >&2; exit 1; }
cat "$WORK/check"

finish

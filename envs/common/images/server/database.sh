#!/bin/bash
# PostgreSQL while OAR is installed, and OAR's database in it: sourced after oar_source.sh.
. /etc/oardocker/postgresql.env
BIN=/usr/lib/postgresql/$PGVERSION/bin
DATA=/var/lib/postgresql/$PGVERSION/main
# Debian's psql is a Perl program that looks for this one, and OAR calls it a dozen times.
PATH=$BIN:$PATH

pg() {
    (cd / && runuser -u postgres -- "$@")
}

start_postgresql() {
    install -d -o postgres -g postgres -m 2775 /run/postgresql
    pg "$BIN/pg_ctl" -s -w -D "$DATA" -o "-c config_file=/etc/postgresql/$PGVERSION/main/postgresql.conf" start
}

stop_postgresql() {
    pg "$BIN/pg_ctl" -s -w -m fast -D "$DATA" stop
}

# sql_fault FILE: where and why, of what psql has said.
sql_fault() {
    local script statement
    script=$(sed -n 's/^Fail.* to execute \(.*\.sql\).*/\1/p' "$1")
    statement=$(sed -n 's/^STATEMENT: *//p' "$1" | head -n 1)
    [ -f "$script" ] && [ -n "$statement" ] || { cat "$1"; return; }
    echo "${script##*/}, line $(grep -nF -m 1 -- "$statement" "$script" | cut -d : -f 1): $(grep -m 1 ERROR: "$1")"
    echo "$statement"
}

# What it was made with is noted, for later installs.
make_database() {
    local psqlrc=$WORK/psqlrc trace=/usr/local/lib/oardocker/trace
    pg psql -q -c "DROP DATABASE IF EXISTS oar" -c "DROP ROLE IF EXISTS oar, oar_ro" -c "ALTER USER postgres PASSWORD 'postgres'" 2>/dev/null
    # psql goes on after an error, and oar-database cannot tell; with this it says which statement fails, and in which line.
    printf '%s\n' '\set ON_ERROR_STOP 1' '\set ECHO errors' > "$psqlrc"
    PSQLRC=$psqlrc OARDOCKER_TRACE=$WORK/sources.used PERL5OPT="-I$trace -Mtraced" PYTHONPATH=$trace \
        $PREFIX/sbin/oar-database --create --db-host localhost --db-admin-user postgres --db-admin-pass postgres 2>"$WORK/sql" ||
        fail "OAR's database cannot be made: $(sql_fault "$WORK/sql")"
    cat "$WORK/sql" >&2
    # OAR 3 does not wait so.
    [ $GENERATION = 3 ] ||
        PGPASSWORD=oar psql -q -v ON_ERROR_STOP=1 -h localhost -U oar oar -f /usr/local/lib/oardocker/quick_gantt.sql
    check_rules
}

#!/bin/bash
# refresh.sh DIR: in an image on which OAR was installed, puts the changed source files that are below DIR in place, and makes anew what was
# made with them. `oardocker install` uses it where it knows that this comes to the same as installing all of the tree.
set -e
. /usr/local/lib/oardocker/oar_source.sh

perl /usr/local/lib/oardocker/refresh.pl "$1" > "$WORK/changed"
cat "$WORK/changed"
compile_changed "$WORK/changed"
if [ -e /etc/oardocker/postgresql.env ]; then
    check_programs
    sed -n 's/^used\t//p' /var/lib/oardocker/origins > "$WORK/used"
    if grep -qxF -f "$WORK/used" "$WORK/changed" || grep -q '\.sql$' "$WORK/changed"; then
        . /usr/local/lib/oardocker/database.sh
        start_postgresql
        make_database
        stop_postgresql
    fi
fi
[ ! -d $PREFIX/lib/cgi-bin ] || check_web

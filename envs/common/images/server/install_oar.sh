#!/bin/bash
# install_oar.sh SOURCE: installs OAR's server part and the user commands, and creates OAR's database.
set -e
. /usr/local/lib/oardocker/oar_source.sh

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

. /etc/oardocker/postgresql.env
install -d -o postgres -g postgres -m 2775 /run/postgresql
BIN=/usr/lib/postgresql/$PGVERSION/bin
DATA=/var/lib/postgresql/$PGVERSION/main
pg() {
    (cd / && runuser -u postgres -- "$@")
}
pg "$BIN/pg_ctl" -s -w -D "$DATA" -o "-c config_file=/etc/postgresql/$PGVERSION/main/postgresql.conf" start
pg psql -q -c "ALTER USER postgres PASSWORD 'postgres'"
$PREFIX/sbin/oar-database --create --db-host localhost --db-admin-user postgres --db-admin-pass postgres
pg "$BIN/pg_ctl" -s -w -m fast -D "$DATA" stop

finish

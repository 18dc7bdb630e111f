#!/bin/bash
# install_oar.sh SOURCE: installs OAR's server part and the user commands, and creates OAR's database.
set -e
. /usr/local/lib/oardocker/oar_source.sh
. /usr/local/lib/oardocker/database.sh

# While OAR is built.
start_postgresql &
STARTED=$!

# Where this is, OAR's setup makes no key of its own: install_oar_keys has that of this environment.
mkdir -p /var/lib/oar/.ssh
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

wait $STARTED
make_database
stop_postgresql
wait $CHECK || { cat "$WORK/check" >&2; exit 1; }
cat "$WORK/check"

finish

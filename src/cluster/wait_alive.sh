# wait_alive.sh NODE...: waits until OAR's server answers and its database says that the nodes are Alive.
# Prints how jobs are confined, and the nodes that are not Alive when patience ends.

# Whether OAR is looking for nodes, of which one may have been booting when it was asked: it is suspected when the look ends.
looking() {
    local file word words
    for file in /proc/[0-9]*/cmdline; do
        mapfile -d '' words < "$file"
        for word in "${words[@]:0:4}"; do
            [[ $word != */finaud && $word != */oar-finaud ]] || return 0
        done
    done 2>/dev/null
    return 1
}

own=/var/lib/container/init-scripts/nodes_alive.sh
if [ -f $own ]; then
    # A look takes longer only for a node that has been dead for long.
    for _ in $(seq 50); do
        looking || break
        sleep 0.1
    done
    left=$(/bin/bash $own "$@") || exit
    choice=
    [ ! -e /run/oardocker-job-manager ] || read -r choice < /run/oardocker-job-manager
    echo "${choice:-unknown}" $left
    exit
fi

# Debian's psql is a Perl program that looks for this one.
for dir in /usr/lib/postgresql/*/bin; do PATH=$dir:$PATH; done
value() {
    sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\} *$/\1/p" /etc/oar/oar.conf | tail -n 1
}
export PGHOST=localhost PGUSER=$(value DB_BASE_LOGIN) PGPASSWORD=$(value DB_BASE_PASSWD) PGDATABASE=$(value DB_NAME)
missing() {
    psql -qAt -v ON_ERROR_STOP=1 -c "SELECT name FROM unnest(ARRAY[${list%,}]) AS name
        WHERE NOT EXISTS (SELECT 1 FROM resources WHERE network_address = name AND state = 'Alive')
        OR EXISTS (SELECT 1 FROM resources WHERE network_address = name AND 'Suspected' IN (state, next_state))"
}

list=$(printf "'%s'," "$@")
for i in $(seq 450); do
    if looking; then
        sleep 0.2
        continue
    fi
    # Almighty's port, 6666, without connecting: it would take that for a client.
    if grep -q ':1A0A [0-9A-F:]* 0A ' /proc/net/tcp && left=$(missing 2>/dev/null) && [ -z "$left" ]; then
        break
    fi
    # All nodes have booted. One that OAR looked for just before that it would look for again after minutes, and never where it knew only
    # one of the node's resources then.
    [ $((i % 10)) != 1 ] ||
        oarnodesetting -s Alive --sql "network_address IN (${list%,}) AND state = 'Suspected'" >/dev/null 2>&1
    sleep 0.2
done
left=$(missing) || exit 1
grep -q ':1A0A [0-9A-F:]* 0A ' /proc/net/tcp || { echo "Almighty does not listen on port 6666" >&2; exit 1; }

manager=$(value JOB_RESOURCE_MANAGER_FILE) choice=none
if [ -n "$(value CPUSET_PATH)" ] && [ -n "$(value JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD)" ]; then
    if [ -r /dev/oar_cgroups_links/cpuset/tasks ]; then
        grep -qs /cpuset/tasks "$manager" && choice=cgroups
    elif grep -qsw cpuset /sys/fs/cgroup/cgroup.controllers; then
        grep -qs AllowedCPUs "$manager" && choice=systemd
    fi
fi
echo $choice > /run/oardocker-job-manager
echo $choice $left

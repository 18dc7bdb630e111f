#!/bin/bash
# A database that lives as long as its cluster: no flushing to disk, open to the cluster's hosts.
set -e
VERSION=$(ls /etc/postgresql)
CONFIG=/etc/postgresql/$VERSION/main
mkdir -p "$CONFIG/conf.d"
grep -q "^include_dir" "$CONFIG/postgresql.conf" || echo "include_dir = 'conf.d'" >> "$CONFIG/postgresql.conf"
cat > "$CONFIG/conf.d/oardocker.conf" <<CONF
listen_addresses = '*'
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 200
autovacuum_naptime = 5min
CONF
echo "host all all 0.0.0.0/0 md5" >> "$CONFIG/pg_hba.conf"
# What only some versions have, from 9.6 (stretch) on.
MAJOR=${VERSION%%.*}
[ "$MAJOR" -lt 11 ] || echo "jit = off" >> "$CONFIG/conf.d/oardocker.conf"
# Below a directory of /run that the packaged units would make.
[ "$MAJOR" -ge 15 ] || echo "stats_temp_directory = 'pg_stat_tmp'" >> "$CONFIG/conf.d/oardocker.conf"
# Started by oardocker-postgresql.service, not by the packaged units.
echo manual > "$CONFIG/start.conf"
# The version is data for the unit, which is the same in every suite.
echo "PGVERSION=$VERSION" > /etc/oardocker/postgresql.env

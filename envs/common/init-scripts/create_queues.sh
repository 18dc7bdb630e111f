#!/bin/bash
# One more queue per scheduler: Q1, Q2, ... with priorities from 3 on, as oar-docker has always made them. OAR 3 has none there.
. "${0%/*}/oar_database.sh"
dir=/usr/local/lib/oar/schedulers
[ -d $dir ] || dir=/usr/lib/oar/schedulers
q=0
shopt -s nullglob
for scheduler in "$dir"/*; do
    q=$((q + 1))
    echo "INSERT INTO queues (queue_name, priority, scheduler_policy)
          SELECT 'Q$q', $((q + 2)), '${scheduler##*/}'
          WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queue_name = 'Q$q');"
done | psql -q -v ON_ERROR_STOP=1

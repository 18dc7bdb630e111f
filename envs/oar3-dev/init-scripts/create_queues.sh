#!/bin/bash
# The three queues of OAR 3, all of kamelot. kao, the metascheduler, schedules them itself.
. "${0%/*}/oar_database.sh"
psql -q -v ON_ERROR_STOP=1 <<SQL
DELETE FROM queues;
INSERT INTO queues (queue_name, priority, scheduler_policy)
VALUES ('admin', 10, 'kamelot'), ('default', 2, 'kamelot'), ('besteffort', 0, 'kamelot');
SQL

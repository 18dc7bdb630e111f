#!/bin/bash
# Returns when Almighty listens on port 6666 (1A0A in /proc), without connecting: it would take that for a client.
for _ in $(seq 600); do
    grep -q ':1A0A [0-9A-F:]* 0A ' /proc/net/tcp && exit 0
    sleep 0.05
done
echo "Almighty does not listen on port 6666" >&2
exit 1

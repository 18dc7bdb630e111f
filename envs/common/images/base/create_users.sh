#!/bin/bash
# user1..user5 submit jobs; the password of each is its name.
set -e
for i in 1 2 3 4 5; do
    useradd --user-group --uid $((1100 + i)) --groups sudo --shell /bin/bash --create-home "user$i"
    echo "user$i:user$i" | chpasswd
done

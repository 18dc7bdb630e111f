#!/bin/bash
# One key pair lets everybody of this environment log in everywhere in it; another pair is OAR's own.
set -e
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t rsa -b 2048 -N '' -f /etc/ssh/ssh_host_rsa_key
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key

mkdir -p /etc/oardocker/ssh/{users,oar}
ssh-keygen -q -t ed25519 -N '' -C oardocker -f /etc/oardocker/ssh/users/id_ed25519
ssh-keygen -q -t rsa -b 2048 -N '' -C oar -f /etc/oardocker/ssh/oar/id_rsa
chmod 700 /etc/oardocker/ssh

for user in root docker user1 user2 user3 user4 user5; do
    home=$(getent passwd "$user" | cut -d: -f6)
    install -d -m 700 -o "$user" -g "$(id -g "$user")" "$home/.ssh"
    install -m 600 -o "$user" -g "$(id -g "$user")" /etc/oardocker/ssh/users/id_ed25519 "$home/.ssh/id_ed25519"
    install -m 644 -o "$user" -g "$(id -g "$user")" /etc/oardocker/ssh/users/id_ed25519.pub "$home/.ssh/id_ed25519.pub"
    install -m 600 -o "$user" -g "$(id -g "$user")" /etc/oardocker/ssh/users/id_ed25519.pub "$home/.ssh/authorized_keys"
done

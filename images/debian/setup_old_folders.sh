#!/bin/sh
# What folders made by oar-docker 1.6.5 expect of their base image, beyond packages.
set -e

# Their hosts log in on each other without being asked; of the ssh files they keep only what is in /etc/ssh/ssh_config.d.
mkdir -p /etc/ssh/ssh_config.d
cat > /etc/ssh/ssh_config.d/oardocker.conf <<'CONFIG'
Host *
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    AddressFamily inet
CONFIG

# Their install scripts copy a git tree on write with unionfs-fuse. An overlay of the kernel does that without FUSE.
cat > /usr/local/bin/unionfs-fuse <<'SHIM'
#!/bin/sh
# unionfs-fuse [-o OPTIONS]... CHANGES=RW:ORIGINAL=RO TARGET
set -e
while [ $# -gt 2 ]; do shift; done
changes=${1%%=RW:*} original=${1#*=RW:}
mkdir -p "$changes/upper" "$changes/work"
exec mount -t overlay overlay -o "lowerdir=${original%=RO},upperdir=$changes/upper,workdir=$changes/work" "$2"
SHIM
chmod 755 /usr/local/bin/unionfs-fuse

# Their frontend configures phpPgAdmin, which Debian 11 and 12 were released without.
if [ ! -f /etc/phppgadmin/config.inc.php ]; then
    mkdir -p /etc/phppgadmin
    echo '<?php // phpPgAdmin is not part of this release of Debian.' > /etc/phppgadmin/config.inc.php
    echo '# phpPgAdmin is not part of this release of Debian.' > /etc/apache2/conf-available/phppgadmin.conf
fi
rm -f /tmp/setup_old_folders.sh

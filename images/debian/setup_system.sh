#!/bin/sh
# What does not depend on the environment: the language, the user "docker", and which services boot.
set -e

update-locale LANG=en_US.UTF-8

groupadd docker
useradd --gid docker --groups sudo --shell /bin/bash --create-home docker
echo docker:docker | chpasswd
echo root:docker | chpasswd
echo '%sudo ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/oardocker
chmod 440 /etc/sudoers.d/oardocker
# Users may ping, whatever the engine sets up for that.
chmod u+s "$(command -v ping)"

# A role enables what it needs; a stock Debian would boot all of this in every container.
systemctl disable apache2.service postgresql.service ssh.service rsyslog.service cron.service \
    e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer man-db.timer phpsessionclean.timer apache-htcacheclean.service 2>/dev/null || true
# There is no console, no hardware and no kernel of one's own in a container.
systemctl mask console-getty.service getty@tty1.service getty-static.service systemd-logind.service \
    systemd-udevd.service systemd-networkd.service systemd-timesyncd.service systemd-hwdb-update.service \
    systemd-firstboot.service ldconfig.service systemd-journal-flush.service systemd-update-utmp.service \
    systemd-pcrphase.service systemd-machine-id-commit.service systemd-remount-fs.service systemd-sysctl.service \
    systemd-journal-catalog-update.service systemd-update-done.service systemd-modules-load.service \
    dev-hugepages.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount modprobe@.service >/dev/null 2>&1
rm -f /etc/machine-id /var/lib/dbus/machine-id
: > /etc/machine-id
rm -f /tmp/setup_system.sh

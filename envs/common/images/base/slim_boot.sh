#!/bin/bash
# Takes from the boot of every host what a container has no use for. Each program that systemd starts costs some 8 ms of a processor, and
# ten hosts boot on two. `systemctl unmask UNIT`, or removing a link to /dev/null that is made here, brings each of them back.
set -e

# They look for consoles, disks, security chips, sockets of virtual machines, and what a kernel was told at its start.
mkdir -p /etc/systemd/system-generators
for generator in systemd-bless-boot systemd-cryptsetup systemd-debug systemd-fstab systemd-getty systemd-gpt-auto \
    systemd-hibernate-resume systemd-integritysetup systemd-run systemd-ssh systemd-system-update systemd-tpm2 \
    systemd-veritysetup postgresql; do
    ln -sfn /dev/null /etc/systemd/system-generators/$generator-generator
done

# Accounts were made with the image and devices by the runtime. There is no console to ask for a password at, and no login manager that keeps
# users out until the boot is over; without that, nothing must tell ssh to wait for it.
systemctl mask systemd-sysusers.service systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service \
    kmod-static-nodes.service systemd-user-sessions.service systemd-ask-password-console.path systemd-ask-password-wall.path \
    systemd-random-seed.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-pstore.service \
    systemd-pcrmachine.service systemd-pcrphase-sysinit.service systemd-tpm2-setup-early.service systemd-tpm2-setup.service \
    systemd-hibernate-clear.service systemd-hostnamed.socket systemd-creds.socket systemd-initctl.socket systemd-sysext.socket \
    systemd-pcrextend.socket systemd-pcrlock.socket systemd-journald-audit.socket getty.target remote-fs.target dev-mqueue.mount
mkdir -p /etc/tmpfiles.d
ln -sfn /dev/null /etc/tmpfiles.d/systemd-nologin.conf
systemctl set-default multi-user.target

# D-Bus begins when somebody calls, such as OAR for a job in a scope of systemd.
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sfn /dev/null /etc/systemd/system/multi-user.target.wants/dbus.service

# What is on disk was made with the image.
mkdir -p /etc/systemd/system/systemd-tmpfiles-setup.service.d
cat > /etc/systemd/system/systemd-tmpfiles-setup.service.d/oardocker.conf <<'UNIT'
[Service]
ExecStart=
ExecStart=/bin/systemd-tmpfiles --create --remove --boot --prefix=/run --prefix=/tmp --prefix=/var/lock
UNIT

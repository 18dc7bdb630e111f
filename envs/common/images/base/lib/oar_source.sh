#!/bin/bash
# Sourced by install_oar.sh: unpacks or copies what `oardocker install` mounted, so that nothing is written to it.
# Sets SRCDIR, VERSION and COMMENT, and gives set_conf.
set -e
export LC_ALL=C.UTF-8 SYSTEMD_INIT=true
# OAR 2.6.1's oarcgdev.c relies on libbpf's headers for open(), which those of libbpf 1.5 do not give any more.
export CC="cc -include fcntl.h"
# oarcgdev, with which OAR >= 2.6 hides devices on v2 cgroups, needs libbpf 0.7: on an older suite OAR is built for v1 only.
pkg-config --atleast-version=0.7 libbpf || export OAR_CGV1=1

fail() {
    echo "error: $*" >&2
    exit 1
}

[ -e "$1" ] || fail "there is no OAR source at $1"
WORK=$(mktemp -d /tmp/install_oar.XXXXXX)
trap 'rm -rf "$WORK"' EXIT

if [ -d "$1" ]; then
    SRCDIR=$WORK/src
    cp -a "$1" "$SRCDIR"
    chown -R root:root "$SRCDIR"
    if [ -e "$SRCDIR/.git" ]; then
        KIND="git branch $(git -C "$SRCDIR" rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)"
        VERSION=$(git -C "$SRCDIR" describe --tags 2>/dev/null || true)
    else
        KIND=directory
    fi
else
    tar -xf "$1" -C "$WORK"
    SRCDIR=$(find "$WORK" -mindepth 1 -maxdepth 1 -type d | head -n 1)
    KIND=tarball
fi

VERSION_FILE=$SRCDIR/sources/core/common-libs/lib/OAR/Version.pm
[ -n "$VERSION" ] || VERSION=$(sed -n 's/^my \$OARVersion *= *"\(.*\)";$/\1/p' "$VERSION_FILE" 2>/dev/null || true)
[ -n "$VERSION" ] || fail "no OAR version found: is this an OAR source tree?"
COMMENT="OAR $VERSION ($KIND)"

# What the v1 build of OAR 2.6.1 looks for under names that only the other build has.
if [ -n "$OAR_CGV1" ] && [ -d "$SRCDIR/sources/core/tools/oarsh-legacy" ]; then
    cp -n "$SRCDIR"/sources/core/tools/{oarsh,oarsh-legacy}/pam_oar_adopt.conf
    sed -i 's/CGV1_OR_SYSTEMD=cgroup$/CGV1_OR_SYSTEMD=cgroups/' "$SRCDIR/setup/server.sh.in"
fi

# set_conf KEY VALUE: sets a line of oar.conf, commented out or not; a key that is not there is added.
set_conf() {
    if grep -q "^#* *$1=" /etc/oar/oar.conf; then
        sed -i "0,/^#* *$1=.*/s||$1=\"$2\"|" /etc/oar/oar.conf
    else
        echo "$1=\"$2\"" >> /etc/oar/oar.conf
    fi
}

configure_common() {
    set_conf LOG_LEVEL 3
    set_conf DB_TYPE Pg
    set_conf DB_HOSTNAME server
    set_conf DB_PORT 5432
    set_conf DB_BASE_LOGIN oar
    set_conf DB_BASE_PASSWD oar
    set_conf DB_BASE_LOGIN_RO oar_ro
    set_conf DB_BASE_PASSWD_RO oar_ro
    set_conf SERVER_HOSTNAME server
    set_conf DEPLOY_HOSTNAME frontend
    set_conf COSYSTEM_HOSTNAME frontend
    set_conf TAKTUK_CMD "/usr/bin/taktuk -t 30 -s"
    set_conf PINGCHECKER_TAKTUK_ARG_COMMAND "broadcast exec timeout 5 kill 9 [ true ]"
    set_conf CPUSET_PATH /oar
    set_conf JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD cpuset
    set_conf WALLTIME_CHANGE_ENABLED yes
    set_conf WALLTIME_MAX_INCREASE -1
    set_conf KILL_INNER_JOBS_WITH_CONTAINER yes
}

# OAR's own account logs in everywhere with the key of this environment.
install_oar_keys() {
    local dir=/var/lib/oar/.ssh
    install -d -m 700 -o oar -g oar $dir
    install -m 600 -o oar -g oar /etc/oardocker/ssh/oar/id_rsa $dir/id_rsa
    install -m 644 -o oar -g oar /etc/oardocker/ssh/oar/id_rsa.pub $dir/id_rsa.pub
    echo "environment=\"OAR_KEY=1\" $(cat $dir/id_rsa.pub)" > $dir/authorized_keys
    printf 'Host *\n  ForwardX11 no\n  StrictHostKeyChecking no\n  PasswordAuthentication no\n  AddressFamily inet\n' > $dir/config
    chown oar:oar $dir/*
    chmod 600 $dir/authorized_keys $dir/config
}

# Installs a unit that OAR ships, and has it started at boot.
install_unit() {
    local unit
    for unit in "$@"; do
        local file
        file=$(find /usr/local/share -name "$unit" -path '*systemd*' | head -n 1)
        [ -n "$file" ] || fail "OAR $VERSION does not ship $unit"
        install -m 644 "$file" /etc/systemd/system/
        systemctl add-wants multi-user.target "$unit"
    done
}

# OAR 2.6 is built for one of two ways to confine jobs. Both are kept side by side, as the host's cgroups, which decide,
# are known at boot only (choose_job_manager.sh).
install_both_oarsh() {
    local tools=$SRCDIR/sources/core/tools lib=/usr/local/lib/oar
    [ -d "$tools/oarsh-legacy" ] || return 0
    make -s -C "$SRCDIR" PREFIX=/usr/local OAR_CGV1=1 common-build
    install -d $lib/oarsh.cgroups
    if [ -z "$OAR_CGV1" ]; then
        install -d $lib/oarsh.systemd
        install -m 755 "$tools"/oarsh/{oarsh,oarsh_shell,oarcp} $lib/oarsh.systemd/
    fi
    install -m 755 "$tools"/oarsh-legacy/{oarsh,oarsh_shell,oarcp} $lib/oarsh.cgroups/
}

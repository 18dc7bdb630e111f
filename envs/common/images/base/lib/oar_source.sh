#!/bin/bash
# Sourced by install_oar.sh SOURCE, where SOURCE is a tarball, a directory or the word "deb" (the suite's own packages).
# install_oar PART... installs from it and sets VERSION and COMMENT; all that follows is the same for every source.
set -e
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive SYSTEMD_INIT=true
# OAR 2.6.1's oarcgdev.c relies on libbpf's headers for open(), which those of libbpf 1.5 do not give any more.
export CC="cc -include fcntl.h"
# oarcgdev, with which OAR >= 2.6 hides devices on v2 cgroups, needs libbpf 0.7: on an older suite OAR is built for v1 only.
pkg-config --atleast-version=0.7 libbpf || export OAR_CGV1=1

# What OAR calls the parts of it: modules of its Makefile, and Debian packages.
declare -A MODULES=([node]=node [server]=server [user]=user [api]=api [web]="www-conf monika drawgantt-svg")
declare -A PACKAGES=([node]=oar-node [server]="oar-server oar-server-pgsql" [user]="oar-user oar-user-pgsql"
                     [api]=oar-restful-api [web]=oar-web-status)

fail() {
    echo "error: $*" >&2
    exit 1
}

SOURCE=$1
[ "$SOURCE" = deb ] || [ -e "$SOURCE" ] || fail "there is no OAR source at $SOURCE"
PREFIX=/usr/local
[ "$SOURCE" = deb ] && PREFIX=/usr
WORK=$(mktemp -d /tmp/install_oar.XXXXXX)
trap 'rm -rf "$WORK"' EXIT

# install_oar PART...: PARTs are node, server, user, api and web.
install_oar() {
    if [ "$SOURCE" = deb ]; then
        install_packages "$@"
    else
        unpack_source
        make_modules "$@"
    fi
    COMMENT="OAR $VERSION ($KIND)"
    keep_both_oarsh
}

install_packages() {
    local part packages=''
    for part in "$@"; do packages+=" ${PACKAGES[$part]}"; done
    # Nothing is started in an image.
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    apt-get -q update
    # shellcheck disable=SC2086
    apt-get -q -y install --no-install-recommends $packages
    rm /usr/sbin/policy-rc.d
    KIND=deb
    VERSION=$(dpkg-query -W -f '${Version}' oar-common)
    VERSION=${VERSION%-*}
    # As after an installation from sources: no periodic checks of the nodes, and ssh does not ask OAR.
    systemctl disable cron.service oar.target oar-node-script.service oar-nodecheck.timer oar-accounting.timer \
        2>/dev/null || true
    [ ! -e /usr/share/pam-configs/oar-node ] || pam-auth-update --package --remove oar-node
}

# Nothing is written to what `oardocker install` mounted.
unpack_source() {
    if [ -d "$SOURCE" ]; then
        SRCDIR=$WORK/src
        cp -a "$SOURCE" "$SRCDIR"
        chown -R root:root "$SRCDIR"
        if [ -e "$SRCDIR/.git" ]; then
            KIND="git branch $(git -C "$SRCDIR" rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)"
            VERSION=$(git -C "$SRCDIR" describe --tags 2>/dev/null || true)
        else
            KIND=directory
        fi
    else
        unpack_tarball "$SOURCE"
        KIND=tarball
    fi
    local file=$SRCDIR/sources/core/common-libs/lib/OAR/Version.pm
    [ -n "$VERSION" ] || VERSION=$(sed -n 's/^my \$OARVersion *= *"\(.*\)";$/\1/p' "$file" 2>/dev/null || true)
    [ -n "$VERSION" ] || fail "no OAR version found: is this an OAR source tree?"

    # What the v1 build of OAR 2.6.1 looks for under names that only the other build has.
    if [ -n "$OAR_CGV1" ] && [ -d "$SRCDIR/sources/core/tools/oarsh-legacy" ]; then
        cp -n "$SRCDIR"/sources/core/tools/{oarsh,oarsh-legacy}/pam_oar_adopt.conf
        sed -i 's/CGV1_OR_SYSTEMD=cgroup$/CGV1_OR_SYSTEMD=cgroups/' "$SRCDIR/setup/server.sh.in"
    fi
}

unpack_tarball() {
    tar -xf "$1" -C "$WORK"
    SRCDIR=$(find "$WORK" -mindepth 1 -maxdepth 1 -type d | head -n 1)
}

make_modules() {
    local part action modules=''
    for part in "$@"; do modules+=" ${MODULES[$part]}"; done
    # Some releases have a module of further tools for users, some have one that cannot be built.
    if [[ " $* " = *" user "* ]] && make -s -n -C "$SRCDIR" PREFIX=$PREFIX tools-build >/dev/null 2>&1; then
        modules+=" tools"
    fi
    for action in build install setup; do
        # shellcheck disable=SC2046,SC2086
        make -C "$SRCDIR" PREFIX=$PREFIX $(printf "%s-$action " $modules)
    done
}

# OAR 2.6 is built for one of two ways to confine jobs. Both are kept side by side, as the host's cgroups, which decide,
# are known at boot only (choose_job_manager.sh).
keep_both_oarsh() {
    local lib=$PREFIX/lib/oar
    # OAR 2.5, and 2.6 built for v1, know one way only.
    grep -q systemd $lib/oarsh_shell || return 0
    install -D -m 755 -t $lib/oarsh.systemd $lib/oarsh $lib/oarsh_shell $PREFIX/bin/oarcp
    [ "$SOURCE" != deb ] || fetch_source_package
    make -s -C "$SRCDIR" PREFIX=$PREFIX OAR_CGV1=1 common-build
    install -D -m 755 -t $lib/oarsh.cgroups "$SRCDIR"/sources/core/tools/oarsh-legacy/{oarsh,oarsh_shell,oarcp}
}

# The packages hold one of the two, their source both.
fetch_source_package() {
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list > /etc/apt/sources.list.d/oar-source.list
    apt-get -q update
    (cd "$WORK" && apt-get -q source --download-only --tar-only "oar=$(dpkg-query -W -f '${source:Version}' oar-common)")
    rm /etc/apt/sources.list.d/oar-source.list
    unpack_tarball "$WORK"/oar_*.orig.tar.*
}

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
    set_conf USERS_ALLOWED_HOLD_RESUME yes
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

# Has a unit started at boot: the one that OAR ships or, as OAR's packages had none before 2.6, our own.
install_unit() {
    local unit=$1 file
    file=$(find $PREFIX/share /lib/systemd/system -name "$unit" | head -n 1)
    if [ -n "$file" ]; then
        install -m 644 "$file" "/etc/systemd/system/$unit"
    else
        sed "s|@PREFIX@|$PREFIX|" "/usr/local/lib/oardocker/units/$unit" > "/etc/systemd/system/$unit"
    fi
    systemctl add-wants multi-user.target "$unit"
}

# The last line of the output is the image's comment.
finish() {
    apt-get clean
    rm -rf /var/cache/apt/*
    echo "$VERSION" > /oar_version
    echo "$COMMENT"
}

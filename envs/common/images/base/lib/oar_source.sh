#!/bin/bash
# Sourced by install_oar.sh SOURCE, where SOURCE is a tarball, a directory or the word "deb" (the suite's own packages).
# install_oar PART... installs from it and sets VERSION and COMMENT; all that follows is the same for every source.
set -e
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive SYSTEMD_INIT=true
. /usr/local/lib/oardocker/oar_generation.sh

# `oardocker install` shows this, and what follows it.
fail() {
    echo "install failed: $*" >&2
    exit 1
}

SOURCE=$1
[ "$SOURCE" = deb ] || [ -e "$SOURCE" ] || fail "there is no OAR source at $SOURCE"
PREFIX=/usr/local
[ "$SOURCE" = deb ] && PREFIX=/usr
WORK=$(mktemp -d /tmp/install_oar.XXXXXX)
trap 'rm -rf "$WORK"' EXIT
# OAR's Makefile calls it again for each of its modules, and each role has its own.
export OARDOCKER_CLANG=$WORK/clang
[ ! -d /run/oardocker/install ] || OARDOCKER_CLANG=/run/oardocker/install/clang

# install_oar PART...: PARTs are node, server, user, api and web.
install_oar() {
    if [ "$SOURCE" = deb ]; then
        install_packages "$@"
    else
        unpack_source
        perl /usr/local/lib/oardocker/origins.pl begin "$SRCDIR" "$WORK/sources"
        make_man_pages
        make_modules "$@"
    fi
    COMMENT="OAR $VERSION ($KIND)"
    keep_both_oarsh
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
    local generation=2 other
    [ ! -e "$SRCDIR/oar/__init__.py" ] || generation=3
    if [ $generation != $GENERATION ]; then
        other=trixie
        [ $generation = 2 ] || other=oar3
        fail "this is OAR $generation, and this environment is made for OAR $GENERATION: use \`oardocker init -e $other\`"
    fi
    [ -n "$VERSION" ] || VERSION=$(version_of "$SRCDIR")
    [ -n "$VERSION" ] || fail "no version of OAR $GENERATION found in this source tree"
}

unpack_tarball() {
    tar -xf "$1" -C "$WORK"
    SRCDIR=$(find "$WORK" -mindepth 1 -maxdepth 1 -type d | head -n 1)
}

# Man pages by one Perl, as the Makefile would make them: it starts a Perl for each, a second of work on every host.
make_man_pages() {
    local dir
    find "$SRCDIR" -type d -path '*/man/man[1-8]' | while read -r dir; do
        (cd "$dir" && find . -name '*.pod' -printf '%P\n' | xargs -r perl -MPod::Man -e '
            my $section = shift;
            for my $pod (@ARGV) {
                (my $name = $pod) =~ s/\.pod$//;
                my %more = (section => $section, release => $name, center => "OAR commands", name => $name);
                Pod::Man->new(%more)->parse_from_file($pod, "$name.$section");
            }' "${dir: -1}")
    done
}

# The names of scripts come in; what Perl or the shell says of those that do not compile comes out. That a module of others is
# missing is no fault of OAR's: some of its tools want more than our hosts need.
check_scripts() {
    # shellcheck disable=SC2016
    perl /usr/local/lib/oardocker/compiles.pl | xargs -r -P "$(nproc)" -n 1 bash -c '
        read -r first < "$0"
        case $first in
            "#!"*python*) exit ;;
            *perl* | package* | \#*) check=(perl -c) ;;
            *) exit ;;
        esac
        case $first in "#!"*sh | "#!"*sh\ *) check=(bash -n) ;; esac
        said=$("${check[@]}" "$0" 2>&1) ||
            grep -vE "^(BEGIN failed|Compilation failed|.* had compilation errors)|Use of uninit|redefined at|undefined import" <<<"$said" |
            grep -E "line [0-9]+" | grep -vE "Can.t locate ([A-NP-Z]|O[^A])" | head -n 3' | sort -u
}

# check_oarexec TOOLS OAREXEC: the same for what is sent to the nodes as one text.
check_oarexec() {
    local said
    [ -f "$1" ] && [ -f "$2" ] || return 0
    said=$({ cat "$1"; printf '\n# line 1 "oarexec"\n'; cat "$2"; } | perl -c - 2>&1) ||
        grep -E "line [0-9]+" <<<"$said" | grep -vE "^BEGIN failed" | head -n 3
}

# compile_changed FILE: what Python keeps of the modules that are named in it.
compile_changed() {
    grep '\.py$' "$1" | xargs -r python3 -m compileall -q || fail "this OAR does not compile"
}

# check_web: compiles what the web server runs.
check_web() {
    local said
    said=$({
        grep -rlIE '^#!.*(perl|sh)' $PREFIX/lib/cgi-bin || true
        find $PREFIX/lib -name 'oarapi*' -o -path '*/OAR/API*.pm' -o -path '*/OAR/Monika/*.pm'
    } 2>/dev/null | sort -u | check_scripts | head -n 12)
    [ -z "$said" ] || fail "this OAR does not compile:"$'\n'"$said"
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
    # Its programs end at a moment when TakTuk has just looked, and TakTuk looks again after a second by itself.
    set_conf TAKTUK_CMD "/usr/bin/taktuk -t 30 -g 0.02 -s"
    set_conf PINGCHECKER_TAKTUK_ARG_COMMAND "broadcast exec timeout 5 kill 9 [ true ]"
    set_conf CPUSET_PATH /oar
    set_conf JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD cpuset
    set_conf USERS_ALLOWED_HOLD_RESUME yes
    # With OAR's own 5 a submission that comes sooner after a scheduling waits for 5 to 15 seconds. `start --stock-timing` has these
    # two as OAR ships them (stock_timing.sh).
    set_conf SCHEDULER_MIN_TIME_BETWEEN_2_CALLS 0
    configure_generation
}

# OAR's own account logs in everywhere with the key of this environment, whatever its setup has made of the account: since Debian 12
# `adduser --disabled-password` locks it, which sshd takes for a refusal.
install_oar_keys() {
    local dir=/var/lib/oar/.ssh
    usermod --password '*' oar
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
    [ ! -e "$WORK/sources" ] || perl /usr/local/lib/oardocker/origins.pl end "$WORK/sources"
    apt-get clean
    rm -rf /var/cache/apt/*
    echo "$VERSION" > /oar_version
    echo "$COMMENT"
}

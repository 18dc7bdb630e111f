#!/bin/bash
# update.sh check < TAR: in a host of a running cluster: says which of the changed source files of the archive would not compile here.
# update.sh put < TAR:   puts them in place and has what runs take them: "put FILE", "kept FILE" (somebody has changed it here) and
#                        "restarted UNIT", a line each.
set -e
dir=$(mktemp -d /run/oardocker-update.XXXXXX)
. /usr/local/lib/oardocker/oar_source.sh "$dir"
trap 'rm -rf "$WORK" "$dir"' EXIT
mkdir "$dir/new"
tar -x --no-same-owner -C "$dir/new"

check() {
    local all=$dir/all
    perl /usr/local/lib/oardocker/refresh.pl "$dir/new" stage "$all"
    [ -d "$all" ] || return 0
    {
        {
            grep -rlIE '^#!.*(perl|sh)' "$all" || true
            find "$all" -name '*.pm'
        } | sort -u | PERL5LIB=$all/usr/local/lib/site_perl check_scripts | known_here
        find "$all" -name '*.py' | while read -r file; do
            python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")' "$file" 2>&1 | grep -vE '^Traceback|<string>' || true
        done
    } | sed "s|$all||g" | head -n 12
}

# Nodes have some programs without all of their modules.
known_here() {
    if [ -e /etc/oardocker/postgresql.env ] || [ -d $PREFIX/lib/cgi-bin ]; then cat; else grep -v "Can't locate" || true; fi
}

restart() {
    systemctl is-active -q "$1" || return 0
    systemctl "${2:-restart}" "$1"
    echo "restarted $1"
}

put() {
    perl /usr/local/lib/oardocker/refresh.pl "$dir/new" host > "$dir/said"
    sed -n 's/^\//put \//p; /^kept /p' "$dir/said"
    grep '^/' "$dir/said" > "$dir/changed" || return 0
    compile_changed "$dir/changed"
    local lib choice
    if lib=$(grep -m 1 '/oarsh\.[a-z]*/' "$dir/changed"); then
        # As at boot.
        lib=${lib%/oarsh.*} choice=$(cat /run/oardocker-job-manager)
        install -m 755 $lib/oarsh.$choice/oarsh $lib/oarsh.$choice/oarsh_shell $lib/
        install -m 755 $lib/oarsh.$choice/oarcp ${lib%/lib/oar}/bin/
    fi
    # All else is started for each job or command anew.
    if grep -qE '/Almighty$|\.pm$|/oar/lib/|/oar/modules/(almighty|appendice_proxy|bipbip_commander)\.py$' "$dir/changed"; then
        restart oar-server
    fi
    if grep -qE '/oar/(api|cli|kao|lib)/' "$dir/changed"; then
        restart oarapi
    fi
    if grep -qE '/cgi-bin/|\.pm$' "$dir/changed"; then
        restart apache2 reload
    fi
}

"$1"

#!/bin/bash
# What is particular to OAR 2, the one in Perl: sourced by oar_source.sh. An environment for another OAR has another file of this name.
GENERATION=2

# OAR 2.6.1's oarcgdev.c relies on libbpf's headers for open(), which those of libbpf 1.5 do not give any more.
export CC="cc -include fcntl.h"
# oarcgdev, with which OAR >= 2.6 hides devices on v2 cgroups, needs libbpf 0.7: on an older suite OAR is built for v1 only.
pkg-config --atleast-version=0.7 libbpf || export OAR_CGV1=1

# What OAR calls the parts of it: modules of its Makefile, and Debian packages.
declare -A MODULES=([node]=node [server]=server [user]=user [api]=api [web]="www-conf monika drawgantt-svg")
declare -A PACKAGES=([node]=oar-node [server]="oar-server oar-server-pgsql" [user]="oar-user oar-user-pgsql"
                     [api]=oar-restful-api [web]=oar-web-status)

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

# version_of TREE
version_of() {
    sed -n 's/^my \$OARVersion *= *"\(.*\)";$/\1/p' "$1/sources/core/common-libs/lib/OAR/Version.pm"
}

make_modules() {
    # What the v1 build of OAR 2.6.1 looks for under names that only the other build has.
    if [ -n "$OAR_CGV1" ] && [ -d "$SRCDIR/sources/core/tools/oarsh-legacy" ]; then
        cp -n "$SRCDIR"/sources/core/tools/{oarsh,oarsh-legacy}/pam_oar_adopt.conf
        sed -i 's/CGV1_OR_SYSTEMD=cgroup$/CGV1_OR_SYSTEMD=cgroups/' "$SRCDIR/setup/server.sh.in"
    fi
    local part action modules=''
    for part in "$@"; do modules+=" ${MODULES[$part]}"; done
    # Some releases have a module of further tools for users, some have one that cannot be built.
    if [[ " $* " = *" user "* ]] && make -s -n -C "$SRCDIR" PREFIX=$PREFIX tools-build >/dev/null 2>&1; then
        modules+=" tools"
    fi
    # Each module is built before it is installed. Every make of hundreds would ask anew for the distribution.
    for action in install setup; do
        # shellcheck disable=SC2046,SC2086
        make -C "$SRCDIR" PREFIX=$PREFIX TARGET_DIST=debian $(printf "%s-$action " $modules)
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
    make -s -C "$SRCDIR" PREFIX=$PREFIX TARGET_DIST=debian OAR_CGV1=1 common-build
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

# check_programs: compiles what was installed. What does not compile is told here, with file and line, instead of by a daemon in
# its log, or by nobody.
check_programs() {
    [ "$SOURCE" != deb ] || return 0
    local said
    said=$({
        {
            grep -rlIE '^#!.*(perl|sh)' $PREFIX/lib/oar $PREFIX/bin $PREFIX/sbin /etc/oar || true
            find $PREFIX -path '*/OAR/*.pm' -o -path '*/oar-server/*.pl'
        } 2>/dev/null | sort -u | check_scripts
        check_oarexec $PREFIX/lib/site_perl/OAR/Tools.pm $PREFIX/lib/oar/oarexec
    } | head -n 12)
    [ -z "$said" ] || fail "this OAR does not compile:"$'\n'"$said"
    # Perl 5.40 tells, at every command, of what older modules do when they import each other.
    if perl -c $PREFIX/lib/oar/oarstat 2>&1 | grep -q 'undefined import method'; then
        echo "note: this OAR is older than this suite's Perl, and its commands will print warnings: environment bookworm suits it better" \
            "(\`oardocker init -f -e bookworm\`)"
    fi
}

# check_rules: the same for the admission rules in the database, which OAR compiles at each submission.
check_rules() {
    [ "$SOURCE" != deb ] || return 0
    local said
    # Some versions have rules that are switched off.
    said=$(PGPASSWORD=oar psql -qAt -h localhost -U oar oar -c "SELECT json_build_object('id', id, 'rule', rule)
        FROM admission_rules WHERE to_jsonb(admission_rules)->>'enabled' IS DISTINCT FROM 'NO' ORDER BY id" |
        perl -MJSON -ne '
            BEGIN { eval { require OAR::Sub } }
            my $rule = decode_json($_);
            eval "package OAR::Sub; no strict; no warnings; sub {\n# line 1 \"admission rule $rule->{id}\"\n$rule->{rule}\n}"
                or print $@;' | head -n 12)
    [ -z "$said" ] || fail "this OAR does not compile:"$'\n'"$said"
}

configure_generation() {
    set_conf WALLTIME_CHANGE_ENABLED yes
    set_conf WALLTIME_MAX_INCREASE -1
    set_conf KILL_INNER_JOBS_WITH_CONTAINER yes
}

# The REST API is CGI; the private one asks for user docker, password docker.
configure_api() {
    perl -i -pe '
        s/Require local/Require all granted/;
        s/#(ScriptAlias \/oarapi-priv)/$1/;
        $on = 1 if /#<Location \/oarapi-priv>/;
        if ($on) { $on = 0 if /#<\/Location>/; s/^#// }
        s/E=X_REMOTE_IDENT:/E=HTTP_X_REMOTE_IDENT:/;
    ' /etc/oar/apache2/oar-restful-api.conf
    # POST /resources/generate: a tool of the server's.
    local tool
    tool=$(find "${SRCDIR:-/nonexistent}" -path '*/tools/oar_resources_add' 2>/dev/null | head -n 1)
    if [ -n "$tool" ]; then
        install -m 755 "$tool" $PREFIX/lib/oar/
        set_conf API_RESOURCES_LIST_GENERATION_CMD "$PREFIX/lib/oar/oar_resources_add -Y"
    fi
    grep -q '^Listen 6668' /etc/apache2/ports.conf || grep -q '^Listen 6668' /etc/oar/apache2/oar-restful-api.conf \
        || echo 'Listen 6668' >> /etc/apache2/ports.conf
}

#!/bin/bash
# What is particular to OAR 3, the one in Python: sourced by oar_source.sh.
GENERATION=3

declare -A MODULES=([node]=node [server]="server database" [user]=user [api]=api [web]="www-conf monika drawgantt-svg")

install_packages() {
    fail "Debian has no packages of OAR 3: install it from a tarball, a directory, a git tree or git+URL"
}

# version_of TREE
version_of() {
    sed -n "s/^__version__ *= *[\"']\(.*\)[\"'].*/\1/p" "$1/oar/__init__.py"
}

# The Python packages that the installed OAR says it needs, and that are not there.
what_it_lacks() {
    python3 - <<'PYTHON'
import re
from importlib.metadata import PackageNotFoundError, distribution, requires

for need in requires("oar") or []:
    name = re.match(r"[\w.-]+", need).group()
    try:
        "extra ==" in need or distribution(name)
    except PackageNotFoundError:
        print(name)
PYTHON
}

make_modules() {
    local part action modules='' lacking
    for part in "$@"; do modules+=" ${MODULES[$part]}"; done
    # First, as the Makefile moves pip's programs to where its own wrappers look for them.
    pip install --quiet --no-index --no-deps --no-build-isolation "$SRCDIR"
    lacking=$(what_it_lacks)
    [ -z "$lacking" ] || fail "this tree needs Python packages that the images lack: $lacking. Add them to" \
        "images/base/needs/install.sh of this environment, then \`oardocker build install\`"
    # oarcgdev.c relies on libbpf's headers for open(), which those of libbpf 1.5 do not give any more; its Makefile says "gcc".
    install -d "$WORK/bin"
    printf '#!/bin/sh\nexec /usr/bin/gcc -include fcntl.h "$@"\n' > "$WORK/bin/gcc"
    chmod 755 "$WORK/bin/gcc"
    # Where it puts a file before it makes it.
    install -d /var/lib/oar
    for action in build install setup; do
        # shellcheck disable=SC2046,SC2086
        PATH=$WORK/bin:$PATH make -s -C "$SRCDIR" PREFIX=$PREFIX $(printf "%s-$action " $modules)
    done
    install -d /etc/oar/admission_rules.d
    cp -r "$SRCDIR"/etc/oar/admission_rules.d/. /etc/oar/admission_rules.d/
    # What an editable tree is compared with.
    install -D -m 644 -t /usr/local/share/oardocker "$SRCDIR/setup.py"
    systemctl add-wants multi-user.target oardocker-editable.service
}

# OAR 3 installs one of its two ways to confine jobs; the host's cgroups, which decide, are known at boot only
# (choose_job_manager.sh).
keep_both_oarsh() {
    local lib=$PREFIX/lib/oar tools=$SRCDIR/oar/tools share=$PREFIX/share/oar/oar-server
    install -D -m 755 -t $lib/oarsh.systemd $lib/oarsh $lib/oarsh_shell $PREFIX/bin/oarcp
    [ -e "$tools/oarsh/oarsh_legacy.in" ] || return 0
    make -s -C "$SRCDIR" -f Makefiles/common.mk PREFIX=$PREFIX build_templates \
        PROCESS_TEMPLATE_FILES="oar/tools/oarsh/oarsh_legacy.in oar/tools/oarsh/oarsh_shell_legacy.in"
    install -D -m 755 "$tools/oarsh/oarsh_legacy" $lib/oarsh.cgroups/oarsh
    install -m 755 "$tools/oarsh/oarsh_shell_legacy" $lib/oarsh.cgroups/oarsh_shell
    install -m 755 $PREFIX/bin/oarcp $lib/oarsh.cgroups/
    [ ! -d $share ] || install -m 644 -t $share "$tools/job_resource_manager_cgroups.pl"
}

# check_programs: compiles and loads what was installed. What cannot is told here, with file and line, instead of by a daemon in
# its log, or by nobody.
check_programs() {
    local said
    said=$({
        { find $PREFIX/share/oar /etc/oar -name '*.pl'; printf '%s\n' $PREFIX/lib/oar/oarsh{,_shell}; } | check_scripts
        check_oarexec $PREFIX/lib/python3*/dist-packages/oar/tools/{Tools.pm,oarexec}
        check_python || echo "python3 could not look at it"
    } | head -n 12)
    [ -z "$said" ] || fail "this OAR cannot be loaded:"$'\n'"$said"
}

# All is compiled, and what the programs of a cluster begin with is loaded; others want packages that OAR 3 does without.
check_python() {
    (cd / && OARDIR=$PREFIX/lib/oar python3 - 2>/dev/null <<'PYTHON'
import compileall, contextlib, glob, importlib, io, os, traceback
from importlib.metadata import distribution

package = str(distribution("oar").locate_file("oar"))
said = io.StringIO()
with contextlib.redirect_stdout(said):
    compileall.compile_dir(package, quiet=1)
# OAR takes all that is in their directory for rules: nothing is written there.
for path in sorted(glob.glob("/etc/oar/admission_rules.d/*.py")):
    try:
        compile(open(path).read(), path, "exec")
    except SyntaxError as e:
        print(f"{path}, line {e.lineno}: {e.msg}", file=said)
programs = set(os.listdir(os.environ["OARDIR"]))
modules = {e.module for e in distribution("oar").entry_points if e.name in programs} | {"oar.api.app"}
for module in sorted(modules) if not said.getvalue() else []:
    try:
        importlib.import_module(module)
    except BaseException as e:
        frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename.startswith(package)]
        # There is no database yet.
        if frames and "psycopg2" not in repr(e):
            print(f"{frames[-1].filename}, line {frames[-1].lineno}: {type(e).__name__}: {e}", file=said)
text = said.getvalue().replace(os.path.dirname(package) + "/", "")
print("\n".join(dict.fromkeys(l for l in text.splitlines() if l.strip() and "***" not in l)))
PYTHON
    )
}

check_rules() {
    # They are files.
    :
}

configure_generation() {
    set_conf HIERARCHY_LABELS resource_id,network_address,host,cpu,core
    set_conf BIPBIP_COMMANDER_SERVER server
    set_conf META_SCHED_CMD kao
    set_conf JOB_RESOURCE_MANAGER_FILE /etc/oar/job_resource_manager.pl
    set_conf ADMISSION_RULES_IN_FILES yes
    set_conf ADMISSION_RULES_PATH /etc/oar/admission_rules.d/
}

# The REST API is OAR 3's own unit, behind Apache.
configure_api() {
    cat > /etc/apache2/conf-available/oar-restful-api.conf <<'CONF'
# The public REST API knows nobody. The private one asks for user docker, password docker, and says who it is, or for a token of
# `oarsub --api-token`, which the API itself looks at.
Listen 6668
RedirectMatch ^(/oarapi(-priv)?)$ $1/
ProxyPass /oarapi-priv/ http://127.0.0.1:6665/
ProxyPass /oarapi/ http://127.0.0.1:6665/
<Location /oarapi>
    RequestHeader unset X-Remote-Ident
</Location>
<Location /oarapi-priv>
    AuthType Basic
    AuthName "OAR API"
    AuthUserFile /etc/oar/api-users
    <RequireAny>
        Require expr "%{HTTP:Authorization} =~ /^Bearer /"
        Require valid-user
    </RequireAny>
    RequestHeader unset X-Remote-Ident
    RequestHeader set X-Remote-Ident "expr=%{REMOTE_USER}" "expr=-n %{REMOTE_USER}"
</Location>
CONF
    a2enmod -q proxy proxy_http
    systemctl add-wants multi-user.target oarapi.service
}

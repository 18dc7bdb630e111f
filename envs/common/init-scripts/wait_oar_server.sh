#!/bin/bash
# wait_oar_server.sh begin: before OAR's server starts.
# wait_oar_server.sh:       after that. Returns when its Almighty listens, has had nodes and jobs looked at once, and lives after
#                           it. Otherwise it fails, and what OAR said of the reason is in the journal.
# wait_oar_server.sh state: whether it has ended since (the word "ended"), and the last errors that it has told.
# wait_oar_server.sh end:   before it is ended.

# value KEY DEFAULT: what oar.conf says, as OAR reads it.
value() {
    local line
    line=$(sed -nE "s/^\s*$1\s*=\s*[\"']?([^\"'# ]*).*/\1/p" /etc/oar/oar.conf | tail -n 1)
    echo "${line:-$2}"
}
LOG=$(value LOG_FILE /var/log/oar.log)
LIB=/usr/local/lib/oar
[ -d $LIB ] || LIB=/usr/lib/oar
BEGUN=/run/oardocker-oar-log
FAULT=/run/oardocker-oar-fault
if [ "$1" = begin ]; then
    rm -f $FAULT
    stat -c %s $LOG > $BEGUN 2>/dev/null || echo 0 > $BEGUN
    exit 0
fi

# All that is done again and again here is done without starting programs: others boot on the same cores.
exec {never}<> <(:)
pause() { read -r -t 0.03 -u $never; }

alive() { [ -d "/proc/$MAINPID" ]; }

# OAR 3's waits for a message, five seconds at a time, before it looks whether it was told to end; and whoever passes it on must live.
if [ "$1" = end ]; then
    if [ -e $LIB/oar-appendice-proxy ] && kill "$MAINPID"; then
        echo Time > "/dev/tcp/localhost/$(value SERVER_PORT 6666)"
        for ((i = 0; i < 100; i++)); do
            alive || break
            pause
        done
    fi 2>/dev/null
    exit 0
fi

# systemd knows the server's process unless it has ended already.
MAINPID=${MAINPID:-$(cat /run/oar-server.pid 2>/dev/null || echo none)}

# In the kernel's table, without connecting: Almighty would take that for a client.
PORT=$(value SERVER_PORT 6666)
printf -v ENTRY ':%04X [0-9A-F:]* 0A ' "$PORT"
listens() {
    local table
    mapfile table < /proc/net/tcp
    [[ ${table[*]} =~ $ENTRY ]]
}

# The metascheduler: of OAR 3, of a branch of 2.6, of OAR 2.
PROGRAM=$(value META_SCHED_CMD '')
for name in kao oar_all_in_one_scheduler oar_meta_sched; do
    [ -n "$PROGRAM" ] || [ ! -e $LIB/$name ] || PROGRAM=$name
done
[[ $PROGRAM = /* ]] || PROGRAM=$LIB/$PROGRAM

# has PROGRAM: whether one of Almighty's children is that.
has() {
    local child children='' words
    # Some kernels have no such list.
    read -r children 2>/dev/null < "/proc/$MAINPID/task/$MAINPID/children" ||
        [ -e "/proc/self/task/$BASHPID/children" ] || children=$(pgrep -P "$MAINPID" | tr '\n' ' ')
    for child in $children; do
        mapfile -d '' words 2>/dev/null < "/proc/$child/cmdline"
        [[ " ${words[*]}" != *"$1"* ]] || return 0
    done
    return 1
}

# What OAR 3's Almighty starts once and does not look after.
lonely() {
    local companion
    for companion in oar-appendice-proxy oar-bipbip-commander; do
        [ ! -e $LIB/$companion ] || has $LIB/$companion || { echo "OAR's $companion has ended"; return; }
    done
}

# What its logs have in front of, or in, an error: OAR 2.6, OAR 2.5 and OAR 3, Perl's database modules, Python.
FATAL='DBD::.* failed:|^Undefined subroutine|^[A-Za-z0-9_.]*([eE]rror|Exception|errors\.[A-Za-z]+)(: |$)'
ERROR='^E\||^\[ *(error|ERROR)\]|Cannot connect|'$FATAL

# What OAR has said since it began that tells of a fault: the compiler's or database's words, the end of a traceback, errors.
said() {
    tail -c +$(($(cat $BEGUN 2>/dev/null || echo 0) + 1)) $LOG 2>/dev/null
}
faults() {
    local program
    {
        said | grep -aE "line [0-9]+|ERROR:|Cannot|$ERROR" |
            grep -avE 'Use of uninitialized|^[DI]\||^\[ *(DEBUG|INFO|debug|info)' | tail -n 6
        journalctl -q -b _SYSTEMD_UNIT=oar-server.service -o cat -n 200 | grep -aE '^ *File .*line [0-9]+|Error:' | tail -n 4
        # What is not Perl says nothing here.
        for program in $LIB/Almighty $LIB/NodeChangeState "$PROGRAM"; do
            ! head -qn 1 "$program" 2>/dev/null | grep -q perl || perl -c "$program" 2>&1 | grep -avE 'syntax OK|undefined import'
        done
    } | awk '!seen[$0]++' | tail -n 8
}

if [ "$1" = state ]; then
    MAINPID=$(systemctl show --value -p MainPID oar-server 2>/dev/null)
    case $(systemctl is-active oar-server) in
        active) said | grep -aE "$ERROR" | tail -n 3; lonely ;;
        *ing) ;;
        # Where it never began, as in an environment in which that is done by hand, it has not ended.
        *) [ ! -e $BEGUN ] || { echo ended; faults; } ;;
    esac
    exit 0
fi

fail() {
    { echo "$1"; faults; } | tee $FAULT >&2
    exit 1
}

only_with_companions() {
    local lonely
    lonely=$(lonely)
    [ -z "$lonely" ] || fail "$lonely"
}

[ "$PORT" -le 65535 ] || fail "SERVER_PORT in oar.conf: $PORT is no port"
[ -x "$PROGRAM" ] || fail "META_SCHED_CMD in oar.conf: there is no program $PROGRAM"

# Some errors are enough; without its database OAR tries again for ever.
hopeless() { [ $((i % 10)) = 9 ] && said | grep -qaE "$FATAL$([ $i -lt 100 ] || echo '|Cannot connect to database')"; }

for ((i = 0; ; i++)); do
    alive || fail "OAR's server has ended before it listened"
    ! listens || break
    [ $i -lt 1000 ] && ! hopeless || fail "OAR's server does not listen on port $PORT"
    # Longer than any of them takes to begin.
    [ $i -lt 200 ] || [ $((i % 10)) != 0 ] || only_with_companions
    pause
done
# Made meanwhile; of a failure nodes_alive.sh tells.
systemctl start oardocker-resources.service 2>/dev/null
# It looks for nodes when it has begun, and then every five minutes. As long as it takes none for alive this is done at once; a moment later it
# would call on all of them when the first job is waiting.
# Not when it begins once more: then there are, and the first scheduling would wait for their answers.
if [ -e /run/oardocker-none-alive ]; then
    rm -f /run/oardocker-none-alive
    echo Finaud > "/dev/tcp/localhost/$PORT"
fi
echo Scheduling > "/dev/tcp/localhost/$PORT"
# The round ends with the scheduler in OAR 2, and in OAR 3 with what follows it at once. A server that ends because of it takes a moment.
begun='' quiet=0
for ((i = 0; i < 1000 && quiet < 3; i++)); do
    alive || fail "OAR's server has ended at its first scheduling"
    if has "$PROGRAM" || has $LIB/oar-node-change-state; then
        begun=yes quiet=0
    elif [ -n "$begun" ]; then
        quiet=$((quiet + 1))
    fi
    ! hopeless || fail "OAR's server does not come to an end of its first scheduling"
    pause
done
[ -n "$begun" ] || fail "OAR's server does no scheduling"
! said | grep -qaE "$FATAL" || fail "OAR's server tells of errors at its first scheduling"
only_with_companions

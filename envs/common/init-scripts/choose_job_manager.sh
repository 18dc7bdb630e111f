#!/bin/bash
# How jobs are confined depends on the host's cgroups, so it is chosen at every boot, on every host of the cluster alike:
#   v1 controllers were handed to us in /dev/oar_cgroups_links        -> cgroups
#   the unified hierarchy has the cpuset controller, and OAR >= 2.6   -> systemd
#   otherwise jobs run unconfined                                     -> none
CONF=/etc/oar/oar.conf
LIB=/usr/local/lib/oar
SHARE=/usr/local/share/oar/oar-server
[ -d $LIB ] || LIB=/usr/lib/oar
[ -d $SHARE ] || SHARE=/usr/share/oar/oar-server

choice=none
if [ -r /dev/oar_cgroups_links/cpuset/tasks ]; then
    choice=cgroups
    # The v1 job manager makes this link only when it has to look for the controllers itself.
    ln -sfn /dev/oar_cgroups_links/cpuset /dev/cpuset
elif grep -qw cpuset /sys/fs/cgroup/cgroup.controllers 2>/dev/null && [ -d $LIB/oarsh.systemd ]; then
    choice=systemd
fi

# What was chosen at the last boot has been set up then, and whatever differs since is its user's.
DONE=/var/lib/oardocker-job-manager
FILE=/etc/oar/job_resource_manager.pl

set_conf() {
    sed -i "s|^#* *$1=.*|$1=\"$2\"|" $CONF
}

# Whether a file is as OAR ships it, or not there. Every host does this while it boots, so without starting programs.
is_stock() {
    local shipped text own
    [ -e "$1" ] || return 0
    mapfile -d '' own < "$1"
    for shipped in $SHARE/job_resource_manager*.pl $SHARE/suspend_resume_manager*.pl; do
        mapfile -d '' text < "$shipped"
        [ "$text" != "$own" ] || return 0
    done
    return 1
}

set_up() {
    if [ -d $LIB/oarsh.$choice ]; then
        install -m 755 $LIB/oarsh.$choice/oarsh $LIB/oarsh.$choice/oarsh_shell $LIB/
        install -m 755 $LIB/oarsh.$choice/oarcp ${LIB%/lib/oar}/bin/
    fi
    if [ $choice = none ]; then
        sed -i 's/^JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD=/#&/; s/^CPUSET_PATH=/#&/' $CONF
        return
    fi
    [ -d $SHARE ] || return 0
    local conf own=$FILE
    mapfile -d '' conf < $CONF
    [[ ! $conf =~ (^|$'\n')JOB_RESOURCE_MANAGER_FILE=\"?([^\"$'\n']+) ]] || own=${BASH_REMATCH[2]}
    if [ "$own" = $FILE ] && is_stock $FILE; then
        install -m 644 $SHARE/job_resource_manager_$choice.pl $FILE
        # It reboots a node after its last job when the uptime exceeds this; a container shows the uptime of its host.
        sed -i 's/^my $max_uptime = .*/my $max_uptime = 0;/' $FILE
        set_conf JOB_RESOURCE_MANAGER_FILE $FILE
    fi
    local manager=$SHARE/suspend_resume_manager_$choice.pl
    [ -f $manager ] || manager=$SHARE/suspend_resume_manager.pl
    if [ -f $manager ] && is_stock /etc/oar/suspend_resume_manager.pl; then
        install -m 644 $manager /etc/oar/suspend_resume_manager.pl
        set_conf SUSPEND_RESUME_FILE /etc/oar/suspend_resume_manager.pl
    fi
}

last=
[ ! -e $DONE ] || read -r last < $DONE
if [ "$last" != $choice ] && [ -d $LIB ]; then
    failed=
    set -E
    trap 'failed=yes' ERR
    set_up
    trap - ERR
    # What could not be set up is tried again at the next boot.
    [ -n "$failed" ] || echo $choice > $DONE
fi
echo $choice > /run/oardocker-job-manager
# In a user namespace root is not the host's.
read -r _ outside _ < /proc/self/uid_map
[ "$choice $outside" = "cgroups 0" ] || [ $choice != cgroups ] || choice+=", in which oar moves its processes itself"
echo "jobs are confined by: $choice"

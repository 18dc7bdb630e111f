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

if [ -d $LIB/oarsh.$choice ]; then
    install -m 755 $LIB/oarsh.$choice/oarsh $LIB/oarsh.$choice/oarsh_shell $LIB/
    install -m 755 $LIB/oarsh.$choice/oarcp ${LIB%/lib/oar}/bin/
fi

set_conf() {
    sed -i "s|^#* *$1=.*|$1=\"$2\"|" $CONF
}

if [ $choice = none ]; then
    sed -i 's/^JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD=/#&/; s/^CPUSET_PATH=/#&/' $CONF
elif [ -d $SHARE ]; then
    install -m 644 $SHARE/job_resource_manager_$choice.pl /etc/oar/job_resource_manager.pl
    # It reboots a node after its last job when the uptime exceeds this; a container shows the uptime of its host.
    sed -i 's/^my $max_uptime = .*/my $max_uptime = 0;/' /etc/oar/job_resource_manager.pl
    for manager in $SHARE/suspend_resume_manager_$choice.pl $SHARE/suspend_resume_manager.pl; do
        [ -f $manager ] && install -m 644 $manager /etc/oar/suspend_resume_manager.pl && break
    done
    set_conf JOB_RESOURCE_MANAGER_FILE /etc/oar/job_resource_manager.pl
    set_conf SUSPEND_RESUME_FILE /etc/oar/suspend_resume_manager.pl
fi
echo $choice > /run/oardocker-job-manager
echo "jobs are confined by: $choice"

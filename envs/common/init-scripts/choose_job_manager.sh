#!/bin/bash
# Which of OAR's job managers confines jobs here depends on the host's cgroups, so it is chosen at every boot:
#   v1 controllers were handed to the nodes in /dev/oar_cgroups_links   -> cgroups
#   the unified hierarchy has the cpuset controller, and OAR >= 2.6      -> systemd
#   otherwise jobs run unconfined
CONF=/etc/oar/oar.conf
SHARE=/usr/local/share/oar/oar-server
[ -d $SHARE ] || SHARE=/usr/share/oar/oar-server

choice=none
if [ -r /dev/oar_cgroups_links/cpuset/tasks ]; then
    choice=cgroups
elif grep -qw cpuset /sys/fs/cgroup/cgroup.controllers 2>/dev/null && [ -f $SHARE/job_resource_manager_systemd.pl ]; then
    choice=systemd
fi

set_file() {
    sed -i "s|^#* *$1=.*|$1=\"$2\"|" $CONF
}

if [ $choice = none ]; then
    sed -i 's/^JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD=/#&/' $CONF
    echo "no cgroup controllers for OAR here: jobs run unconfined"
else
    sed -i 's/^#*\(JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD=\)/\1/' $CONF
    install -m 644 $SHARE/job_resource_manager_$choice.pl /etc/oar/job_resource_manager.pl
    # It reboots a node after its last job when the uptime exceeds this; a container shows the uptime of its host.
    sed -i 's/^my $max_uptime = .*/my $max_uptime = 0;/' /etc/oar/job_resource_manager.pl
    if [ -f $SHARE/suspend_resume_manager_$choice.pl ]; then
        install -m 644 $SHARE/suspend_resume_manager_$choice.pl /etc/oar/suspend_resume_manager.pl
    elif [ -f $SHARE/suspend_resume_manager.pl ]; then
        install -m 644 $SHARE/suspend_resume_manager.pl /etc/oar/suspend_resume_manager.pl
    fi
    set_file JOB_RESOURCE_MANAGER_FILE /etc/oar/job_resource_manager.pl
    set_file SUSPEND_RESUME_FILE /etc/oar/suspend_resume_manager.pl
    echo "jobs are confined by the $choice job manager"
fi
echo $choice > /run/oardocker-job-manager

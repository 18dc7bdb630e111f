#!/bin/bash
# OAR's configuration and the names of the commands, the same on server and frontend. The programs that the names lead to
# appear with `pip install -e .`.
set -e
VENV=/opt/oar3/bin
LIB=/usr/local/lib/oar
BIN=/usr/local/bin

set_conf() {
    sed -i "/^#* *$1=/d" /etc/oar/oar.conf
    echo "$1=\"$2\"" >> /etc/oar/oar.conf
}
set_conf META_SCHED_CMD kao
set_conf HIERARCHY_LABELS resource_id,network_address,host,cpu,core
set_conf BIPBIP_COMMANDER_SERVER server
# The rules in Python come with the sources.
set_conf ADMISSION_RULES_IN_FILES yes
set_conf ADMISSION_RULES_PATH /data/etc/oar/admission_rules.d/
set_conf API_SECRET_KEY oardocker-is-in-no-way-secure
set_conf API_SECRET_ALGORITHM HS256
set_conf API_ACCESS_TOKEN_EXPIRE_MINUTES 60
# A table of queues in OAR 3, where OAR 2 has a number.
sed -i '/^WALLTIME_MAX_INCREASE=/d' /etc/oar/oar.conf
# kao of OAR 3.0.3.dev0 calls what serves changed walltimes without its arguments, and dies.
set_conf WALLTIME_CHANGE_ENABLED no
chmod 644 /etc/oar/oar.conf
touch /var/log/oar.log
chown oar:oar /var/log/oar.log

# Byte code goes here: users cannot write next to the sources, and would compile them with every command.
install -d -m 1777 /var/cache/oar3
echo "import sys; sys.pycache_prefix = '/var/cache/oar3'" > $(echo /opt/oar3/lib/python3*/site-packages)/oardocker.pth

# Almighty and what it starts: by today's names, and as oar3-almighty and so on.
for name in almighty appendice-proxy bipbip-commander bipbip leon sarko finaud node-change-state greta; do
    ln -sfn $VENV/oar-$name $LIB/oar-$name
    ln -sfn $VENV/oar-$name $LIB/oar3-$name
    ln -sfn $VENV/oar-$name $BIN/oar-$name
    ln -sfn $VENV/oar-$name $BIN/oar3-$name
done
for name in kao kamelot kamelot-fifo; do
    ln -sfn $VENV/$name $LIB/$name
    ln -sfn $VENV/$name $BIN/$name
done
ln -sfn $VENV/oar-database-manage $BIN/oar-database-manage

# Commands that OAR 2 has too: its set-uid wrappers run what is found in $LIB, now the Python ones.
for name in oarsub oarstat oardel oarhold oarresume oarnodes oarwalltime \
            oarnodesetting oarnotify oarproperty oarremoveresource oaraccounting; do
    [ -f $LIB/$name ] || continue
    mv $LIB/$name $LIB/${name}2
    ln -s $VENV/.$name $LIB/$name
    for dir in /usr/local/bin /usr/local/sbin; do
        [ ! -f $dir/$name ] || ln -sfn $name $dir/${name}3
    done
done
# Those that are new.
for name in oarqueue oarconnect; do
    cat > $BIN/$name <<WRAPPER
#!/bin/sh
exec sudo -u oar OARDO_USER="\$(id -un)" OARDO_UID="\$(id -u)" OARDIR=$LIB $VENV/.$name "\$@"
WRAPPER
    chmod 755 $BIN/$name
    ln -sfn $name $BIN/${name}3
done

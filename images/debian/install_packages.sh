#!/bin/sh
# Installs the packages of all lists. One transaction: unpacking twice and running triggers twice costs most of the time.
set -e
SUITE=$1
sh /tmp/apt_sources.sh $SUITE

# A build that is killed starts again from the cached step, so nothing is gained by flushing every package file.
echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/unsafe-io
# Nothing is started in an image.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
# The man pages of OAR are wanted, but the index of all pages takes longer than installing them.
rm -f /var/lib/man-db/auto-update
echo "man-db man-db/auto-update boolean false" | debconf-set-selections

apt-get update
# A line is a package, and the suites that lack it with a dash in front.
awk -v suite="-$SUITE" '{sub(/#.*/, "")} NF && !index($0, suite) {print $1}' /tmp/packages/* |
    xargs apt-get install -y --no-install-recommends

rm -f /usr/sbin/policy-rc.d /etc/apt/sources.list.d/borrowed.list /etc/apt/preferences.d/borrowed
apt-get clean
# The lists stay, so that `apt-get install` works in the hosts; those that were borrowed go.
[ "$SUITE" = trixie ] || rm -f /var/lib/apt/lists/*_dists_trixie_*
rm -rf /var/cache/apt/* /var/log/apt /var/log/dpkg.log /tmp/*

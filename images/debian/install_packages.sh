#!/bin/sh
# Installs the packages of all lists. One transaction: unpacking twice and running triggers twice costs most of the time.
set -e
SUITE=$1
MIRROR=$(sed -n 's/^deb \(http[^ ]*\) .*/\1/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
MIRROR=${MIRROR:-http://deb.debian.org/debian}

cat > /etc/apt/sources.list <<LIST
deb $MIRROR $SUITE main
LIST
case $MIRROR in
    *archive.debian.org*)
        echo 'Acquire::Check-Valid-Until "false";' > /etc/apt/apt.conf.d/99archive
        echo "deb ${MIRROR}-security $SUITE/updates main" >> /etc/apt/sources.list ;;
    *)
        echo "deb $MIRROR $SUITE-updates main" >> /etc/apt/sources.list
        # Debian 11 is in long term support, whose updates not every mirror has in full.
        [ "$SUITE" = bullseye ] || echo "deb ${MIRROR}-security $SUITE-security main" >> /etc/apt/sources.list ;;
esac

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

rm -f /usr/sbin/policy-rc.d
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /tmp/packages /tmp/install_packages.sh

#!/bin/sh
# apt_sources.sh SUITE: tells apt where the suite's packages are. Below $ROOT, if that is set.
set -e
SUITE=$1
APT=$ROOT/etc/apt
MIRROR=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(http[^ ]*\) .*/\2/p' "$APT/sources.list" 2>/dev/null | head -n 1)
MIRROR=${MIRROR:-http://deb.debian.org/debian}

# An index that cannot be had ends `apt-get update` with an error that names its address; otherwise an old index or none would
# do, and the next command would miss a package. Before bullseye apt does not know the first line.
# The lists are kept in the images, as they come; descriptions in prose are not.
cat > "$APT/apt.conf.d/90oardocker" <<'CONF'
APT::Update::Error-Mode "any";
Acquire::Retries "3";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
CONF

echo "deb $MIRROR $SUITE main" > "$APT/sources.list"
case $SUITE in
    stretch | buster)
        # Archived: nothing changes any more, so the index files and the keys that signed them have expired.
        echo "deb $MIRROR-security $SUITE/updates main" >> "$APT/sources.list"
        cat > "$APT/apt.conf.d/99archive" <<'CONF'
Acquire::Check-Valid-Until "false";
Apt::Key::gpgvcommand "/usr/local/lib/oardocker/gpgv_expired_keys";
CONF
        ;;
    # In long term support, whose updates not every mirror has in full.
    bullseye) echo "deb $MIRROR $SUITE-updates main" >> "$APT/sources.list" ;;
    *)
        echo "deb $MIRROR $SUITE-updates main" >> "$APT/sources.list"
        echo "deb $MIRROR-security $SUITE-security main" >> "$APT/sources.list" ;;
esac

# From trixie only what the suite was released without; what that depends on comes from the suite.
case $SUITE in
    bullseye | bookworm)
        echo "deb $MIRROR trixie main" > "$APT/sources.list.d/borrowed.list"
        cat > "$APT/preferences.d/borrowed" <<'PREFERENCES'
Package: *
Pin: release n=trixie
Pin-Priority: -1

Package: phppgadmin
Pin: release n=trixie
Pin-Priority: 500
PREFERENCES
        ;;
esac

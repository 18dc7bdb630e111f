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

# What nobody looks at in a host, in these packages and in those to come. OAR's own pages stay.
cat > /etc/dpkg/dpkg.cfg.d/oardocker <<'CONF'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-include=/usr/share/doc/oar*
path-exclude=/usr/share/man/*
path-include=/usr/share/man/man?/oar*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/perl*.pod
path-include=/usr/share/perl/*/pod/perldiag.pod
CONF
# Parts of these packages that OAR's hosts have no use for: PostgreSQL's compiler, whose library pack_clang.sh packs, and what is for
# linking statically or as a whole, or for debugging. `apt-get install --reinstall PACKAGE` brings them.
cat > /etc/dpkg/dpkg.cfg.d/oardocker-once <<'CONF'
path-exclude=/usr/lib/postgresql/*/lib/bitcode/*
path-exclude=/usr/lib/postgresql/*/lib/llvmjit*
path-exclude=/usr/lib/*/libLLVM*
path-exclude=/usr/lib/*/libz3.*
path-exclude=/usr/bin/*lto-dump*
path-exclude=/usr/lib*/gcc/*/lto1
path-exclude=/usr/lib/*/libasan.*
path-exclude=/usr/lib/*/libhwasan.*
path-exclude=/usr/lib/*/liblsan.*
path-exclude=/usr/lib/*/libtsan.*
path-exclude=/usr/lib/*/libubsan.*
path-exclude=/usr/lib/*/libc.a
path-exclude=/usr/lib/*/libm*.a
CONF
# Where maintainer scripts put links.
mkdir -p /usr/share/man/man1 /usr/share/man/man7
# The write-ahead log of a small database, which each change of the image copies: 1 MB instead of 16.
mkdir -p /etc/postgresql-common/createcluster.d
echo "initdb_options = '--wal-segsize=1'" > /etc/postgresql-common/createcluster.d/oardocker.conf

# What ucf does for a configuration file that is not there yet, in a hundredth of the time: PHP has it do so two dozen times.
cat > /usr/local/sbin/ucf <<'UCF'
#!/bin/sh
case $#:$1 in 2:/*) [ -e "$2" ] || NEW=yes ;; esac
[ "$NEW" ] || exec /usr/bin/ucf "$@"
cp -p "$1" "$2"
echo "$(md5sum < "$1" | cut -c 1-32)  $2" >> /var/lib/ucf/hashfile
UCF
chmod 755 /usr/local/sbin/ucf
# Questions that nobody is asked are not collected before.
rm -f /etc/apt/apt.conf.d/70debconf

# Not compressed for now: of compressed lists apt reads each package's entry from the beginning.
apt-get update -o Acquire::GzipIndexes=false
# A line is a package, and the suites that lack it with a dash in front.
PACKAGES=$(awk -v suite="-$SUITE" '{sub(/#.*/, "")} NF && !index($0, suite) {print $1}' /tmp/packages/*)
# For what is compiled with libbpf.
case $PACKAGES in *libbpf-dev*) CLANG=clang ;; *) CLANG='' ;; esac
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends --download-only $PACKAGES $CLANG
# Meanwhile, behind dpkg, which keeps one processor busy for most of the time.
if [ -n "$CLANG" ]; then nice -n 19 sh /tmp/pack_clang.sh & PACKING=$!; fi
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends --no-download -o DPkg::Path="$PATH" $PACKAGES
sed -i 's/^# *\(en_US.UTF-8\|fr_FR.UTF-8\)/\1/' /etc/locale.gen
# At the same time, but not into the archive: two writers spoil it, and whoever reads it then dies of it.
LOCALES=''
mkdir /tmp/locales
for name in en_US fr_FR; do
    localedef --no-archive -i $name -c -f UTF-8 -A /usr/share/locale/locale.alias /tmp/locales/$name.utf8 &
    LOCALES="$LOCALES $!"
done
for job in $LOCALES $PACKING; do wait "$job"; done
localedef --add-to-archive /tmp/locales/*
# What locales are made from.
rm -rf /usr/share/i18n/*

rm -f /usr/sbin/policy-rc.d /usr/local/sbin/ucf /etc/dpkg/dpkg.cfg.d/oardocker-once /etc/apt/sources.list.d/borrowed.list /etc/apt/preferences.d/borrowed
apt-get clean
# The lists stay, compressed, so that `apt-get install` works in the hosts; those that were borrowed go.
[ "$SUITE" = trixie ] || rm -f /var/lib/apt/lists/*_dists_trixie_*
if [ -n "$CLANG" ]; then zstd -q -6 -T0 --rm /var/lib/apt/lists/*_Packages; else gzip /var/lib/apt/lists/*_Packages; fi
rm -rf /var/cache/apt/* /var/log/apt /var/log/dpkg.log /tmp/*

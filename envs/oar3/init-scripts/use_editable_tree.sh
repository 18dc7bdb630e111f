#!/bin/bash
# Has all hosts run OAR 3 from the tree mounted at /data (`oardocker start -v TREE:/data`) instead of the installed one, as
# `pip install -e` does, but without writing to the tree: an edit needs a restart of a daemon, or nothing for commands.
PACKAGES=$(echo /usr/local/lib/python3*/dist-packages)
[ -d "$PACKAGES" ] || exit 0
rm -rf "$PACKAGES/oar"
echo /data > "$PACKAGES/oardocker.pth"

# Users cannot write byte code next to the sources, and would compile them with every command.
install -d -m 1777 /var/cache/oar3
cat > "$PACKAGES/oardocker_editable.py" <<'PYTHON'
import importlib._bootstrap_external as bootstrap

beside = bootstrap.cache_from_source


def cache_from_source(path, *args, **kwargs):
    place = beside(path, *args, **kwargs)
    return "/var/cache/oar3" + place if place.startswith("/data/") else place


bootstrap.cache_from_source = cache_from_source
PYTHON
echo "import oardocker_editable" >> "$PACKAGES/oardocker.pth"

# Programs that the tree has and the installed one had not, or the other way round.
if ! cmp -s /data/setup.py /usr/local/share/oardocker/setup.py; then
    work=$(mktemp -d)
    # A copy, as pip leaves its build products beside the sources.
    cp -r /data/. "$work" && pip install --quiet --no-index --no-deps --no-build-isolation "$work" && rm -rf "$PACKAGES/oar"
    rm -rf "$work"
    for program in /usr/local/bin/.oar* /usr/local/bin/{oar-*,kao,kamelot*}; do
        [ ! -f "$program" ] || mv "$program" /usr/local/lib/oar/
    done
fi

# What is no Python.
sed -i 's|^ADMISSION_RULES_PATH=.*|ADMISSION_RULES_PATH="/data/etc/oar/admission_rules.d/"|' /etc/oar/oar.conf
share=/usr/local/share/oar/oar-server
[ ! -d $share ] || install -m 644 -t $share /data/oar/tools/job_resource_manager_{cgroups,systemd}.pl
for file in /data/setup/database/*.sql; do
    cmp -s "$file" "/usr/local/lib/oar/database/${file##*/}" || [ ! -d /usr/local/lib/oar/database ] || echo \
        "${file##*/} of the tree at /data is not the one that the database was made with: \`oardocker install\` the tree"
done

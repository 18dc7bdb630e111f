#!/bin/bash
# What OAR 3 depends on: from Debian, but for what only PyPI has. `oardocker install` then needs no network.
set -e
cp /tmp/needs/certificates/*.crt /usr/local/share/ca-certificates/ 2>/dev/null && update-ca-certificates

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends python3-pip python3-setuptools python3-wheel uvicorn \
    python3-alembic python3-bcrypt python3-click python3-clustershell python3-cryptography python3-ecdsa \
    python3-escapism python3-fastapi python3-flask python3-httpx python3-multipart python3-python-multipart \
    python3-passlib python3-procset python3-psutil python3-psycopg2 python3-pyasn1 python3-requests python3-rich \
    python3-rsa python3-simplejson python3-sqlalchemy python3-sqlalchemy-utils python3-tabulate python3-toml \
    python3-yaml python3-zmq \
    python3-pytest python3-pexpect python3-redis
apt-get clean
rm -rf /var/cache/apt/*
# Alembic brings Mako, which colours its error pages where it has this, with Pygments: a tenth of the time in which each of OAR's programs begins.
rm -f /usr/lib/python3/dist-packages/mako/ext/pygmentplugin.py /usr/lib/python3/dist-packages/mako/ext/__pycache__/pygmentplugin.*

# Beside Debian's packages, as OAR 3's own Makefile expects it; simpy is for its tests. What they need themselves is installed.
cat > /etc/pip.conf <<'CONF'
[global]
break-system-packages = true
root-user-action = ignore
disable-pip-version-check = true
CONF
pip install --no-cache-dir --no-deps python-jose simpy

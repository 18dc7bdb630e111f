#!/bin/bash
# What OAR 3 depends on, from Debian, in a virtual environment that sees Debian's packages. `pip install -e .` then finds
# everything there, and installs OAR 3 in two seconds without a network.
set -e
update-ca-certificates

apt-get update
apt-get install -y --no-install-recommends python3-venv python3-pip python3-setuptools python3-wheel \
    python3-alembic python3-bcrypt python3-click python3-clustershell python3-ecdsa python3-cryptography \
    python3-escapism python3-fastapi python3-flask python3-httpx python3-multipart python3-python-multipart \
    python3-passlib python3-procset python3-psutil python3-psycopg2 python3-pyasn1 python3-requests python3-rich \
    python3-rsa python3-simplejson python3-sqlalchemy python3-sqlalchemy-utils python3-tabulate python3-toml \
    python3-uvicorn python3-yaml python3-zmq
apt-get clean

python3 -m venv --system-site-packages /opt/oar3
# The only one that Debian does not have; what it needs itself was installed above.
/opt/oar3/bin/pip install --no-cache-dir --no-deps python-jose

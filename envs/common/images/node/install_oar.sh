#!/bin/bash
# install_oar.sh SOURCE: installs OAR's node part; the last line of the output is the image's comment.
set -e
. /usr/local/lib/oardocker/oar_source.sh

make -C "$SRCDIR" PREFIX=/usr/local node-build
make -C "$SRCDIR" PREFIX=/usr/local node-install
make -C "$SRCDIR" PREFIX=/usr/local node-setup
install_both_oarsh

configure_common
install_oar_keys
install_unit oar-node.service

echo "$VERSION" > /oar_version
echo "$COMMENT"

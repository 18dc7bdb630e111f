#!/bin/bash
# install_oar.sh SOURCE: installs OAR's node part.
set -e
. /usr/local/lib/oardocker/oar_source.sh

install_oar node
configure_common
install_oar_keys
install_unit oar-node.service
finish

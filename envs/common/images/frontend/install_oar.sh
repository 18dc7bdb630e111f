#!/bin/bash
# install_oar.sh SOURCE: installs the user commands, the REST API, Monika and Drawgantt, and OAR's node part, which
# cosystem and deploy jobs need here.
set -e
. /usr/local/lib/oardocker/oar_source.sh

install_oar user node api web
configure_common
[ "$SOURCE" = deb ] || check_web
install_oar_keys
install_unit oar-node.service
sed -i "s/__OAR_VERSION__/$VERSION/" /etc/motd

htpasswd -bc /etc/oar/api-users docker docker
htpasswd -b /etc/oar/api-users oar oar
configure_api
sed -i "1s@^/var/www.*@$PREFIX/lib/cgi-bin@" /etc/apache2/suexec/www-data
sed -i "s@/usr/lib/cgi-bin@$PREFIX/lib/cgi-bin@" /etc/apache2/conf-available/serve-cgi-bin.conf
echo "ServerName frontend" > /etc/apache2/conf-available/oardocker.conf
a2enmod -q suexec headers rewrite cgi fcgid
a2enconf -q oardocker oar-restful-api oar-web-status

# Monika; the path of its stylesheet is the browser's.
sed -i -e 's@^css_path *=.*@css_path = /monika.css@' \
    -e "s/^\(clustername = \).*/\1oardocker for OAR $VERSION/" -e 's/^\(hostname = \).*/\1server/' \
    -e 's/^\(username.*\)oar.*/\1oar_ro/' -e 's/^\(password.*\)oar.*/\1oar_ro/' \
    -e 's/^\(dbtype.*\)mysql.*/\1psql/' -e 's/^\(dbport.*\)3306.*/\15432/' /etc/oar/monika.conf
chown www-data /etc/oar/monika.conf

# Drawgantt: one hour, in which jobs of a minute can be seen.
sed -i -e "s/^\(\$CONF\['default_timespan'\] = \)[^;]*/\13600/" /etc/oar/drawgantt-config.inc.php
sed -i -e "s/\(\['db_type'\]=\)\"[^\"]*\"/\1\"pg\"/" -e "s/\(\['db_server'\]=\)\"[^\"]*\"/\1\"server\"/" \
    -e "s/\(\['db_port'\]=\)\"[^\"]*\"/\1\"5432\"/" \
    -e "s/\"My OAR resources\"/\"oardocker resources for OAR $VERSION\"/" /etc/oar/drawgantt-config.inc.php
sed -i -e '/label_cmp_regex/!b;n;c\  '\''network_address'\'' => '\''/(\\d+)/'\'',' /etc/oar/drawgantt-config.inc.php

# phpPgAdmin
if [ -f /etc/phppgadmin/config.inc.php ]; then
    sed -i -e "s/\(extra_login_security'\] = \)true;/\1false;/" -e "s/\(\['host'\] = '\)[^']*';/\1server';/" \
        /etc/phppgadmin/config.inc.php
    sed -i 's/Require local/Require all granted/' /etc/apache2/conf-available/phppgadmin.conf
fi

finish

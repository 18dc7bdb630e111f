# OAR's database, for psql: sourced by the scripts here that ask it. Debian's psql is a Perl program that looks for this one.
for dir in /usr/lib/postgresql/*/bin; do PATH=$dir:$PATH; done
export PGHOST=localhost PGUSER=oar PGPASSWORD=oar PGDATABASE=oar

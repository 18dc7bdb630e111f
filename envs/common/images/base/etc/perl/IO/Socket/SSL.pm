# All of OAR's programs load Net::SMTP, which looks whether there is TLS by loading it. That is a third of the time in which they begin, and
# their mails do not use it. So Net::SMTP gets nothing, with which it goes without; all others get the module that is installed.
package IO::Socket::SSL;
use strict;
use warnings;

return 0 if caller() eq 'Net::SMTP';
my ($installed) = grep { -f } map { "$_/IO/Socket/SSL.pm" } grep { !ref && $_ ne '/etc/perl' } @INC;
die "Can't locate IO/Socket/SSL.pm: the package libio-socket-ssl-perl has it\n" if !$installed;
require $installed;

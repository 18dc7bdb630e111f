# With PERL5OPT: adds what a Perl program was made of, itself and its modules, to the file $OARDOCKER_TRACE.
package traced;

END {
    if (open(my $file, '>>', $ENV{OARDOCKER_TRACE} // '')) {
        print $file map { "$_\n" } grep { defined && m{^/} } $0, values %INC;
    }
}
1;

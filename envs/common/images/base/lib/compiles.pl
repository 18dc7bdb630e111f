#!/usr/bin/perl
# compiles.pl < NAMES: prints those of the named programs and modules of which it is not certain that they compile, for `perl -c` and
# `bash -n` to say. Starting a Perl for each takes ten times as long, most of it for compiling OAR's own modules again and again.
use strict;
use warnings;
use POSIX ();
open(my $quiet, '>', '/dev/null');
open(STDERR, '>&', $quiet);

my (%text, %module);
chomp(my @names = <STDIN>);
for my $name (@names) {
    open(my $file, '<:raw', $name) or next;
    local $/;
    $text{$name} = <$file>;
    $module{$1} = 1 while $text{$name} =~ /^\s*use\s+(OAR(?:::\w+)+)/mg;
}
# What programs of OAR have in common is compiled here, once.
for my $module (sort keys %module) {
    eval "require $module";
}
for my $name (@names) {
    my $text = $text{$name};
    if (defined($text) and $text =~ /^(?:#!.*perl|package|#(?!!))/) {
        $text =~ s/^__(?:END|DATA)__$.*//ms;
        # In a process of its own: what one defines does not help another. A module that is there already is compiled all the same.
        my $child = fork() // die;
        if (!$child) {
            no strict;
            no warnings;
            # Its lines are not run, but for what is run while compiling.
            my $fine = defined eval "sub {\n$text\n\n=pod\n\n=cut\n\n}";
            POSIX::_exit($fine ? 42 : 1);
        }
        waitpid($child, 0);
        next if $? == 42 << 8;
    }
    print "$name\n";
}

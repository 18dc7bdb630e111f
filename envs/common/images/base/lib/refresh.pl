#!/usr/bin/perl
# refresh.pl DIR:           puts the source files that are below DIR in the place of those that were installed from them (origins.pl), and
#                           prints which it has changed.
# refresh.pl DIR host:      the same where a cluster runs. What somebody has changed there is left, and printed with "kept" in front.
# refresh.pl DIR stage OUT: writes what it would put in place below OUT.
use strict;
use warnings;
use Digest::SHA;
use File::Find;
use File::Path;

my ($dir, $where, $stage) = @ARGV;
$where //= 'image';
my $here = '/var/lib/oardocker';
my (%installed, %value, %digest);
open(my $origins, '<', "$here/origins") or die "$here/origins: $!";
while (<$origins>) {
    chomp;
    my ($kind, $one, $two, $digest) = split /\t/;
    if ($kind eq 'value') {
        $value{$one} = $two;
    } elsif ($kind ne 'used') {
        push @{ $installed{$one} }, $two;
        $digest{$two}{$digest} = 1;
    }
}
# What was put there since.
if (open(my $put, '<', "$here/put")) {
    while (<$put>) {
        chomp;
        my ($path, $digest) = split /\t/;
        $digest{$path}{$digest} = 1;
    }
}
my $noted = $stage ? '/dev/null' : "$here/put";
open(my $put, '>>', $noted) or die "$noted: $!";

sub content {
    my $name = shift;
    open(my $file, '<:raw', $name) or return;
    local $/;
    return scalar <$file>;
}

my @sources;
find({ no_chdir => 1, wanted => sub { push @sources, substr($_, length($dir) + 1) if !-l && -f _ } }, $dir);
for my $source (sort @sources) {
    my $new = content("$dir/$source") // die "$dir/$source: $!";
    for my $path (@{ $installed{$source} // [] }) {
        my $text = $new;
        # Also one that had no names to fill in until now.
        if ($source =~ /\.in$/) {
            $text =~ s{%%(\w+)%%}{$value{$1} // die "$source: %%$1%% is not known\n"}ge;
        }
        if ($stage) {
            my ($parent) = "$stage$path" =~ m{(.*)/};
            File::Path::make_path($parent);
            open(my $file, '>:raw', "$stage$path") or die "$stage$path: $!";
            print $file $text;
            close($file) or die "$stage$path: $!";
            next;
        }
        # One of two, which choose_job_manager.sh has put there.
        next if $where eq 'host' and $path =~ m{^(.*)/(?:lib/oar/oarsh(?:_shell)?|bin/oarcp)$} and -d "$1/lib/oar/oarsh.cgroups";
        my $now = content($path);
        next if defined $now and $now eq $text;
        if ($where eq 'host' and (!defined $now or !$digest{$path}{ Digest::SHA::sha256_hex($now) })) {
            print "kept $path\n";
            next;
        }
        my @stat = stat($path) or die "$path: $!";
        # In one go: what starts meanwhile reads the old or the new one.
        open(my $file, '>:raw', "$path.new") or die "$path.new: $!";
        print $file $text;
        close($file) or die "$path.new: $!";
        chown $stat[4], $stat[5], "$path.new";
        chmod $stat[2] & 07777, "$path.new";
        rename "$path.new", $path or die "$path: $!";
        print $put "$path\t", Digest::SHA::sha256_hex($text), "\n";
        print "$path\n";
    }
}
close($put) or die "$noted: $!";

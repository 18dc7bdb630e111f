#!/usr/bin/perl
# origins.pl begin TREE FILE: what is in a source tree before anything is built in it.
# origins.pl end FILE:        which installed files are which source files, as they are or with their %%NAMES%% filled in: what can be put
#                             in their place later without installing all of it. To /var/lib/oardocker/origins, a line each:
#                                 file   SOURCE  INSTALLED  DIGEST
#                                 value  NAME    VALUE
#                                 used   INSTALLED             (what the database was made with)
#                             Only programs are told, and those of which no other part was made.
use strict;
use warnings;
use Digest::SHA;
use File::Find;

my $ORIGINS = '/var/lib/oardocker/origins';
my @INSTALLED = grep { -d } qw(/usr/local /etc /opt /var/www /var/lib/oar);
# What a program is called, where its first line does not say so.
my $CODE = qr/\.(?:pm|pl|py|php|css|js|cgi|sh|sql)(?:\.in)?$/;
# Which version this is goes into more than itself.
my $VERSION = qr{(?:^|/)(?:Version\.pm|setup\.py|oar/__init__\.py)$};

sub content {
    my $name = shift;
    open(my $file, '<:raw', $name) or return;
    local $/;
    return scalar <$file>;
}

sub files {
    my ($wanted, @dirs) = @_;
    my @found;
    find({ no_chdir => 1, wanted => sub { push @found, $_ if !-l && -f _ && $wanted->($_) } }, @dirs) if @dirs;
    return sort @found;
}

my ($action, @arguments) = @ARGV;
if ($action eq 'begin') {
    my ($tree, $file) = @arguments;
    open(my $list, '>', $file) or die "$file: $!";
    for my $path (files(sub { $_[0] !~ m{/\.git/} && $_[0] !~ /[\t\n]/ }, $tree)) {
        my $name = substr($path, length($tree) + 1);
        my $text = content($path);
        next unless ($name =~ $CODE or $text =~ /^#!/) and $name !~ $VERSION;
        print $list join("\t", Digest::SHA::sha256_hex($text), $name), "\n";
        # Its text, as building writes into the tree.
        if ($name =~ /\.in$/) {
            mkdir "$file.in";
            (my $flat = $name) =~ s{/}{%}g;
            open(my $copy, '>:raw', "$file.in/$flat") or die "$file.in: $!";
            print $copy $text;
        }
    }
    close($list) or die "$file: $!";
    exit;
}

my ($file) = @arguments;
my (%by_digest, %templates);
open(my $list, '<', $file) or die "$file: $!";
while (<$list>) {
    chomp;
    my ($digest, $name) = split /\t/;
    push @{ $by_digest{$digest} }, $name;
    push @{ $templates{$1} }, $name if $name =~ m{([^/]+)\.in$};
}
my $began = (stat($file))[9];
my (@lines, %values, %unclear, %unexplained);

# filled(TEMPLATE, TEXT): the values of its names, if the text is that template.
sub filled {
    my ($template, $text) = @_;
    my @parts = split /%%(\w+)%%/, $template, -1;
    return if @parts < 3;
    my (%value, $pattern);
    for my $i (0 .. $#parts) {
        if ($i % 2 == 0) {
            $pattern .= quotemeta($parts[$i]);
        } elsif (exists $value{ $parts[$i] }) {
            $pattern .= "\\g{$parts[$i]}";
        } else {
            $value{ $parts[$i] } = 1;
            $pattern .= "(?<$parts[$i]>[^\\n]*?)";
        }
    }
    return unless $text =~ /\A$pattern\z/;
    return {%+};
}

for my $path (files(sub { (stat(_))[10] >= $began && $_[0] !~ m{[\t\n]|\.pyc$|/man/} }, @INSTALLED)) {
    my $text = content($path) // next;
    # OAR's commands are small programs in C, called as the scripts that they start.
    next if $text =~ /\A\x7fELF/;
    my $digest = Digest::SHA::sha256_hex($text);
    my ($base) = $path =~ m{([^/]+)$};
    my @same = @{ $by_digest{$digest} // [] };
    if (@same == 1) {
        push @lines, ['file', $same[0], $path, $digest];
        next;
    }
    # Which of several it is cannot be told.
    $unclear{$_} = 1 for @same;
    my %found;
    for my $name (@{ $templates{$base} // [] }) {
        (my $flat = $name) =~ s{/}{%}g;
        my $value = filled(content("$file.in/$flat"), $text) or next;
        next if grep { exists $values{$_} and $values{$_} ne $value->{$_} } keys %$value;
        $found{$name} = $value;
    }
    my ($name, $other) = sort keys %found;
    if (defined $name and !defined $other) {
        %values = (%values, %{ $found{$name} });
        push @lines, ['file', $name, $path, $digest];
    } else {
        $unclear{$_} = 1 for keys %found;
        # Made of a source file, perhaps, and changed since.
        $unexplained{$base} = 1 unless %found or @same;
    }
}
@lines = grep {
    my ($base) = $_->[1] =~ m{([^/]+?)(?:\.in)?$};
    !$unclear{ $_->[1] } and !$unexplained{$base};
} @lines;

mkdir '/var/lib/oardocker';
open(my $out, '>', $ORIGINS) or die "$ORIGINS: $!";
print $out join("\t", @$_), "\n" for @lines;
print $out join("\t", 'value', $_, $values{$_}), "\n" for sort keys %values;
my %used;
if (open(my $used, '<', "$file.used")) {
    while (<$used>) {
        chomp;
        print $out "used\t$_\n" unless $used{$_}++;
    }
}
close($out) or die "$ORIGINS: $!";

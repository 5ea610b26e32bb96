# power.pl - what a disk may hold after a power loss: rebuilt from the trace of a run (faults.c, MEDRL_FAULT_TRACE), for every operation of it.
#
#     perl power.pl TRACE ROOT MEDRL HASHES STATE [EVERY [BEFORE COMMITTED]]
#
# ROOT: the run's folder in the trace. HASHES: lines "N HASH", what `medrl hash` says of each checkpoint of that run. STATE: a folder to build
# in. BEFORE: what ROOT held, all of it on the disk, with checkpoint COMMITTED as its newest whole one. For each operation five states: all of it
# there (a kill); only what was synced, names too; all names, but data only as synced; and by a seeded die each name there or not, each file with
# some of its later writes or zeros; the same, but names come in the order of their folder, and files with half of what was not synced. In each, `medrl hash STATE` has to find the newest
# checkpoint that was committed by then, or a later one that is whole. Every EVERYth state is kept as STATE-N for whoever resumes it.
# The method is that of SQLite's crash tests ("How SQLite Is Tested", 3.3); POSIX promises of names no more than what an fsync of
# their folder was asked for. Source: reliability.md P2.
use strict; use warnings;
my ($trace, $root, $medrl, $hashes, $state, $every, $before, $first) = @ARGV;
my %hash_of; open my $h, '<', $hashes or die; while (<$h>) { my ($n, $x) = split; $hash_of{$x} = $n } close $h;
srand 20;
my (%at, @inodes, @meta);           # path => inode number, as the process sees it; names in order
my $committed = 0;
my ($states, $bad, $op_n, %seen) = (0, 0, 0);
sub parent { my ($p) = @_; $p =~ s{/[^/]*$}{}; return $p }
sub moved { my ($map, $from, $to) = @_; for my $p (grep { $_ eq $to || index($_, "$to/") == 0 } keys %$map) { delete $map->{$p} }
    for my $p (grep { $_ eq $from || index($_, "$from/") == 0 } keys %$map) { $map->{$to . substr($p, length $from)} = delete $map->{$p} } }
sub put { my ($text, $at, $data) = @_; $text .= "\0" x ($at - length $text) if $at > length $text; substr($text, $at, length $data) = $data; return $text }

sub exchanged { my ($map, $from, $to) = @_; moved($map, $from, "$to\1"); moved($map, $to, $from); moved($map, "$to\1", $to) }
sub load { # the tree that was there: names and contents are durable
    my ($dir, $path) = @_;
    opendir my $d, $dir or die "$dir: $!";
    for my $name (sort grep { !/^\.\.?$/ } readdir $d) {
        my ($from, $to, $text) = ("$dir/$name", "$path/$name", '');
        next if -S $from;
        if (!-d $from) { open my $f, '<', $from or die "$from: $!"; binmode $f; local $/; $text = <$f> // '' }
        push @inodes, { dir => -d $from ? 1 : 0, now => $text, synced => $text, later => [] }; $at{$to} = $#inodes;
        push @meta, { op => -d $from ? 'mkdir' : 'create', path => $to, inode => $#inodes, durable => 1 };
        load($from, $to) if -d $from;
    }
}

sub build { # KIND: path => content, or undef for a folder
    my ($kind) = @_; my %map = ($root => undef); my (%waiting, %until);
    if ($kind == 4) { $waiting{parent($_->{path})}++ for grep { !$_->{durable} } @meta; $until{$_} = int(rand($waiting{$_} + 1)) for sort keys %waiting }
    for my $m (@meta) {
        next if $kind == 4 && !$m->{durable} && $until{parent($m->{path})}-- <= 0;
        next if $kind == 1 && !$m->{durable};
        next if $kind == 3 && !$m->{durable} && rand() < 0.5;
        my ($op, $path) = ($m->{op}, $m->{path});
        if ($op eq 'create' || $op eq 'mkdir') { $map{$path} = $m->{inode} if exists $map{parent($path)} }
        elsif ($op eq 'exchange') { exchanged(\%map, $path, $m->{other}) if exists $map{$path} && exists $map{$m->{other}} }
        elsif ($op eq 'rename') { moved(\%map, $path, $m->{other}) if exists $map{$path} && exists $map{parent($m->{other})} }
        else { for my $p (grep { $_ eq $path || index($_, "$path/") == 0 } keys %map) { delete $map{$p} } }
    }
    my %out;
    for my $path (keys %map) {
        my $i = $map{$path};
        if (!defined $i || $inodes[$i]{dir}) { $out{$path} = undef; next }
        my $f = $inodes[$i];
        if ($kind == 0) { $out{$path} = $f->{now} }
        elsif ($kind < 3) { $out{$path} = $f->{synced} }
        else {
            my $text = $f->{synced}; my @w = @{$f->{later}};
            my $n = $kind == 4 ? int(@w / 2) : int(rand(@w + 1));
            $text = ref $w[$_] ? put($text, @{$w[$_]}) : substr($text, 0, $w[$_]) for 0 .. $n - 1;
            $text .= "\0" x (length($f->{now}) - length $text) if $kind == 3 && rand() < 0.3 && length $f->{now} > length $text;
            $out{$path} = $text;
        }
    }
    return \%out;
}
sub check {
    my ($kind) = @_; my $files = build($kind);
    my $key = join "\1", map { $_ . "\2" . ($files->{$_} // '') } sort keys %$files;
    return if $seen{$key}++;
    system 'rm', '-rf', $state; mkdir $state;
    for my $p (sort keys %$files) { my $to = $state . substr($p, length $root); next if $to eq $state;
        if (defined $files->{$p}) { open my $o, '>', $to or die "$to: $!"; binmode $o; print $o $files->{$p}; close $o } else { mkdir $to } }
    my $got = `$medrl hash $state 2>/dev/null`; chomp $got;
    my $n = $hash_of{$got}; $states++;
    my $ok = $got eq '' ? $committed == 0 : defined $n && $n >= $committed;
    if (!$ok) { $bad++; print "operation $op_n, kind $kind: checkpoint-$committed was committed, found ", defined $n ? "checkpoint-$n" : "nothing", "\n"; system 'cp', '-a', $state, "$state-bad-$bad" }
    elsif ($every && $committed && $states % $every == 0) { system 'cp', '-a', $state, "$state-$states" }
}

load($before, $root) if defined $before && length $before;
$committed = $first if defined $first;
open my $in, '<', $trace or die "$trace: $!"; binmode $in;
while (my $line = <$in>) {
    chomp $line; my ($op, $path, @rest) = split /\t/, $line; $op_n++;
    if ($op eq 'create' || $op eq 'mkdir') {
        if ($path ne $root) { push @inodes, { dir => $op eq 'mkdir', now => '', synced => '', later => [] }; $at{$path} = $#inodes; push @meta, { op => $op, path => $path, inode => $#inodes } }
    } elsif ($op eq 'write') {
        my ($off, $len) = @rest; read($in, my $data, $len) == $len or die 'the trace is cut'; read $in, my $end, 1;
        my $f = $inodes[$at{$path} // next]; $f->{now} = put($f->{now}, $off, $data); push @{$f->{later}}, [ $off, $data ];
    } elsif ($op eq 'truncate') {
        my $f = $inodes[$at{$path} // next]; $f->{now} = substr($f->{now}, 0, $rest[0]); push @{$f->{later}}, $rest[0];
    } elsif ($op eq 'fsync') {
        if (defined $at{$path} && !$inodes[$at{$path}]{dir}) { my $f = $inodes[$at{$path}]; $f->{synced} = $f->{now}; $f->{later} = [] }
        else { for my $m (@meta) { $m->{durable} = 1 if parent($m->{path}) eq $path || (defined $m->{other} && parent($m->{other}) eq $path) }
        }
    } elsif ($op eq 'committed') { $committed = $rest[0] if $rest[0] > $committed # said by the program, not read off what it did
    } elsif ($op eq 'rename' || $op eq 'exchange') {
        if ($op eq 'rename') { moved(\%at, $path, $rest[0]) } else { exchanged(\%at, $path, $rest[0]) }
        push @meta, { op => $op, path => $path, other => $rest[0] };
    } else { delete $at{$path}; push @meta, { op => $op, path => $path } }
    check($_) for 0 .. 4;
}
print "$op_n operations, $states states, $bad without their checkpoint\n";
print "states=$states bad=$bad\n";
exit($bad ? 1 : 0);

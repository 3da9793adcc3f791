#!/usr/bin/perl
# Greet whoever connects. Which port the kernel gave stands in /tmp/greeterd.port, once it can be dialled.
# No modules, so that the bare interpreter is enough: AF_INET is 2, SOCK_STREAM 1.
socket(my $server, 2, 1, 0) or die "socket: $!\n";
bind($server, pack("S n C4 x8", 2, 0, 127, 0, 0, 1)) or die "bind: $!\n";
listen($server, 8) or die "listen: $!\n";
my (undef, $port) = unpack("S n", getsockname($server));
open(my $file, ">", "/tmp/greeterd.port.new") or die "open: $!\n";
print $file "$port\n";
close($file) or die "close: $!\n";
rename("/tmp/greeterd.port.new", "/tmp/greeterd.port") or die "rename: $!\n";
while (accept(my $client, $server)) {
    syswrite($client, "hello from port $port\n");
    close($client);
}

//! The longer parts of the help.

/// Below `exuvia-loadtest --help`.
pub(super) const PROGRAM: &str = "\
Examples:
  exuvia-loadtest                          30 s of everything against an exuvia
                                           that is started for it, 10 upgrades
  exuvia-loadtest --bad-every 3 --kill-every 4 --change-every 5 -d 60s
                                           The same for longer, with bad
                                           programs, kills and other settings
  exuvia-loadtest --shares http1 --connections 64 --rate 0 -d 10s
                                           HTTP/1 as fast as it goes
  exuvia-loadtest scenario > mine.toml     A scenario file to begin with
  exuvia-loadtest -s mine.toml             Run it
  exuvia-loadtest compare --peers nginx,haproxy
                                           The same for others, side by side

Against a proxy that runs already, whatever it is:
  exuvia-loadtest upstream --plain 10.0.0.5:9000
                                           On the host that the proxy sends to
  exuvia-loadtest --plain 10.0.0.7:80 --tls 10.0.0.7:443 --name www.example.org \\
      --upgrade-command 'ssh 10.0.0.7 systemctl reload nginx' -d 10m

The table is on standard output; the page and the JSON document are files in --output.

Exit status:
  0    nothing failed, and everything was done that was to be
  1    something failed; the table says what
  2    the command line is wrong, or it could not begin
  130  interrupted; the table says what was seen until then";

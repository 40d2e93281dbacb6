//! Behind a load balancer that says whom it speaks for: curl plays one.

use std::process::Command;

use super::harness::Starter;
use super::upstream::Upstream;

#[test]
fn curl_says_whom_it_speaks_for() {
    let upstream = Upstream::start(|mut peer| {
        while let Some((request, _)) = peer.whole() {
            peer.answer(request.header("x-forwarded-for").unwrap()).unwrap();
        }
    });
    let listeners = "[listeners.web]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
        proxy_protocol_from = [\"127.0.0.0/8\"]\n\
        [listeners.unix]\naddress = \"unix:$/web.sock\"\nproxy_protocol = \"required\"\n\
        [listeners.strange]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
        proxy_protocol_from = [\"192.0.2.0/24\"]\n";
    let starter = Starter::new("");
    let folder = starter.folder().to_str().unwrap().to_owned();
    let settings = format!("{}{}", upstream.settings(), listeners.replace('$', &folder));
    let exuvia = starter.settings(&settings).start();
    let curl = |arguments: &[&str], listener: &str| {
        let url = match listener {
            "unix" => "http://exuvia/".to_owned(),
            name => format!("http://{}/", exuvia.listener(name)),
        };
        let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).arg(url).output();
        let output = output.unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let socket = format!("{folder}/web.sock");
    // Over TCP curl says its own addresses, and over a Unix socket that it does not know.
    assert_eq!(curl(&["--haproxy-protocol"], "web").as_deref(), Some("127.0.0.1"));
    assert_eq!(curl(&["--haproxy-protocol", "--unix-socket", &socket], "unix").as_deref(), Some("unknown"));
    assert_eq!(curl(&[], "web"), None, "one that does not say it is not served");
    assert_eq!(curl(&["--haproxy-protocol"], "strange"), None, "nor is a stranger");
    exuvia.upgrade();
    assert_eq!(curl(&["--haproxy-protocol"], "web").as_deref(), Some("127.0.0.1"));
    assert_eq!(exuvia.stop(), 0);
}

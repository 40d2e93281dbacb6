//! What a person reads who has just started it.

use super::{ADMIN, Parts, VERSION};
use crate::restart::{Driver, ListenAddr};

impl Parts {
    /// What to try next, for a person who has just started it.
    pub(super) fn banner(&self, driver: &Driver) -> String {
        let mut text = format!("exuvia {VERSION}, pid {}\n", std::process::id());
        if let Some(address) = driver.address(ADMIN) {
            text.push_str(&format!("  status page: http://{address}/    to be opened in a browser\n"));
        }
        let mut first = None;
        for listener in &self.settings.listeners {
            let Some(address) = driver.address(&listener.name) else { continue };
            text.push_str(&format!("  listening on {address} ({})\n", listener.name));
            first = first.or(Some((address, listener.tls.is_some())));
        }
        if self.demo.is_some() {
            text.push_str("  no upstream is configured: the built-in demonstration answers\n");
        }
        text.push_str("try\n");
        match first {
            Some((ListenAddr::Tcp(address), false)) => text.push_str(&format!("  curl http://{address}/\n")),
            // The certificate is for a name.
            Some((ListenAddr::Tcp(address), true)) => {
                text.push_str(&format!("  curl --insecure https://{address}/\n"));
            }
            Some((ListenAddr::Unix(path), tls)) => {
                let scheme = if tls { "--insecure https" } else { "http" };
                text.push_str(&format!("  curl --unix-socket {} {scheme}://exuvia/\n", path.display()));
            }
            None => {}
        }
        let program = called();
        for (command, does) in [
            ("upgrade", "replaces this process; no connection notices"),
            ("status ", "shows every generation alive"),
            ("stop   ", "finishes what is in flight, and ends"),
        ] {
            text.push_str(&format!("  {program} {command}    {does}\n"));
        }
        text
    }
}

/// What a person has to type for this program: its name where the PATH finds it by that, and otherwise what it was
/// started as.
fn called() -> String {
    let (own, path) = (std::env::current_exe().ok(), std::env::var_os("PATH").unwrap_or_default());
    let found = std::env::split_paths(&path).map(|folder| folder.join("exuvia")).find(|file| file.is_file());
    let found = found.and_then(|file| file.canonicalize().ok());
    match std::env::args_os().next() {
        Some(typed) if found.is_none() || found != own => typed.display().to_string(),
        _ => "exuvia".to_owned(),
    }
}

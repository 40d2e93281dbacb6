//! What a command prints: lines for people and for pipes, and on a terminal one line that changes.

use std::io::{self, IsTerminal, Write};

/// Standard output and standard error. That nobody reads them is no reason to stop.
#[derive(Debug)]
pub(super) struct Screen {
    /// Whether standard output can show a line that changes.
    lively: bool,
    /// Whether such a line is shown now.
    live: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        let smart = std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
        let lively = smart && io::stdout().is_terminal();
        Screen { lively, live: false }
    }

    /// Prints a line, or several.
    pub(super) fn line(&mut self, text: &str) {
        self.clear();
        writeln!(io::stdout(), "{}", harmless(text)).ok();
    }

    /// Prints to standard error.
    pub(super) fn error(&mut self, text: &str) {
        self.clear();
        writeln!(io::stderr(), "{}", harmless(text)).ok();
    }

    /// Prints what is for programs, as it is.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        let mut stdout = io::stdout();
        // Whole, and at once: the reader may act on it.
        stdout.write_all(bytes).and_then(|()| stdout.flush()).ok();
    }

    /// On a terminal, shows a line until something else is printed.
    pub(super) fn live(&mut self, text: &str) {
        if self.lively {
            let mut stdout = io::stdout();
            // A line that is longer than the terminal is wide could not be taken back.
            let shown: String = harmless(text).chars().take(79).collect();
            write!(stdout, "\r\x1b[2K{shown}").and_then(|()| stdout.flush()).ok();
            self.live = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.live) {
            let mut stdout = io::stdout();
            write!(stdout, "\r\x1b[2K").and_then(|()| stdout.flush()).ok();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A text without what would move a terminal's cursor, colour it, or worse: it may have come from another
/// program's standard error.
fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\n' | '\t' => clean.push(char),
            // A control sequence (ECMA-48, section 5.4): up to its final byte.
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|char| !('\x40'..='\x7e').contains(char) && *char != '\n').is_some() {}
                chars.next_if(|char| *char != '\n');
            }
            char if char.is_control() => {}
            char => clean.push(char),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_played_with() {
        assert_eq!(harmless("\x1b[31mERROR\x1b[0m no\tfile\r\n"), "ERROR no\tfile\n");
        assert_eq!(harmless("a\x1b]0;title\x07b"), "a]0;titleb");
        assert_eq!(harmless("\x1b[31"), "");
        assert_eq!(harmless("\x1b[31\nnext"), "\nnext");
        assert_eq!(harmless("\u{9b}31mé"), "31mé");
    }
}

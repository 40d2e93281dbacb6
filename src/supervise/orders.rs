//! What is done about what is asked: a pure function of it and of little memory.

use nix::sys::signal::Signal;

use super::signals::Asked;

/// A signal that goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Send {
    ToMain(Signal),
    ToAll(Signal),
}

/// What has been asked so far, and may have to be asked of the next main process too.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// How often a stop was asked for.
    stops: u32,
    /// Whether the main process has said that it serves, and since then of no upgrade that begins. Before it
    /// serves, the wish would be lost with it if it dies. While it upgrades, it may have handed over already, and then it refuses
    /// what was meant for the next.
    ready: bool,
    /// Whether an upgrade was asked for meanwhile.
    upgrade_waits: bool,
}

impl Orders {
    /// A signal came. `has_main`: whether there is a main process at this moment.
    pub(super) fn on_asked(&mut self, asked: Asked, has_main: bool) -> Option<Send> {
        match asked {
            // The shell and the kernel may both tell of it.
            Asked::HangUp if self.stops > 0 => None,
            Asked::HangUp => self.stop(Signal::SIGTERM, has_main),
            Asked::Stop(signal) => self.stop(signal, has_main),
            Asked::Upgrade if self.ready => Some(Send::ToMain(Signal::SIGHUP)),
            Asked::Upgrade => {
                self.upgrade_waits = self.stops == 0;
                None
            }
            Asked::Other(signal) => Some(Send::ToMain(signal)),
            Asked::Reap | Asked::Nothing => None,
        }
    }

    /// Whether a stop was asked for.
    pub(super) fn stops(&self) -> bool {
        self.stops > 0
    }

    /// The first stop is the main process's to perform: what drains goes on draining. The second is the
    /// main process's to perform, too, and ends every generation at once; if it is dead, those that drain
    /// have nobody else to wait for, and end at once by themselves.
    fn stop(&mut self, signal: Signal, has_main: bool) -> Option<Send> {
        self.stops = self.stops.saturating_add(1);
        self.upgrade_waits = false;
        match self.stops {
            1 => has_main.then_some(Send::ToMain(signal)),
            _ => Some(Send::ToAll(Signal::SIGTERM)),
        }
    }

    /// Another generation is the main process. One that was asked to stop names none, so this one has not
    /// heard of it: the signal crossed its notice.
    pub(super) fn on_new_main(&mut self) -> Option<Send> {
        (self.stops > 0).then_some(Send::ToMain(Signal::SIGTERM))
    }

    /// The main process begins an upgrade. However that ends, it says so, or the next one does.
    pub(super) fn on_reloading(&mut self) {
        self.ready = false;
    }

    /// The main process serves.
    pub(super) fn on_ready(&mut self) -> Option<Send> {
        self.ready = true;
        std::mem::take(&mut self.upgrade_waits).then_some(Send::ToMain(Signal::SIGHUP))
    }

    /// The main process is dead. If another takes over, it says that it is ready.
    pub(super) fn on_main_dead(&mut self) {
        self.ready = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPT: Asked = Asked::Stop(Signal::SIGINT);
    const TERMINATE: Option<Send> = Some(Send::ToMain(Signal::SIGTERM));

    #[test]
    fn the_first_stop_is_graceful_and_the_second_ends_all() {
        let mut orders = Orders::default();
        assert_eq!(orders.on_asked(INTERRUPT, true), Some(Send::ToMain(Signal::SIGINT)));
        assert_eq!(orders.on_asked(INTERRUPT, true), Some(Send::ToAll(Signal::SIGTERM)));
        assert_eq!(orders.on_asked(INTERRUPT, false), Some(Send::ToAll(Signal::SIGTERM)));
    }

    #[test]
    fn a_terminal_that_closes_is_one_stop_however_often_it_is_told() {
        let mut orders = Orders::default();
        orders.on_ready();
        assert_eq!(orders.on_asked(Asked::HangUp, true), TERMINATE);
        assert_eq!(orders.on_asked(Asked::HangUp, true), None);
        assert_eq!(orders.on_asked(INTERRUPT, true), Some(Send::ToAll(Signal::SIGTERM)));
    }

    #[test]
    fn a_stop_reaches_the_main_process_that_takes_over_meanwhile() {
        let mut orders = Orders::default();
        assert_eq!(orders.on_new_main(), None);
        orders.on_main_dead();
        assert_eq!(orders.on_asked(Asked::Stop(Signal::SIGTERM), false), None);
        assert_eq!(orders.on_new_main(), TERMINATE);
    }

    #[test]
    fn an_upgrade_waits_for_a_process_that_can_do_it() {
        let mut orders = Orders::default();
        assert_eq!(orders.on_asked(Asked::Upgrade, true), None);
        assert_eq!(orders.on_ready(), Some(Send::ToMain(Signal::SIGHUP)));
        assert_eq!(orders.on_ready(), None);
        assert_eq!(orders.on_asked(Asked::Upgrade, true), Some(Send::ToMain(Signal::SIGHUP)));
        orders.on_main_dead();
        assert_eq!(orders.on_asked(Asked::Upgrade, false), None);
        assert_eq!(orders.on_new_main(), None);
        assert_eq!(orders.on_ready(), Some(Send::ToMain(Signal::SIGHUP)));
    }

    /// It went to the process that had just handed over, which refused it, and the next one never heard of it.
    #[test]
    fn an_upgrade_waits_for_the_end_of_another() {
        let mut orders = Orders::default();
        orders.on_ready();
        orders.on_reloading();
        assert_eq!(orders.on_asked(Asked::Upgrade, true), None);
        assert_eq!(orders.on_asked(Asked::Upgrade, true), None);
        assert_eq!(orders.on_new_main(), None);
        assert_eq!(orders.on_ready(), Some(Send::ToMain(Signal::SIGHUP)));
        assert_eq!(orders.on_ready(), None, "two are one");
    }

    #[test]
    fn what_stops_is_not_upgraded() {
        let mut orders = Orders::default();
        assert_eq!(orders.on_asked(Asked::Upgrade, true), None);
        orders.on_asked(INTERRUPT, true);
        assert_eq!(orders.on_asked(Asked::Upgrade, true), None);
        assert_eq!(orders.on_ready(), None);
    }
}

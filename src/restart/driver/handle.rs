//! The way to ask the driver, from any thread.

use tokio::sync::{mpsc, oneshot};

use crate::restart::state::Stop;
use crate::restart::status::{Progress, Status};
use crate::restart::view::Viewer;

/// What is asked of the driver.
#[derive(Debug)]
pub(super) enum Command {
    Upgrade(mpsc::UnboundedSender<Progress>),
    Rollback(oneshot::Sender<Result<(), String>>),
    Stop(Stop, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<Status>),
}

/// Asks the driver, from any thread. Clones are the same.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) viewer: Viewer,
}

/// The driver is gone, and with it the process in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process is ending")]
pub struct Gone;

impl Handle {
    /// Asks for an upgrade. What comes of it arrives piece by piece, [`Progress::Ended`] or
    /// [`Progress::Refused`] last; dropping the receiver does not stop the upgrade.
    pub async fn upgrade(&self) -> Result<mpsc::UnboundedReceiver<Progress>, Gone> {
        let (progress, receiver) = mpsc::unbounded_channel();
        self.commands.send(Command::Upgrade(progress)).await.map_err(|_| Gone)?;
        Ok(receiver)
    }

    /// Takes the traffic back from a new process in its probation, or ends one that is starting. The inner
    /// error says why that cannot be done.
    pub async fn rollback(&self) -> Result<Result<(), String>, Gone> {
        self.ask(Command::Rollback).await
    }

    /// Stops the process.
    pub async fn stop(&self, how: Stop) -> Result<(), Gone> {
        self.ask(|reply| Command::Stop(how, reply)).await.map(drop)
    }

    /// What this process and every other generation is doing.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(Command::Status).await
    }

    /// The phase, as it changes.
    pub fn viewer(&self) -> Viewer {
        self.viewer.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

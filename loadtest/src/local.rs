//! hyper's tasks on the thread that they began on.

use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Spawns into the `LocalSet` that it is used in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}

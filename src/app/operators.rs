//! Who answers operators: the control socket and the admin listener, on the control thread.

use std::rc::Rc;

use tokio::task::spawn_local;

use super::{ADMIN, CONTROL, MAX_OPERATORS, Parts, VERSION};
use crate::admin::{AdminServer, Identity};
use crate::control::{ControlServer, Extra};
use crate::metrics::Exposition;
use crate::overview::{Observer, Place};
use crate::restart::{Accepted, Audience, Driver, Handle, Listener, Member};

/// Who answers operators.
pub(super) struct Operators {
    control: Rc<ControlServer>,
    admin: Rc<AdminServer>,
}

impl Operators {
    /// Waits until every answer that is being given is written, for at most half a second.
    pub(super) async fn finish(&self) {
        tokio::join!(self.control.finish(), self.admin.finish());
    }
}

impl Parts {
    /// Serves the control socket and the admin listener on this thread.
    pub(super) fn serve_operators(
        &self,
        member: Member,
        listeners: Vec<Listener>,
        exposition: Exposition,
        driver: &Driver,
        handle: &Handle,
    ) -> Operators {
        let extra = Rc::new(Extra {
            admin: driver.address(ADMIN).cloned(),
            control: self.control.clone(),
            // The working directory is nothing that the one who asks can see.
            config: self.config.as_ref().map(|path| std::path::absolute(path).unwrap_or(path.clone())),
        });
        let (generation, viewer) = (driver.generation(), handle.viewer());
        let observer = Observer::new(generation, VERSION, viewer.clone(), driver.history(), driver.books());
        let place = Place { listener: CONTROL, audience: Audience::Owner };
        let control = Rc::new(ControlServer::new(handle.clone(), extra, observer.clone(), place));
        let identity = Identity { generation, version: VERSION.to_owned() };
        let place = Place { listener: ADMIN, audience: Audience::Public };
        let admin = Rc::new(AdminServer::new(viewer, identity, exposition, observer, place));
        let (control_server, admin_server) = (control.clone(), admin.clone());
        spawn_local(async move {
            let tracker = member.tracker();
            let accepted = move |Accepted { listener, stream, .. }: Accepted| {
                if *listener == *CONTROL {
                    control_server.serve(stream);
                } else {
                    admin_server.serve(stream);
                }
            };
            member.attend(&tracker, listeners, MAX_OPERATORS, accepted).await;
        });
        Operators { control, admin }
    }
}

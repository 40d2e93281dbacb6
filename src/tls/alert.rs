//! The last words of a connection on which something was wrong: the fatal alert that RFC 8446 has for it, where
//! rustls has another one, or none.

use std::io::{self, Write};

use rustls::{
    AlertDescription, ContentType, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved, ServerConnection,
};

/// The level of an alert that ends the connection.
const FATAL: u8 = 2;

/// All that `session`, which `error` has ended, has still to write: what it had queued, and an alert. The alert is
/// missing where none may be sent, and where rustls, which alone has the keys, has sent none.
pub(super) fn last_words(session: &mut ServerConnection, error: &Error) -> Vec<u8> {
    let mut queued = Queued::default();
    queued.take(session);
    let is_ours = !matches!(error, Error::AlertReceived(_));
    match queued.plain_alert() {
        Some(said) => *said = alert(error, Some(AlertDescription::from(*said))).into(),
        None if is_ours => {
            // If it has sent no alert rustls sends this one, if only to show whether the alert has to be encrypted.
            let before = queued.0.len();
            session.send_close_notify();
            queued.take(session);
            match queued.plain_alert() {
                Some(said) => *said = alert(error, None).into(),
                None => queued.0.truncate(before),
            }
        }
        None => {}
    }
    queued.0.concat()
}

/// A fatal alert in a record without encryption, for those with whom no session was begun.
pub fn plain(description: AlertDescription) -> [u8; 7] {
    [u8::from(ContentType::Alert), 3, 3, 0, 2, FATAL, description.into()]
}

/// What is to be said of `error`, where rustls says `said`.
fn alert(error: &Error, said: Option<AlertDescription>) -> AlertDescription {
    match (error, said) {
        // There is no certificate that the client can verify (RFC 8446, section 4.4.2.2; RFC 5246, section 7.4.1.3).
        (Error::General(_), Some(AlertDescription::AccessDenied)) => AlertDescription::HandshakeFailure,
        // RFC 8446, section 9.2.
        (
            Error::PeerIncompatible(
                PeerIncompatible::KeyShareExtensionRequired
                | PeerIncompatible::NamedGroupsExtensionRequired
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ),
            _,
        ) => AlertDescription::MissingExtension,
        // RFC 8446, sections 5, 5.1 and 5.4.
        (
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::InvalidEmptyPayload),
            _,
        ) => AlertDescription::UnexpectedMessage,
        (Error::InvalidMessage(InvalidMessage::MessageTooLarge), _) => AlertDescription::RecordOverflow,
        (Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion), _) => {
            AlertDescription::ProtocolVersion
        }
        (_, Some(said)) => said,
        (Error::InvalidMessage(_), None) => AlertDescription::DecodeError,
        (
            Error::PeerMisbehaved(
                PeerMisbehaved::MessageInterleavedWithHandshakeMessage
                | PeerMisbehaved::TooManyEmptyFragments
                | PeerMisbehaved::IllegalMiddleboxChangeCipherSpec
                | PeerMisbehaved::TooManyWarningAlertsReceived
                | PeerMisbehaved::TooManyRenegotiationRequests,
            ),
            None,
        ) => AlertDescription::UnexpectedMessage,
        (Error::PeerMisbehaved(_), None) => AlertDescription::IllegalParameter,
        (Error::PeerIncompatible(_), None) => AlertDescription::HandshakeFailure,
        (_, None) => AlertDescription::InternalError,
    }
}

/// Records that rustls has queued, each by itself, because rustls writes them one by one to who does not take more.
#[derive(Default)]
struct Queued(Vec<Vec<u8>>);

impl Queued {
    fn take(&mut self, session: &mut ServerConnection) {
        while session.wants_write() && session.write_tls(self).is_ok() {}
    }

    /// What the last record says, if it is a fatal alert without encryption or a `close_notify`.
    fn plain_alert(&mut self) -> Option<&mut u8> {
        let alert = u8::from(ContentType::Alert);
        match self.0.last_mut()?.as_mut_slice() {
            [kind, 3, _, 0, 2, level, description] if *kind == alert => {
                *level = FATAL;
                Some(description)
            }
            _ => None,
        }
    }
}

impl Write for Queued {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.push(record.to_vec());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

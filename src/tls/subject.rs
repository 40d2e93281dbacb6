//! The name of a client, from its certificate.

use std::fmt::Write;

use x509_parser::asn1_rs::ToDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The longest subject that is passed on, in bytes.
pub const MAX_SUBJECT: usize = 4096;

/// Why a certificate's subject cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSubject {
    /// Part of a name is another name: all of it or nothing.
    #[error("it is longer than {MAX_SUBJECT} bytes")]
    TooLong,
    /// It is not what X.509 says (RFC 5280).
    #[error("the certificate is garbled")]
    Garbled,
}

/// The subject of a certificate in DER, as RFC 4514 writes it: the most particular first, such as
/// `CN=alice,O=Example`. Only printable ASCII: everything else is escaped, byte by byte.
pub fn subject(certificate: &[u8]) -> Result<String, NoSubject> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| NoSubject::Garbled)?;
    let text = text(certificate.subject());
    if text.len() > MAX_SUBJECT { Err(NoSubject::TooLong) } else { Ok(text) }
}

pub(super) fn text(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let sets: Vec<_> = name.iter_rdn().collect();
    for (i, set) in sets.into_iter().rev().enumerate() {
        for (j, attribute) in set.iter().enumerate() {
            match (i, j) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let kind = attribute.attr_type();
    match (oid2abbrev(kind, oid_registry()), attribute.as_str()) {
        (Ok(kind), Ok(value)) => {
            text.push_str(kind);
            text.push('=');
            write_value(text, value);
        }
        // What has no name, or is not text, is written as it is encoded (section 2.4).
        (kind_name, _) => {
            match kind_name {
                Ok(kind) => text.push_str(kind),
                Err(_) => text.push_str(&kind.to_id_string()),
            }
            text.push_str("=#");
            for byte in attribute.attr_value().to_der_vec().unwrap_or_default() {
                write!(text, "{byte:02x}").ok();
            }
        }
    }
}

/// Section 2.4 of RFC 4514.
fn write_value(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            // Not as "\ ": what a field of HTTP ends with would lose its space, and become another name.
            b' ' if at == 0 || at == last => text.push_str("\\20"),
            b'#' if at == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                write!(text, "\\{byte:02X}").ok();
            }
        }
    }
}

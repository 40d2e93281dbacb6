//! The configuration file: bytes to tables.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use config::{Map, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use crate::settings::problem::{Origin, Problem};

/// How large the file may be, in bytes. A configuration is written by people; what is larger is something else.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Reads the file into tables, or says everything that keeps it from being TOML.
///
/// The TOML feature of the `config` crate is not used, because its errors for an integer that is too large have
/// neither line nor key, and because it stops at the first error.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, Vec<Problem>> {
    let problem = |message: String| Problem {
        origin: Origin::File(path.to_path_buf()),
        key: None,
        value: None,
        message,
    };

    let bytes = read_limited(path).map_err(|err| vec![problem(format!("cannot be read: {err}"))])?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(vec![problem("is larger than 1 MiB, the most that a configuration may have".to_owned())]);
    }
    let text = std::str::from_utf8(&bytes).map_err(|err| {
        let place = place(&bytes, err.valid_up_to());
        vec![problem(format!("{place}: not UTF-8 text, which TOML has to be"))]
    })?;

    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(to_map(table.into_inner()));
    }
    let describe = |err: toml::de::Error| {
        let place = err.span().map(|span| place(&bytes, span.start) + ": ").unwrap_or_default();
        problem(format!("{place}{}", err.message().replace('\n', ", ")))
    };
    Err(errors.into_iter().map(describe).collect())
}

/// The file's bytes, at most one more than is allowed, so that a device without end does not fill the memory.
fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Line and column of a byte, both from 1; the column counts characters.
fn place(bytes: &[u8], offset: usize) -> String {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    format!("line {line}, column {column}")
}

fn to_map(table: DeTable<'_>) -> Map<String, Value> {
    table
        .into_iter()
        .map(|(key, value)| (key.into_inner().into_owned(), to_value(value.into_inner())))
        .collect()
}

fn to_value(value: DeValue<'_>) -> Value {
    let kind = match value {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        // What no integer type holds is kept as it was written, for the message of whoever wants a number here.
        DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
            .map_or_else(|_| ValueKind::String(digits.to_string()), ValueKind::I128),
        DeValue::Float(digits) => {
            digits.as_str().parse().map_or_else(|_| ValueKind::String(digits.to_string()), ValueKind::Float)
        }
        DeValue::Boolean(value) => ValueKind::Boolean(value),
        DeValue::Datetime(value) => ValueKind::String(value.to_string()),
        DeValue::Array(items) => {
            ValueKind::Array(items.into_iter().map(|item| to_value(item.into_inner())).collect())
        }
        DeValue::Table(table) => ValueKind::Table(to_map(table)),
    };
    Value::new(None, kind)
}

//! The command `exuvia`.
fn main() {}

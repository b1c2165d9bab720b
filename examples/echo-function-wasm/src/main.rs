//! The documentation's WebAssembly echo function: the reply is the payload followed by the subject.
//!
//! A function is a plain WASI command, run once per trigger: its second argument is the subject of the trigger, its
//! standard input the payload, and all that it writes to standard output is the reply. A non-zero exit is an error to
//! the caller.

use std::{
    env,
    io::{self, Read, Write},
};

fn main() -> io::Result<()> {
    let subject = env::args().nth(1).unwrap_or_default();
    let mut reply = Vec::new();
    io::stdin().read_to_end(&mut reply)?;
    reply.extend_from_slice(subject.as_bytes());
    io::stdout().write_all(&reply)
}

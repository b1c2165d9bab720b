//! Counts its calls, by subject, on the workload's key-value bucket.
//!
//! A component of the world `nex:function/function`: the message comes as a value and the reply goes as one. The
//! counter is `wasi:keyvalue`'s own, so no call is lost when several count at once.

wit_bindgen::generate!({ path: "../../wit", world: "nex:function/function", generate_all });

use exports::nex::function::handler::{Call, Guest, Reply};
use wasi::keyvalue::{atomics, store};

struct Counter;

impl Guest for Counter {
    fn handle(call: Call) -> Result<Reply, String> {
        let bucket = store::open("default").map_err(|error| error.to_string())?;
        // What is no character of a key becomes one.
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_=.".contains(c);
        let key: String = call.subject.chars().map(|c| if is_part(c) { c } else { '_' }).collect();
        let count = atomics::increment(&bucket, &key, 1).map_err(|error| error.to_string())?;
        Ok(Reply { headers: vec![("Counted".to_owned(), key)], payload: count.to_string().into_bytes() })
    }
}

export!(Counter);

//! Tries host services as a component does. What it tries is the last part of the subject; what it saw is the reply,
//! as text that the tests compare.

wit_bindgen::generate!({ path: "../../../wit", world: "nex:function/function", generate_all });

mod blobs;
mod keys;
mod messages;
mod web;

use exports::nex::function::handler::{Call, Guest, Reply};
use nex::function::context;
use wasi::config::store as config;
use wasi::logging::logging::{Level, log};

struct Probe;

impl Guest for Probe {
    fn handle(call: Call) -> Result<Reply, String> {
        let payload = String::from_utf8(call.payload.clone()).unwrap_or_default();
        let what = call.subject.rsplit('.').next().unwrap_or_default();
        let said = match what {
            "echo" => return Ok(Reply { headers: call.headers, payload: call.payload }),
            "fail" => return Err(payload),
            "panic" => panic!("{payload}"),
            "exit" => std::process::exit(payload.parse().unwrap_or(0)),
            "ambient" => ambient(&payload),
            "keys" => keys::store(),
            "key-errors" => keys::errors(),
            "atomics" => keys::atomics(),
            "batch" => keys::batch(),
            "get" => keys::get(&payload),
            "set" => keys::set(&payload),
            "count-to" => keys::count_to(&payload),
            "spin" => keys::spin(),
            "time" => keys::time(&payload),
            "containers" => blobs::containers(),
            "objects" => blobs::objects(),
            "ranges" => blobs::ranges(),
            "object-errors" => blobs::errors(),
            "through" => blobs::through(&payload),
            "half" => blobs::half(),
            "too-much" => blobs::too_much(&payload),
            "object" => blobs::read(&payload),
            "messages" => messages::all(&payload),
            "publish" => messages::publish(&payload),
            "web" => web::send(&payload),
            "flood" => web::flood(&payload),
            other => return Err(format!("nothing called {other} to try")),
        };
        Ok(Reply { headers: vec![], payload: said.into_bytes() })
    }
}

fn ambient(key: &str) -> String {
    println!("printed");
    eprintln!("complained");
    log(Level::Trace, "", "traced");
    log(Level::Info, "probe", "first\nsecond");
    log(Level::Critical, "", "critical");
    let left = context::remaining_ms();
    format!(
        "{}/{} time:{} {:?} {:?} env:{:?}",
        context::namespace(),
        context::workload(),
        left > 0 && left <= 60_000,
        config::get(key).unwrap(),
        config::get("NO_SUCH_KEY").unwrap(),
        std::env::var(key).ok(),
    )
}

export!(Probe);

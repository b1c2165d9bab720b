//! A `wasi:cli` command that uses `wasi:keyvalue` in the draft that existing components were built for.

wit_bindgen::generate!({
    inline: "
        package nex:guest-command;

        world command {
          import wasi:keyvalue/store@0.2.0-draft;
          import wasi:keyvalue/atomics@0.2.0-draft;
          import wasi:keyvalue/batch@0.2.0-draft;
        }
    ",
    path: "../../../crates/nex-agent/wit",
    world: "nex:guest-command/command",
    generate_all,
});

use wasi::keyvalue::{atomics, batch, store};

fn main() {
    let bucket = store::open("").unwrap();
    bucket.set("a", b"1").unwrap();
    let many = batch::get_many(&bucket, &["a".into(), "missing".into()]).unwrap();
    let two = atomics::increment(&bucket, "a", 1).unwrap();
    let page = bucket.list_keys(None).unwrap();
    print!("{many:?} {two} {:?} {:?}", page.keys, page.cursor);
}

//! WebAssembly functions through the whole system: contract, bad modules, and their callers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::time::{Duration, Instant};

use anyhow::Result;
use nex_e2e::{World, body, failure};
use nex_protocol::WorkloadType::Wasm;
use nex_testkit::examples;
use serde_json::json;

fn module(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_preview_1_module_and_a_component_answer_under_one_contract() -> Result<()> {
    let world = World::start().await?;
    for (name, path) in [("p1", examples()?.wasm()?), ("p2", examples()?.component()?)] {
        let subject = format!("wasm.{name}");
        world.function(name, Wasm, &std::fs::read(path)?, &subject).await?;
        for _ in 0..3 {
            assert_eq!(body(&world.call(&subject, "hello").await?)?, format!("hello{subject}").as_bytes());
        }
        let large = vec![7u8; 500_000];
        let reply = world.call(&subject, large.clone()).await?;
        assert_eq!(body(&reply)?.len(), large.len() + subject.len());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_webassembly_is_refused() -> Result<()> {
    let world = World::start().await?;
    for bytes in [&b"not wasm at all"[..], b"\0asm", b"\0asm\x01\0\0\0garbage", b"\x7fELF"] {
        let error = world.function("bad", Wasm, bytes, "bad").await.unwrap_err();
        assert!(error.to_string().contains("workload rejected by agent: "), "{error}");
    }
    let library = module("(module (func (export \"add\") (result i32) i32.const 1))");
    let error = world.function("bad", Wasm, &library, "bad").await.unwrap_err();
    assert!(error.to_string().contains("_start"), "{error}");
    let foreign =
        module(r#"(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))"#);
    let error = world.function("bad", Wasm, &foreign, "bad").await.unwrap_err();
    assert!(error.to_string().contains("magic"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_trap_a_loop_and_endless_growth_fail_their_own_call_only() -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 700}, "machine_template": {"memsize_mib": 32}})).await?;
    world.function("fine", Wasm, &std::fs::read(examples()?.wasm()?)?, "fine").await?;
    let trap = module(r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#);
    let endless = module(r#"(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))"#);
    let growing = module(
        r#"(module (memory (export "memory") 1)
            (func (export "_start") (loop (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) br 0)))"#,
    );
    for (name, bytes, status) in [("trap", trap, 500), ("endless", endless, 504), ("growing", growing, 507)] {
        world.function(name, Wasm, &bytes, name).await?;
        let began = Instant::now();
        let reply = world.call(name, "").await?;
        let (code, text) = failure(&reply).unwrap();
        assert_eq!(code, status, "{name}: {text}");
        assert!(began.elapsed() < Duration::from_secs(4), "{name}");
        assert_eq!(body(&world.call("fine", "x").await?)?, b"xfine");
    }
    assert_eq!(world.info().await?.machines.iter().filter(|machine| machine.healthy).count(), 4);
    Ok(())
}

#[tokio::test]
async fn a_call_that_loops_does_not_hold_up_the_others() -> Result<()> {
    let world = World::with(json!({"functions": {"timeout_ms": 3000, "concurrency": 4}})).await?;
    // Loops when it is given something to read, and answers otherwise.
    let picky = module(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 10))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (if (i32.load (i32.const 8)) (then (loop br 0)))))"#,
    );
    world.function("picky", Wasm, &picky, "picky").await?;
    let looping = world.call("picky", "x");
    let quick = async {
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(body(&world.call("picky", "").await.unwrap()).unwrap(), b"");
        }
        began.elapsed()
    };
    let (looping, quick) = tokio::join!(looping, quick);
    assert_eq!(failure(&looping?).unwrap().0, 504);
    assert!(quick < Duration::from_secs(3), "{quick:?}");
    Ok(())
}

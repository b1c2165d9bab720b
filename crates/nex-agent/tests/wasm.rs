//! WebAssembly functions, hand-written in the text format.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nex_protocol::link::message::FailureKind::{Function, Killed, OutOfMemory, ReplyTooLarge, Timeout};
use nex_protocol::link::message::{Limits, Start};
use nex_protocol::log::Level;
use nex_protocol::name::WorkloadType;
use node::{LIMITS, Node, Started, start};

/// What the commands below have in common: WASI's functions, memory, and `$write` (a descriptor, a place, a length).
const COMMON: &str = r#"
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $read (param $at i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
  (data (i32.const 100) "one\n" "two\n" "last words")
"#;

/// Reads some, writes it, until there is no more: the reply is made by many writes.
const ECHO: &str = "(func (export \"_start\") (local $count i32)
  (loop $more
    (local.set $count (call $read (i32.const 1024) (i32.const 5)))
    (if (local.get $count) (then
      (call $write (i32.const 1) (i32.const 1024) (local.get $count))
      (br $more)))))";

/// With a payload: loops for ever.
const LOOP: &str = "(func (export \"_start\")
  (if (call $read (i32.const 1024) (i32.const 1)) (then (loop $ever (br $ever))))
  (call $write (i32.const 1) (i32.const 100) (i32.const 3)))";

fn command(body: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {COMMON} {body})")).unwrap()
}

async fn try_function(wasm: &[u8], change: impl FnOnce(&mut Start)) -> (Node, Started) {
    let mut node = Node::new().await;
    let mut start = start(WorkloadType::Wasm, node.artifact("function", wasm));
    change(&mut start);
    let started = node.start(start).await;
    (node, started)
}

async fn function(body: &str) -> Node {
    let (node, started) = try_function(&command(body), |_| {}).await;
    assert_eq!(started, Ok(None), "no process of its own");
    node
}

#[tokio::test]
async fn all_of_stdout_is_the_reply_however_many_writes_it_took() {
    let mut node = function(ECHO).await;
    assert_eq!(node.call(1, "a payload in pieces of five").await.as_deref(), Ok("a payload in pieces of five"));
    assert_eq!(node.call(2, "").await.as_deref(), Ok(""));
    let large: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    node.invoke(3, large.clone()).await;
    assert_eq!(node.outcome(3).await.unwrap().1, large);
    assert_eq!(node.stop(1000).await.message, "stopped");
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn the_subject_is_an_argument() {
    let mut node = function(
        "(func (export \"_start\")
           (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
           (drop (call $args_get (i32.const 512) (i32.const 1024)))
           (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 20))))",
    )
    .await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok("nexfunction\0some.subject\0"));
}

#[tokio::test]
async fn the_environment_is_what_was_given_with_the_headers() {
    let environ = "(func (export \"_start\")
       (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
       (drop (call $environ_get (i32.const 512) (i32.const 1024)))
       (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 20))))";
    let (mut node, started) = try_function(&command(environ), |start| start.environment.set("lower_Case", "v")).await;
    started.unwrap();
    assert_eq!(node.call(1, "").await.as_deref(), Ok("lower_Case=v\0"));
    node.invoke_with(2, vec![("A".into(), "1".into()), ("A".into(), "\"".into())], "", 5000).await;
    assert_eq!(node.reply(2).await.unwrap(), "lower_Case=v\0NEX_HEADERS=[[\"A\",\"1\"],[\"A\",\"\\\"\"]]\0");
}

#[tokio::test]
async fn a_status_that_is_not_0_is_a_failure_with_the_last_words() {
    let mut node = function(
        "(func (export \"_start\") (call $write (i32.const 2) (i32.const 100) (i32.const 18)) (call $proc_exit (i32.const 7)))",
    )
    .await;
    let (kind, text) = node.call(1, "").await.unwrap_err();
    assert_eq!((kind, text.as_str()), (Function, "exited with status 7: last words"));
    for line in ["one", "two", "last words"] {
        assert_eq!(node.log().await, (Level::Warn, line.into()));
    }
    let mut node = function("(func (export \"_start\") (call $proc_exit (i32.const 0)))").await;
    assert_eq!(node.call(1, "").await.as_deref(), Ok(""));
}

#[tokio::test]
async fn a_trap_is_a_failure_in_one_line() {
    let mut node = function("(func (export \"_start\") unreachable)").await;
    let (kind, text) = node.call(1, "").await.unwrap_err();
    assert_eq!(kind, Function);
    assert!(text.contains("unreachable") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn endless_loops_time_out_and_other_calls_go_on() {
    let mut node = function(LOOP).await;
    for call in 1..=3 {
        node.invoke_with(call, vec![], "x", 700).await;
    }
    // With every processor taken by loops, the link and the fourth slot go on.
    node.ping(1).await;
    assert_eq!(node.call(4, "").await.as_deref(), Ok("one"));
    for call in 1..=3 {
        assert_eq!(node.reply(call).await.unwrap_err().0, Timeout);
    }
    assert_eq!(node.call(5, "").await.as_deref(), Ok("one"));
}

#[tokio::test]
async fn a_loop_in_the_start_section_times_out_as_well() {
    let (mut node, started) =
        try_function(&command("(func $ever (loop $on (br $on))) (start $ever) (func (export \"_start\"))"), |_| {})
            .await;
    started.unwrap();
    node.invoke_with(1, vec![], "", 200).await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_and_are_told_when_their_time_is_up() {
    let (mut node, started) = try_function(&command(LOOP), |start| start.limits.concurrency = 1).await;
    started.unwrap();
    node.invoke_with(1, vec![], "x", 600).await;
    node.invoke_with(2, vec![], "", 100).await;
    node.invoke(3, "").await;
    assert_eq!(node.reply(2).await.unwrap_err().0, nex_protocol::link::message::FailureKind::Overloaded);
    assert_eq!(node.reply(1).await.unwrap_err().0, Timeout);
    assert_eq!(node.reply(3).await.as_deref(), Ok("one"));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_told_and_instances_are_fresh() {
    // Grows by a MiB until it cannot, then traps, as allocators do; without a payload, says how much it has.
    let grow = "(func (export \"_start\")
       (if (call $read (i32.const 1024) (i32.const 1)) (then
         (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
         unreachable))
       (i32.store8 (i32.const 1024) (i32.add (i32.const 48) (memory.size)))
       (call $write (i32.const 1) (i32.const 1024) (i32.const 1)))";
    let mut node = function(grow).await;
    let (kind, text) = node.call(1, "x").await.unwrap_err();
    assert!(kind == OutOfMemory && text.contains("67108864 bytes"), "{text}");
    assert_eq!(node.call(2, "").await.as_deref(), Ok("2"));
}

#[tokio::test]
async fn a_reply_too_large_is_told() {
    let limits = Limits { reply_bytes: 8, ..LIMITS };
    let (mut node, started) = try_function(&command(ECHO), |start| start.limits = limits).await;
    started.unwrap();
    assert_eq!(node.call(1, "12345678").await.as_deref(), Ok("12345678"));
    assert_eq!(node.call(2, "123456789").await.unwrap_err().0, ReplyTooLarge);
}

#[tokio::test]
async fn what_is_no_function_is_rejected_with_the_reason() {
    let foreign = wat::parse_str("(module (import \"env\" \"secret\" (func)) (func (export \"_start\")))").unwrap();
    let library = wat::parse_str("(module (func (export \"add\")))").unwrap();
    let hungry = wat::parse_str("(module (memory 2000) (func (export \"_start\")))").unwrap();
    let mut broken = command(ECHO);
    broken.truncate(60);
    for (artifact, reason) in [
        (b"() => 1".to_vec(), "not a WebAssembly module"),
        (foreign, "env::secret"),
        (library, "exports no function _start"),
        (hungry, "memory"),
        (broken, "not a valid WebAssembly module"),
        (wat::parse_str("(component)").unwrap(), "no wasi:cli command"),
        (
            wat::parse_str("(component (import \"my:own/thing\" (instance (export \"f\" (func)))))").unwrap(),
            "my:own/thing",
        ),
    ] {
        let why = try_function(&artifact, |_| {}).await.1.unwrap_err();
        assert!(why.contains(reason), "{reason}: {why}");
    }
}

async fn with_cache(folder: &Path, wasm: &[u8]) -> Node {
    let mut node = Node::with(|welcome| welcome.compiled_dir = Some(folder.to_owned())).await;
    let start = Start { sha256: "ab".repeat(32), ..start(WorkloadType::Wasm, node.artifact("function", wasm)) };
    node.start(start).await.unwrap();
    node
}

#[tokio::test]
async fn compiled_code_is_kept_used_again_and_replaced_when_it_does_not_load() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = with_cache(folder.path(), &command(ECHO)).await;
    assert_eq!(node.call(1, "first").await.as_deref(), Ok("first"));
    let engine = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let files: Vec<_> = std::fs::read_dir(&engine).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, [engine.join(format!("{}.cwasm", "ab".repeat(32)))], "one file, nothing left aside");
    assert_eq!(std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);

    // Under the same digest another artifact: what runs is what was kept, so the artifact was not compiled.
    let mut node = with_cache(folder.path(), &command("(func (export \"_start\") unreachable)")).await;
    assert_eq!(node.call(1, "again").await.as_deref(), Ok("again"));

    std::fs::write(&files[0], b"garbage").unwrap();
    let mut node = with_cache(folder.path(), &command(ECHO)).await;
    assert_eq!(node.call(1, "anew").await.as_deref(), Ok("anew"));
    assert!(std::fs::metadata(&files[0]).unwrap().len() > 1000, "replaced");
}

#[tokio::test]
async fn a_component_that_is_a_wasi_cli_command_runs_under_the_same_contract() {
    let component = wat::parse_str(include_str!("hello-component.wat")).unwrap();
    let (mut node, started) = try_function(&component, |_| {}).await;
    started.unwrap();
    assert_eq!(node.call(1, "").await.as_deref(), Ok("hello from a component"));
    assert_eq!(node.call(2, "").await.as_deref(), Ok("hello from a component"));
}

#[tokio::test]
async fn a_component_whose_run_fails_is_a_failure() {
    let failing = "(component
        (core module $program (func (export \"run\") (result i32) (i32.const 1)))
        (core instance $instance (instantiate $program))
        (func $run (result (result)) (canon lift (core func $instance \"run\")))
        (instance $command (export \"run\" (func $run)))
        (export \"wasi:cli/run@0.2.0\" (instance $command)))";
    let (mut node, started) = try_function(&wat::parse_str(failing).unwrap(), |_| {}).await;
    started.unwrap();
    assert_eq!(node.call(1, "").await, Err((Function, "exited with status 1".into())));
}

#[tokio::test]
async fn stop_lets_running_calls_finish_and_ends_those_that_do_not() {
    let mut node = function(LOOP).await;
    node.invoke(1, "x").await;
    node.ping(1).await;
    node.stop(100).await;
    assert_eq!(node.reply(1).await.unwrap_err().0, Killed);
    assert_eq!(node.end().await.code(), Some(0));
}

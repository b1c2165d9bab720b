//! Compiled code that outlives the machine it was made in: handed to the node, and given to the next agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use bytes::Bytes;
use nex_protocol::link::compiled::{Compiled, PIECE, limit};
use nex_protocol::link::message::{Start, ToAgent, ToNode};
use nex_protocol::name::WorkloadType;
use node::{Node, start};
use sha2::{Digest, Sha256};

/// A command that writes these words, and does not fit into one piece when compiled.
fn says(words: &str) -> Vec<u8> {
    let filler: String = (0..600)
        .map(|n| format!("(func (export \"f{n}\") (param i32) (result i32) (i32.mul (local.get 0) (i32.const {n})))"))
        .collect();
    let length = words.len();
    wat::parse_str(format!(
        "(module
           (import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))
           (memory (export \"memory\") 1)
           (data (i32.const 0) \"\\10\\00\\00\\00\\{length:02x}\\00\\00\\00\")
           (data (i32.const 16) \"{words}\")
           (func (export \"_start\") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
           {filler})"
    ))
    .unwrap()
}

/// An agent that shares no files with its node, and runs this, after it was given compiled code.
async fn machine(wasm: &[u8], given: &[Compiled]) -> Node {
    let mut node = Node::new().await;
    for piece in given {
        node.send(ToAgent::Compiled(piece.clone())).await;
    }
    node.send(ToAgent::Artifact(Bytes::copy_from_slice(wasm))).await;
    let sha256 = Sha256::digest(wasm).iter().map(|byte| format!("{byte:02x}")).collect();
    let started = node.start(Start { sha256, ..start(WorkloadType::Wasm, "".into()) }).await;
    assert_eq!(started, Ok(None));
    node
}

async fn piece(node: &mut Node) -> Compiled {
    node.find(|message| match message {
        ToNode::Compiled(piece) => Some(piece.clone()),
        _ => None,
    })
    .await
}

/// All that an agent hands in.
async fn handed_in(node: &mut Node) -> Vec<Compiled> {
    let mut pieces = vec![piece(node).await];
    while pieces.iter().map(|piece| piece.piece.len() as u64).sum::<u64>() < pieces[0].size {
        node.send(ToAgent::CompiledMore).await;
        pieces.push(piece(node).await);
    }
    pieces
}

/// Stops an agent, and says whether it handed in anything that was not asked about.
async fn hands_in_no_more(mut node: Node) -> bool {
    // Whoever has to compile sends the first piece without being asked, and a call takes longer than that.
    node.call(99, "").await.unwrap();
    node.send(ToAgent::CompiledMore).await;
    node.ping(99).await;
    node.stop(1000).await;
    let rest = node.rest().await;
    assert_eq!(node.end().await.code(), Some(0));
    !rest.iter().any(|message| matches!(message, ToNode::Compiled(_)))
}

#[tokio::test]
async fn what_one_agent_compiled_the_next_runs_without_compiling() {
    let mut first = machine(&says("one"), &[]).await;
    let pieces = handed_in(&mut first).await;
    assert!(pieces.len() > 1, "one piece tells nothing of their order");
    assert!(pieces.iter().all(|piece| piece.piece.len() <= PIECE && piece.engine == pieces[0].engine));
    assert!(pieces[0].size <= limit(says("one").len() as u64));
    assert_eq!(first.call(1, "").await.as_deref(), Ok("one"));
    assert!(hands_in_no_more(first).await, "once");

    // With another artifact: what runs is what was given, so the artifact was not compiled.
    let mut second = machine(&says("two"), &pieces).await;
    assert_eq!(second.call(1, "").await.as_deref(), Ok("one"));
    assert!(hands_in_no_more(second).await, "the node has it");
}

#[tokio::test]
async fn what_cannot_be_used_costs_a_compilation_and_is_replaced() {
    let mut first = machine(&says("one"), &[]).await;
    let pieces = handed_in(&mut first).await;
    let (engine, size) = (pieces[0].engine, pieces[0].size);
    let garbage = Compiled { engine, size: 100, piece: Bytes::from_static(&[b'x'; 100]) };
    let other_engine: Vec<Compiled> =
        pieces.iter().map(|piece| Compiled { engine: [7; 16].into(), ..piece.clone() }).collect();
    let cut: Vec<u8> = pieces.iter().flat_map(|piece| piece.piece[..piece.piece.len() / 2].to_vec()).collect();
    let cut = Compiled { engine, size: cut.len() as u64, piece: cut.into() };
    for given in [
        vec![garbage],
        vec![cut],
        other_engine,
        pieces[1..].to_vec(),
        vec![Compiled { engine, size: u64::MAX, piece: Bytes::from_static(b"x") }],
        vec![Compiled { engine, size: 0, piece: Bytes::new() }],
    ] {
        let mut next = machine(&says("two"), &given).await;
        assert_eq!(next.call(1, "").await.as_deref(), Ok("two"));
        let again = handed_in(&mut next).await;
        assert_eq!((again[0].engine, again.len()), (engine, pieces.len()));
        assert!(again[0].size.abs_diff(size) < 64 << 10);
        assert!(!next.folder.path().join("compiled").exists(), "it takes no room");
    }
}

#[tokio::test]
async fn a_node_that_does_not_ask_gets_one_piece_and_calls_go_on() {
    let mut node = machine(&says("one"), &[]).await;
    let first = piece(&mut node).await;
    assert!(first.size > PIECE as u64);
    for call in 1..=3 {
        assert_eq!(node.call(call, "").await.as_deref(), Ok("one"));
    }
    node.stop(1000).await;
    let rest = node.rest().await;
    assert!(!rest.iter().any(|message| matches!(message, ToNode::Compiled(_))), "{rest:?}");
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn an_agent_with_a_folder_sends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::with(|welcome| welcome.compiled_dir = Some(folder.path().to_owned())).await;
    let artifact = node.artifact("function", says("one"));
    node.start(Start { sha256: "ab".repeat(32), ..start(WorkloadType::Wasm, artifact) }).await.unwrap();
    assert!(hands_in_no_more(node).await);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_larger_memory_limit_is_the_same_engine() {
    // Else one artifact that is deployed with two limits would be compiled again and again.
    let wasm = says("one");
    let mut engines = Vec::new();
    for memory_bytes in [16 << 20, 512 << 20] {
        let mut node = Node::new().await;
        node.send(ToAgent::Artifact(wasm.clone().into())).await;
        let mut start = start(WorkloadType::Wasm, "".into());
        start.sha256 = Sha256::digest(&wasm).iter().map(|byte| format!("{byte:02x}")).collect();
        start.limits.memory_bytes = memory_bytes;
        node.start(start).await.unwrap();
        engines.push(piece(&mut node).await.engine);
    }
    assert_eq!(engines[0], engines[1]);
}

//! Services, with the system's shell as the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests, all of it

mod node;

use nex_protocol::link::message::{FailureKind, Start, ToAgent, ToNode};
use nex_protocol::log::Level;
use nex_protocol::name::WorkloadType;
use node::{Node, gone, start};

/// A service that is this shell script.
fn shell(script: &str) -> Start {
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    Start { argv: vec!["-c".into(), script.into()], ..start(WorkloadType::Native, shell) }
}

async fn run(script: &str) -> (Node, u32) {
    let mut node = Node::new().await;
    let group = node.start(shell(script)).await.unwrap().expect("a service has a process group");
    (node, group)
}

#[tokio::test]
async fn output_comes_by_line_and_before_the_exit() {
    let (mut node, _) = run("echo one; printf 'two\\n\\nlast'; exit 3").await;
    let rest = node.rest().await;
    let lines: Vec<_> = rest
        .iter()
        .map(|message| match message {
            ToNode::Log { level: Level::Info, text } => text.as_str(),
            ToNode::Exited(exit) => {
                assert_eq!((exit.code, exit.signal), (Some(3), None));
                "exited"
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lines, ["one", "two", "", "last", "exited"]);
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn stderr_is_logged_as_warnings() {
    let (mut node, _) = run("echo oops >&2").await;
    assert_eq!(node.log().await, (Level::Warn, "oops".into()));
    assert_eq!(node.exited().await.code, Some(0));
}

#[tokio::test]
async fn the_environment_is_what_was_given_and_nothing_else() {
    let mut node = Node::new().await;
    let mut service = shell("/usr/bin/env; pwd; echo name=$0; cat");
    service.environment.set("lower_Case", "a b");
    node.start(service).await.unwrap();
    let mut lines = Vec::new();
    for message in node.rest().await {
        if let ToNode::Log { text, .. } = message {
            lines.push(text);
        }
    }
    assert!(lines.contains(&"lower_Case=a b".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("name=work")), "argument zero is the name: {lines:?}");
    let folder = std::fs::canonicalize(node.folder.path()).unwrap();
    assert!(lines.contains(&folder.display().to_string()), "{lines:?}");
    // PWD, SHLVL and _ are set by the shell itself.
    let inherited = |line: &&String| line.contains("SECRET") || line.starts_with("PATH=") || line.starts_with("HOME=");
    assert_eq!(lines.iter().find(inherited), None);
}

#[tokio::test]
async fn stop_lets_a_service_end_by_itself() {
    let (mut node, _) = run("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done").await;
    assert_eq!(node.log().await.1, "ready");
    let exit = node.stop(10_000).await;
    assert_eq!(exit.code, Some(5));
    // The shell may say first that the sleep it waited for was terminated: the signal goes to the whole group.
    while node.log().await.1 != "bye" {}
    assert_eq!(node.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_service_that_ignores_term_is_killed_with_everything_it_started() {
    let (mut node, _) = run("trap '' TERM; (while :; do sleep 0.05; done) & echo $!; echo ready; wait; wait").await;
    let grandchild: i32 = node.log().await.1.parse().unwrap();
    assert_eq!(node.log().await.1, "ready");
    let exit = node.stop(50).await;
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    assert!(exit.message.contains("signal 9"), "{}", exit.message);
    gone(grandchild).await;
}

#[tokio::test]
async fn what_a_service_leaves_behind_is_killed_and_does_not_hold_up_the_exit() {
    let (mut node, _) = run("sleep 1000 & echo $!; exit 0").await;
    let left: i32 = node.log().await.1.parse().unwrap();
    assert_eq!(node.exited().await.code, Some(0));
    gone(left).await;
}

#[tokio::test]
async fn a_service_dies_with_the_link() {
    let (mut node, group) = run("trap '' TERM HUP; (trap '' TERM; sleep 1000) & echo $!; wait; wait").await;
    let grandchild: i32 = node.log().await.1.parse().unwrap();
    node.to = None;
    assert_eq!(node.end().await.code(), Some(0));
    gone(i32::try_from(group).unwrap()).await;
    gone(grandchild).await;
}

#[tokio::test]
async fn a_long_grace_is_cut_short_when_the_node_goes_meanwhile() {
    let (mut node, group) = run("trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    assert_eq!(node.log().await.1, "ready");
    node.send(ToAgent::Stop { grace_ms: 600_000 }).await;
    node.ping(1).await;
    node.to = None;
    assert_eq!(node.end().await.code(), Some(0), "in good order, not by the guard");
    gone(i32::try_from(group).unwrap()).await;
}

#[tokio::test]
async fn a_service_dies_with_its_agent() {
    let (mut node, group) = run("trap '' TERM HUP; echo ready; while :; do sleep 0.01; done").await;
    assert_eq!(node.log().await.1, "ready");
    node.agent.start_kill().unwrap();
    gone(i32::try_from(group).unwrap()).await;
}

#[tokio::test]
async fn a_death_by_signal_is_told() {
    let (mut node, _) = run("kill -SEGV $$").await;
    let exit = node.exited().await;
    assert_eq!((exit.code, exit.signal), (None, Some(11)));
}

#[tokio::test]
async fn a_flood_of_output_holds_up_neither_pings_nor_stop() {
    let (mut node, _) = run("yes 0123456789012345678901234567890123456789").await;
    for number in 0..20 {
        node.send(ToAgent::Ping(number)).await;
        // Lines in between are dropped here, so that the test's memory is not what is measured.
        while node.next().await != ToNode::Pong(number) {}
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent.id().unwrap())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 100 << 10, "{resident} KiB");
    node.send(ToAgent::Stop { grace_ms: 1000 }).await;
    while !matches!(node.next().await, ToNode::Exited(_)) {}
}

#[tokio::test]
async fn long_lines_are_split_and_bytes_that_are_no_text_replaced() {
    let (mut node, _) = run("head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'a\\377b\\n'").await;
    let sizes = [node.log().await.1.len(), node.log().await.1.len(), node.log().await.1.len()];
    assert_eq!(sizes, [16384, 16384, 40000 - 32768]);
    assert_eq!(node.log().await.1, "a\u{fffd}b");
}

#[tokio::test]
async fn a_service_can_neither_gain_privileges_nor_dump_core() {
    let (mut node, _) = run("grep NoNewPrivs /proc/self/status; ulimit -c").await;
    assert_eq!(node.log().await.1, "NoNewPrivs:\t1");
    assert_eq!(node.log().await.1, "0");
}

#[tokio::test]
async fn a_dynamic_program_is_rejected_where_it_must_be_static() {
    let mut node = Node::new().await;
    let why = node.start(Start { require_static: true, ..shell("true") }).await.unwrap_err();
    assert_eq!(why, "native binary contains at least one dynamically linked dependency");
}

#[tokio::test]
async fn programs_that_cannot_run_here_are_rejected_with_the_reason() {
    let shell = std::fs::read("/bin/sh").unwrap();
    let mut foreign = shell.clone();
    foreign[18..20].copy_from_slice(&(if cfg!(target_arch = "aarch64") { 62u16 } else { 183 }).to_le_bytes());
    let mut lost = shell;
    // Names an interpreter that is not there.
    let at = lost.windows(4).position(|bytes| bytes == b"/lib").unwrap();
    lost[at..at + 4].copy_from_slice(b"/bil");
    for (content, reason) in
        [(foreign, "this node is"), (lost, "link it statically"), (b"\x7fELF\x02".to_vec(), "damaged")]
    {
        let mut node = Node::new().await;
        let program = node.artifact("program", content);
        let why = node.start(start(WorkloadType::Native, program)).await.unwrap_err();
        assert!(why.contains(reason), "{why}");
    }
}

#[tokio::test]
async fn a_service_takes_no_calls() {
    let (mut node, _) = run("sleep 1000").await;
    assert_eq!(node.call(1, "x").await.unwrap_err().0, FailureKind::Function);
}

#[tokio::test]
async fn an_impossible_environment_is_rejected() {
    let mut node = Node::new().await;
    let mut service = shell("true");
    service.environment.set("A=B", "c");
    assert!(node.start(service).await.unwrap_err().contains("'A=B'"));
}

//! `nex-agent`: started by a node with the link as its standard input. Reads no arguments and no configuration.
//!
//! In a microVM it is started before there is a link, with `NEX_AGENT_LINK=handed`: its standard input is then a socket over
//! which process 1 gives it the link later.

use std::io::{IoSliceMut, IsTerminal};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use nex_agent::guard::{self, Groups};
use nex_agent::session;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::EnvFilter;

/// The agent was not started by a node (`EX_USAGE`).
const NOT_BY_A_NODE: u8 = 64;

/// The workload's environment passes through here in clear: no core dump, and no debugger of the same user (which a
/// workload without a sandbox is), shall see it.
fn keep_memory_private() -> rustix::io::Result<()> {
    // Kernels before 6.4 tell a process its parameters in a file, which it cannot read any more after this.
    let _ = rustix::param::page_size();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => {}
        Some("--version" | "-V") => {
            println!("nex-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("nex-agent: unknown argument '{other}': the agent takes none, a nex node starts it");
            return ExitCode::from(NOT_BY_A_NODE);
        }
    }
    let Some(link) = socket_on_stdin() else {
        eprintln!("nex-agent: standard input is no socket: the agent is started by a nex node, not by hand");
        return ExitCode::from(NOT_BY_A_NODE);
    };
    start_log();
    if let Err(error) = keep_memory_private() {
        tracing::warn!(%error, "cannot keep the agent's memory from core dumps and debuggers");
    }
    let link = match std::env::var_os("NEX_AGENT_LINK") {
        Some(_) => match handed(&link) {
            Ok(link) => link,
            Err(error) => {
                tracing::error!(%error, "no link was given to the agent");
                return ExitCode::FAILURE;
            }
        },
        None => link,
    };
    match run(link) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "agent ended");
            ExitCode::FAILURE
        }
    }
}

fn run(link: OwnedFd) -> anyhow::Result<()> {
    let groups = Groups::default();
    guard::watch(link.try_clone().context("duplicating the link")?, groups.clone()).context("starting the guard")?;
    // One thread for the link and for pipes: functions run elsewhere, so it is never busy, and what arrives is handed
    // on without waking another thread first.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    // On this thread, not on a worker: the workload's processes are tied to the life of the thread that starts them.
    let result = runtime.block_on(session::serve(UnixStream::from(link), groups));
    // A compilation that nobody waits for any more must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Its text has everything its sources would say once more.
    result.map_err(|error| anyhow::anyhow!("{error}"))
}

/// Says that the agent waits, and waits until it is given its link.
fn handed(hand: &OwnedFd) -> std::io::Result<OwnedFd> {
    rustix::net::send(hand, b"w", SendFlags::NOSIGNAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    recvmsg(hand, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.last().ok_or_else(|| std::io::Error::other("the first process closed its socket"))
}

/// The socket, taken off standard input; none when that is none.
fn socket_on_stdin() -> Option<OwnedFd> {
    let stdin = std::io::stdin();
    let status = rustix::fs::fstat(stdin.as_fd()).ok()?;
    if !rustix::fs::FileType::from_raw_mode(status.st_mode).is_socket() {
        return None;
    }
    let link = stdin.as_fd().try_clone_to_owned().ok()?;
    // Nobody else is to find the link under number 0.
    let nothing = std::fs::File::open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(nothing).ok()?;
    Some(link)
}

/// The agent's own log, on stderr; as JSON lines for the node to forward.
fn start_log() {
    let filter = EnvFilter::try_from_env("NEX_AGENT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}

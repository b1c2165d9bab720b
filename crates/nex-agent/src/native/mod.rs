//! Services: a native program, run from Start to Stop.
//!
//! States: checked ([`elf`]), running as the leader of its own process group, stopping (TERM sent, KILL after the
//! grace), ended. Its environment is exactly what was given. All of its output is delivered before its end is.

mod elf;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nex_link::Sender;
use nex_protocol::link::message::{Exit, FailureKind, Start, ToNode};
use nex_protocol::log::Level;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::guard::Groups;
use crate::process::{self, Group};
use crate::workload::{self, Context, Finish, Inbox, Sign};
use crate::{call, lines};

/// Attempts to start a program that is open for writing, and the pause between two.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Runs a service.
pub(crate) async fn run(context: Context, inbox: &mut Inbox) -> Finish {
    let Context { welcome, start, node, groups, .. } = context;
    let (artifact, require_static) = (start.artifact.clone(), start.require_static);
    let checked = tokio::task::spawn_blocking(move || check(&artifact, require_static)).await;
    if let Err(why) = checked.unwrap_or_else(|_| Err("the check of the program failed".to_owned())) {
        return Finish::Rejected(why);
    }
    if inbox.stop.borrow().is_some() {
        return Finish::stopped_early();
    }
    let mut group = match spawn(&start, &welcome.work_dir, &groups).await {
        Ok(group) => group,
        Err(error) => return Finish::Rejected(explain(&error, &start.artifact)),
    };
    let _ = node.send(ToNode::Started { process_group: Some(group.id()) }).await;
    let (over, ended) = watch::channel(false);
    let mut output = follow_output(&mut group, &node, &ended);
    let status = supervise(&mut group, &node, inbox).await;
    over.send_replace(true);
    while output.join_next().await.is_some() {}
    Finish::Exited(exit(status))
}

/// Starts the program. The system refuses a file that somebody has open for writing; a process that the node forks while
/// it writes an artifact has that for a moment, until it becomes another program.
async fn spawn(start: &Start, folder: &Path, groups: &Groups) -> io::Result<Group> {
    for _ in 0..BUSY_ATTEMPTS {
        match process::spawn(command(start, folder), None, groups) {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => tokio::time::sleep(BUSY_PAUSE).await,
            other => return other,
        }
    }
    process::spawn(command(start, folder), None, groups)
}

fn check(artifact: &Path, require_static: bool) -> Result<(), String> {
    let file = File::open(artifact).map_err(|error| format!("the program cannot be read: {error}"))?;
    elf::check(&object::read::ReadCache::new(file), require_static).map_err(|why| why.to_string())
}

fn command(start: &Start, folder: &Path) -> Command {
    let mut command = process::bare(&start.artifact, folder);
    command.arg0(&start.name).args(&start.argv).envs(start.environment.iter());
    command
}

/// What to do about a program that could not be started.
fn explain(error: &io::Error, artifact: &Path) -> String {
    match error.kind() {
        // The program is there, it was just read: what is missing is named inside it.
        io::ErrorKind::NotFound if artifact.exists() => {
            "the program cannot be started: the dynamic loader it names is not on this node; link it statically"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "the program cannot be started: it is not executable here (its file mode, or a noexec mount of the node's \
             artifact folder)"
                .to_owned()
        }
        io::ErrorKind::ArgumentListTooLong => {
            "the program cannot be started: its arguments and environment are too long for the system".to_owned()
        }
        _ => format!("the program cannot be started: {error}"),
    }
}

/// Logs both streams, each by a task of its own.
fn follow_output(group: &mut Group, node: &Sender<ToNode>, ended: &watch::Receiver<bool>) -> JoinSet<()> {
    let (stdout, stderr) = group.take_output();
    let streams = [(stdout.map(OwnedFd::from), Level::Info), (stderr.map(OwnedFd::from), Level::Warn)];
    let mut tasks = JoinSet::new();
    for (stream, level) in streams {
        let Some(stream) = stream else { continue };
        let forward = lines::forward(stream, level, node.clone(), ended.clone(), |_| true);
        tasks.spawn(async move {
            if let Err(error) = forward.await {
                tracing::warn!(%error, ?level, "output of the program was lost");
            }
        });
    }
    tasks
}

/// Waits for the end of the program, by itself or by Stop.
async fn supervise(group: &mut Group, node: &Sender<ToNode>, inbox: &mut Inbox) -> ExitStatus {
    let Inbox { calls, stop, .. } = inbox;
    let mut stopping = false;
    loop {
        tokio::select! {
            status = group.exited() => return status,
            sign = workload::next_sign(stop, stopping) => match sign {
                Sign::Stop => {
                    group.signal(Signal::TERM);
                    stopping = true;
                }
                Sign::OutOfGrace => {
                    group.signal(Signal::KILL);
                    return group.exited().await;
                }
            },
            Some(call) = calls.recv() => {
                call::refuse(node, call.id, FailureKind::Function, "this workload is a service: it takes no calls").await;
            }
        }
    }
}

/// The name of a signal as everybody writes it: `SIGKILL`.
fn name(signal: Signal) -> String {
    let debug = format!("{signal:?}");
    let name = debug.trim_matches('"');
    format!("SIG{}", name.strip_prefix("Signal::").unwrap_or(name).to_ascii_uppercase())
}

fn exit(status: ExitStatus) -> Exit {
    let message = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => match Signal::from_named_raw(signal) {
            Some(named) => format!("ended by signal {signal} ({})", name(named)),
            None => format!("ended by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    };
    Exit { code: status.code(), signal: status.signal(), message }
}

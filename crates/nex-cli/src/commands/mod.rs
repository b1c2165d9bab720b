//! What the commands do, one module each.

mod devrun;
mod events;
mod feed;
mod lameduck;
mod logs;
mod node_check;
mod node_info;
mod node_ls;
mod node_preflight;
mod node_reference;
mod node_up;
mod placement;
mod rootfs;
mod run;
mod session;
mod stop;
mod version;
mod workload;
mod workload_ls;

use std::future::Future;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, Command, NodeCommand, WorkloadCommand};
use crate::failure;
use crate::logging::{self, Audience};

/// Runs the command that was written.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let result = dispatch(cli);
    match result {
        // A reader that stops reading (`nex node ls | head -1`) has what it wanted.
        Err(error) if failure::is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    let audience =
        if matches!(command, Command::Node(NodeCommand::Up(_))) { Audience::Node } else { Audience::Command };
    let log = logging::start(&global.logging, audience)?;
    match command {
        Command::Node(NodeCommand::Up(args)) => node_up::run(&global, &args, log).map(|()| ExitCode::SUCCESS),
        Command::Node(NodeCommand::Check(args)) => node_check::run(&args),
        Command::Node(NodeCommand::Preflight(args)) => node_preflight::run(&args),
        Command::Node(NodeCommand::Reap(args)) => {
            nex_node::reap(std::io::stdin().lock(), &args.machines, &args.groups);
            Ok(ExitCode::SUCCESS)
        }
        Command::Node(NodeCommand::Ls(args)) => client_command(node_ls::run(&global, &args)),
        Command::Node(NodeCommand::Info(args)) => client_command(node_info::run(&global, &args)),
        Command::Node(NodeCommand::Probe(args)) => client_command(workload_ls::probe(&global, &args)),
        Command::Workload(WorkloadCommand::Ls(args)) => client_command(workload_ls::list(&global, &args)),
        Command::Node(NodeCommand::Lameduck(args)) | Command::Lameduck(args) => {
            client_command(lameduck::run(&global, &args))
        }
        Command::Logs(args) => client_command(logs::run(&global, &args)),
        Command::Events(args) => client_command(events::run(&global, &args)),
        Command::Devrun(args) => client_command(devrun::run(&global, &args)),
        Command::Run(args) => client_command(run::run(&global, &args)),
        Command::Stop(args) => client_command(stop::run(&global, &args)),
        Command::Rootfs(args) => rootfs::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Version { json } => version::run(json).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "nex", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command that talks to NATS. One thread: starting more takes longer than most commands do.
fn client_command(command: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(command)?;
    Ok(ExitCode::SUCCESS)
}

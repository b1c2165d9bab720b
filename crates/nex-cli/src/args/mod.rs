//! The command line as types: what may be written, and nothing about what it does.
//!
//! Flags and environment variables are those of Go Nex 0.2.7 (with `-` accepted where it has `_`).

mod connection;
mod duration;
mod limits;
mod logging;
mod node;
mod observe;
mod preflight;
mod rootfs;
mod workload;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use nex_protocol::Namespace;

pub(crate) use connection::ConnectionArgs;
pub(crate) use logging::{Level, Logger, LoggingArgs, TimeFormat};
pub(crate) use node::{CheckArgs, InfoArgs, LsArgs, NatsSource, NodeCommand, NodeOverrides, UpArgs};
pub(crate) use observe::{EventsArgs, FeedArgs, LameDuckArgs, LogsArgs, ProbeArgs, WorkloadCommand, WorkloadLsArgs};
pub(crate) use preflight::PreflightArgs;
pub(crate) use rootfs::{BuildArgs, InitKind, InitramfsArgs, InspectArgs, Part, RootfsArgs, RootfsCommand};
pub(crate) use workload::{DevrunArgs, RunArgs, StopArgs, WorkloadArgs};

/// `nex` and everything after it.
#[derive(Debug, Parser)]
#[command(
    name = "nex",
    version,
    about = "Runs services and functions on NATS",
    long_about = "Runs services and functions on NATS: start nodes, deploy workloads to them, look at both.\n\n\
                  Connection flags win over their environment variables, these over a NATS context, this over the \
                  defaults. The context chosen with `nats context select` is used when nothing else is said.",
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// What was written, and set in the environment. A variable that is set to nothing counts as not set.
    ///
    /// # Errors
    /// What is wrong with it; also when help is asked for.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let matches = without_empty_variables(Self::command()).try_get_matches()?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))
    }
}

/// The parser would take nothing for a value: of a port, a directory, a boolean.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Namespace of the workloads
    #[arg(
        long,
        env = "NEX_NAMESPACE",
        default_value = "default",
        global = true,
        value_name = "NAME",
        help_heading = "Global"
    )]
    pub(crate) namespace: Namespace,
    /// JetStream domain of the object store
    #[arg(long, global = true, value_name = "DOMAIN", help_heading = "Global")]
    pub(crate) jsdomain: Option<String>,
    #[command(flatten)]
    pub(crate) logging: LoggingArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start, list and inspect nodes
    #[command(alias = "nodes", subcommand)]
    Node(NodeCommand),
    /// Deploy a file while developing: uploads it, chooses a node, replaces an older one
    #[command(visible_alias = "yeet")]
    Devrun(DevrunArgs),
    /// Deploy an object of an object store to a node
    Run(RunArgs),
    /// Stop a workload
    Stop(StopArgs),
    /// List workloads
    #[command(alias = "workloads", subcommand)]
    Workload(WorkloadCommand),
    /// Show the output of workloads as it comes
    Logs(LogsArgs),
    /// Show what happens on nodes and to workloads
    Events(EventsArgs),
    /// Have a node take no new work and leave
    Lameduck(LameDuckArgs),
    /// Build the root image of microVMs
    #[command(alias = "fs")]
    Rootfs(RootfsArgs),
    /// Print the version
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_are_taken_on_either_side_of_the_command() {
        for line in ["nex -s nats://x node ls", "nex node ls -s nats://x", "nex nodes --server nats://x ls"] {
            let cli = Cli::parse_from(line.split(' '));
            assert_eq!(cli.global.connection.server.as_deref(), Some("nats://x"), "{line}");
        }
    }

    #[test]
    fn both_spellings_of_the_trigger_flag_and_the_alias_work() {
        for line in [
            "nex yeet f.js --trigger_subject a --trigger-subject b.*",
            "nex devrun f.js --trigger_subject=a --trigger_subject=b.*",
        ] {
            let Command::Devrun(args) = Cli::parse_from(line.split(' ')).command else { panic!("{line}") };
            let subjects: Vec<&str> = args.workload.trigger_subjects.iter().map(|s| s.as_str()).collect();
            assert_eq!(subjects, ["a", "b.*"]);
        }
    }

    #[test]
    fn stop_is_on_until_it_is_switched_off() {
        for (flags, on) in [("", true), (" --stop", true), (" --no-stop", false), (" --no-stop --stop", true)] {
            let line = format!("nex devrun f{flags}");
            let Command::Devrun(args) = Cli::parse_from(line.split(' ')).command else { panic!("{line}") };
            assert_eq!(args.replaces(), on, "{line}");
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "nex devrun f novalue",
            "nex devrun f =x",
            "nex devrun f --trigger_subject a..b",
            "nex devrun f --type elf64",
            "nex --timeout 5 node ls",
            "nex --timeout 0s node ls",
            "nex --namespace a.b node ls",
            "nex --inbox-prefix a..b node ls",
            "nex --inbox-prefix a.> node ls",
            "nex run http://b/k N --issuer i --xkey x --name n",
            "nex run nats://b/k N --issuer i --xkey x --name n.n",
            "nex run nats://b/k N --issuer i --xkey x --name n --sha256 ab",
            "nex node up --tags nex",
            "nex node preflight --init both",
            "nex node preflight --mirror ftp://x",
            "nex node preflight --mirror http://x --from d",
            "nex node preflight --install_version 9.9.9",
            "nex node preflight --cni_ns dns",
            "nex stop N",
            "nex run nats://b/k N --issuer i --xkey x --name n --cpu none",
            "nex logs --level loud",
            "nex events --type *",
            "nex node probe --workload a.b",
            "nex logs --count 0",
            "nex lameduck N --delay 0s",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}

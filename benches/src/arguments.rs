//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::effort::Effort;

/// All benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Benchmark {
    Calls,
    Throughput,
    Engine,
    Deploy,
    Restart,
    Cold,
    Many,
    Nodes,
    Cli,
    Instructions,
    HostCalls,
    Machines,
}

impl Benchmark {
    const ALL: [Self; 12] = [
        Self::Calls,
        Self::Throughput,
        Self::Engine,
        Self::Deploy,
        Self::Restart,
        Self::Cold,
        Self::Many,
        Self::Nodes,
        Self::Cli,
        Self::Instructions,
        Self::HostCalls,
        Self::Machines,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Throughput => "throughput",
            Self::Engine => "engine",
            Self::Deploy => "deploy",
            Self::Restart => "restart",
            Self::Cold => "cold",
            Self::Many => "many",
            Self::Nodes => "nodes",
            Self::Cli => "cli",
            Self::Instructions => "instructions",
            Self::HostCalls => "host-calls",
            Self::Machines => "machines",
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::Calls => "latency of calls, one in flight, beside a bare responder",
            Self::Throughput => "calls per second and processor time of each process, 64 and 256 in flight",
            Self::Engine => "calls without NATS, beside bare wasmtime and bare Deno",
            Self::Deploy => "from a deploy to the first reply",
            Self::Cold => "calls to functions at rest, which have to get an agent first",
            Self::Restart => "from a kill of the agent to the next reply, beside the backoff",
            Self::Many => "1, 100, 1,000 idle functions on one node: memory, threads, listing, calls to all",
            Self::Nodes => "1, 10, 100 simulated nodes: listing them, auctions",
            Self::Cli => "start of the command line, list of nodes",
            Self::Instructions => "instructions of decoders and claims, with valgrind",
            Self::HostCalls => "what a host call costs above the NATS round trip it makes",
            Self::Machines => "microVMs: boot, restore, pool, memory; with QEMU or Firecracker",
        }
    }
}

/// What the program is asked to do.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// To say something and end.
    Text(String),
    /// To measure.
    Measure(Plan),
}

/// What is measured, and where the result goes.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) effort: Effort,
    pub(crate) json: Option<PathBuf>,
    pub(crate) compare: Option<PathBuf>,
    pub(crate) benchmarks: Vec<Benchmark>,
}

impl Wanted {
    /// Reads the arguments; all benchmarks when none is named.
    pub(crate) fn read(arguments: &[String]) -> Result<Self> {
        let mut plan = Plan { effort: Effort::FULL, json: None, compare: None, benchmarks: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut file = || arguments.next().map(PathBuf::from).with_context(|| format!("{argument} needs a file"));
            match argument.as_str() {
                "--quick" => plan.effort = Effort::QUICK,
                "--json" => plan.json = Some(file()?),
                "--compare" => plan.compare = Some(file()?),
                "--list" => return Ok(Self::Text(list())),
                "--help" | "-h" => return Ok(Self::Text(usage())),
                name => match Benchmark::ALL.into_iter().find(|benchmark| benchmark.name() == name) {
                    Some(benchmark) => plan.benchmarks.push(benchmark),
                    None => bail!("there is no benchmark '{name}': --list shows all"),
                },
            }
        }
        if plan.benchmarks.is_empty() {
            plan.benchmarks = Benchmark::ALL.to_vec();
        }
        Ok(Self::Measure(plan))
    }
}

fn list() -> String {
    let lines = Benchmark::ALL.map(|benchmark| format!("{:<14} {}", benchmark.name(), benchmark.purpose()));
    lines.join("\n")
}

fn usage() -> String {
    let list: String = list().lines().map(|line| format!("\n  {line}")).collect();
    format!(
        "\
Usage: cargo xtask bench [--quick] [--json FILE] [--compare FILE] [--profile dev|release] [NAME…]

  --quick          few repetitions: shows that everything works, and gives no figures to rely on
  --json FILE      write what was measured, with machine, versions and commit
  --compare FILE   show how each line has changed since the run that --json wrote there
  --profile dev    measure the programs that the tests run, which need no second build; not for figures
  --list           name the benchmarks

Benchmarks, all of them when none is named:
{list}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here is a failed test")]
    use super::*;

    fn read(arguments: &[&str]) -> Result<Wanted> {
        Wanted::read(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_name_everything_is_measured() {
        let Wanted::Measure(plan) = read(&["--quick", "--json", "a"]).unwrap() else { panic!("not measured") };
        assert!(plan.effort.quick && plan.json.is_some() && plan.compare.is_none());
        assert_eq!(plan.benchmarks, Benchmark::ALL);
        let Wanted::Measure(plan) = read(&["cli", "--compare", "b"]).unwrap() else { panic!("not measured") };
        assert!(!plan.effort.quick && plan.compare.is_some());
        assert_eq!(plan.benchmarks, [Benchmark::Cli]);
    }

    #[test]
    fn what_is_unknown_or_lacks_its_file_is_refused() {
        assert!(read(&["call"]).is_err());
        assert!(read(&["--json"]).is_err());
        assert!(matches!(read(&["--list"]), Ok(Wanted::Text(_))));
    }
}

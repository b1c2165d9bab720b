//! `nex-bench [--quick] [--json FILE] [--compare FILE] [NAME…]`: benchmarks against a real server, a real node and real
//! engines.
//!
//! Every figure that can have one stands beside a baseline that was measured in the same run, in turns with it: machines
//! differ and are never quiet, ratios within one run hold. Nothing here fails because something is slow. It does fail when
//! something that is measured does not work: a benchmark that measures errors measures nothing.

mod arguments;
mod awake;
mod bare;
mod calls;
mod cli;
mod cold;
mod compare;
mod deploy;
mod effort;
mod engine;
mod figures;
mod host_calls;
mod instructions;
mod link;
mod machines;
mod many;
mod nodes;
mod processes;
mod report;
mod responder;
mod restart;
mod roles;
mod setting;
mod simulated;
mod stage;
mod table;
mod throughput;
mod turns;
mod workloads;

use anyhow::{Context, Result};

use arguments::{Benchmark, Plan, Wanted};
use report::Report;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role) = roles::Role::read(&arguments)? {
        return role.play();
    }
    match Wanted::read(&arguments)? {
        Wanted::Text(text) => {
            println!("{text}");
            Ok(())
        }
        Wanted::Measure(plan) => {
            // One thread: a baseline that first has to wake another would flatter everything beside it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(plan))
        }
    }
}

async fn measure(plan: Plan) -> Result<()> {
    // Read before anything is measured: a file that cannot be read shall not cost an hour.
    let earlier = plan.compare.as_deref().map(compare::Earlier::read).transpose()?;
    let mut report = Report::new();
    for benchmark in &plan.benchmarks {
        eprintln!("measuring {}", benchmark.name());
        let begun = std::time::Instant::now();
        let measured = match benchmark {
            Benchmark::Calls => calls::run(plan.effort, &mut report).await,
            Benchmark::Throughput => throughput::run(plan.effort, &mut report).await,
            Benchmark::Engine => engine::run(plan.effort, &mut report).await,
            Benchmark::Deploy => deploy::run(plan.effort, &mut report).await,
            Benchmark::Cold => cold::run(plan.effort, &mut report).await,
            Benchmark::Restart => restart::run(plan.effort, &mut report).await,
            Benchmark::Many => many::run(plan.effort, &mut report).await,
            Benchmark::Nodes => nodes::run(plan.effort, &mut report).await,
            Benchmark::Cli => cli::run(plan.effort, &mut report).await,
            Benchmark::Instructions => instructions::run(plan.effort, &mut report).await,
            Benchmark::HostCalls => host_calls::run(plan.effort, &mut report).await,
            Benchmark::Machines => machines::run(plan.effort, &mut report).await,
        };
        measured.with_context(|| format!("benchmark '{}'", benchmark.name()))?;
        eprintln!("measured {} in {:.1} s", benchmark.name(), begun.elapsed().as_secs_f64());
    }
    table::print(&report);
    if let Some(earlier) = earlier {
        earlier.print_change_to(&report);
    }
    if let Some(file) = plan.json {
        report.write(&file)?;
    }
    Ok(())
}

//! `cargo xtask demo`: the documentation's walk-through with the real programs, on a real nats-server.
//!
//! It types the commands a user would, checks every reply, and leaves nothing behind: all that it writes is in one
//! temporary folder, and whatever it started, directly or not, is gone when it ends - after success, an error or Ctrl-C.

mod leftovers;
mod requests;
mod shell;
mod walkthrough;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use walkthrough::Walkthrough;

// One thread: what it starts is bound to the life of the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let start = Instant::now();
    match demo().await {
        Ok(()) => {
            println!("\nThe demo passed in {:.1} s. Nothing of it is left.", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nerror: the demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    leftovers::adopt_orphans()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut walkthrough = Walkthrough::new()?;
    let outcome = tokio::select! {
        outcome = walkthrough.run() => outcome,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    if outcome.is_err() {
        walkthrough.show_logs();
    }
    let folder = walkthrough.folder().to_owned();
    // Whether it went well or not: the node gets its chance to end what it started.
    let ended = walkthrough.end().await;
    let left = leftovers::end_descendants().await?;
    outcome?;
    ended?;
    if !left.is_empty() {
        bail!("it had to end processes that were left running: {}", left.join(", "));
    }
    if folder.exists() {
        bail!("it left {} behind", folder.display());
    }
    Ok(())
}

//! Calls without NATS and without a node: through an agent alone, beside the engines without nex.
//!
//! wasmtime is part of an agent and part of this program when it is bare; so the bare one has no process to wake, and what lies
//! between the two is mostly that. A ping of the agent beside it tells how much.

use anyhow::Result;
use bytes::Bytes;

use crate::bare::{Deno, Pages, Wasmtime};
use crate::effort::Effort;
use crate::figures::timed;
use crate::link::Agent;
use crate::report::Report;
use crate::turns::Turns;
use crate::workloads::Kind;

const NAME: &str = "engine";

const SUBJECT: &str = "bench.engine";

const PAYLOAD: usize = 1 << 10;

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    for kind in [Kind::Component, Kind::Module] {
        let mut agent = Agent::start(kind).await?;
        let (bare, kept) = (Wasmtime::new(kind, Pages::Returned)?, Wasmtime::new(kind, Pages::Kept)?);
        agent.call(kind, SUBJECT, &payload).await?;
        bare.call(kind, SUBJECT, &payload).await?;
        kept.call(kind, SUBJECT, &payload).await?;
        let (mut turns, mut pings, mut keeps) = (Turns::default(), Turns::default(), Turns::default());
        for _ in 0..effort.rounds {
            let base = timed(effort.operations, async || bare.call(kind, SUBJECT, &payload).await).await?;
            let keep = timed(effort.operations, async || kept.call(kind, SUBJECT, &payload).await).await?;
            keeps.add(keep, base.clone())?;
            let ping = timed(effort.operations, async || agent.ping().await).await?;
            let mine = timed(effort.operations, async || agent.call(kind, SUBJECT, &payload).await).await?;
            turns.add(mine.clone(), base)?;
            pings.add(mine, ping)?;
        }
        report.add(keeps.line(NAME, format!("{}, bare, memory kept", kind.label()), "bare wasmtime", None)?);
        by_agent(kind, "bare wasmtime", turns, pings, report)?;
    }

    let kind = Kind::JavaScript;
    let (mut agent, mut bare) = (Agent::start(kind).await?, Deno::start()?);
    agent.call(kind, SUBJECT, &payload).await?;
    let (mut turns, mut pings) = (Turns::default(), Turns::default());
    for _ in 0..effort.rounds {
        let base = timed(effort.operations, async || bare.call(&payload)).await?;
        let ping = timed(effort.operations, async || agent.ping().await).await?;
        let mine = timed(effort.operations, async || agent.call(kind, SUBJECT, &payload).await).await?;
        turns.add(mine.clone(), base)?;
        pings.add(mine, ping)?;
    }
    by_agent(kind, "bare Deno", turns, pings, report)
}

/// Calls through an agent, beside the engine alone and beside its link alone.
fn by_agent(kind: Kind, engine: &str, turns: Turns, pings: Turns, report: &mut Report) -> Result<()> {
    let what = format!("{}, by an agent", kind.label());
    report.add(pings.line(NAME, format!("{what}, above its ping"), "ping of the agent", None)?);
    report.add(turns.line(NAME, what, engine, None)?);
    Ok(())
}

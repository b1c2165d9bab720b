//! What a call costs: functions and a service beside a bare responder, one call in flight.

use anyhow::{Result, ensure};
use bytes::Bytes;

use crate::effort::Effort;
use crate::figures::timed;
use crate::report::{Bound, Report};
use crate::responder;
use crate::stage::{self, Stage};
use crate::turns::Turns;
use crate::workloads::Kind;

const NAME: &str = "calls";

const PAYLOADS: [(usize, &str); 3] = [(16, "16 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB")];

/// The payload that the targets are for.
const JUDGED: usize = 1 << 10;

/// The targets.
fn bound(kind: Kind, payload: usize) -> Option<Bound> {
    let p50_ratio = match kind {
        Kind::Component | Kind::Module => 1.5,
        Kind::JavaScript => 1.6,
        Kind::Service => 1.05,
    };
    (payload == JUDGED).then_some(Bound { p50_ratio, p99_ratio: 2.0 })
}

/// Measures all of it.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let stage = Stage::full().await?;
    let client = &stage.client;
    for (size, label) in PAYLOADS {
        let payload = Bytes::from(vec![b'x'; size]);
        for kind in Kind::ALL {
            let subject = kind.subject();
            let mine = |count| timed(count, async || stage::call(client, kind, &subject, payload.clone()).await);
            let base = |count| timed(count, async || ask(client, payload.clone()).await);
            // What is done for the first time takes longer: in the function's engine, and in the client.
            mine(effort.operations / 10).await?;
            base(effort.operations / 10).await?;
            let mut turns = Turns::default();
            for _ in 0..effort.rounds {
                let base = base(effort.operations).await?;
                turns.add(mine(effort.operations).await?, base)?;
            }
            let what = format!("{}, {label}", kind.label());
            report.add(turns.line(NAME, what, "responder", bound(kind, size))?);
        }
    }
    Ok(())
}

/// One request to the responder.
async fn ask(client: &async_nats::Client, payload: Bytes) -> Result<()> {
    let reply = client.request(responder::SUBJECT, payload.clone()).await?;
    ensure!(reply.payload == payload, "the responder gave a wrong reply");
    Ok(())
}

//! How many instructions the pure parts take: decoders, encoders, claims. A count says the same on a busy machine as on a
//! quiet one, so a change of a few percent can be seen.
//!
//! valgrind runs this program twice in the role [`Pure`], with different numbers of repetitions; the difference, divided by that
//! of the repetitions, is what one takes, without start and preparation.

use std::hint::black_box;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use nex_client::Deployment;
use nex_client::deployment::stop_request;
use nex_identity::{Claims, Issuer, NodeKey, XKeyPair};
use nex_protocol::control::auction::AuctionRequest;
use nex_protocol::control::deploy::DeployRequest;
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::stop::StopRequest;
use nex_protocol::envelope;
use nex_protocol::link::codec::Message;
use nex_protocol::link::frame::{Frame, MAX_LINK_FRAME};
use nex_protocol::link::message::{Invoke, ToAgent, ToNode};
use nex_protocol::{Location, Namespace, WorkloadType};

use crate::cli::succeed;
use crate::effort::Effort;
use crate::report::{Figure, Report};
use crate::roles::Role;

const NAME: &str = "instructions";

const PAYLOAD: usize = 1 << 10;

/// Something without input, output or clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pure {
    EncodeInvoke,
    DecodeInvoke,
    EncodeOutcome,
    DecodeOutcome,
    DecodeDeploy,
    DecodeStop,
    DecodeAuction,
    OpenPing,
    VerifyClaim,
}

impl Pure {
    const ALL: [Self; 9] = [
        Self::EncodeInvoke,
        Self::DecodeInvoke,
        Self::EncodeOutcome,
        Self::DecodeOutcome,
        Self::DecodeDeploy,
        Self::DecodeStop,
        Self::DecodeAuction,
        Self::OpenPing,
        Self::VerifyClaim,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EncodeInvoke => "encode-invoke",
            Self::DecodeInvoke => "decode-invoke",
            Self::EncodeOutcome => "encode-outcome",
            Self::DecodeOutcome => "decode-outcome",
            Self::DecodeDeploy => "decode-deploy",
            Self::DecodeStop => "decode-stop",
            Self::DecodeAuction => "decode-auction",
            Self::OpenPing => "open-ping",
            Self::VerifyClaim => "verify-claim",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::EncodeInvoke => "link: call of 1 KiB to frame",
            Self::DecodeInvoke => "link: frame to call of 1 KiB",
            Self::EncodeOutcome => "link: reply of 1 KiB to frame",
            Self::DecodeOutcome => "link: frame to reply of 1 KiB",
            Self::DecodeDeploy => "control: deploy request from JSON",
            Self::DecodeStop => "control: stop request from JSON",
            Self::DecodeAuction => "control: auction request from JSON",
            Self::OpenPing => "control: envelope with an answer to a ping",
            Self::VerifyClaim => "claims: signature and content of one",
        }
    }

    /// How often it is done under valgrind, where everything takes fifty times as long.
    fn repetitions(self) -> usize {
        if self == Self::VerifyClaim { 20 } else { 1000 }
    }

    /// The most repetitions in one run: see [`run`].
    fn most(self) -> usize {
        self.repetitions() / 2 + self.repetitions()
    }

    /// Does it so many times.
    pub(crate) fn repeat(self, count: usize) -> Result<()> {
        match self {
            Self::EncodeInvoke => {
                let message = invoke();
                again(count, || encoded(black_box(&message).clone()))
            }
            Self::DecodeInvoke => decode::<ToAgent>(&encoded(invoke())?, self.most(), count),
            Self::EncodeOutcome => {
                let message = outcome();
                again(count, || encoded(black_box(&message).clone()))
            }
            Self::DecodeOutcome => decode::<ToNode>(&encoded(outcome())?, self.most(), count),
            Self::DecodeDeploy => {
                let text = serde_json::to_vec(&deploy_request()?)?;
                again(count, || Ok(serde_json::from_slice::<DeployRequest>(black_box(&text))?))
            }
            Self::DecodeStop => {
                let (issuer, node) = (Issuer::generate(), NodeKey::generate().public_key());
                let request = stop_request(&issuer, &Namespace::default(), &node, "7dsuua1vn0k85hu86dgl", "echo")?;
                let text = serde_json::to_vec(&request)?;
                again(count, || Ok(serde_json::from_slice::<StopRequest>(black_box(&text))?))
            }
            Self::DecodeAuction => {
                let request = AuctionRequest {
                    arch: Some("amd64".to_owned()),
                    os: Some("linux".to_owned()),
                    sandboxed: Some(true),
                    tags: [("zone".to_owned(), "eu".to_owned())].into(),
                    workload_types: vec!["wasm".to_owned()],
                };
                let text = serde_json::to_vec(&request)?;
                again(count, || Ok(AuctionRequest::lenient(black_box(&text))))
            }
            Self::OpenPing => {
                let answer = PingResponse {
                    node_id: NodeKey::generate().public_key(),
                    version: "0.1.0".to_owned(),
                    uptime: "1h0m0s".to_owned(),
                    target_xkey: XKeyPair::generate().public_key(),
                    tags: [("node_name".to_owned(), "noble-marten".to_owned())].into(),
                    ..PingResponse::default()
                };
                let body = envelope::success(envelope::kind::PING, &answer)?;
                again(count, || Ok(envelope::open::<PingResponse>(envelope::kind::PING, black_box(&body))?))
            }
            Self::VerifyClaim => {
                let request = deploy_request()?;
                let now = nex_e2e::unix_now();
                again(count, || Ok(Claims::verify(black_box(&request.workload_jwt), now)?))
            }
        }
    }
}

impl FromStr for Pure {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|pure| pure.name() == name).with_context(|| format!("there is no '{name}'"))
    }
}

fn again<T>(count: usize, mut once: impl FnMut() -> Result<T>) -> Result<()> {
    for _ in 0..count {
        black_box(once()?);
    }
    Ok(())
}

fn invoke() -> ToAgent {
    let headers = vec![("Nats-Msg-Id".to_owned(), "1".to_owned()), ("Trace".to_owned(), "00-af-b7-01".to_owned())];
    let invoke = Invoke { subject: "bench.component".to_owned(), headers, timeout_ms: 5000 };
    ToAgent::Invoke(7, invoke, Bytes::from(vec![b'x'; PAYLOAD]))
}

fn outcome() -> ToNode {
    ToNode::Outcome(7, 123_456, Ok((Vec::new(), Bytes::from(vec![b'x'; PAYLOAD]))))
}

fn encoded<M: Message>(message: M) -> Result<BytesMut> {
    let mut bytes = BytesMut::new();
    message.into_frame()?.encode(&mut bytes);
    Ok(bytes)
}

fn decode<M: Message>(bytes: &BytesMut, most: usize, count: usize) -> Result<()> {
    // As long for few repetitions as for many: otherwise filling it would be counted.
    let mut stream = BytesMut::new();
    for _ in 0..most {
        stream.extend_from_slice(bytes);
    }
    again(count, || {
        let frame = Frame::decode(black_box(&mut stream), MAX_LINK_FRAME)?.context("no whole frame")?;
        Ok(M::from_frame(frame)?)
    })
}

fn deploy_request() -> Result<DeployRequest> {
    let location = Location::new("BUCKET", "artifact.wasm")?;
    let mut deployment = Deployment::new("echo".parse()?, WorkloadType::Wasm, location, "ab".repeat(32));
    deployment.trigger_subjects = vec!["bench.echo".parse()?];
    deployment.environment.set("NAME", "value");
    let (node, xkey) = (NodeKey::generate().public_key(), XKeyPair::generate());
    Ok(deployment.request(
        &Issuer::generate(),
        &XKeyPair::generate(),
        &Namespace::default(),
        &node,
        &xkey.public_key(),
    )?)
}

/// Measures all of it, where valgrind is.
pub(crate) async fn run(effort: Effort, report: &mut Report) -> Result<()> {
    if succeed(valgrind(&["--version"])).await.is_err() {
        report.skip(NAME, "all", "there is no valgrind (Debian and Ubuntu: `apt-get install valgrind`)");
        return Ok(());
    }
    for what in Pure::ALL {
        let count = what.repetitions() / effort.choose(1, 10);
        let (few, more) = (counted(what, count / 2).await?, counted(what, count / 2 + count).await?);
        let each = more.saturating_sub(few) as f64 / count as f64;
        report.add_figure(Figure::new(NAME, what.label(), each, "instructions"));
    }
    Ok(())
}

fn valgrind(arguments: &[&str]) -> Command {
    let mut command = Command::new("valgrind");
    command.args(arguments);
    command
}

/// The instructions of a whole run.
async fn counted(what: Pure, count: usize) -> Result<u64> {
    let role = Role::Pure { what, count }.command()?;
    let mut command = valgrind(&["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(role.get_program()).args(role.get_args());
    let output = tokio::process::Command::from(command).output().await?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind failed: {}", text.trim());
    }
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    let count = collected.context("valgrind did not say how many instructions it counted")?;
    ensure!(count > 0, "valgrind counted nothing");
    Ok(count)
}

//! The workloads that are measured: each answers with what it got. The Wasm ones add the subject, as the examples do.

use anyhow::Result;
use nex_protocol::WorkloadType;
use nex_testkit::examples;

/// A kind of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Component,
    Module,
    JavaScript,
    Service,
}

/// The documentation's echo function writes a line to the log for each call; this one does nothing but answer.
const SCRIPT: &str = "(subject, payload) => payload";

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Component, Self::Module, Self::JavaScript, Self::Service];

    /// For people.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Component => "Wasm component",
            Self::Module => "Wasm preview 1",
            Self::JavaScript => "JavaScript",
            Self::Service => "service",
        }
    }

    pub(crate) fn workload_type(self) -> WorkloadType {
        match self {
            Self::Component | Self::Module => WorkloadType::Wasm,
            Self::JavaScript => WorkloadType::V8,
            Self::Service => WorkloadType::Native,
        }
    }

    /// A name for a workload of this kind, and a subject that triggers it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Module => "module",
            Self::JavaScript => "script",
            Self::Service => "service",
        }
    }

    /// Where it is called. The service chooses its subject itself.
    pub(crate) fn subject(self) -> String {
        match self {
            Self::Service => "svc.echo".to_owned(),
            _ => format!("bench.{}", self.word()),
        }
    }

    pub(crate) fn artifact(self) -> Result<Vec<u8>> {
        let examples = examples()?;
        Ok(match self {
            Self::Component => std::fs::read(examples.component()?)?,
            Self::Module => std::fs::read(examples.wasm()?)?,
            Self::JavaScript => SCRIPT.as_bytes().to_vec(),
            Self::Service => std::fs::read(examples.echo_service()?)?,
        })
    }

    /// The same program with other bytes, so that nothing of an earlier one can be used again.
    pub(crate) fn variant(self, number: usize) -> Result<Vec<u8>> {
        let mut artifact = self.artifact()?;
        match self {
            Self::Component | Self::Module => {
                // A custom section: its id, its length, the length of its name, its name.
                let name = format!("variant {number:04}");
                let length = u8::try_from(name.len())?;
                artifact.extend_from_slice(&[0, length + 1, length]);
                artifact.extend_from_slice(name.as_bytes());
            }
            Self::JavaScript => artifact.extend_from_slice(format!("\n// {number}").as_bytes()),
            Self::Service => artifact.extend_from_slice(&number.to_be_bytes()),
        }
        Ok(artifact)
    }

    /// Whether a reply is the one to this payload.
    pub(crate) fn is_reply(self, payload: &[u8], reply: &[u8]) -> bool {
        match self {
            Self::Component | Self::Module => reply.starts_with(payload),
            Self::JavaScript | Self::Service => reply == payload,
        }
    }
}

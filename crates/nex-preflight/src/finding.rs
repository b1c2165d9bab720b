//! What was found: one line of the checklist.

use std::path::PathBuf;

use serde::Serialize;

use crate::Piece;

/// Part of the checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The machine itself.
    Host,
    /// Programs.
    Binaries,
    /// Kernel and images.
    Files,
    /// The network of microVMs.
    Network,
    /// Network plugins.
    CniPlugins,
    /// Descriptions of networks.
    CniConfiguration,
}

impl Group {
    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Host => "Host",
            Group::Binaries => "Required binaries",
            Group::Files => "User provided files",
            Group::Network => "Network",
            Group::CniPlugins => "Required CNI Plugins",
            Group::CniConfiguration => "CNI configuration requirements",
        }
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not there.
    Missing,
    /// There, and of no use as it is.
    Wrong,
}

/// What preflight can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Download and install.
    Download(Piece),
    /// Build the root image.
    BuildImage,
    /// Write the description of the network.
    WriteConflist,
}

/// One line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Part of the checklist.
    pub group: Group,
    /// Short name.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// Whether a node does not start without it.
    pub needed: bool,
    /// Where it is, or would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What it is, and what is odd about it or wrong with it.
    pub detail: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// What preflight can do about it.
    #[serde(rename = "installs", serialize_with = "as_bool")]
    pub remedy: Option<Remedy>,
}

fn as_bool<S: serde::Serializer>(remedy: &Option<Remedy>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(remedy.is_some())
}

impl Finding {
    pub(crate) fn ok(group: Group, name: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { group, name, state: State::Ok, needed: true, path: None, detail, mend: None, remedy: None }
    }

    pub(crate) fn missing(
        group: Group,
        name: &'static str,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { state: State::Missing, mend: Some(mend.into()), ..Self::ok(group, name, detail) }
    }

    pub(crate) fn wrong(group: Group, name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { state: State::Wrong, mend: Some(mend.into()), ..Self::ok(group, name, detail) }
    }

    pub(crate) fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    pub(crate) fn needed(mut self, needed: bool) -> Self {
        self.needed = needed;
        self
    }

    /// What preflight can do when it is not as it should be.
    pub(crate) fn remedied_by(mut self, remedy: Remedy) -> Self {
        self.remedy = (self.state != State::Ok).then_some(remedy);
        self
    }

    /// Whether a node could not start because of this.
    pub fn blocks(&self) -> bool {
        self.needed && self.state != State::Ok
    }
}

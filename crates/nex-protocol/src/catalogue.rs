//! The numbered error catalogue of the control interface.
//!
//! Every refusal a node sends is a [`Fault`]: a [`Code`] that scripts may match on, and a message for people. The
//! messages keep the texts of Go Nex 0.2.7 where it had one, so that scripts written for it go on working; the code
//! and its help text are ours. Numbers are never reused.

use std::fmt;

/// A refusal: what happened ([`Code`]) and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which entry of the catalogue this is.
    pub code: Code,
    /// Text for people; for codes that Go Nex knows, its text.
    pub message: String,
}

impl Fault {
    /// A fault with the given text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

macro_rules! catalogue {
    ($(#[doc = $doc:literal] $name:ident = $number:literal, $help:literal;)*) => {
        /// An entry of the catalogue. The discriminant is the number on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Code { $(#[doc = $doc] $name = $number,)* }

        impl Code {
            /// All entries, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }

            /// What it means, one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$name => $doc.trim_ascii(),)* }
            }

            /// What the reader can do about it.
            pub fn help(self) -> &'static str {
                match self { $(Code::$name => $help,)* }
            }

            /// The entry with this number, if there is one.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Code::$name),)* _ => None }
            }
        }
    };
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }
}

catalogue! {
    /// The subject names no namespace or a malformed one.
    InvalidSubject = 1001, "send to $NEX.<COMMAND>.<namespace>.<node id>, with a namespace of one subject token";
    /// The body is not what this subject takes.
    BadRequest = 1002, "send the JSON document that this subject takes; see docs/control-interface.md";
    /// The body is larger than any request needs to be.
    RequestTooLarge = 1003, "control requests are at most 1 MiB; artifacts belong in an object store";
    /// The node takes no new work.
    LameDuck = 1004, "deploy to another node; `nex node ls` marks lame duck nodes with *";
    /// The node is shutting down.
    Draining = 1005, "the node is stopping; deploy to another node or wait until it is back";
    /// `max_workloads` is reached.
    WorkloadLimit = 1006, "stop a workload, raise node_limits.max_workloads, or deploy to another node";
    /// The node does not run workloads of this type.
    UnsupportedType = 1007, "`nex node info` lists the types a node runs; they are set by workload_types";
    /// Trigger subjects were given for a service.
    TriggersUnsupported = 1008, "only functions (v8, wasm) are triggered; a service subscribes by itself";
    /// A trigger subject is not a valid subject, or a function has none.
    InvalidTrigger = 1009, "give a function at least one valid NATS subject with --trigger_subject";
    /// A trigger subject touches the deny list.
    TriggerDenied = 1010, "choose a subject outside deny_trigger_subjects; $SYS.>, $JS.>, $NEX.>, $O.>, $KV.>, $MQTT.> and _INBOX.> are always on it";
    /// The environment cannot be opened.
    EnvironmentSealed = 1011, "seal it for the node's current xkey, which INFO and PING give, and send sender_public_key";
    /// The claim is missing, malformed, expired or not signed by its issuer.
    InvalidClaim = 1012, "sign the request with an account key whose claim names the workload";
    /// The issuer is not among `valid_issuers`.
    UntrustedIssuer = 1013, "sign with a key listed in the node's valid_issuers, or have this one added";
    /// The claim holds no SHA-256 of the artifact.
    HashMissing = 1014, "put the artifact's SHA-256 into the claim, or set require_artifact_hash to false on the node";
    /// The artifact is not the one the claim speaks of.
    HashMismatch = 1015, "the object changed since it was signed: sign again, or find out who changed it";
    /// No ready agent in time.
    PoolExhausted = 1016, "try again shortly, or raise machine_pool_size";
    /// The artifact cannot be had.
    ArtifactUnavailable = 1017, "check the bucket and key of location (nats://BUCKET/key) and that JetStream is enabled";
    /// `max_workload_bytes` would be exceeded.
    ArtifactTooLarge = 1018, "make the artifact smaller or raise node_limits.max_workload_bytes";
    /// `max_total_bytes` would be exceeded.
    TotalBytesLimit = 1019, "stop a workload or raise node_limits.max_total_bytes";
    /// The same artifact runs in this namespace already.
    Duplicate = 1020, "stop the running copy or set allow_duplicate_workloads on the node";
    /// The agent refused or could not start the workload.
    StartFailed = 1021, "the message says what the workload or its runtime complained about; see also its log";
    /// The request names another node.
    WrongTarget = 1022, "target_node must be the node the request is sent to";
    /// No workload of that id in this namespace.
    NoSuchWorkload = 1023, "`nex node info` lists the workloads of your namespace";
    /// The stop claim does not fit the workload.
    InvalidStopClaim = 1024, "stop with the issuer key that the workload was deployed with";
    /// The workload could not be stopped.
    StopFailed = 1025, "see the node's log; the node goes on trying to end it";
    /// Something of ours failed.
    Internal = 1026, "see the node's log and report it";
    /// As many requests of this kind as a node works on are in work.
    Busy = 1027, "try again shortly, or deploy to another node";
    /// The workload needs host services and cannot have them.
    HostServicesUnavailable = 1028, "give the node host_services.credentials, or deploy with --hs_url, --hs_jwt and --hs_seed";
    /// The claim was used before on this node.
    ClaimUsed = 1029, "a claim does one thing once: sign a new one (two claims of Go Nex signed in one second are the same)";
    /// The claim speaks of another namespace, node or location, or of something else than is asked for.
    ClaimElsewhere = 1030, "sign a claim for this namespace, node and location; whoever changed the request must sign it anew";
    /// The node is strict, and the claim does not say all it must.
    ClaimIncomplete = 1031, "put action, namespace, node, location, nonce and expiry into the claim; see docs/security.md";
    /// The workload asks for more than the node's policy gives one workload.
    LimitExceeded = 1032, "ask for less, or raise workload_limits on the node";
    /// The node cannot enforce a limit that was asked for.
    LimitUnavailable = 1033, "leave the limit out, or run the node where it may make control groups (cgroups)";
    /// The node does not take the order to enter lame duck mode.
    LameDuckRefused = 1034, "sign the request with a key listed in the node's valid_issuers: `nex lameduck --issuer FILE`";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_lead_back() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert!(!code.help().is_empty());
        }
    }
}

//! Commands about workloads.

use std::path::PathBuf;

use clap::Args;
use nex_client::Secret;
use nex_protocol::subject::TriggerSubject;
use nex_protocol::{Location, WorkloadName, WorkloadType};

use super::limits::LimitArgs;

/// What `run` and `devrun` both say of a workload.
#[derive(Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// Arguments of the service, split as a shell does; may be repeated
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(crate) argv: Vec<String>,
    /// Start the service again when it fails
    #[arg(long)]
    pub(crate) essential: bool,
    /// Subject that triggers the function, wildcards allowed; may be repeated
    #[arg(long = "trigger_subject", alias = "trigger-subject", value_name = "SUBJECT")]
    pub(crate) trigger_subjects: Vec<TriggerSubject>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) host_services: HostServicesArgs,
}

/// Host services: whether they are needed, and the connection they use instead of the node's.
#[derive(Debug, Args)]
pub(crate) struct HostServicesArgs {
    /// Needs host services: a service gets NATS credentials in its environment (NEX_HOSTSERVICES_NATS_*), and what
    /// cannot have them is refused; functions that can have them do without this flag
    #[arg(long = "hs")]
    pub(crate) wanted: bool,
    /// NATS server for host services
    #[arg(long = "hs_url", alias = "hs-url", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// User JWT for host services
    #[arg(long = "hs_jwt", alias = "hs-jwt", value_name = "JWT", requires_all = ["url", "seed"], hide_env_values = true)]
    pub(crate) jwt: Option<String>,
    /// Seed of the user's nkey for host services
    #[arg(long = "hs_seed", alias = "hs-seed", value_name = "SEED", requires_all = ["url", "jwt"], value_parser = secret)]
    pub(crate) seed: Option<Secret>,
}

/// `nex devrun`
#[derive(Debug, Args)]
pub(crate) struct DevrunArgs {
    /// Program, JavaScript or TypeScript file, or WebAssembly module
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Environment of the workload
    #[arg(value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) environment: Vec<(String, String)>,
    /// Name of the workload [default: name of the file without dots]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Type of the workload: native, v8 or wasm [default: by the file's content]
    #[arg(long, value_name = "TYPE")]
    pub(crate) r#type: Option<WorkloadType>,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Stop workloads of the same name on the chosen node (this is the default)
    #[arg(long, overrides_with = "no_stop")]
    stop: bool,
    /// Leave workloads of the same name running
    #[arg(long, overrides_with = "stop")]
    no_stop: bool,
    /// Size the bucket for uploads is made with, in bytes
    #[arg(long, alias = "bucket-max-bytes", value_name = "BYTES", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) bucketmaxbytes: Option<i64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl DevrunArgs {
    /// Whether older workloads of the same name are stopped.
    pub(crate) fn replaces(&self) -> bool {
        !self.no_stop
    }
}

/// `nex run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The object to run: nats://BUCKET/KEY
    #[arg(value_name = "URL")]
    pub(crate) location: Location,
    /// Id of the node, the beginning of it (4 characters or more), or its name
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Environment of the workload
    #[arg(value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) environment: Vec<(String, String)>,
    /// File with the account key that signs the request
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) issuer: PathBuf,
    /// File with the curve key that seals the environment
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) xkey: PathBuf,
    /// Name of the workload
    #[arg(long)]
    pub(crate) name: WorkloadName,
    /// Type of the workload: native, v8 or wasm
    #[arg(long, value_name = "TYPE", default_value = "native")]
    pub(crate) r#type: WorkloadType,
    /// SHA-256 of the object, hex: it is signed instead of what the object store says, which is not asked
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) sha256: Option<String>,
    /// Description for people
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) description: String,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nex stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Id of the node, the beginning of it (4 characters or more), or its name
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Id of the workload, or its name when only one on the node has it
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: String,
    /// File with the account key that the workload was deployed with [default: ~/.nex/issuer.nk]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) issuer: Option<PathBuf>,
    /// Name of the workload, to spare the question to the node
    #[arg(long)]
    pub(crate) name: Option<WorkloadName>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A SHA-256 in hex, lower case.
fn sha256(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a SHA-256 has 64 hexadecimal digits, as `sha256sum` prints them".to_owned())
}

/// `KEY=VALUE`; the value may be empty and may hold `=`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, _)) if key.trim().is_empty() => Err("the key is missing: write KEY=VALUE".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        // The text itself may be a secret whose key was forgotten.
        None => Err("there is no '=': write KEY=VALUE".to_owned()),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

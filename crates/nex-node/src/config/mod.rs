//! Configuration of a node: the JSON keys of Go Nex, and ours.
//!
//! [`Config::parse`] is pure: it reads, checks and reports every problem at once, and touches nothing. What only
//! shows on a machine (is there an agent program, a kernel file?) is checked when the node is built.

mod file;
mod host_services;
mod limits;
mod machines;
mod reader;
mod templates;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nex_network::{EgressPolicy, Ipv4Subnet};
use nex_protocol::subject::{ALWAYS_DENIED, TriggerSubject};
use nex_protocol::{Environment, Location, Namespace, WorkloadName, WorkloadType};

pub use host_services::{HostServices, ServiceCredentials};
pub use limits::{FunctionLimits, NodeLimits, RestartPolicy, WorkloadCaps};
pub use machines::{CNI_CONF, Cni, JailerUsers, NetworkKind, RateLimiters, Scratch, TokenBucket, Vmm};
pub use templates::{FurtherTemplate, GUEST_OVERHEAD, MachineTemplate};

/// Stands for the namespace in `artifact_buckets`.
const NAMESPACE: &str = "${namespace}";

/// A node's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time an agent has to shake hands (`agent_handshake_timeout_ms`, 5000).
    pub agent_handshake_timeout: Duration,
    /// Time an agent has to answer a ping (`agent_ping_timeout_ms`, 750).
    pub agent_ping_timeout: Duration,
    /// The `nex-agent` program, when it is neither beside `nex` nor on the path (`agent_path`).
    pub agent_path: Option<PathBuf>,
    /// Deno, when it is not on the path (`deno_path`).
    pub deno_path: Option<PathBuf>,
    /// nats-server, when it is not on the path (`nats_server_path`).
    pub nats_server_path: Option<PathBuf>,
    /// Whether one artifact may run twice in a namespace (`allow_duplicate_workloads`, true).
    pub allow_duplicate_workloads: bool,
    /// Workloads the node starts by itself (`autostart.workloads`).
    pub autostart: Vec<AutostartWorkload>,
    /// Folders to look for programs in, before the path (`bin_path`).
    pub bin_path: Vec<PathBuf>,
    /// Where kernel and root file system lie (`default_resource_dir`).
    pub default_resource_dir: Option<PathBuf>,
    /// Subjects that may not trigger a function (`deny_trigger_subjects`), with those that never may.
    pub deny_trigger_subjects: Vec<TriggerSubject>,
    /// Connection and settings of host services (`host_services`).
    pub host_services: HostServices,
    /// Kernel of the microVMs (`kernel_filepath`).
    pub kernel_filepath: Option<PathBuf>,
    /// Root file system of the microVMs (`rootfs_filepath`).
    pub rootfs_filepath: Option<PathBuf>,
    /// Initramfs of that kernel, when it has drivers as modules (`initrd_filepath`).
    pub initrd_filepath: Option<PathBuf>,
    /// More words for the command line of that kernel (`boot_arguments`).
    pub boot_arguments: String,
    /// What runs the microVMs (`vmm`, `firecracker`).
    pub vmm: Vmm,
    /// QEMU, when it is not on the path (`qemu_path`).
    pub qemu_path: Option<PathBuf>,
    /// Firecracker, when it is not on the path (`firecracker_path`).
    pub firecracker_path: Option<PathBuf>,
    /// Its jailer, when it is not on the path (`jailer_path`).
    pub jailer_path: Option<PathBuf>,
    /// Runs Firecracker without its jailer, as the node's user (`no_jailer`).
    pub no_jailer: bool,
    /// User ids of jailed machines (`jailer_users`).
    pub jailer_users: JailerUsers,
    /// Fills the pool from a snapshot of a booted machine (`snapshots`, true).
    pub snapshots: bool,
    /// Whether guests report the memory they have freed (`free_page_reporting`, false).
    pub free_page_reporting: bool,
    /// Space for what a guest writes (`scratch`, half of the machine's memory).
    pub scratch: Option<Scratch>,
    /// Time a microVM has from its start to its agent's handshake (`boot_timeout_ms`, 60000).
    pub boot_timeout: Duration,
    /// Agents to keep ready (`machine_pool_size`, 1).
    pub machine_pool_size: usize,
    /// Size of a microVM; its memory also bounds a function outside of one (`machine_template`).
    pub machine_template: MachineTemplate,
    /// Further sizes of microVMs, for workloads that ask for more (`machine_templates`).
    pub machine_templates: Vec<FurtherTemplate>,
    /// The endpoint for Prometheus (`otel_metrics`).
    pub metrics: MetricsEndpoint,
    /// How the microVMs' networks are made (`network`, `auto`).
    pub network: NetworkKind,
    /// Network of the microVMs (`cni`).
    pub cni: Cni,
    /// Where microVMs may go (`egress`).
    pub egress: EgressPolicy,
    /// Runs workloads as processes, without isolation (`no_sandbox`).
    pub no_sandbox: bool,
    /// What all workloads together may take (`node_limits`).
    pub node_limits: NodeLimits,
    /// Group of nodes this one belongs to (`nexus`).
    pub nexus: String,
    /// File to write the process id to (`pid_filepath`).
    pub pid_filepath: Option<PathBuf>,
    /// A nats-server to start and supervise (`public_nats_server`).
    pub public_nats_server: Option<PublicNatsServer>,
    /// Limits of the microVMs' drives and network (`rate_limiters`).
    pub rate_limiters: Option<RateLimiters>,
    /// Refuses claims without the artifact's SHA-256 (`require_artifact_hash`, true).
    pub require_artifact_hash: bool,
    /// When failed workloads are started again (`restart`).
    pub restart: RestartPolicy,
    /// Refuses claims that leave open what they allow (`claims`, `standard`).
    pub strict_claims: bool,
    /// Time from the order to enter lame duck mode until the node leaves (`lame_duck_ms`, 60000).
    pub lame_duck_delay: Duration,
    /// The most that one workload may ask for (`workload_limits`).
    pub workload_limits: WorkloadCaps,
    /// Brings the workloads of an earlier run back (`restore_workloads`, true).
    pub restore_workloads: bool,
    /// Where identity and state live (`state_dir`).
    pub state_dir: Option<PathBuf>,
    /// Time between TERM and KILL when a service is stopped (`stop_grace_ms`, 5000).
    pub stop_grace: Duration,
    /// Tags shown to clients (`tags`).
    pub tags: BTreeMap<String, String>,
    /// Limits of functions (`functions`).
    pub functions: FunctionLimits,
    /// Issuers that may deploy; empty for all (`valid_issuers`).
    pub valid_issuers: Vec<String>,
    /// Whether agents start Deno before there is a function for it; none when the configuration does not say
    /// (`functions.prestart`, true without a sandbox).
    pub prestart: Option<bool>,
    /// Types of workload to run; none when the configuration does not say (`workload_types`).
    pub workload_types: Option<Vec<WorkloadType>>,
    /// Buckets that a namespace may take artifacts from, with `${namespace}`; empty for all (`artifact_buckets`).
    pub artifact_buckets: Vec<String>,
    /// Largest sum of artifacts kept although nothing runs them, bytes (`artifact_cache_bytes`, 1 GiB).
    pub artifact_cache_bytes: u64,
}

/// A workload of `autostart.workloads`.
#[derive(Debug, Clone)]
pub struct AutostartWorkload {
    /// Name.
    pub name: WorkloadName,
    /// Namespace.
    pub namespace: Namespace,
    /// Arguments of a service.
    pub argv: Vec<String>,
    /// Text for people.
    pub description: String,
    /// Restarted after a failure; services only.
    pub essential: bool,
    /// Type.
    pub r#type: WorkloadType,
    /// Where the artifact lies.
    pub location: Location,
    /// JetStream domain of the object store.
    pub jsdomain: String,
    /// Environment, in clear.
    pub environment: Environment,
    /// Subjects that trigger a function.
    pub trigger_subjects: Vec<TriggerSubject>,
}

/// A nats-server to start and supervise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicNatsServer {
    /// Its name.
    pub server_name: String,
    /// Address to listen on.
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Whether JetStream is on.
    pub jetstream: bool,
    /// Where JetStream keeps its data, when not under the state directory.
    pub store_dir: Option<PathBuf>,
    /// Monitoring port; 0 for none.
    pub http_port: u16,
}

impl Default for PublicNatsServer {
    fn default() -> Self {
        Self {
            server_name: "nex".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 4222,
            jetstream: true,
            store_dir: None,
            http_port: 0,
        }
    }
}

/// Where metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsEndpoint {
    /// Whether they are (`otel_metrics`, false).
    pub on: bool,
    /// Address to listen on (`otel_metrics_host`, 127.0.0.1).
    pub host: IpAddr,
    /// Port; 0 takes a free one (`otel_metrics_port`, 8085).
    pub port: u16,
    /// How they are given (`otel_metrics_exporter`, `prometheus`).
    pub exporter: MetricsExporter,
}

/// How metrics are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsExporter {
    /// To Prometheus, which asks for them.
    Prometheus,
    /// Into a file: what Go Nex does and this node refuses.
    File,
}

impl Default for MetricsEndpoint {
    fn default() -> Self {
        Self { on: false, host: Ipv4Addr::LOCALHOST.into(), port: 8085, exporter: MetricsExporter::Prometheus }
    }
}

impl Config {
    /// The kernel of microVMs: as configured, else `vmlinux` in the resource folder.
    pub fn kernel(&self) -> PathBuf {
        self.resource(self.kernel_filepath.as_ref(), "vmlinux")
    }

    /// The root image of microVMs: as configured, else `rootfs.ext4` in the resource folder.
    pub fn root_image(&self) -> PathBuf {
        self.resource(self.rootfs_filepath.as_ref(), "rootfs.ext4")
    }

    fn resource(&self, configured: Option<&PathBuf>, name: &str) -> PathBuf {
        let folder = || self.default_resource_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/nex/resources"));
        configured.cloned().unwrap_or_else(|| folder().join(name))
    }

    /// Whether workloads of the namespace may come from this bucket. The node reads it with permissions of its own,
    /// which are good for the buckets of all.
    pub fn takes_artifacts_from(&self, bucket: &str, namespace: &Namespace) -> bool {
        let named = |template: &String| template.replace(NAMESPACE, namespace.as_str()) == bucket;
        self.artifact_buckets.is_empty() || self.artifact_buckets.iter().any(named)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent_handshake_timeout: Duration::from_millis(5000),
            agent_ping_timeout: Duration::from_millis(750),
            agent_path: None,
            deno_path: None,
            nats_server_path: None,
            allow_duplicate_workloads: true,
            autostart: Vec::new(),
            bin_path: Vec::new(),
            default_resource_dir: None,
            deny_trigger_subjects: ALWAYS_DENIED.iter().filter_map(|subject| subject.parse().ok()).collect(),
            host_services: HostServices::default(),
            kernel_filepath: None,
            rootfs_filepath: None,
            initrd_filepath: None,
            boot_arguments: String::new(),
            vmm: Vmm::Firecracker,
            qemu_path: None,
            firecracker_path: None,
            jailer_path: None,
            no_jailer: false,
            jailer_users: JailerUsers { first: 1_900_000_000, count: 4096 },
            snapshots: true,
            free_page_reporting: false,
            scratch: None,
            boot_timeout: Duration::from_secs(60),
            machine_pool_size: 1,
            machine_template: MachineTemplate { vcpu_count: 1, memsize_mib: 256 },
            machine_templates: Vec::new(),
            metrics: MetricsEndpoint::default(),
            network: NetworkKind::Auto,
            egress: EgressPolicy::default(),
            cni: Cni {
                bin_path: Vec::new(),
                network_name: "fcnet".to_owned(),
                interface_name: "veth0".to_owned(),
                subnet: Ipv4Subnet::DEFAULT,
                nameservers: Vec::new(),
            },
            no_sandbox: false,
            node_limits: NodeLimits::default(),
            nexus: "nexus".to_owned(),
            pid_filepath: None,
            public_nats_server: None,
            rate_limiters: None,
            require_artifact_hash: true,
            restart: RestartPolicy {
                base: Duration::from_millis(500),
                cap: Duration::from_secs(60),
                max_attempts: 30,
                stable: Duration::from_secs(60),
            },
            strict_claims: false,
            lame_duck_delay: Duration::from_secs(60),
            workload_limits: WorkloadCaps::default(),
            restore_workloads: true,
            state_dir: None,
            stop_grace: Duration::from_millis(5000),
            tags: BTreeMap::new(),
            functions: FunctionLimits {
                timeout: Duration::from_millis(5000),
                concurrency: 32,
                max_pending: 1024,
                max_pending_bytes: 256 << 20,
                max_instances: 1,
                idle_timeout: Duration::from_secs(300),
                script_bytes: 1 << 20,
            },
            valid_issuers: Vec::new(),
            artifact_buckets: Vec::new(),
            prestart: None,
            workload_types: None,
            artifact_cache_bytes: 1 << 30,
        }
    }
}

/// A configuration that can be used, and what is odd about its file.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Unknown keys and keys without effect.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigErrors {
    /// What must be changed.
    pub problems: Vec<String>,
    /// What is odd besides.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem.
    pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigErrors {
            problems: vec![format!("cannot read {}: {error}", path.display())],
            warnings: Vec::new(),
        })?;
        Self::parse(&text)
    }

    /// Reads and checks a JSON text.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem.
    pub fn parse(json: &str) -> Result<Loaded, ConfigErrors> {
        file::parse(json)
    }
}

//! Configuration of a node: the JSON keys of Go Nex, and ours.
//!
//! [`Config::parse`] is pure: it reads, checks and reports every problem at once, and touches nothing. What only
//! shows on a machine (is there an agent program, a kernel file?) is checked when the node is built.

mod file;
mod host_services;
mod reader;
mod templates;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use templates::{FurtherTemplate, GUEST_OVERHEAD, MachineTemplate};

use nex_network::{EgressPolicy, Ipv4Subnet};
use nex_protocol::control::deploy::NatsConnection;
use nex_protocol::subject::{ALWAYS_DENIED, TriggerSubject};
use nex_protocol::{Environment, Location, Namespace, WorkloadName, WorkloadType};

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

/// A monitor of microVMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmm {
    /// Firecracker.
    Firecracker,
    /// QEMU's `microvm` machine.
    Qemu,
}

impl Vmm {
    /// The spelling in the configuration and in the node's tags.
    pub fn as_str(self) -> &'static str {
        match self {
            Vmm::Firecracker => "firecracker",
            Vmm::Qemu => "qemu",
        }
    }
}

/// How the microVMs' networks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// By CNI where its plugins and the network's description are there, else built in.
    Auto,
    /// By the node itself.
    Builtin,
    /// By plugins of the Container Network Interface.
    Cni,
    /// They have none.
    None,
}

/// The user ids that jailed machines get, one each; their group ids are the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JailerUsers {
    /// The first (`first`, 1900000000).
    pub first: u32,
    /// How many (`count`, 4096).
    pub count: u32,
}

/// Space for what a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scratch {
    /// In its memory, MiB (`memory_mib`).
    Memory(u64),
    /// On a drive of its own, MiB (`drive_mib`).
    Drive(u64),
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

/// Host services: their connection and settings.
#[derive(Debug, Clone, Default)]
pub struct HostServices {
    /// The workload connection, when it is not the node's own.
    pub nats: Option<NatsConnection>,
    /// Settings of the services.
    pub settings: nex_host_services::Settings,
    /// How services get credentials of their own; without it they get none.
    pub credentials: Option<ServiceCredentials>,
}

/// What users that are made for services are users of, and what they may do (`host_services.credentials`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCredentials {
    /// File with the seed of an account's key, or of one of its signing keys.
    pub account_seed_file: PathBuf,
    /// The account, when the file holds a signing key.
    pub account: Option<String>,
    /// Subjects a service may publish to, with `${namespace}` and `${workload_name}`.
    pub publish: Vec<String>,
    /// Subjects a service may subscribe to, likewise.
    pub subscribe: Vec<String>,
    /// Whether a service may make consumers of its buckets, which can deliver to any subject of the account.
    pub allow_consumers: bool,
    /// How long a user lives; zero for as long as its account.
    pub ttl: Duration,
}

impl Default for ServiceCredentials {
    fn default() -> Self {
        let own = vec!["${namespace}.>".to_owned()];
        Self {
            account_seed_file: PathBuf::new(),
            account: None,
            publish: own.clone(),
            subscribe: own,
            allow_consumers: false,
            ttl: Duration::ZERO,
        }
    }
}

impl ServiceCredentials {
    /// A subject of `publish` or `subscribe` for a workload.
    pub fn subject(template: &str, namespace: &Namespace, workload: &WorkloadName) -> String {
        template.replace("${namespace}", namespace.as_str()).replace("${workload_name}", workload.as_str())
    }
}

/// Network of the microVMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cni {
    /// Where the plugins lie.
    pub bin_path: Vec<PathBuf>,
    /// Name of the `conflist`.
    pub network_name: String,
    /// Interface inside the machine.
    pub interface_name: String,
    /// Addresses to give out.
    pub subnet: Ipv4Subnet,
    /// DNS servers.
    pub nameservers: Vec<std::net::Ipv4Addr>,
}

/// Where networks are described for CNI.
pub const CNI_CONF: &str = "/etc/cni/conf.d";

/// Where CNI's plugins are by custom, and where Debian has them.
const CNI_PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

impl Cni {
    /// Folders of the plugins: as configured, else those where they are by custom, and the path.
    pub fn plugins(&self) -> Vec<PathBuf> {
        if !self.bin_path.is_empty() {
            return self.bin_path.clone();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        CNI_PLUGINS.iter().map(PathBuf::from).chain(std::env::split_paths(&path)).collect()
    }
}

/// What all workloads together may take; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Workloads at a time.
    pub max_workloads: u64,
    /// Sum of the artifacts of all workloads, bytes.
    pub max_total_bytes: u64,
    /// Size of one artifact, bytes.
    pub max_workload_bytes: u64,
}

/// The most that one workload may ask for. None: what a workload has that asks for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkloadCaps {
    /// Thousandths of a processor (`max_cpu_millis`, the most `vcpu_count` of a microVM).
    pub cpu_millis: Option<u64>,
    /// Memory, MiB (`max_memory_mib`, the most `memsize_mib` of a microVM).
    pub memory_mib: Option<u64>,
    /// Agents of one function (`max_instances`, `functions.max_instances`).
    pub instances: Option<u64>,
    /// Time of one call, milliseconds (`max_timeout_ms`, `functions.timeout_ms`).
    pub timeout_ms: Option<u64>,
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

/// A token bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens that may be spent once, at the beginning.
    pub one_time_burst: u64,
    /// Milliseconds in which the bucket fills.
    pub refill_time: u64,
    /// Tokens in a full bucket.
    pub size: u64,
}

/// Limits of a microVM's drives and network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimiters {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    pub iops: Option<TokenBucket>,
}

/// When failed workloads are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Delay before the first restart (`base_ms`, 500).
    pub base: Duration,
    /// Longest delay (`cap_ms`, 60000).
    pub cap: Duration,
    /// Restarts without a stable spell between them before it is given up; 0 for no limit (`max_attempts`, 30).
    pub max_attempts: u32,
    /// Running as long as this forgets earlier failures (`stable_ms`, 60000).
    pub stable: Duration,
}

/// Limits of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionLimits {
    /// Time a call has from its arrival to its reply (`timeout_ms`, 5000).
    pub timeout: Duration,
    /// Calls that one agent of a function runs at a time (`concurrency`, 32).
    pub concurrency: u32,
    /// Calls of one function that may wait for their turn (`max_pending`, 1024).
    pub max_pending: usize,
    /// Bytes of messages that all functions together hold, running and waiting (`max_pending_bytes`, 256 MiB).
    pub max_pending_bytes: u64,
    /// Agents that one function has at most (`max_instances`, 1).
    pub max_instances: u32,
    /// Time without a call after which a function has no agents (`idle_timeout_ms`, 300000); zero keeps them.
    pub idle_timeout: Duration,
    /// Largest JavaScript source, bytes (`script_max_bytes`, 1 MiB).
    pub script_bytes: u64,
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

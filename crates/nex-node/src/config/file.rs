//! The file's keys, one by one: their types, ranges and meaning. See docs/configuration.md.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nex_host_services::Settings;
use nex_network::{EgressPolicy, EgressRule};
use nex_protocol::{Environment, Location, Namespace, WorkloadName, WorkloadType, subject};
use serde_json::Value;

use super::reader::{Report, Section};
use super::{
    AutostartWorkload, Cni, Config, ConfigErrors, FurtherTemplate, HostServices, JailerUsers, Loaded, MachineTemplate,
    MetricsExporter, NAMESPACE, NetworkKind, NodeLimits, PublicNatsServer, RateLimiters, Scratch, TokenBucket, Vmm,
    WorkloadCaps, host_services,
};

/// Keys of Go Nex that have no effect here, and why.
const WITHOUT_EFFECT: [(&str, &str); 9] = [
    ("agent_plugin_path", "provider plugins are not supported"),
    ("internal_node_host", "agents are reached by a private socket, not by a network"),
    ("internal_node_port", "agents are reached by a private socket, not by a network"),
    ("internal_node_store_dir", "there is no internal NATS server"),
    ("internal_node_debug", "there is no internal NATS server"),
    ("internal_node_trace", "there is no internal NATS server"),
    ("preserve_network", "the node never touches networks that it did not make"),
    ("otel_traces", "there are no traces yet"),
    ("otel_traces_exporter", "there are no traces yet"),
];

pub(super) fn parse(json: &str) -> Result<Loaded, ConfigErrors> {
    let map = match serde_json::from_str(json) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err(single("the configuration must be a JSON object, {…}".to_owned())),
        Err(error) => return Err(single(format!("not valid JSON: {error}"))),
    };
    let mut report = Report::default();
    let mut config = Config::default();
    let mut root = Section::new("", map, &mut report);
    programs(&mut root, &mut config);
    machines(&mut root, &mut config);
    policies(&mut root, &mut config);
    workloads(&mut root, &mut config);
    nats(&mut root, &mut config);
    metrics(&mut root, &mut config);
    for (key, why) in WITHOUT_EFFECT {
        if root.take::<Any>(key).is_some() {
            root.warn(key, format!("without effect: {why}"));
        }
    }
    if root.take::<Any>("otlp_exporter_url").is_some() {
        root.warn("otlp_exporter_url", "without effect yet");
    }
    root.finish();
    let Report { problems, warnings } = report;
    if problems.is_empty() { Ok(Loaded { config, warnings }) } else { Err(ConfigErrors { problems, warnings }) }
}

fn single(problem: String) -> ConfigErrors {
    ConfigErrors { problems: vec![problem], warnings: Vec::new() }
}

/// A value of any kind.
struct Any;

impl super::reader::FromValue for Any {
    fn from_value(_: Value) -> Result<Self, &'static str> {
        Ok(Any)
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn millis(section: &mut Section<'_>, key: &'static str, target: &mut Duration) {
    set(target, section.take_in(key, 1..=86_400_000).map(Duration::from_millis));
}

fn paths(list: Option<Vec<String>>) -> Option<Vec<PathBuf>> {
    list.map(|list| list.into_iter().map(PathBuf::from).collect())
}

fn programs(root: &mut Section<'_>, config: &mut Config) {
    config.agent_path = root.take("agent_path");
    config.deno_path = root.take("deno_path");
    config.nats_server_path = root.take("nats_server_path");
    set(&mut config.bin_path, paths(root.take("bin_path")));
    config.state_dir = root.take("state_dir");
    config.pid_filepath = root.take("pid_filepath");
    config.default_resource_dir = root.take("default_resource_dir");
    config.kernel_filepath = root.take("kernel_filepath");
    config.rootfs_filepath = root.take("rootfs_filepath");
    config.initrd_filepath = root.take("initrd_filepath");
    config.qemu_path = root.take("qemu_path");
    config.firecracker_path = root.take("firecracker_path");
    config.jailer_path = root.take("jailer_path");
}

fn machines(root: &mut Section<'_>, config: &mut Config) {
    millis(root, "agent_handshake_timeout_ms", &mut config.agent_handshake_timeout);
    millis(root, "agent_ping_timeout_ms", &mut config.agent_ping_timeout);
    millis(root, "boot_timeout_ms", &mut config.boot_timeout);
    set(&mut config.boot_arguments, root.take("boot_arguments"));
    match root.take::<String>("vmm").as_deref() {
        None | Some("firecracker") => {}
        Some("qemu") => config.vmm = Vmm::Qemu,
        Some(other) => root.problem("vmm", format!("'{other}' is neither \"firecracker\" nor \"qemu\"")),
    }
    set(&mut config.no_jailer, root.take("no_jailer"));
    let users = root.section("jailer_users", |users| {
        let id = |value: Option<u64>, default: u32| value.and_then(|id| u32::try_from(id).ok()).unwrap_or(default);
        // Not those of the host's own users, and not the last ones, which stand for nobody.
        JailerUsers {
            first: id(users.take_in("first", 1000..=4_000_000_000), 1_900_000_000),
            count: id(users.take_in("count", 1..=1_000_000), 4096),
        }
    });
    set(&mut config.jailer_users, users);
    set(&mut config.snapshots, root.take("snapshots"));
    set(&mut config.free_page_reporting, root.take("free_page_reporting"));
    let scratch = root.section("scratch", |scratch| {
        let memory = scratch.take_in("memory_mib", 16..=1 << 20);
        let drive = scratch.take_in("drive_mib", 16..=1 << 24);
        if memory.is_some() && drive.is_some() {
            scratch.problem("drive_mib", "cannot be given together with memory_mib");
        }
        memory.map(Scratch::Memory).or(drive.map(Scratch::Drive))
    });
    set(&mut config.scratch, scratch);
    let size = root.take_in("machine_pool_size", 1..=4096).and_then(|size| usize::try_from(size).ok());
    set(&mut config.machine_pool_size, size);
    let template = root.section("machine_template", |template| MachineTemplate {
        vcpu_count: template.take_in("vcpu_count", 1..=256).unwrap_or(1),
        memsize_mib: template.take_in("memsize_mib", 32..=1 << 20).unwrap_or(256),
    });
    set(&mut config.machine_template, template);
    let further = root.sections("machine_templates", |further| {
        let template = MachineTemplate {
            vcpu_count: further.take_in("vcpu_count", 1..=256).unwrap_or(1),
            memsize_mib: further.take_in("memsize_mib", 32..=1 << 20).unwrap_or(256),
        };
        let pool_size =
            further.take_in("pool_size", 0..=4096).and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
        Some(FurtherTemplate { template, pool_size })
    });
    let sizes: Vec<_> = further.iter().map(|further| further.template).chain([config.machine_template]).collect();
    if sizes.iter().enumerate().any(|(at, size)| sizes.iter().skip(at + 1).any(|other| other == size)) {
        root.problem("machine_templates", "names a size twice, or that of machine_template");
    }
    config.machine_templates = further;
    let defaults = config.cni.clone();
    let cni = root.section("cni", |cni| {
        let subnet: String = cni.take("subnet").unwrap_or_else(|| defaults.subnet.to_string());
        let mut network = Cni {
            bin_path: paths(cni.take("bin_path")).unwrap_or(defaults.bin_path),
            network_name: cni.take("network_name").unwrap_or(defaults.network_name),
            interface_name: cni.take("interface_name").unwrap_or(defaults.interface_name),
            subnet: defaults.subnet,
            nameservers: Vec::new(),
        };
        for server in cni.take::<Vec<String>>("nameservers").unwrap_or_default() {
            match server.parse() {
                Ok(address) => network.nameservers.push(address),
                Err(_) => cni.problem("nameservers", format!("'{server}' is no IPv4 address")),
            }
        }
        match subnet.parse() {
            Ok(subnet) => network.subnet = subnet,
            Err(error) => cni.problem("subnet", format!("{error}")),
        }
        network
    });
    set(&mut config.cni, cni);
    match root.take::<String>("network").as_deref() {
        None | Some("auto") => {}
        Some("builtin") => config.network = NetworkKind::Builtin,
        Some("cni") => config.network = NetworkKind::Cni,
        Some("none") => config.network = NetworkKind::None,
        Some(other) => {
            root.problem("network", format!("'{other}' is none of \"auto\", \"builtin\", \"cni\", \"none\""))
        }
    }
    let egress = root.section("egress", |egress| EgressPolicy {
        deny_all: egress.take("deny_all").unwrap_or_default(),
        allow: egress_rules(egress, "allow"),
        deny: egress_rules(egress, "deny"),
    });
    set(&mut config.egress, egress);
    config.rate_limiters = root.section("rate_limiters", |limiters| RateLimiters {
        bandwidth: limiters.section("bandwidth", bucket),
        iops: limiters.section("iops", bucket),
    });
    set(&mut config.no_sandbox, root.take("no_sandbox"));
}

fn egress_rules(section: &mut Section<'_>, key: &'static str) -> Vec<EgressRule> {
    let mut rules = Vec::new();
    for text in section.take::<Vec<String>>(key).unwrap_or_default() {
        match text.parse::<EgressRule>() {
            Ok(rule) => rules.push(rule),
            Err(error) => section.problem(key, error.to_string()),
        }
    }
    rules
}

fn bucket(section: &mut Section<'_>) -> TokenBucket {
    TokenBucket {
        one_time_burst: section.take("one_time_burst").unwrap_or_default(),
        refill_time: section.take_in("refill_time", 1..=86_400_000).unwrap_or(1000),
        size: section.take_in("size", 1..=u64::MAX).unwrap_or_else(|| {
            section.problem("size", "must be given: tokens in a full bucket");
            1
        }),
    }
}

fn policies(root: &mut Section<'_>, config: &mut Config) {
    set(&mut config.allow_duplicate_workloads, root.take("allow_duplicate_workloads"));
    set(&mut config.require_artifact_hash, root.take("require_artifact_hash"));
    set(&mut config.restore_workloads, root.take("restore_workloads"));
    match root.take::<String>("claims").as_deref() {
        None | Some("standard") => {}
        Some("strict") => config.strict_claims = true,
        Some(other) => root.problem("claims", format!("'{other}' is neither \"standard\" nor \"strict\"")),
    }
    millis(root, "lame_duck_ms", &mut config.lame_duck_delay);
    let caps = root.section("workload_limits", |caps| WorkloadCaps {
        cpu_millis: caps.take_in("max_cpu_millis", 1..=1_024_000),
        memory_mib: caps.take_in("max_memory_mib", 1..=1 << 20),
        instances: caps.take_in("max_instances", 1..=4096),
        timeout_ms: caps.take_in("max_timeout_ms", 1..=86_400_000),
    });
    set(&mut config.workload_limits, caps);
    set(&mut config.artifact_cache_bytes, root.take("artifact_cache_bytes"));
    set(&mut config.nexus, root.take("nexus"));
    set(&mut config.tags, root.take("tags"));
    millis(root, "stop_grace_ms", &mut config.stop_grace);
    for subject in root.take::<Vec<String>>("deny_trigger_subjects").unwrap_or_default() {
        match subject.parse() {
            Ok(subject) => config.deny_trigger_subjects.push(subject),
            Err(error) => root.problem("deny_trigger_subjects", error.to_string()),
        }
    }
    let limits = root.section("node_limits", |limits| NodeLimits {
        max_workloads: limits.take("max_workloads").unwrap_or_default(),
        max_total_bytes: limits.take("max_total_bytes").unwrap_or_default(),
        max_workload_bytes: limits.take("max_workload_bytes").unwrap_or_default(),
    });
    set(&mut config.node_limits, limits);
    for issuer in root.take::<Vec<String>>("valid_issuers").unwrap_or_default() {
        if nex_identity::keys::is_public_key(&issuer) {
            config.valid_issuers.push(issuer);
        } else {
            root.problem("valid_issuers", format!("'{issuer}' is no public nkey (one of an account begins with A)"));
        }
    }
    for bucket in root.take::<Vec<String>>("artifact_buckets").unwrap_or_default() {
        // What a namespace makes of it has to be a bucket's name.
        match Location::new(&bucket.replace(NAMESPACE, "a"), "key") {
            Ok(_) => config.artifact_buckets.push(bucket),
            Err(_) => {
                root.problem("artifact_buckets", format!("'{bucket}' is no bucket name (letters, digits, - and _)"))
            }
        }
    }
    root.section("restart", |restart| {
        millis(restart, "base_ms", &mut config.restart.base);
        millis(restart, "cap_ms", &mut config.restart.cap);
        millis(restart, "stable_ms", &mut config.restart.stable);
        let attempts = restart.take_in("max_attempts", 0..=u64::from(u32::MAX));
        set(&mut config.restart.max_attempts, attempts.and_then(|n| u32::try_from(n).ok()));
    });
    root.section("functions", |functions| {
        millis(functions, "timeout_ms", &mut config.functions.timeout);
        let concurrency = functions.take_in("concurrency", 1..=1024);
        set(&mut config.functions.concurrency, concurrency.and_then(|n| u32::try_from(n).ok()));
        let pending = functions.take_in("max_pending", 0..=1_000_000);
        set(&mut config.functions.max_pending, pending.and_then(|n| usize::try_from(n).ok()));
        set(&mut config.functions.max_pending_bytes, functions.take_in("max_pending_bytes", 1 << 20..=1 << 40));
        let instances = functions.take_in("max_instances", 1..=4096);
        set(&mut config.functions.max_instances, instances.and_then(|n| u32::try_from(n).ok()));
        millis(functions, "idle_timeout_ms", &mut config.functions.idle_timeout);
        config.prestart = functions.take("prestart");
        set(&mut config.functions.script_bytes, functions.take_in("script_max_bytes", 1..=64 << 20));
    });
}

fn workloads(root: &mut Section<'_>, config: &mut Config) {
    if let Some(types) = root.take::<Vec<String>>("workload_types") {
        let mut known = Vec::new();
        for text in types {
            match text.parse::<WorkloadType>() {
                Ok(kind) if !known.contains(&kind) => known.push(kind),
                Ok(_) => {}
                // `oci` was declared by Go Nex and never worked.
                Err(error) => root.problem("workload_types", error.to_string()),
            }
        }
        if known.is_empty() {
            root.problem("workload_types", "names no type that this node could run");
        }
        config.workload_types = Some(known);
    }
    let autostart = root.section("autostart", |autostart| autostart.sections("workloads", autostart_workload));
    set(&mut config.autostart, autostart);
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(section: &mut Section<'_>, key: &'static str) -> Option<T> {
    let Some(text) = section.take::<String>(key) else {
        section.problem(key, "is missing");
        return None;
    };
    text.parse().map_err(|error: T::Err| section.problem(key, error.to_string())).ok()
}

fn autostart_workload(section: &mut Section<'_>) -> Option<AutostartWorkload> {
    let name: Option<WorkloadName> = parsed(section, "name");
    let kind: Option<WorkloadType> = parsed(section, "type");
    let location: Option<Location> = parsed(section, "location");
    let namespace = match section.take::<String>("namespace").map(|text| text.parse::<Namespace>()) {
        None => Namespace::default(),
        Some(Ok(namespace)) => namespace,
        Some(Err(error)) => {
            section.problem("namespace", error.to_string());
            return None;
        }
    };
    let argv = section.take("argv").unwrap_or_default();
    let description = section.take("description").unwrap_or_default();
    let essential = section.take("essential").unwrap_or_default();
    let jsdomain: String = section.take("jsdomain").unwrap_or_default();
    if !jsdomain.is_empty() && !subject::is_domain(&jsdomain) {
        section.problem("jsdomain", "is no name of a JetStream domain");
    }
    let environment: BTreeMap<String, String> = section.take("environment").unwrap_or_default();
    let environment: Environment = environment.into_iter().collect();
    if let Some(key) = environment.invalid_key() {
        section.problem("environment", format!("'{key}' cannot be the name of a variable"));
    }
    let mut trigger_subjects = Vec::new();
    for subject in section.take::<Vec<String>>("trigger_subjects").unwrap_or_default() {
        match subject.parse() {
            Ok(subject) => trigger_subjects.push(subject),
            Err(error) => section.problem("trigger_subjects", format!("{error}")),
        }
    }
    let (name, kind, location) = (name?, kind?, location?);
    if kind.is_function() && trigger_subjects.is_empty() {
        section.problem("trigger_subjects", "a function needs at least one");
    }
    if !kind.is_function() && !trigger_subjects.is_empty() {
        section.problem("trigger_subjects", "a service is not triggered");
    }
    Some(AutostartWorkload {
        name,
        namespace,
        argv,
        description,
        essential: essential && kind == WorkloadType::Native,
        r#type: kind,
        location,
        jsdomain,
        environment,
        trigger_subjects,
    })
}

fn nats(root: &mut Section<'_>, config: &mut Config) {
    config.public_nats_server = root.section("public_nats_server", |server| {
        let defaults = PublicNatsServer::default();
        let host: Option<String> = server.take("addr");
        let host = server.take("host").or(host);
        let port = |n: u64| u16::try_from(n).ok();
        PublicNatsServer {
            server_name: server.take("server_name").unwrap_or(defaults.server_name),
            host: host.unwrap_or(defaults.host),
            port: server.take_in("port", 0..=65535).and_then(port).unwrap_or(defaults.port),
            jetstream: server.take("jetstream").unwrap_or(defaults.jetstream),
            store_dir: server.take("store_dir"),
            http_port: server.take_in("http_port", 0..=65535).and_then(port).unwrap_or_default(),
        }
    });
    // 0.3.0-rc1 moved the connection into an object of its own and renamed the key.
    let denied = &config.deny_trigger_subjects;
    let old = root.section("host_services", |section| host_services::read(section, denied));
    let new = root.section("host_services_config", |section| host_services::read(section, denied));
    config.host_services = new.or(old).unwrap_or_else(|| HostServices {
        settings: Settings { denied_subjects: denied.clone(), ..Settings::default() },
        ..HostServices::default()
    });
}

fn metrics(root: &mut Section<'_>, config: &mut Config) {
    let metrics = &mut config.metrics;
    set(&mut metrics.on, root.take("otel_metrics"));
    let port = root.take_in("otel_metrics_port", 0..=65535);
    set(&mut metrics.port, port.and_then(|port| u16::try_from(port).ok()));
    if let Some(host) = root.take::<String>("otel_metrics_host") {
        match host.parse() {
            Ok(address) => metrics.host = address,
            Err(_) => root.problem("otel_metrics_host", format!("'{host}' is no IP address")),
        }
    }
    match root.take::<String>("otel_metrics_exporter").as_deref() {
        None | Some("prometheus") => {}
        // Refused when metrics are wanted, which a flag may say, too.
        Some("file") => metrics.exporter = MetricsExporter::File,
        Some(other) => root.problem("otel_metrics_exporter", format!("'{other}' is not \"prometheus\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentations_examples_are_read() {
        let simple = r#"{"default_resource_dir":"/tmp/wd","machine_pool_size":1,
            "cni":{"network_name":"fcnet","interface_name":"veth0"},
            "machine_template":{"vcpu_count":1,"memsize_mib":256},"tags":{"simple":"true"}}"#;
        let loaded = parse(simple).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(!loaded.config.no_sandbox);
        assert_eq!(loaded.config.tags.get("simple").unwrap(), "true");
        let nosandbox = r#"{"kernel_filepath":"/path/to/vmlinux-5.10","rootfs_filepath":"/path/to/rootfs.ext4",
            "machine_pool_size":1,"no_sandbox":true}"#;
        assert!(parse(nosandbox).unwrap().config.no_sandbox);
    }

    #[test]
    fn a_namespace_takes_artifacts_from_its_buckets_only() {
        let (shop, lab) = ("shop".parse().unwrap(), "lab".parse().unwrap());
        assert!(Config::default().takes_artifacts_from("any", &shop));
        let config = parse(r#"{"artifact_buckets":["${namespace}","common"]}"#).unwrap().config;
        assert!(config.takes_artifacts_from("shop", &shop) && config.takes_artifacts_from("common", &lab));
        assert!(!config.takes_artifacts_from("shop", &lab) && !config.takes_artifacts_from("${namespace}", &lab));
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_path() {
        let errors = parse(
            r#"{"machine_pool_size":0,"tags":[1],"cni":{"subnet":"10.0.0/99"},"workload_types":["oci"],
                "valid_issuers":["me"],"deny_trigger_subjects":["a..b"],"node_limits":{"max_workloads":-1},
                "claims":"loose","artifact_buckets":["${namespace}.x"],"workload_limits":{"max_instances":0},
                "autostart":{"workloads":[{"name":"a b","type":"v8","location":"http://x","jsdomain":"a.b"}]}}"#,
        )
        .unwrap_err();
        let text = errors.to_string();
        for part in [
            "machine_pool_size: must be from 1 to 4096, is 0",
            "tags: expected an object whose values are texts, found a list",
            "cni.subnet: '10.0.0/99' is no IPv4 network",
            "workload_types: 'oci' is no workload type",
            "valid_issuers: 'me' is no public nkey",
            "deny_trigger_subjects: 'a..b' is not a valid NATS subject",
            "node_limits.max_workloads: expected a whole number",
            "claims: 'loose' is neither \"standard\" nor \"strict\"",
            "artifact_buckets: '${namespace}.x' is no bucket name",
            "workload_limits.max_instances: must be from 1 to 4096, is 0",
            "autostart.workloads[0].name: 'a b' is no workload name",
            "autostart.workloads[0].location: location must be nats://BUCKET/key",
            "autostart.workloads[0].jsdomain: is no name of a JetStream domain",
        ] {
            assert!(text.contains(part), "missing {part:?} in\n{text}");
        }
    }

    #[test]
    fn unknown_keys_are_warned_about_with_the_nearest_name() {
        let loaded = parse(r#"{"machine_pool_sise":2,"zzz":1,"cni":{"subnett":"x"},"preserve_network":true}"#).unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "cni.subnett: unknown key, ignored; did you mean subnet?",
                "preserve_network: without effect: the node never touches networks that it did not make",
                "machine_pool_sise: unknown key, ignored; did you mean machine_pool_size?",
                "zzz: unknown key, ignored",
            ]
        );
    }

    #[test]
    fn metrics_are_off_until_they_are_wanted_and_then_for_this_machine_alone() {
        let metrics = |text| parse(text).map(|loaded| loaded.config.metrics);
        let default = metrics("{}").unwrap();
        assert!(!default.on && default.host.is_loopback() && default.port == 8085);
        let on = r#"{"otel_metrics":true,"otel_metrics_port":0,"otel_metrics_host":"::","otel_metrics_exporter":"prometheus"}"#;
        let on = metrics(on).unwrap();
        assert!(on.on && on.host.is_unspecified() && on.port == 0);
        let errors = metrics(
            r#"{"otel_metrics":"yes","otel_metrics_port":65536,"otel_metrics_host":"here","otel_metrics_exporter":"x"}"#,
        )
        .unwrap_err();
        let expected = [
            "otel_metrics: expected true or false, found a text",
            "otel_metrics_port: must be from 0 to 65535, is 65536",
            "otel_metrics_host: 'here' is no IP address",
            "otel_metrics_exporter: 'x' is not \"prometheus\"",
        ];
        assert_eq!(errors.problems, expected);
    }

    #[test]
    fn what_is_no_object_is_one_clear_problem() {
        for text in ["", "null", "[]", "{", "\u{0}"] {
            assert_eq!(parse(text).unwrap_err().problems.len(), 1, "{text:?}");
        }
    }

    #[test]
    fn denied_subjects_are_added_to_those_that_always_are() {
        let config = parse(r#"{"deny_trigger_subjects":["internal.>"]}"#).unwrap().config;
        let denied: Vec<_> = config.deny_trigger_subjects.iter().map(|s| s.as_str()).collect();
        assert_eq!(denied, ["$SYS.>", "$JS.>", "$NEX.>", "_INBOX.>", "$O.>", "$KV.>", "$MQTT.>", "internal.>"]);
    }
}

//! The documents of Firecracker's API, as far as they are used here. Fields and values are those of its specification
//! (`src/firecracker/swagger/firecracker.yaml` of its source), in the form that every release since 1.7 takes: it refuses
//! fields that it does not know.

use serde::{Deserialize, Serialize};

/// `PUT /machine-config`
#[derive(Debug, Serialize)]
pub(super) struct MachineConfiguration {
    pub(super) vcpu_count: u64,
    pub(super) mem_size_mib: u64,
}

/// `PUT /boot-source`
#[derive(Debug, Serialize)]
pub(super) struct BootSource {
    pub(super) kernel_image_path: &'static str,
    pub(super) boot_args: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) initrd_path: Option<&'static str>,
}

/// `PUT /drives/{drive_id}`
#[derive(Debug, Serialize)]
pub(super) struct Drive {
    pub(super) drive_id: &'static str,
    pub(super) path_on_host: &'static str,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_limiter: Option<RateLimiter>,
}

/// `PUT /network-interfaces/{iface_id}`
#[derive(Debug, Serialize)]
pub(super) struct NetworkInterface {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /vsock`
#[derive(Debug, Serialize)]
pub(super) struct Vsock {
    pub(super) guest_cid: u32,
    pub(super) uds_path: &'static str,
}

/// `PUT /entropy`
#[derive(Debug, Serialize)]
pub(super) struct Entropy {}

/// `PUT /balloon`
#[derive(Debug, Serialize)]
pub(super) struct Balloon {
    pub(super) amount_mib: u64,
    pub(super) deflate_on_oom: bool,
    pub(super) stats_polling_interval_s: u64,
    /// Releases before 1.14 do not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) free_page_reporting: Option<bool>,
}

/// `PUT /metrics`
#[derive(Debug, Serialize)]
pub(super) struct Metrics {
    pub(super) metrics_path: &'static str,
}

/// `PUT /actions`
#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) action_type: &'static str,
}

/// `PATCH /vm`
#[derive(Debug, Serialize)]
pub(super) struct Vm {
    pub(super) state: &'static str,
}

/// `PUT /snapshot/create`
#[derive(Debug, Serialize)]
pub(super) struct SnapshotCreate {
    pub(super) snapshot_path: &'static str,
    pub(super) mem_file_path: &'static str,
}

/// `PUT /snapshot/load`
#[derive(Debug, Serialize)]
pub(super) struct SnapshotLoad {
    pub(super) snapshot_path: &'static str,
    pub(super) mem_backend: MemoryBackend,
    pub(super) resume_vm: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct MemoryBackend {
    pub(super) backend_type: &'static str,
    pub(super) backend_path: &'static str,
}

/// A limit of a drive or of a direction of a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Operations, or packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// A bucket of tokens: what may be used in a burst, and how fast it fills again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// Tokens in a full bucket.
    pub size: u64,
    /// Tokens that may be spent once, at the beginning.
    pub one_time_burst: u64,
    /// Milliseconds in which it fills.
    pub refill_time: u64,
}

/// The answer to a request that is refused.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    pub(super) fault_message: String,
}

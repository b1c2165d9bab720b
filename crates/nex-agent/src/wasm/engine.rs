//! The engine: how code is compiled and where instances live.
//!
//! Instances come from a pool whose slots are reserved once and bounded by the workload's limits, so that an instance
//! costs microseconds and the sum of them is known. Guest code is interrupted by epochs: [`Ticker`] counts them up, and
//! at every tick a guest gives way to its runtime, which is where deadlines are enforced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use nex_protocol::link::message::Limits;
use tokio::runtime::{Handle, Runtime};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Time between epochs: the longest a guest keeps its thread for itself.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Size of a page of linear memory.
const PAGE: u64 = 64 << 10;

/// Most calls that run at once, whatever the limits say: each reserves address space.
const MOST_SLOTS: u32 = 1024;

/// Core instances in one component: the program itself and the adapters around it.
const CORE_INSTANCES: u32 = 16;

/// Memories in one component, or in one module.
const MEMORIES: u32 = 4;

/// Tables in one component, or in one module.
const TABLES: u32 = 16;

/// Bytes the engine itself may need to keep track of an instance.
const INSTANCE_BYTES: usize = 4 << 20;

/// Calls that run at the same time.
pub(crate) fn slots(limits: &Limits) -> u32 {
    limits.concurrency.clamp(1, MOST_SLOTS)
}

/// Largest linear memory: the limit in whole pages.
fn memory_bytes(limits: &Limits) -> usize {
    usize::try_from(limits.memory_bytes.div_ceil(PAGE).saturating_mul(PAGE).min(1 << 32)).unwrap_or(usize::MAX)
}

/// Makes the engine.
pub(crate) fn create(limits: &Limits) -> wasmtime::Result<Engine> {
    let slots = slots(limits);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES))
        .total_memories(slots.saturating_mul(MEMORIES))
        .total_tables(slots.saturating_mul(TABLES))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_memory_size(memory_bytes(limits))
        // Memory is always given back to the kernel. Finding what was written by PAGEMAP_SCAN, and writing over it, would be
        // twice as fast, and would miss pages that are swapped out or on their way to another place: one call would see what
        // another left.
        .pagemap_scan(Enabled::No);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        // A trap is told by its first line; collecting names for a backtrace nobody sees costs every trap.
        .wasm_backtrace_max_frames(None);
    Engine::new(&config)
}

/// Counts epochs while calls run. While none do its thread sleeps: a thousand idle functions cost nothing.
#[derive(Debug)]
pub(crate) struct Ticker {
    calls: Arc<AtomicUsize>,
    thread: Thread,
}

/// Keeps the epochs counted.
#[derive(Debug)]
pub(crate) struct Ticking<'a>(&'a Ticker);

/// Set in the count of calls when the ticker is gone.
const OVER: usize = 1 << (usize::BITS - 1);

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engine: Engine) -> io::Result<Self> {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let thread = std::thread::Builder::new().name("epochs".to_owned()).spawn(move || {
            loop {
                match counted.load(Ordering::Acquire) {
                    // Woken by `tick`; a wake-up that came before is not lost, one too many does no harm.
                    0 => std::thread::park(),
                    calls if calls & OVER != 0 => return,
                    _ => {
                        std::thread::sleep(TICK);
                        engine.increment_epoch();
                    }
                }
            }
        })?;
        Ok(Self { calls, thread: thread.thread().clone() })
    }

    /// Counts epochs at least until the answer is dropped.
    pub(crate) fn tick(&self) -> Ticking<'_> {
        if self.calls.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.unpark();
        }
        Ticking(self)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.calls.fetch_or(OVER, Ordering::AcqRel);
        self.thread.unpark();
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The runtime guest code runs on.
#[derive(Debug)]
pub(crate) struct Guests {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Guests {
    /// Starts a thread for each processor.
    pub(crate) fn start() -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("guest")
            // Guests give way once in a tick. Were timers looked at as rarely as usual (every 61 polls), deadlines
            // would pass unseen for half a second when all threads are busy.
            .event_interval(1)
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where to spawn.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which is not allowed on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

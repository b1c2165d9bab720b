//! The engines without nex: wasmtime in this process, Deno as a child that is spoken to over its pipes.
//!
//! They are set up as an agent sets them up where that makes a difference to speed (a pool of instances, `InstancePre`, WASI
//! with streams in memory), and have none of what an agent has besides: no deadline, no limits, no log.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use wasmtime::component::{Component, ResourceTable};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig, Store,
    component,
};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::workloads::Kind;

/// Largest reply.
const REPLY: usize = 1 << 20;

/// The engine and a program that was linked.
pub(crate) struct Wasmtime {
    engine: Engine,
    program: Program,
}

/// What becomes of an instance's memory when the instance is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// It goes back to the kernel, and is asked for anew, page by page.
    Returned,
    /// It is kept, and written over.
    Kept,
}

enum Program {
    Module(InstancePre<WasiP1Ctx>),
    Component(CommandPre<Guest>),
}

struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

fn plain(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("wasmtime: {error:#}")
}

impl Wasmtime {
    /// Compiles the function of this kind.
    pub(crate) fn new(kind: Kind, pages: Pages) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(32).total_core_instances(512).total_memories(128).total_tables(512);
        pool.max_memory_size(256 << 20);
        if pages == Pages::Kept {
            // As agents have it where the kernel can tell which pages were written.
            let kept = if PoolingAllocationConfig::is_pagemap_scan_available() { 8 << 20 } else { 64 << 10 };
            pool.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(kept).table_keep_resident(16 << 10);
            pool.max_unused_warm_slots(0);
        }
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).map_err(plain)?;
        let artifact = kind.artifact()?;
        let program = if kind == Kind::Module { module(&engine, &artifact) } else { component(&engine, &artifact) };
        Ok(Self { program: program.map_err(plain)?, engine })
    }

    /// Makes an instance and runs it.
    pub(crate) async fn call(&self, kind: Kind, subject: &str, payload: &Bytes) -> Result<()> {
        let reply = MemoryOutputPipe::new(REPLY);
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&["nexfunction", subject]);
        wasi.stdin(MemoryInputPipe::new(payload.clone())).stdout(reply.clone());
        self.run(wasi).await.map_err(plain)?;
        ensure!(kind.is_reply(payload, &reply.contents()), "bare wasmtime gave a wrong reply");
        Ok(())
    }

    async fn run(&self, mut wasi: WasiCtxBuilder) -> wasmtime::Result<()> {
        match &self.program {
            Program::Module(module) => {
                let mut store = Store::new(&self.engine, wasi.build_p1());
                let instance = module.instantiate_async(&mut store).await?;
                instance.get_typed_func::<(), ()>(&mut store, "_start")?.call_async(&mut store, ()).await
            }
            Program::Component(component) => {
                let guest = Guest { wasi: wasi.build(), table: ResourceTable::new() };
                let mut store = Store::new(&self.engine, guest);
                let command = component.instantiate_async(&mut store).await?;
                let ended = command.wasi_cli_run().call_run(&mut store).await?;
                ended.map_err(|()| wasmtime::Error::msg("the command failed"))
            }
        }
    }
}

fn module(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Program> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |wasi| wasi)?;
    Ok(Program::Module(linker.instantiate_pre(&Module::from_binary(engine, artifact)?)?))
}

fn component(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Program> {
    let mut linker = component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    let component = Component::from_binary(engine, artifact)?;
    Ok(Program::Component(CommandPre::new(linker.instantiate_pre(&component)?)?))
}

/// Answers each message with itself; a message is its length in four bytes, and itself.
const ECHO: &str = "
function fill(into) {
  for (let at = 0; at < into.length;) {
    const count = Deno.stdin.readSync(into.subarray(at));
    if (count === null) Deno.exit(0);
    at += count;
  }
}
const length = new Uint8Array(4), view = new DataView(length.buffer);
for (;;) {
  fill(length);
  const frame = new Uint8Array(4 + view.getUint32(0));
  frame.set(length);
  fill(frame.subarray(4));
  for (let at = 0; at < frame.length;) at += Deno.stdout.writeSync(frame.subarray(at));
}
";

/// Deno with that script.
#[derive(Debug)]
pub(crate) struct Deno {
    process: Child,
    to: ChildStdin,
    from: ChildStdout,
    _folder: tempfile::TempDir,
}

impl Deno {
    /// Starts it; it has answered once when this returns.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nex-bench-").tempdir()?;
        let script = folder.path().join("echo.js");
        std::fs::write(&script, ECHO)?;
        let program = nex_testkit::program("NEX_DENO", "deno").context("no Deno: `cargo xtask setup` installs it")?;
        let mut command = Command::new(program);
        command.args(["run", "-q", "--no-prompt", "--no-config", "--no-lock", "--no-npm", "--no-remote"]);
        command.arg(script).env("DENO_DIR", folder.path().join("deno")).env("DENO_NO_UPDATE_CHECK", "1");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (to, from) = (process.stdin.take().context("no pipe")?, process.stdout.take().context("no pipe")?);
        let mut deno = Self { process, to, from, _folder: folder };
        deno.call(b"ready")?;
        Ok(deno)
    }

    /// One message and its answer. Blocks, which is as fast as it can be.
    pub(crate) fn call(&mut self, payload: &[u8]) -> Result<()> {
        let mut frame = u32::try_from(payload.len())?.to_be_bytes().to_vec();
        frame.extend_from_slice(payload);
        self.to.write_all(&frame)?;
        let mut answer = vec![0; frame.len()];
        self.from.read_exact(&mut answer)?;
        ensure!(answer == frame, "bare Deno gave a wrong answer");
        Ok(())
    }
}

impl Drop for Deno {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! From an artifact to something that can be instantiated: recognised, compiled or loaded, linked, checked.
//!
//! Three forms are accepted: a core module that is a WASI preview 1 command, a component that is a `wasi:cli` command,
//! and a component of the world `nex:function/function`. Components may import host services; modules cannot. Everything
//! that is wrong with an artifact is said here, at Start, not at its first call.

use std::path::Path;

use nex_protocol::link::message::Start;
use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module};
use wasmtime_wasi::p1;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::bindings::HandlerPre;
use super::cache::Kept;
use super::fresh::{Code, Fresh};
use super::guest::Guest;
use super::services;

/// Linked against WASI and checked; instantiated for each call.
pub(crate) enum Program {
    /// A WASI preview 1 command.
    Module(InstancePre<Guest>),
    /// A `wasi:cli` command.
    Command(CommandPre<Guest>),
    /// A component that handles messages.
    Handler(HandlerPre<Guest>),
}

/// What a component of our own world exports.
const HANDLER: &str = "nex:function/handler@0.1.0";

/// Why an artifact is no function.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAFunction {
    #[error("the artifact cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("not a WebAssembly module")]
    NotWasm,
    #[error("not a valid WebAssembly module: {0}")]
    Invalid(String),
    #[error("the module cannot be linked: {0}")]
    Import(String),
    #[error("the module exports no function _start: build it as a WASI command (a program with a main function)")]
    NoStart,
    #[error("the component exports no {HANDLER} and is no wasi:cli command: {0}")]
    NoEntry(String),
    #[error(
        "a WASI preview 1 module has no host services: build a component (for Rust, target wasm32-wasip2) to use them"
    )]
    NoHostServices,
}

/// What the first eight bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Module,
    Component,
}

fn form(artifact: &[u8]) -> Option<Form> {
    // Magic, then version (16 bits) and layer (16 bits); components have layer 1.
    match artifact.first_chunk::<8>()? {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => Some(Form::Module),
        [0, b'a', b's', b'm', _, _, 1, 0] => Some(Form::Component),
        _ => None,
    }
}

/// Prepares an artifact; gives what was compiled with it, where the node is to keep it.
pub(crate) fn prepare(engine: &Engine, start: &Start, kept: &Kept) -> Result<(Program, Option<Fresh>), NotAFunction> {
    let artifact = std::fs::read(&start.artifact)?;
    match form(&artifact).ok_or(NotAFunction::NotWasm)? {
        Form::Module if start.host_services => Err(NotAFunction::NoHostServices),
        Form::Module => {
            let (module, fresh) = module(engine, &artifact, kept)?;
            Ok((link_module(engine, &module)?, fresh))
        }
        Form::Component => {
            let (component, fresh) = component(engine, &artifact, kept)?;
            Ok((link_component(engine, &component)?, fresh))
        }
    }
}

fn module(engine: &Engine, artifact: &[u8], kept: &Kept) -> Result<(Module, Option<Fresh>), NotAFunction> {
    // SAFETY: `deserialize_file` runs what is in the file, so the file must be what `Module::serialize` of this engine
    // wrote. In a folder: it is the node's own, of mode 0700 (see `super::cache` for who reaches it); files in it are made by
    // `Slot::store` only, appear whole, and are named for the engine's compatibility hash, which the engine checks once more.
    // Over the link: it came from the node, which this agent believes, whole and with that hash, and the node had it from an
    // agent with the same artifact; no workload reaches the agent's folder before it has started. Were it something else, it
    // would run where its artifact's code runs anyway: alone in this machine.
    let deserialize = |file: &Path| unsafe { Module::deserialize_file(engine, file) };
    if let Some(module) = kept.load(deserialize) {
        return Ok((module, None));
    }
    let module = Module::from_binary(engine, artifact).map_err(|error| NotAFunction::Invalid(one_line(&error)))?;
    let fresh = kept.keep(engine, artifact.len() as u64, Code::Module(module.clone()));
    Ok((module, fresh))
}

fn component(engine: &Engine, artifact: &[u8], kept: &Kept) -> Result<(Component, Option<Fresh>), NotAFunction> {
    // SAFETY: as for modules, above.
    let deserialize = |file: &Path| unsafe { Component::deserialize_file(engine, file) };
    if let Some(component) = kept.load(deserialize) {
        return Ok((component, None));
    }
    let component =
        Component::from_binary(engine, artifact).map_err(|error| NotAFunction::Invalid(one_line(&error)))?;
    let fresh = kept.keep(engine, artifact.len() as u64, Code::Component(component.clone()));
    Ok((component, fresh))
}

fn link_module(engine: &Engine, module: &Module) -> Result<Program, NotAFunction> {
    match module.get_export("_start") {
        Some(ExternType::Func(start)) if start.params().len() == 0 && start.results().len() == 0 => {}
        _ => return Err(NotAFunction::NoStart),
    }
    // What a module can import of these it could never call: they are interfaces of components.
    if module.imports().any(|import| import.module().starts_with("wasi:") || import.module().starts_with("nex:")) {
        return Err(NotAFunction::NoHostServices);
    }
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |guest: &mut Guest| guest.wasi())
        .and_then(|()| linker.instantiate_pre(module))
        .map(Program::Module)
        .map_err(|error| NotAFunction::Import(one_line(&error)))
}

fn link_component(engine: &Engine, component: &Component) -> Result<Program, NotAFunction> {
    let mut linker = component::Linker::<Guest>::new(engine);
    let linked = wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| services::add_to_linker(&mut linker))
        .and_then(|()| linker.instantiate_pre(component))
        .map_err(|error| NotAFunction::Import(one_line(&error)))?;
    let wrong = |error| NotAFunction::NoEntry(one_line(&error));
    if component.get_export_index(None, HANDLER).is_some() {
        return HandlerPre::new(linked).map(Program::Handler).map_err(wrong);
    }
    CommandPre::new(linked).map(Program::Command).map_err(wrong)
}

/// The whole chain of an error in one line.
fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_components_and_everything_else_are_told_apart() {
        assert_eq!(form(b"\0asm\x01\0\0\0..."), Some(Form::Module));
        assert_eq!(form(b"\0asm\x0d\0\x01\0..."), Some(Form::Component));
        assert_eq!(form(b"\0asm"), None);
        assert_eq!(form(b"export default 1"), None);
    }
}

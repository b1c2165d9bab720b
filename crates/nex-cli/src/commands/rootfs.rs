//! `nex rootfs`: builds the root image of microVMs, and shows what is in one.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nex_rootfs::{Contents, Initramfs, Recipe};

use crate::args::{BuildArgs, InitramfsArgs, InspectArgs, RootfsArgs, RootfsCommand};
use crate::output::{self, Block};

pub(super) fn run(args: &RootfsArgs) -> Result<()> {
    match &args.command {
        Some(RootfsCommand::Inspect(args)) => inspect(args),
        Some(RootfsCommand::Initramfs(args)) => initramfs(args),
        None => build(&args.build),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    let recipe = Recipe {
        base: args.base.clone(),
        agent: given_or_beside(args.agent.as_ref(), "nex-agent", "--agent")?,
        init: given_or_beside(args.init.as_ref(), "nex-init", "--init")?,
        deno: args.deno.clone(),
        size_mib: args.size,
        output: args.output.clone(),
    };
    let contents = nex_rootfs::build(&recipe)?;
    if args.json {
        return output::json(&contents);
    }
    output::line(format!("{}Root image written to {}", output::emoji("📦"), args.output.display()))
}

fn initramfs(args: &InitramfsArgs) -> Result<()> {
    let recipe = Initramfs {
        init: given_or_beside(args.init.as_ref(), "nex-init", "--init")?,
        modules: args.modules.clone(),
        output: args.output.clone(),
    };
    let modules = nex_rootfs::initramfs(&recipe)?;
    output::line(format!("Initramfs with {} modules written to {}", modules.len(), args.output.display()))
}

fn inspect(args: &InspectArgs) -> Result<()> {
    let contents = nex_rootfs::contents(&args.image)?;
    if args.json {
        return output::json(&contents);
    }
    output::line(block(&contents).render())
}

fn block(contents: &Contents) -> Block {
    let mut block = Block::default();
    block.heading("NEX Root Image");
    block.value("Version", &contents.nex);
    block.value("Link Version", contents.link.to_string());
    block.value("Arch", &contents.arch);
    block.value("JavaScript", if contents.javascript { "yes" } else { "no" });
    block
}

/// A program that is linked for guests: as given, else in the folder `guest` beside this program.
pub(super) fn given_or_beside(given: Option<&PathBuf>, name: &str, flag: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().context("cannot find out where nex is")?;
    let path = own.with_file_name("guest").join(name);
    if !path.is_file() {
        bail!("there is no {}: name the {name} for guests, which is linked statically, with {flag}", path.display());
    }
    Ok(path)
}

//! `nex rootfs`: builds the root image of microVMs, and shows what is in one.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nex_node::config::Config;
use nex_node::host;
use nex_rootfs::{Base, Contents, Initramfs, Recipe, Script};

use crate::args::{BuildArgs, InitKind, InitramfsArgs, InspectArgs, Part, RootfsArgs, RootfsCommand};
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
        base: base(args)?,
        agent: given_or_beside(args.agent.as_ref(), "nex-agent", "--agent")?,
        init: given_or_beside(args.nex_init.as_ref(), "nex-init", "--nex-init")?,
        init_kind: match args.init {
            InitKind::NexInit => nex_rootfs::InitKind::NexInit,
            InitKind::Openrc => nex_rootfs::InitKind::Openrc,
        },
        deno: deno(args)?,
        script: args.script.as_ref().map(|path| Script { path: path.clone(), network: args.script_network }),
        auth_file: args.auth_file.clone(),
        size_mib: args.size,
        output: args.output.clone(),
    };
    let contents = nex_rootfs::build(&recipe, &|step| eprintln!("{step}"))?;
    if args.json {
        return output::json(&contents);
    }
    output::line(format!("{}Root image written to {}", output::emoji("📦"), args.output.display()))
}

fn base(args: &BuildArgs) -> Result<Option<Base>> {
    let named = args.base.clone().or_else(|| args.image.as_ref().map(|image| format!("docker:{image}")));
    let base = named.map(|text| Base::parse(&text)).transpose()?;
    Ok(match (base, &args.mirror) {
        (Some(Base::Debian(debian)), Some(mirror)) => Some(Base::Debian(debian.from_mirror(mirror)?)),
        (_, Some(_)) => bail!("--mirror is for --base debian: other bases are not installed from packages"),
        (base, None) => base,
    })
}

/// Deno, unless JavaScript is left out: as given, else where a node finds it.
fn deno(args: &BuildArgs) -> Result<Option<PathBuf>> {
    if args.without.contains(&Part::Js) {
        return Ok(None);
    }
    if let Some(path) = &args.deno {
        return Ok(Some(path.clone()));
    }
    match host::deno(&Config::default()) {
        Ok(path) => Ok(Some(path)),
        Err(_) => bail!(
            "JavaScript functions need Deno in the image, and there is none in $NEX_DENO, beside nex or on the path: name \
             it with --deno FILE, or leave JavaScript out with --without js"
        ),
    }
}

fn initramfs(args: &InitramfsArgs) -> Result<()> {
    let recipe = Initramfs {
        init: given_or_beside(args.nex_init.as_ref(), "nex-init", "--nex-init")?,
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
    block.value("Agent", contents.agent.version.as_deref().unwrap_or("not known"));
    block.value("Agent SHA-256", &contents.agent.sha256);
    block.value("Link Version", contents.link.to_string());
    block.value("Arch", &contents.arch);
    block.value(
        "Init",
        match contents.init {
            nex_rootfs::InitKind::NexInit => "nex-init",
            nex_rootfs::InitKind::Openrc => "openrc",
        },
    );
    block
        .value("JavaScript", contents.javascript.as_ref().map_or("no".to_owned(), |version| format!("Deno {version}")));
    match &contents.base {
        Some(base) => {
            block.value("Base", &base.reference);
            block.value("Base Digest", &base.digest);
        }
        None => block.value("Base", "none"),
    }
    if let Some(script) = &contents.script {
        block.value("Script SHA-256", script);
    }
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

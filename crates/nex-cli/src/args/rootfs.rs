//! `nex rootfs`: the root image of microVMs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `nex rootfs`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RootfsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RootfsCommand>,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// `nex rootfs …`
#[derive(Debug, Subcommand)]
pub(crate) enum RootfsCommand {
    /// Show what is in an image
    Inspect(InspectArgs),
    /// Make the initramfs for a kernel that has its drivers as modules
    Initramfs(InitramfsArgs),
}

/// `nex rootfs inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The image
    #[arg(value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) image: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nex rootfs initramfs`
#[derive(Debug, Args)]
pub(crate) struct InitramfsArgs {
    /// Folder of the kernel's modules, such as /lib/modules/6.1.0-cloud-amd64
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) modules: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "initramfs.cpio", value_hint = clap::ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// The first process of a guest, linked statically [default: guest/nex-init beside nex]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) init: Option<PathBuf>,
}

/// What an image is built of.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The image to write
    #[arg(short, long, value_name = "FILE", default_value = "rootfs.ext4", value_hint = clap::ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Folder with the files of a system; without one the image has nothing but the agent, which is enough for static
    /// services and WebAssembly functions
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) base: Option<PathBuf>,
    /// The agent, linked statically [default: guest/nex-agent beside nex]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) agent: Option<PathBuf>,
    /// The first process of a guest, linked statically [default: guest/nex-init beside nex]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) init: Option<PathBuf>,
    /// Deno, for JavaScript functions; the base must have the C library it needs
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) deno: Option<PathBuf>,
    /// Size in MiB [default: what is needed]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(nex_rootfs::SMALLEST..=1 << 20))]
    pub(crate) size: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

//! `nex rootfs`: the root image of microVMs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
    pub(crate) nex_init: Option<PathBuf>,
}

/// What runs the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InitKind {
    /// nex-init, and nothing else runs in the guest
    NexInit,
    /// A service of the base's OpenRC, which nex-init starts once it has mounted everything
    Openrc,
}

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// JavaScript functions: Deno and the libraries it needs
    Js,
}

/// What an image is built of.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The image to write
    #[arg(short, long, value_name = "FILE", default_value = "rootfs.ext4", value_hint = clap::ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// The files of a system: a folder, an OCI image layout or archive (PATH or PATH:TAG), docker:IMAGE or oci:IMAGE from a
    /// registry, debian or debian:SUITE; without one the image has nothing but what nex brings
    #[arg(long, value_name = "BASE", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) base: Option<String>,
    /// The same as --base docker:IMAGE
    #[arg(long, value_name = "IMAGE", conflicts_with = "base")]
    pub(crate) image: Option<String>,
    /// Where debootstrap gets packages from [default: its own default]
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    pub(crate) mirror: Option<String>,
    /// Credentials for registries, in the form of Docker's config.json
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) auth_file: Option<PathBuf>,
    /// The agent, linked statically [default: guest/nex-agent beside nex]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) agent: Option<PathBuf>,
    /// The first process of a guest, linked statically [default: guest/nex-init beside nex]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) nex_init: Option<PathBuf>,
    /// What runs the agent
    #[arg(long, value_name = "KIND", value_enum, default_value_t = InitKind::NexInit)]
    pub(crate) init: InitKind,
    /// Deno, for JavaScript functions [default: $NEX_DENO, else beside nex, else on the path]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) deno: Option<PathBuf>,
    /// Leave a part out
    #[arg(long, value_name = "PART", value_enum, conflicts_with = "deno")]
    pub(crate) without: Vec<Part>,
    /// Run a script as root inside the image before it is closed, with the base's programs
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) script: Option<PathBuf>,
    /// Let the script use this machine's network, as root's where root builds: also services on 127.0.0.1 and, before Linux
    /// 6.12, abstract sockets
    #[arg(long, requires = "script")]
    pub(crate) script_network: bool,
    /// Size: MiB, or with a unit (512M, 2G); a number beyond a million is bytes [default: what is needed]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) size: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Largest size, MiB. Above it a number without a unit is one of bytes, as Go Nex takes it.
const LARGEST: u64 = 1 << 20;

/// A size in MiB.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['M', 'm']) {
        Some(number) => (number, Some(1)),
        None => text.strip_suffix(['G', 'g']).map_or((text, None), |number| (number, Some(1024))),
    };
    let number: u64 = number.parse().map_err(|_| "write a number of MiB, or one with the unit M or G".to_owned())?;
    let mib = match unit {
        Some(unit) => number.saturating_mul(unit),
        None if number > LARGEST => number.div_ceil(1 << 20),
        None => number,
    };
    if (nex_rootfs::SMALLEST..=LARGEST).contains(&mib) {
        return Ok(mib);
    }
    Err(format!("an image has from {} MiB to {LARGEST} MiB", nex_rootfs::SMALLEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mebibytes_units_or_bytes() {
        for (text, mib) in [("64", 64), ("64M", 64), ("2G", 2048), ("157286400", 150), ("157286401", 151)] {
            assert_eq!(size(text), Ok(mib), "{text}");
        }
        for bad in ["", "M", "8", "x", "-1", "2T", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}

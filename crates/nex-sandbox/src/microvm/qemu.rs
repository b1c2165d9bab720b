//! QEMU's `microvm` machine: the same guest on machines without Firecracker, with KVM or, much slower, without.
//!
//! QEMU is told everything on its command line and is spoken to by nobody: it has no monitor socket, no default devices
//! and no user network. The link is a virtio-serial port, which needs no vsock of the host. QEMU's own sandbox is on, so
//! that a guest that breaks out of a device starts no program and gains no privilege.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::firecracker::model::TokenBucket;
use super::network::{Attached, enter, without};
use super::scratch::DRIVE;
use super::{MachineSettings, ScratchSpace, prepare};

/// Socket of the link in the machine's folder.
pub(super) const LINK: &str = "link.sock";

/// Time in which the time stamp counter is measured, once in a node's life.
#[cfg(target_arch = "x86_64")]
const MEASURED: Duration = Duration::from_millis(50);

/// How QEMU runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translating it.
    Tcg,
}

impl Accelerator {
    /// The spelling of QEMU, and of the node's tag.
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }

    /// What this machine has: KVM when it can be opened and the processor has virtualization; an emulated KVM is slower
    /// than none and runs only kernels made for it.
    pub fn of_this_machine() -> Self {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let hardware = processor
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
        // Other architectures do not list it.
        let hardware = hardware || !cfg!(target_arch = "x86_64");
        if opened && hardware { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

/// The QEMU to use.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// `qemu-system-x86_64`.
    pub program: PathBuf,
    accelerator: Accelerator,
    counter_khz: Option<u64>,
}

impl Qemu {
    /// This program, and how it is to run guests.
    pub fn new(program: PathBuf, accelerator: Accelerator) -> Self {
        Self { program, accelerator, counter_khz: counter_khz(accelerator) }
    }

    /// The command for a machine with this folder.
    pub(super) fn command(&self, settings: &MachineSettings, folder: &Path, network: Option<&Attached>) -> Command {
        let mut command = Command::new(&self.program);
        command
            // A kernel made for guests is told of its drives on its command line; those of distributions, which come with an
            // initramfs, want ACPI for that.
            .args(["-M", if settings.initrd.is_some() { "microvm" } else { "microvm,acpi=off" }])
            // Translated code would take up to a gigabyte of the host's memory.
            .args(["-accel", if self.accelerator == Accelerator::Kvm { "kvm" } else { "tcg,tb-size=64" }])
            // What the host has, or all that can be translated.
            .args(["-cpu", if self.accelerator == Accelerator::Kvm { "host" } else { "max" }])
            .arg("-m")
            .arg(settings.memory_mib.to_string())
            .arg("-smp")
            .arg(settings.vcpus.to_string())
            .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"])
            .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-kernel")
            .arg(&settings.kernel);
        if let Some(initrd) = &settings.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command
            .arg("-append")
            .arg(boot_arguments(settings, self.counter_khz))
            .args(["-serial", "stdio"])
            .arg("-drive")
            .arg(format!(
                "id=root,if=none,format=raw,readonly=on,file={}{}",
                quoted(&settings.root_image),
                throttled(settings)
            ))
            .args(["-device", "virtio-blk-device,drive=root"])
            .args(["-device", "virtio-serial-device"])
            .arg("-chardev")
            // In the working folder: the path of a socket must be short.
            .arg(format!("socket,id=link,server=on,wait=off,path={LINK}"))
            .args(["-device", "virtserialport,chardev=link,name=nex.link"])
            .args(["-device", "virtio-rng-device"]);
        if matches!(settings.scratch, ScratchSpace::Drive { .. }) {
            let limits = throttled(settings);
            command
                .arg("-drive")
                .arg(format!("id=scratch,if=none,format=raw,file={DRIVE}{limits}"))
                .args(["-device", "virtio-blk-device,drive=scratch"]);
        }
        if let Some(network) = network {
            command
                .arg("-netdev")
                .arg(format!("tap,id=net,ifname={},script=no,downscript=no", network.tap))
                .args(["-device", "virtio-net-device,netdev=net"]);
            enter(&mut command, network.namespace.clone());
        } else {
            without(&mut command);
        }
        prepare(&mut command, folder);
        command
    }
}

/// The limits of a drive, as QEMU has them: per second.
fn throttled(settings: &MachineSettings) -> String {
    let per_second = |bucket: TokenBucket| bucket.size.saturating_mul(1000) / bucket.refill_time.max(1);
    let mut text = String::new();
    let limiter = settings.rate_limiter;
    if let Some(bytes) = limiter.and_then(|limiter| limiter.bandwidth) {
        text.push_str(&format!(",throttling.bps-total={}", per_second(bytes)));
    }
    if let Some(operations) = limiter.and_then(|limiter| limiter.ops) {
        text.push_str(&format!(",throttling.iops-total={}", per_second(operations)));
    }
    text
}

/// The rate of the time stamp counter, which a translated guest has from the host. On a busy host the guest's kernel
/// measures it wrongly, finds no other clock, and hangs. What `/proc/cpuinfo` tells is the processor's rate of the moment,
/// which is another on many machines, so it is measured here, with the clock that the kernel keeps.
#[cfg(target_arch = "x86_64")]
fn counter_khz(accelerator: Accelerator) -> Option<u64> {
    if accelerator != Accelerator::Tcg {
        return None;
    }
    let now = || {
        // SAFETY: reads a register of the processor that every process may read, and that each x86-64 has.
        let count = unsafe { core::arch::x86_64::_rdtsc() };
        (count, Instant::now())
    };
    let (first, begun) = now();
    std::thread::sleep(MEASURED);
    let (last, ended) = now();
    let micros = u64::try_from(ended.duration_since(begun).as_micros()).ok()?;
    last.checked_sub(first)?.checked_mul(1000)?.checked_div(micros)
}

/// Other guests have clocks of their own.
#[cfg(not(target_arch = "x86_64"))]
fn counter_khz(_: Accelerator) -> Option<u64> {
    None
}

/// What the kernel and `nex-init` are told.
fn boot_arguments(settings: &MachineSettings, counter_khz: Option<u64>) -> String {
    let counter = counter_khz.map(|khz| format!("tsc_early_khz={khz}")).unwrap_or_default();
    settings.kernel_line(&format!("reboot=t panic=-1 {counter}"), "root=/dev/vda ro", "serial")
}

/// A path in a list that QEMU parts at commas.
fn quoted(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_image_is_only_read_and_commas_do_not_end_a_path() {
        let settings = MachineSettings {
            root_image: "/images/a,b.ext4".into(),
            boot_arguments: "noxsave".into(),
            log_filter: "warn, nex=debug".into(),
            ..MachineSettings::for_tests(Path::new("/m"))
        };
        let qemu = Qemu::new("/q".into(), Accelerator::Tcg);
        let command = qemu.command(&settings, Path::new("/m/id"), None);
        let words: Vec<String> = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(
            words.contains(&"id=root,if=none,format=raw,readonly=on,file=/images/a,,b.ext4".to_owned()),
            "{words:?}"
        );
        let append = words.iter().position(|word| word == "-append").unwrap();
        let line = &words[append + 1];
        assert!(line.contains(" nex.log=warn,nex=debug ") && line.ends_with(" noxsave"), "{line}");
        assert!(!words.iter().any(|word| word.contains("-netdev") || word.contains("-monitor")), "{words:?}");
    }
}

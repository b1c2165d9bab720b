//! Whether the processor runs guests: `/dev/kvm`, opened as a monitor opens it.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Finding, Group};

const DEVICE: &str = "/dev/kvm";

const WAYS_OUT: &str = "without KVM there are two ways out: set vmm to \"qemu\" (microVMs by translation, slow) or no_sandbox to \
                        true (no isolation)";

/// `/dev/kvm`; Firecracker needs it, QEMU is faster with it.
pub(super) fn kvm(needed: bool) -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE).map(|_| ());
    judge(opened, hardware(), &group(Path::new(DEVICE))).at(DEVICE).needed(needed)
}

/// Whether the processor says it has virtualization; none where processors do not say.
fn hardware() -> Option<bool> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = text.lines().find(|line| line.starts_with("flags"))?;
    Some(flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

fn judge(opened: std::io::Result<()>, hardware: Option<bool>, group: &str) -> Finding {
    let (host, name) = (Group::Host, "kvm");
    match opened {
        Ok(()) if hardware == Some(false) => Finding::ok(
            host,
            name,
            "KVM in software: the processor has no virtualization (neither vmx nor svm). Only kernels made for it boot, \
             slowly",
        ),
        Ok(()) => Finding::ok(host, name, "KVM"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mend = if hardware == Some(false) {
                "this processor has no virtualization, or it is off: switch it on in the firmware, or in a virtual machine \
                 have its host pass it on (nested virtualization)"
            } else {
                "load the kernel's module: `modprobe kvm_intel` or `modprobe kvm_amd`"
            };
            Finding::missing(host, name, "KVM: there is no such device", format!("{mend}; {WAYS_OUT}"))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Finding::wrong(
            host,
            name,
            "KVM: this user may not open it",
            format!("add the user to the group {group}: `usermod -aG {group} USER`, then log in again; {WAYS_OUT}"),
        ),
        Err(error) => Finding::wrong(host, name, format!("KVM: it cannot be opened: {error}"), WAYS_OUT),
    }
}

/// The name of a file's group.
fn group(path: &Path) -> String {
    let Ok(meta) = path.metadata() else { return "kvm".to_owned() };
    let id = meta.gid().to_string();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&id)).then(|| name.to_owned())
    });
    match named {
        // Nobody is to be made a member of root's group.
        Some(name) if name != "root" => name,
        _ => "kvm".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    #[test]
    fn each_kind_of_trouble_has_its_own_words_and_both_ways_out() {
        let error = |kind: ErrorKind| Err(std::io::Error::from(kind));
        let missing = judge(error(ErrorKind::NotFound), Some(true), "kvm");
        assert_eq!(missing.state, State::Missing);
        assert!(missing.mend.as_ref().unwrap().contains("modprobe"), "{missing:?}");
        let without = judge(error(ErrorKind::NotFound), Some(false), "kvm");
        assert!(without.mend.as_ref().unwrap().contains("nested"), "{without:?}");
        let denied = judge(error(ErrorKind::PermissionDenied), Some(true), "virt");
        assert_eq!(denied.state, State::Wrong);
        assert!(denied.mend.as_ref().unwrap().contains("usermod -aG virt"), "{denied:?}");
        let broken = judge(Err(std::io::Error::from_raw_os_error(19)), None, "kvm");
        for finding in [missing, without, denied, broken] {
            let mend = finding.mend.unwrap();
            assert!(mend.contains("\"qemu\"") && mend.contains("no_sandbox"), "{mend}");
        }
    }

    #[test]
    fn kvm_in_software_is_said() {
        let soft = judge(Ok(()), Some(false), "kvm");
        assert_eq!(soft.state, State::Ok);
        assert!(soft.detail.contains("software"));
        for hardware in [Some(true), None] {
            assert_eq!(judge(Ok(()), hardware, "kvm").detail, "KVM");
        }
    }
}

//! What to do about what Firecracker says. Its messages are for people and change with its releases: only words that
//! have stood in them for long are looked for, and a message that is not known is shown without advice.

/// Words of a message, all of which must occur, and what to do about it.
const KNOWN: [(&[&str], &str); 12] = [
    (&["/dev/kvm", "ermission"], "give the node access to /dev/kvm (group kvm), or set vmm to \"qemu\""),
    (&["kvm", "o such file"], "there is no KVM here: load its module, or set vmm to \"qemu\""),
    (&["KVM"], "KVM cannot be used here: see `nex node preflight`, or set vmm to \"qemu\""),
    (&["tap"], "the machine's network device cannot be opened: is /dev/net/tun there? Or set network to \"none\""),
    (&["kernel", "ELF"], "kernel_filepath must be an uncompressed kernel (vmlinux) for this machine's architecture"),
    (&["kernel"], "kernel_filepath must be a kernel that Firecracker can start"),
    (&["initrd"], "initrd_filepath must be an initramfs that fits into the machine's memory"),
    (&["snapshot", "version"], "the snapshot was made by another release of Firecracker; it is made anew"),
    (
        &["emory", "llocat"],
        "the host has no memory left for another machine: lower machine_template.memsize_mib or \
      machine_pool_size",
    ),
    (
        &["mmap"],
        "the host has no memory left for another machine: lower machine_template.memsize_mib or machine_pool_size",
    ),
    (&["vcpu"], "machine_template.vcpu_count must be at least 1, at most 32, and even where SMT is on"),
    (&["drive"], "the root image or the scratch drive cannot be used: it must be readable by the machine's user"),
];

/// What to do; empty when that is not known.
pub(super) fn help(fault: &str) -> &'static str {
    KNOWN.iter().find(|(words, _)| words.iter().all(|word| fault.contains(word))).map_or("", |(_, help)| help)
}

#[cfg(test)]
mod tests {
    use super::help;

    #[test]
    fn the_closest_advice_is_given_and_none_where_nothing_is_known() {
        assert!(help("Error creating KVM object: No such file or directory: /dev/kvm").contains("no KVM"));
        assert!(help("Cannot open /dev/kvm: Permission denied (os error 13)").contains("group kvm"));
        assert!(help("Open tap device failed: Couldn't open /dev/net/tun").contains("/dev/net/tun"));
        assert_eq!(help("something new"), "");
    }
}

//! The checklist: looks, and changes nothing. What a node does not need is not on it.

mod guest;
mod host;
mod kvm;
mod network;
mod programs;

use crate::{Finding, Manifest, Monitor, Remedy, Wanted};

/// Everything that is needed, and how it is.
pub fn examine(wanted: &Wanted, manifest: &Manifest) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(machines) = &wanted.machines {
        found.push(kvm::kvm(matches!(machines.monitor, Monitor::Firecracker { .. })));
    }
    found.extend(host::host(wanted));
    match &wanted.machines {
        Some(machines) => {
            found.extend(programs::monitor(&machines.monitor));
            found.extend(guest::tools());
        }
        None => found.push(programs::agent(&wanted.agent)),
    }
    found.extend(programs::services(wanted));
    if let Some(machines) = &wanted.machines {
        found.extend(guest::files(machines, wanted.javascript));
        found.extend(network::network(&machines.network));
    }
    for finding in &mut found {
        by_hand(finding, manifest);
    }
    found
}

/// Takes back what cannot be downloaded after all, and says what to do by hand.
fn by_hand(finding: &mut Finding, manifest: &Manifest) {
    let Some(Remedy::Download(piece)) = finding.remedy else { return };
    let more = match manifest.find(piece) {
        None => format!("the manifest has no {} for {}", piece.as_str(), std::env::consts::ARCH),
        Some((_, source)) if source.sha256.is_none() => {
            let whole = "has no SHA-256 in the manifest and is not downloaded: get it by hand and look whether it is what its \
                         maker published, or give a manifest with the digest (--manifest FILE)";
            let file = source.file_name();
            format!("{} {whole}. It is {file}; {} is what is needed of it", source.url, finding.name)
        }
        Some(_) => return,
    };
    finding.remedy = None;
    finding.mend = Some(match finding.mend.take() {
        Some(mend) => format!("{mend}; {more}"),
        None => more,
    });
}

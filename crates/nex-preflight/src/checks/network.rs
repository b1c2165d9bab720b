//! What microVMs' networks take: plugins and a description for them, or what the node needs to make networks itself.

use std::fs::OpenOptions;
use std::path::Path;

use super::programs::with_package;
use crate::conflist::fault;
use crate::wanted::executable;
use crate::{Cni, Finding, Group, Network, Piece, Remedy};

/// Bits of the capabilities that make networks: CAP_NET_ADMIN, and CAP_SYS_ADMIN for namespaces.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

const OR_NONE: &str = "functions need no network: set network to \"none\"";

pub(super) fn network(network: &Network) -> Vec<Finding> {
    match network {
        Network::None => Vec::new(),
        Network::Builtin => builtin(),
        Network::Auto(cni) if cni.complete() => by_plugins(cni),
        // Without it a node starts, and its machines have no network.
        Network::Auto(_) => builtin().into_iter().map(|finding| finding.needed(false)).collect(),
        Network::Cni(cni) => by_plugins(cni),
    }
}

fn builtin() -> Vec<Finding> {
    vec![nft(), tun(), privileges()]
}

fn nft() -> Finding {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&places).chain(["/usr/sbin".into(), "/sbin".into()]);
    let what = "nft, for the built-in network";
    match folders.find_map(|folder| Some(folder.join("nft")).filter(|path| executable(path))) {
        Some(path) => Finding::ok(Group::Network, "nft", what).at(path),
        None => with_package(Finding::missing(Group::Network, "nft", what, OR_NONE), "nftables"),
    }
}

fn tun() -> Finding {
    let path = "/dev/net/tun";
    let what = "devices for the built-in network";
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::ok(Group::Network, "tun", what),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::missing(
            Group::Network,
            "tun",
            what,
            format!("load the kernel's module: `modprobe tun`; {OR_NONE}"),
        ),
        Err(error) => {
            let mend = format!("run the node as root; {OR_NONE}");
            Finding::wrong(Group::Network, "tun", format!("{what}: it cannot be opened: {error}"), mend)
        }
    }
    .at(path)
}

/// Whether networks may be made. What a check can see of it: those of this user, who need not be the node's.
fn privileges() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    lacking(bits.unwrap_or_default())
}

fn lacking(bits: u64) -> Finding {
    let lacks: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| bits & (1 << bit) == 0).map(|(_, name)| *name).collect();
    let (name, what) = ("privileges", "rights to make networks");
    if lacks.is_empty() {
        return Finding::ok(Group::Network, name, what);
    }
    let detail = format!("{what}: this user lacks {}", lacks.join(" and "));
    Finding::wrong(Group::Network, name, detail, format!("run the node, and this check, as root; {OR_NONE}"))
}

fn by_plugins(cni: &Cni) -> Vec<Finding> {
    let mut found: Vec<Finding> = Cni::PLUGINS.iter().map(|name| plugin(cni, name)).collect();
    found.push(description(cni));
    found
}

fn plugin(cni: &Cni, name: &'static str) -> Finding {
    let what = format!("{name} CNI plugin");
    // Its makers publish no builds of it.
    let built = name == "tc-redirect-tap";
    let mend = if built {
        let folder = cni.install_dir.display();
        format!(
            "build it, there are no releases of it: `GOBIN={folder} go install \
             github.com/awslabs/tc-redirect-tap/cmd/tc-redirect-tap@latest`, or set network to \"builtin\""
        )
    } else {
        "or set cni.bin_path to the folder it is in, or network to \"builtin\"".to_owned()
    };
    let finding = match cni.find(name) {
        Some(path) if executable(&path) => Finding::ok(Group::CniPlugins, name, what).at(path),
        Some(path) => {
            let mend = format!("`chmod +x {}`", path.display());
            Finding::wrong(Group::CniPlugins, name, format!("{what}: it cannot be executed"), mend).at(path)
        }
        None => Finding::missing(Group::CniPlugins, name, what, mend).at(cni.install_dir.join(name)),
    };
    if built {
        return finding;
    }
    with_package(finding, "containernetworking-plugins").remedied_by(Remedy::Download(Piece::CniPlugins))
}

fn description(cni: &Cni) -> Finding {
    let path = cni.conflist_path();
    described(&path, cni).at(&path).remedied_by(Remedy::WriteConflist)
}

fn described(path: &Path, cni: &Cni) -> Finding {
    let (group, name, what) = (Group::CniConfiguration, "conflist", "CNI Configuration");
    let mend = "describe the network for the plugins ptp and tc-redirect-tap";
    match std::fs::read_to_string(path) {
        Ok(text) => match fault(&text, cni) {
            None => Finding::ok(group, name, what),
            Some(fault) => Finding::wrong(group, name, format!("{what}: it {fault}"), mend),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::missing(group, name, what, mend),
        Err(error) => Finding::wrong(group, name, format!("{what}: it cannot be read: {error}"), mend),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    #[test]
    fn what_a_user_lacks_to_make_networks_is_named() {
        assert_eq!(lacking(u64::MAX).state, State::Ok);
        assert!(lacking(0).detail.contains("CAP_NET_ADMIN and CAP_SYS_ADMIN"));
        assert!(!lacking(1 << 12).detail.contains("NET_ADMIN"));
    }

    #[test]
    fn plugins_are_asked_for_only_where_they_make_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let cni = Cni {
            search: vec![folder.path().to_owned()],
            install_dir: folder.path().to_owned(),
            conf_dir: folder.path().join("conf"),
            network_name: "fcnet".to_owned(),
            subnet: "10.0.0.0/24".to_owned(),
            nameservers: Vec::new(),
        };
        let groups = |of: &Network| network(of).iter().map(|finding| finding.group).collect::<Vec<_>>();
        assert!(network(&Network::None).is_empty());
        assert_eq!(groups(&Network::Auto(cni.clone())), [Group::Network; 3]);
        let found = network(&Network::Cni(cni.clone()));
        assert!(found.iter().all(|finding| finding.state == State::Missing), "{found:?}");
        let remedies: Vec<_> = found.iter().map(|finding| finding.remedy).collect();
        let plugins = Some(Remedy::Download(Piece::CniPlugins));
        assert_eq!(remedies, [plugins, plugins, None, Some(Remedy::WriteConflist)]);
        for name in Cni::PLUGINS {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("conf")).unwrap();
        std::fs::write(cni.conflist_path(), crate::conflist(&cni)).unwrap();
        let found = network(&Network::Auto(cni));
        assert!(found[..3].iter().all(|finding| finding.state == State::Wrong), "not executable: {found:?}");
        assert_eq!(found[3].state, State::Ok);
    }
}

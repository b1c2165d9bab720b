//! OpenRC as what runs in the guest beside the agent: a service for the agent, and a note of what `nex-init` is to start
//! once it has mounted everything.

use std::path::Path;

use crate::tree::Tree;
use crate::{NEXT_INIT, RootfsError};

/// What makes a base one with OpenRC.
const NEEDED: [&str; 2] = ["/sbin/openrc", "/sbin/openrc-run"];

/// First processes that start OpenRC. Where there are both, the base's own choice is `/sbin/init`.
const FIRST: [&str; 2] = ["/sbin/init", "/sbin/openrc-init"];

/// The service. Not supervised: with the agent the machine ends.
const SERVICE: &str = "\
#!/sbin/openrc-run

name=\"nex-agent\"
description=\"The agent of nex\"
command=\"/sbin/nex-init\"
command_args=\"--agent\"
command_background=\"yes\"
pidfile=\"/run/nex-agent.pid\"
output_log=\"/dev/console\"
error_log=\"/dev/console\"

depend() {
	need localmount
	after *
}
";

/// Adds the service.
pub(crate) fn install(tree: &mut Tree) -> Result<(), RootfsError> {
    for name in NEEDED {
        if !tree.inside(Path::new(name))?.is_file() {
            return Err(RootfsError::NoOpenRc { missing: name });
        }
    }
    let mut first = None;
    for name in FIRST {
        if first.is_none() && tree.inside(Path::new(name))?.is_file() {
            first = Some(name);
        }
    }
    let first = first.ok_or(RootfsError::NoOpenRc { missing: "/sbin/init or /sbin/openrc-init" })?;
    for folder in ["etc/init.d", "etc/runlevels", "etc/runlevels/default"] {
        tree.folder(folder, 0o755)?;
    }
    tree.write("etc/init.d/nex-agent", SERVICE.as_bytes(), 0o755)?;
    tree.link("etc/runlevels/default/nex-agent", "/etc/init.d/nex-agent")?;
    tree.link(NEXT_INIT, first)
}

//! The agent's link: from whatever the host offers to a socket that the agent is given.
//!
//! With vsock the host connects, and the connection is the link. A virtio-serial port is a device and no socket: then a
//! thread at each end of a socket pair copies what comes, until one side is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener};

use crate::birth;
use crate::cmdline::LinkKind;
use crate::{Failure, doing};

/// Time the kernel has to find the port.
const PORT: Duration = Duration::from_secs(10);

/// Name of the port.
const PORT_NAME: &str = "nex.link";

/// Time the last bytes have to get to the host once the agent has ended.
const LAST: Duration = Duration::from_secs(2);

/// Where the host is waited for.
pub(crate) enum Waiting {
    Vsock(VsockListener),
    Serial(File),
}

/// A link whose machine is born.
pub(crate) struct Link {
    /// The agent's end.
    pub(crate) agent: OwnedFd,
    /// What is kept of it here.
    pub(crate) kept: Kept,
}

/// What sees to it that the host gets the agent's last bytes: a machine that is reset takes along what was not read.
pub(crate) enum Kept {
    Vsock(File),
    /// What is between the agent and a port.
    Serial {
        port: File,
        /// Ends when all that the agent has sent is written to the port.
        copied: Receiver<()>,
    },
}

impl Kept {
    /// Waits, not for ever, until the host has the agent's last bytes: it lets go of the link when it has read the last
    /// message.
    pub(crate) fn drain(self) {
        let until = Instant::now() + LAST;
        let link = match self {
            Kept::Vsock(connection) => {
                // What reads from it is told that nothing more comes, also when the agent was killed.
                let _ = rustix::net::shutdown(&connection, rustix::net::Shutdown::Write);
                connection
            }
            Kept::Serial { port, copied } => {
                let _ = copied.recv_timeout(LAST);
                port
            }
        };
        while Instant::now() < until && !hung_up(&link) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether nobody is at the other end.
fn hung_up(link: &File) -> bool {
    let mut polled = [PollFd::new(link, PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&none)).is_err() || polled.iter().any(|port| port.revents().contains(PollFlags::HUP))
}

/// Begins to wait for the host.
pub(crate) fn wait(kind: LinkKind) -> Result<Waiting, Failure> {
    match kind {
        LinkKind::Vsock(port) => VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)
            .map(Waiting::Vsock)
            .map_err(doing(format!("listen on vsock port {port}"))),
        LinkKind::Serial => serial_port().map(Waiting::Serial),
    }
}

impl Waiting {
    /// Waits until the host has said what this machine is, and sees to that.
    pub(crate) fn born(self) -> Result<Link, Failure> {
        match self {
            Waiting::Vsock(listener) => loop {
                let (connection, peer) = listener.accept().map_err(doing("wait for the node".to_owned()))?;
                // Programs of this guest can connect to it too; only the host is listened to.
                if peer.cid() != VMADDR_CID_HOST {
                    continue;
                }
                // SAFETY: the descriptor was just given up by its owner and is nobody else's.
                let connection = File::from(unsafe { OwnedFd::from_raw_fd(connection.into_raw_fd()) });
                let Some(birth) = birth::hear(&connection)? else { continue };
                birth::enact(birth, &connection)?;
                let agent = connection.as_fd().try_clone_to_owned().map_err(doing("copy the link".to_owned()))?;
                return Ok(Link { agent, kept: Kept::Vsock(connection) });
            },
            Waiting::Serial(port) => {
                // A port reads as ended while its host is not there yet, too.
                let birth = loop {
                    while hung_up(&port) {
                        thread::sleep(Duration::from_millis(5));
                    }
                    if let Some(birth) = birth::hear(&port)? {
                        break birth;
                    }
                };
                birth::enact(birth, &port)?;
                bridge(port).map_err(doing("copy between the port and the agent".to_owned()))
            }
        }
    }
}

/// The port by the name that the host gives it; its number depends on what other devices there are.
fn serial_port() -> Result<File, Failure> {
    let until = Instant::now() + PORT;
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        let named = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
        };
        let found = ports.filter(named).map(|entry| PathBuf::from("/dev").join(entry.file_name())).next();
        let opened = found
            .ok_or_else(|| io::ErrorKind::NotFound.into())
            .and_then(|path| OpenOptions::new().read(true).write(true).open(path));
        match opened {
            Ok(port) => return Ok(port),
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(doing(format!("open the virtio-serial port {PORT_NAME}"))(error)),
        }
    }
}

fn bridge(port: File) -> io::Result<Link> {
    let (ours, agent) = UnixStream::pair()?;
    let (from_host, to_host, port) = (port.try_clone()?, port.try_clone()?, port);
    let (from_agent, to_agent) = (ours.try_clone()?, ours);
    thread::Builder::new().name("to-agent".to_owned()).spawn(move || {
        // A port whose host has gone reads as ended; the agent then ends its workload and itself.
        copy(from_host, &to_agent);
        let _ = to_agent.shutdown(Shutdown::Both);
    })?;
    let (done, copied) = mpsc::channel();
    thread::Builder::new().name("to-host".to_owned()).spawn(move || {
        copy(from_agent, to_host);
        let _ = done.send(());
    })?;
    Ok(Link { agent: agent.into(), kept: Kept::Serial { port, copied } })
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                let Some(bytes) = buffer.get(..read) else { return };
                if to.write_all(bytes).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

//! The agent's link: from whatever the host offers to a socket that becomes the agent's standard input.
//!
//! With vsock the host connects, and the connection is the link. A virtio-serial port is a device and no socket: then a
//! thread at each end of a socket pair copies what comes, until one side is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener};

use crate::cmdline::LinkKind;
use crate::{Failure, doing};

/// Time the kernel has to find the port.
const PORT: Duration = Duration::from_secs(10);

/// Name of the port.
const PORT_NAME: &str = "nex.link";

/// Time the last bytes have to get to the host once the agent has ended.
const LAST: Duration = Duration::from_secs(2);

/// What is between the agent and a port.
pub(crate) struct Bridge {
    port: File,
    /// Ends when all that the agent has sent is written to the port.
    copied: Receiver<()>,
}

impl Bridge {
    /// Waits, not for ever, until the host has the agent's last bytes: a machine that is reset takes them along. The host
    /// lets go of the link when it has read the last message.
    pub(crate) fn drain(self) {
        let _ = self.copied.recv_timeout(LAST);
        let until = Instant::now() + LAST;
        while Instant::now() < until && !hung_up(&self.port) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether nobody is at the other end of a port.
fn hung_up(port: &File) -> bool {
    let mut polled = [PollFd::new(port, PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&none)).is_err() || polled.iter().any(|port| port.revents().contains(PollFlags::HUP))
}

/// Waits for the host and gives the agent's end of the link, and what is between when that is no socket.
pub(crate) fn open(kind: LinkKind) -> Result<(OwnedFd, Option<Bridge>), Failure> {
    match kind {
        LinkKind::Vsock(port) => {
            let failed = || doing(format!("listen on vsock port {port}"));
            let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port).map_err(failed())?;
            loop {
                let (connection, peer) = listener.accept().map_err(failed())?;
                // Programs of this guest can connect to it too; only the host is listened to.
                if peer.cid() == VMADDR_CID_HOST {
                    // SAFETY: the descriptor was just given up by its owner and is nobody else's.
                    return Ok((unsafe { OwnedFd::from_raw_fd(connection.into_raw_fd()) }, None));
                }
            }
        }
        LinkKind::Serial => {
            let port = serial_port()?;
            let (ours, theirs) = UnixStream::pair().map_err(doing("make a socket".to_owned()))?;
            let bridge = bridge(port, ours).map_err(doing("copy between the port and the agent".to_owned()))?;
            Ok((OwnedFd::from(theirs), Some(bridge)))
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

fn bridge(port: File, agent: UnixStream) -> io::Result<Bridge> {
    // A port reads as ended while its host is not there yet, too.
    let until = Instant::now() + PORT;
    while hung_up(&port) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    let (from_host, to_host, kept) = (port.try_clone()?, port.try_clone()?, port);
    let (from_agent, to_agent) = (agent.try_clone()?, agent);
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
    Ok(Bridge { port: kept, copied })
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

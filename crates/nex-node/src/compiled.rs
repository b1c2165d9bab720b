//! Compiled WebAssembly that comes from machines, for later machines.
//!
//! ```text
//! first machine:  Start, Started, Compiled… -> temporary file -> <state dir>/compiled-guest/<key>.cwasm
//! later machines: <key>.cwasm -> Compiled…, Start, Started
//! ```
//! A file has the name of the engine (16 bytes), then the code. It appears whole, and there is one for a key: what another
//! engine compiled takes its place. What was used longest ago is removed when all take too much room.
//!
//! **Who can do what with it.** The node neither loads nor runs these bytes; it cannot tell whether they are what they claim
//! to be. An agent that a workload has broken out into could send others. They would be run only by machines with the same
//! artifact of the same namespace, for both make the key: where whoever made them runs code already, and with what they have
//! already. No workload without a sandbox ever gets them: the agents' own cache is another folder. Nothing that comes from a
//! machine names a path: the key is of what the node itself started. A machine hands in one such code, only after it has
//! started a Wasm function, within bounds of size and time; whatever is wrong with it costs it its place here, and nothing
//! else. Code with which an agent was lost before it had answered a call is not given out again.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use nex_link::Sender;
use nex_protocol::Namespace;
use nex_protocol::link::compiled::{Compiled, EngineName, PIECE, limit};
use nex_protocol::link::message::ToAgent;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

/// Bytes of one message to an agent.
const GIVEN_PIECE: usize = 256 << 10;

/// Most bytes that are kept.
const KEEP: u64 = 512 << 20;

/// Codes that are taken at the same time; what comes beyond is not kept.
const AT_ONCE: usize = 8;

/// Time for all pieces of one code.
const TAKE: Duration = Duration::from_secs(60);

/// The folder of compiled code.
#[derive(Debug, Clone)]
pub struct CompiledStore {
    dir: PathBuf,
    keep: u64,
    turns: Arc<Semaphore>,
}

impl CompiledStore {
    /// In a folder that exists.
    pub fn new(dir: PathBuf) -> Self {
        for path in fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            // Of a node that died meanwhile.
            if path.extension().is_some_and(|extension| extension == "part") {
                let _ = fs::remove_file(path);
            }
        }
        Self { dir, keep: KEEP, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// For a machine in which this artifact is to be run for this namespace.
    pub fn exchange(&self, namespace: &Namespace, sha256: &str, artifact_bytes: u64) -> Exchange {
        let key: String = Sha256::new()
            .chain_update(namespace.as_str())
            .chain_update([0])
            .chain_update(sha256)
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let file = self.dir.join(format!("{key}.cwasm"));
        Exchange { store: self.clone(), file, limit: limit(artifact_bytes), given: false, intake: Intake::Open }
    }

    /// Removes what was used longest ago, until the rest fits.
    fn evict(&self) {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            if path.extension().is_some_and(|extension| extension == "cwasm") {
                files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.keep {
                break;
            }
            debug!(path = %path.display(), "evicting compiled code");
            let _ = fs::remove_file(path);
            total = total.saturating_sub(size);
        }
    }
}

/// Compiled code to one machine, and from it.
#[derive(Debug)]
pub struct Exchange {
    store: CompiledStore,
    file: PathBuf,
    limit: u64,
    /// Whether code was given that has not answered a call yet.
    given: bool,
    intake: Intake,
}

/// What was taken of a machine's code.
#[derive(Debug)]
enum Intake {
    /// Nothing yet.
    Open,
    /// Some, perhaps all: the task that they go to knows.
    Taking(mpsc::Sender<Compiled>),
    /// No more is taken.
    Over,
}

impl Exchange {
    /// Sends what there is, before Start. That there is nothing, or nothing readable, only costs time.
    pub async fn give(&mut self, agent: &Sender<ToAgent>) {
        match send(&self.file, self.limit, agent).await {
            Ok(()) => self.given = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(file = %self.file.display(), %error, "compiled code cannot be given to a machine"),
        }
    }

    /// Takes a piece from the machine, and lets it know. Never waits.
    pub fn take(&mut self, piece: Compiled, agent: &Sender<ToAgent>) {
        if matches!(self.intake, Intake::Open) {
            self.intake = self.begin(&piece, agent).unwrap_or(Intake::Over);
        }
        // One piece is on its way at a time; who sends more does not keep to the rules.
        if let Intake::Taking(pieces) = &self.intake
            && pieces.try_send(piece).is_err()
        {
            self.intake = Intake::Over;
        }
    }

    fn begin(&self, first: &Compiled, agent: &Sender<ToAgent>) -> Option<Intake> {
        if !(1..=self.limit).contains(&first.size) {
            warn!(size = first.size, limit = self.limit, "compiled code of a machine is too large to be kept");
            return None;
        }
        let turn = Arc::clone(&self.store.turns).try_acquire_owned().ok()?;
        let (pieces, coming) = mpsc::channel(1);
        let (store, file, agent) = (self.store.clone(), self.file.clone(), agent.clone());
        let whole = Whole { engine: first.engine, size: first.size };
        tokio::spawn(async move {
            match timeout(TAKE, keep(&store, &file, whole, coming, agent, turn)).await {
                Ok(Ok(())) => debug!(file = %file.display(), size = whole.size, "compiled code of a machine is kept"),
                Ok(Err(error)) => debug!(%error, "compiled code of a machine is not kept"),
                Err(_) => debug!("compiled code of a machine did not come in time"),
            }
        });
        Some(Intake::Taking(pieces))
    }

    /// A call was answered: should the agent be lost from now on, then not because of what it was given.
    pub fn works(&mut self) {
        self.given = false;
    }

    /// The agent was lost. Should that be because of what it was given, then once.
    pub fn agent_lost(&self) {
        if self.given {
            let _ = fs::remove_file(&self.file);
        }
    }
}

/// What all pieces say of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Whole {
    engine: EngineName,
    size: u64,
}

/// Takes pieces until all are there, then puts the file in its place. Ends when the other end of `coming` is dropped, so
/// that it holds the link no longer than the workload does.
async fn keep(
    store: &CompiledStore,
    path: &Path,
    whole: Whole,
    mut coming: mpsc::Receiver<Compiled>,
    agent: Sender<ToAgent>,
    _turn: OwnedSemaphorePermit,
) -> io::Result<()> {
    let part = Part(store.dir.join(format!("{}.part", nuid::next())));
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.0)?;
    let mut file = tokio::fs::File::from_std(made);
    file.write_all(&<[u8; 16]>::from(whole.engine)).await?;
    let mut left = whole.size;
    loop {
        let ended = || io::Error::other("the machine ended before all of it had come");
        let Compiled { engine, size, piece } = coming.recv().await.ok_or_else(ended)?;
        let fits = (1..=PIECE).contains(&piece.len()) && whole == Whole { engine, size };
        let rest = left.checked_sub(piece.len() as u64).filter(|_| fits);
        left = rest.ok_or_else(|| io::Error::other("its pieces do not fit together"))?;
        file.write_all(&piece).await?;
        if left == 0 {
            break;
        }
        if !agent.try_send(ToAgent::CompiledMore) {
            return Err(ended());
        }
    }
    drop(agent);
    file.flush().await?;
    // Before the rename: after a power cut the name must not stand for half a file.
    file.sync_all().await?;
    fs::rename(&part.0, path)?;
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.evict()).await.map_err(io::Error::other)
}

/// A file on its way; removed when it does not arrive.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Once it has arrived, there is none of this name.
        let _ = fs::remove_file(&self.0);
    }
}

/// Sends a file piece by piece. The link holds us back when the agent is slow.
async fn send(path: &Path, limit: u64, agent: &Sender<ToAgent>) -> io::Result<()> {
    let file = fs::File::open(path)?;
    // Its time says when it was last wanted. Not more than a hint.
    let _ = file.set_modified(SystemTime::now());
    let mut engine = [0; 16];
    let length = file.metadata()?.len();
    let size = length.checked_sub(engine.len() as u64).filter(|size| (1..=limit).contains(size));
    let size = size.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut file = tokio::fs::File::from_std(file);
    file.read_exact(&mut engine).await?;
    let (engine, mut rest) = (EngineName::from(engine), file.take(size));
    loop {
        let mut piece = BytesMut::with_capacity(GIVEN_PIECE);
        while piece.len() < GIVEN_PIECE && rest.read_buf(&mut piece).await? > 0 {}
        if piece.is_empty() {
            return Ok(());
        }
        let message = ToAgent::Compiled(Compiled { engine, size, piece: piece.freeze() });
        agent.send(message).await.map_err(io::Error::other)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use nex_link::{Receiver, over_socket};
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::message::ToNode;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    const ENGINE: [u8; 16] = [7; 16];

    /// The node's end of a link, and the agent's.
    struct Link {
        node: Sender<ToAgent>,
        _from_agent: Receiver<ToNode>,
        _agent: Sender<ToNode>,
        from_node: Receiver<ToAgent>,
    }

    impl Link {
        fn new() -> Self {
            let (a, b) = UnixStream::pair().unwrap();
            let (node, from_agent, _) = over_socket(a, MAX_LINK_FRAME).unwrap();
            let (agent, from_node, _) = over_socket(b, MAX_LINK_FRAME).unwrap();
            Self { node, _from_agent: from_agent, _agent: agent, from_node }
        }

        /// What the exchange gives to an agent.
        async fn given(&mut self, exchange: &mut Exchange) -> Vec<u8> {
            let mut given = Vec::new();
            let hear = async {
                while let Some(ToAgent::Compiled(piece)) = self.from_node.receive().await.unwrap() {
                    assert_eq!(piece.engine, ENGINE.into());
                    given.extend_from_slice(&piece.piece);
                }
            };
            let give = async {
                exchange.give(&self.node).await;
                self.node.send(ToAgent::Ping(0)).await.unwrap();
            };
            tokio::join!(hear, give);
            given
        }

        /// Hands in a code as an agent does.
        async fn hand_in(&mut self, exchange: &mut Exchange, code: &[u8]) {
            let mut pieces = code.chunks(PIECE).peekable();
            while let Some(piece) = pieces.next() {
                exchange.take(of(code.len(), piece), &self.node);
                if pieces.peek().is_some() {
                    assert_eq!(self.from_node.receive().await.unwrap(), Some(ToAgent::CompiledMore));
                }
            }
            settle(exchange).await;
        }
    }

    fn of(size: usize, piece: &[u8]) -> Compiled {
        Compiled { engine: ENGINE.into(), size: size as u64, piece: Bytes::copy_from_slice(piece) }
    }

    /// Waits for the end of what has begun.
    async fn settle(exchange: &mut Exchange) {
        exchange.intake = Intake::Over;
        let all = u32::try_from(AT_ONCE).unwrap();
        drop(exchange.store.turns.acquire_many(all).await.unwrap());
    }

    fn store() -> (CompiledStore, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (CompiledStore::new(dir.path().to_owned()), dir)
    }

    fn exchange(store: &CompiledStore, namespace: &str, sha256: &str) -> Exchange {
        store.exchange(&namespace.parse().unwrap(), sha256, 1000)
    }

    fn files(dir: &tempfile::TempDir) -> Vec<PathBuf> {
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[tokio::test]
    async fn what_a_machine_compiled_is_given_to_the_next_with_this_artifact_and_to_no_other() {
        let ((store, dir), mut link) = (store(), Link::new());
        let code: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
        let mut first = exchange(&store, "one", "aa");
        assert!(link.given(&mut first).await.is_empty());
        link.hand_in(&mut first, &code).await;
        let [file] = &files(&dir)[..] else { panic!("{:?}", files(&dir)) };
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.extension().unwrap(), "cwasm");
        // Another node on the same folder, as after a restart.
        let store = CompiledStore::new(dir.path().to_owned());
        assert!(link.given(&mut exchange(&store, "one", "aa")).await == code);
        assert!(link.given(&mut exchange(&store, "one", "ab")).await.is_empty());
        assert!(link.given(&mut exchange(&store, "two", "aa")).await.is_empty(), "another tenant's machine");
    }

    #[tokio::test]
    async fn a_machine_hands_in_once_and_a_later_one_replaces() {
        let ((store, dir), mut link) = (store(), Link::new());
        let mut first = exchange(&store, "one", "aa");
        link.hand_in(&mut first, b"first").await;
        first.take(of(5, b"again"), &link.node);
        assert!(matches!(first.intake, Intake::Over));
        let mut next = exchange(&store, "one", "aa");
        assert_eq!(link.given(&mut next).await, b"first");
        link.hand_in(&mut next, b"second").await;
        assert_eq!(link.given(&mut exchange(&store, "one", "aa")).await, b"second");
        assert_eq!(files(&dir).len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_within_bounds_or_not_whole_leaves_nothing() {
        let ((store, dir), link) = (store(), Link::new());
        let over = usize::try_from(limit(1000)).unwrap() + 1;
        let long = vec![0; PIECE + 1];
        for pieces in [
            vec![of(0, b"")],
            vec![of(over, b"x")],
            vec![of(usize::MAX, b"x")],
            vec![of(3, b"")],
            vec![of(3, b"abcd")],
            vec![of(3, b"ab")],
            vec![of(PIECE + 1, &long)],
            // Without waiting for leave.
            vec![of(3, b"a"), of(3, b"b"), of(3, b"c")],
        ] {
            let mut exchange = exchange(&store, "one", "aa");
            for piece in pieces {
                exchange.take(piece, &link.node);
            }
            settle(&mut exchange).await;
            assert!(files(&dir).is_empty(), "{:?}", files(&dir));
        }
        assert_eq!(store.turns.available_permits(), AT_ONCE);
    }

    #[tokio::test]
    async fn pieces_of_another_whole_end_it() {
        let ((store, dir), mut link) = (store(), Link::new());
        for other in [of(4, b"b"), Compiled { engine: [8; 16].into(), ..of(3, b"b") }] {
            let mut exchange = exchange(&store, "one", "aa");
            exchange.take(of(3, b"a"), &link.node);
            assert_eq!(link.from_node.receive().await.unwrap(), Some(ToAgent::CompiledMore));
            exchange.take(other, &link.node);
            settle(&mut exchange).await;
            assert!(files(&dir).is_empty());
        }
    }

    #[tokio::test]
    async fn so_many_are_taken_at_once_and_the_link_is_free_when_the_workload_ends() {
        let ((store, dir), mut link) = (store(), Link::new());
        let mut all: Vec<Exchange> = (0..=AT_ONCE).map(|number| exchange(&store, "one", &number.to_string())).collect();
        for exchange in &mut all {
            exchange.take(of(3, b"a"), &link.node);
        }
        assert!(all.iter().take(AT_ONCE).all(|exchange| matches!(exchange.intake, Intake::Taking(..))));
        assert!(matches!(all.last().unwrap().intake, Intake::Over));
        drop(all);
        let Link { node, from_node, .. } = &mut link;
        drop(std::mem::replace(node, Link::new().node));
        // Leave was given to each of them, then the last one who could send is gone.
        let mut heard = 0;
        while from_node.receive().await.unwrap().is_some() {
            heard += 1;
        }
        assert!(heard <= AT_ONCE);
        assert!(files(&dir).is_empty());
    }

    #[tokio::test]
    async fn code_with_which_an_agent_was_lost_before_it_answered_is_not_given_again() {
        let ((store, dir), mut link) = (store(), Link::new());
        let mut first = exchange(&store, "one", "aa");
        link.hand_in(&mut first, b"code").await;
        first.agent_lost();
        assert_eq!(files(&dir).len(), 1, "it had none");
        let mut second = exchange(&store, "one", "aa");
        assert_eq!(link.given(&mut second).await, b"code");
        second.works();
        second.agent_lost();
        assert_eq!(files(&dir).len(), 1, "it was something else");
        let mut third = exchange(&store, "one", "aa");
        assert_eq!(link.given(&mut third).await, b"code");
        third.agent_lost();
        assert!(files(&dir).is_empty());
    }

    #[tokio::test]
    async fn what_was_used_longest_ago_makes_room_and_a_dead_nodes_parts_go() {
        let ((mut store, dir), mut link) = (store(), Link::new());
        store.keep = 250;
        for (age, name) in (1..).zip(["a", "b"]) {
            link.hand_in(&mut exchange(&store, "one", name), &[1; 100]).await;
            let file = fs::File::open(exchange(&store, "one", name).file).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age)).unwrap();
        }
        assert_eq!(link.given(&mut exchange(&store, "one", "a")).await, [1; 100]);
        link.hand_in(&mut exchange(&store, "one", "c"), &[1; 100]).await;
        let left = ["a", "b", "c"].map(|name| exchange(&store, "one", name).file.exists());
        assert_eq!(left, [true, false, true]);
        fs::write(dir.path().join("x.part"), "").unwrap();
        CompiledStore::new(dir.path().to_owned());
        assert_eq!(files(&dir).len(), 2);
    }
}

//! Output of a workload, cut into lines.
//!
//! Lines over [`LONGEST`] are cut, bytes that are no UTF-8 are replaced, a last line without an end is kept. Memory is
//! bounded: at most one unfinished line is held, and a reader waits for the link before it reads on, so that a
//! workload that floods its output is slowed down by whoever reads its log.

use std::io;
use std::os::fd::OwnedFd;

use nex_link::Sender;
use nex_protocol::link::message::ToNode;
use nex_protocol::log::Level;
use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::coop::consume_budget;

/// Longest line, bytes.
pub(crate) const LONGEST: usize = 16 << 10;

/// What is read from a pipe after its process has ended: what a pipe can hold, at most. Someone who escaped from the
/// group might keep it open, and full.
const REST: usize = 1 << 20;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Adds bytes; gives every line that is whole now.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(String)) {
        while !bytes.is_empty() {
            let room = LONGEST.saturating_sub(self.pending.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(end) = now.iter().position(|&byte| byte == b'\n') {
                let (line, rest) = bytes.split_at(end);
                self.pending.extend_from_slice(line);
                each(self.take());
                bytes = rest.get(1..).unwrap_or_default();
            } else {
                self.pending.extend_from_slice(now);
                bytes = later;
                if self.pending.len() >= LONGEST {
                    let rest = self.pending.split_off(character_boundary(&self.pending));
                    each(self.take());
                    self.pending = rest;
                }
            }
        }
    }

    /// What is left without an end.
    pub(crate) fn finish(&mut self) -> Option<String> {
        (!self.pending.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let mut line = std::mem::take(&mut self.pending);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Where to cut so that no character is cut in two: at the end, or up to three bytes before it.
fn character_boundary(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for at in (tail..bytes.len()).rev() {
        let width = match bytes.get(at) {
            Some(0xc0..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf7) => 4,
            Some(0x80..=0xbf) => continue,
            _ => 1,
        };
        return if at + width > bytes.len() && at > 0 { at } else { bytes.len() };
    }
    bytes.len()
}

/// Logs a text of any number of lines.
pub(crate) async fn log(node: &Sender<ToNode>, level: Level, text: &str) {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    lines.push(text.as_bytes(), |line| found.push(line));
    found.extend(lines.finish());
    for text in found {
        consume_budget().await;
        if node.send(ToNode::Log { level, text }).await.is_err() {
            return;
        }
    }
}

/// Forwards a pipe line by line until it ends, or until it is empty once `ended` is set: then every process that is
/// known to write to it is dead, and what they wrote is in it. `wanted` sees each line first, and says whether to
/// forward it.
pub(crate) async fn forward(
    pipe: OwnedFd,
    level: Level,
    node: Sender<ToNode>,
    mut ended: watch::Receiver<bool>,
    mut wanted: impl FnMut(&str) -> bool + Send,
) -> io::Result<()> {
    let pipe = Receiver::from_owned_fd(pipe)?;
    let mut lines = Lines::default();
    let mut found = Vec::new();
    let mut buffer = vec![0; LONGEST];
    let mut rest = REST;
    loop {
        // Asked before the pipe: what was written before the end is in the pipe when the end is known.
        let over = *ended.borrow_and_update();
        // Then the pipe itself is asked, not the reactor's memory of it, which may not have heard of the last bytes.
        let read =
            if over { rustix::io::read(&pipe, &mut buffer).map_err(Into::into) } else { pipe.try_read(&mut buffer) };
        let read = match read {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && over => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    _ = pipe.ready(Interest::READABLE) => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        lines.push(buffer.get(..read).unwrap_or_default(), |line| found.push(line));
        for text in found.drain(..) {
            // Whoever has lines all the time, and a link that takes them, would leave the thread to nobody.
            consume_budget().await;
            if wanted(&text) {
                // Nobody to tell it to; the workload is about to be ended, but must not block on a full pipe until then.
                let _ = node.send(ToNode::Log { level, text }).await;
            }
        }
        if over {
            rest = rest.saturating_sub(read);
            if rest == 0 {
                break;
            }
        }
    }
    if let Some(text) = lines.finish()
        && wanted(&text)
    {
        let _ = node.send(ToNode::Log { level, text }).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nex_protocol::link::frame::MAX_LINK_FRAME;
    use nex_protocol::link::message::ToAgent;
    use proptest::prelude::*;

    /// Few enough that a link that is read takes them all at once.
    const FLOOD: usize = 600;

    #[tokio::test]
    async fn a_flood_of_lines_leaves_the_thread_to_others_too() {
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let reader = tokio::task::spawn_blocking(move || std::io::copy(&mut far, &mut std::io::sink()));
        let (node, _, _) = nex_link::over_socket::<ToAgent, ToNode>(near, MAX_LINK_FRAME).unwrap();
        let (pipe, full) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut &full, "x\n".repeat(FLOOD).as_bytes()).unwrap();
        drop(full);
        let ended = watch::Sender::new(false);
        let flood = tokio::spawn(forward(pipe.into(), Level::Info, node, ended.subscribe(), |_| true));
        let mut turns = 0;
        while !flood.is_finished() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        assert!(turns > 3, "{turns}");
        // The link may still have to end, which takes this thread.
        assert!(reader.await.unwrap().unwrap() > 0);
    }

    fn cut(parts: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in parts {
            lines.push(part, |line| found.push(line));
        }
        found.extend(lines.finish());
        found
    }

    #[test]
    fn lines_are_whole_wherever_the_stream_was_cut() {
        assert_eq!(cut(&[b"on", b"e\ntwo\r\n", b"\n", b"last"]), ["one", "two", "", "last"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let text = "ä".repeat(LONGEST);
        let found = cut(&[b"x", text.as_bytes(), b"\nend"]);
        assert!(found.iter().all(|line| line.len() <= LONGEST && !line.contains('\u{fffd}')));
        assert_eq!(found.concat(), format!("x{text}end"));
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(cut(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
        assert_eq!(cut(&[&[0x80; LONGEST * 2]]).len(), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[a-z\n]{0,400}", at in 0usize..400) {
            let at = at.min(text.len());
            let found = cut(&[&text.as_bytes()[..at], &text.as_bytes()[at..]]);
            let expected: Vec<&str> = text.lines().collect();
            prop_assert_eq!(found, expected);
        }
    }
}

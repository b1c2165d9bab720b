//! Compiled code that the node gives along with an artifact: what an earlier agent has compiled of it.
//!
//! ```text
//! nothing --piece--> growing --Start--> whole | of no use
//! ```
//! It lies in the agent's own folder. Whatever is wrong with it only costs a compilation; nothing here is an error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nex_protocol::link::compiled::{Compiled, EngineName, MOST};

/// What has come so far.
#[derive(Debug)]
pub(crate) struct Given {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    Nothing,
    Growing { file: File, engine: EngineName, size: u64, left: u64 },
    OfNoUse,
}

/// All of it, in a file.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Who compiled it.
    pub(crate) engine: EngineName,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Given {
    /// Nothing yet; it will be kept in this folder.
    pub(crate) fn into(folder: &Path) -> Self {
        Self { path: folder.join("compiled"), state: State::Nothing }
    }

    /// Takes the next piece.
    pub(crate) fn add(&mut self, piece: &Compiled) {
        if let Err(error) = self.take(piece) {
            tracing::warn!(%error, "compiled code from the node cannot be used");
            self.state = State::OfNoUse;
            let _ = fs::remove_file(&self.path);
        }
    }

    fn take(&mut self, piece: &Compiled) -> io::Result<()> {
        let other = || io::Error::other("its pieces do not fit together");
        if matches!(self.state, State::Nothing) {
            if piece.size > MOST {
                return Err(io::Error::other("it is too large"));
            }
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
            self.state = State::Growing { file, engine: piece.engine, size: piece.size, left: piece.size };
        }
        let State::Growing { file, engine, size, left } = &mut self.state else { return Ok(()) };
        if (*engine, *size) != (piece.engine, piece.size) {
            return Err(other());
        }
        *left = left.checked_sub(piece.piece.len() as u64).ok_or_else(other)?;
        file.write_all(&piece.piece)
    }

    /// No more comes; the file, if it is whole.
    pub(crate) fn finish(self) -> Option<Whole> {
        match self.state {
            State::Growing { engine, left: 0, size: 1.., .. } => Some(Whole { engine, path: self.path }),
            State::Growing { .. } => {
                let _ = fs::remove_file(&self.path);
                None
            }
            State::Nothing | State::OfNoUse => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(engine: u8, size: u64, piece: &'static [u8]) -> Compiled {
        Compiled { engine: [engine; 16].into(), size, piece: piece.into() }
    }

    fn of(pieces: &[Compiled]) -> (Option<Vec<u8>>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut given = Given::into(folder.path());
        pieces.iter().for_each(|piece| given.add(piece));
        let content = given.finish().map(|whole| {
            assert_eq!(whole.engine, [1; 16].into());
            fs::read(whole.path).unwrap()
        });
        (content, fs::read_dir(folder.path()).unwrap().count())
    }

    #[test]
    fn pieces_become_a_file() {
        assert_eq!(of(&[piece(1, 3, b"a"), piece(1, 3, b"bc")]), (Some(b"abc".to_vec()), 1));
    }

    #[test]
    fn what_is_not_whole_or_does_not_fit_together_is_nothing_and_leaves_nothing() {
        for pieces in [
            &[][..],
            &[piece(1, 0, b"")],
            &[piece(1, 3, b"ab")],
            &[piece(1, 3, b"ab"), piece(1, 3, b"cd")],
            &[piece(1, 3, b"ab"), piece(2, 3, b"c")],
            &[piece(1, 3, b"ab"), piece(1, 4, b"c"), piece(1, 3, b"c")],
            &[piece(1, u64::MAX, b"ab")],
        ] {
            assert_eq!(of(pieces), (None, 0), "{pieces:?}");
        }
    }
}

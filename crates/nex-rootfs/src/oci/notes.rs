//! What entries of a tar file say of the entry after them, because its own header has no room.
//!
//! They are read here and not by the library, which reads as much of them as they say that there is. Of what they say no
//! more is kept than is needed: there may be any number of them before an entry.

use std::io::{self, Read};

use tar::Entry;

/// Most bytes of one of them.
const LARGEST: u64 = 1 << 20;

/// What was said of the entry that comes next.
#[derive(Default)]
pub(super) struct Notes {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// It has holes, which its header does not know of.
    pub(super) sparse: bool,
}

impl Notes {
    /// Reads one of those entries; false when it is an ordinary one.
    pub(super) fn read<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<bool> {
        let kind = entry.header().entry_type();
        let ours = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
        if !ours {
            // Of the whole archive, such as the commit it was made of; nothing that a file needs.
            return Ok(kind.is_pax_global_extensions());
        }
        if entry.size() > LARGEST {
            return Err(io::Error::other("what it says of one entry is larger than any name"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if kind.is_pax_local_extensions() {
            for note in tar::PaxExtensions::new(&bytes) {
                let note = note?;
                let number = || note.value().ok()?.parse().ok();
                match note.key_bytes() {
                    b"path" => self.name = Some(note.value_bytes().to_vec()),
                    b"linkpath" => self.link = Some(note.value_bytes().to_vec()),
                    b"size" => self.size = number(),
                    b"uid" => self.uid = number(),
                    b"gid" => self.gid = number(),
                    key => self.sparse |= key.starts_with(b"GNU.sparse"),
                }
            }
            return Ok(true);
        }
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        *(if kind.is_gnu_longname() { &mut self.name } else { &mut self.link }) = Some(bytes);
        Ok(true)
    }

    /// The name of the entry that they are of.
    pub(super) fn name<R: Read>(&self, entry: &Entry<'_, R>) -> Vec<u8> {
        self.name.clone().unwrap_or_else(|| entry.path_bytes().into_owned())
    }

    /// Where that entry leads, when it is a link that leads somewhere.
    pub(super) fn link<R: Read>(&self, entry: &Entry<'_, R>) -> Option<Vec<u8>> {
        let target = self.link.clone().or_else(|| Some(entry.link_name_bytes()?.into_owned()))?;
        (!target.is_empty() && !target.contains(&0)).then_some(target)
    }
}

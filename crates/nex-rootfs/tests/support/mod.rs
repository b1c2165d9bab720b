//! What the tests of images share: the smallest programs, container images made on the spot, and a look into what was built.

#![allow(dead_code, reason = "each file of tests uses some of it")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use nex_rootfs::{Base, Contents, InitKind, Recipe, RootfsError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// The smallest program there is: an ELF header for x86-64 and no more.
pub(crate) fn program(folder: &Path, name: &str) -> PathBuf {
    let mut header = vec![0u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18] = 62;
    header[20] = 1;
    header[52] = 64;
    header[54] = 56;
    let path = folder.join(name);
    fs::write(&path, header).unwrap();
    path
}

/// A recipe without a base and without JavaScript.
pub(crate) fn recipe(folder: &Path, output: &str) -> Recipe {
    Recipe {
        base: None,
        agent: program(folder, "agent"),
        init: program(folder, "init"),
        init_kind: InitKind::NexInit,
        deno: None,
        script: None,
        auth_file: None,
        size_mib: None,
        output: folder.join(output),
    }
}

pub(crate) fn build(recipe: &Recipe) -> Result<Contents, RootfsError> {
    nex_rootfs::build(recipe, &|_| ())
}

/// Builds on a base as a person writes it.
pub(crate) fn build_on(base: &str, folder: &Path) -> Result<Contents, RootfsError> {
    build(&Recipe { base: Some(Base::parse(base)?), ..recipe(folder, "image") })
}

/// Whether the tools are there. Where they are not, a test tells so and ends.
pub(crate) fn tools() -> bool {
    let found = Command::new("/usr/sbin/mke2fs").arg("-V").output().is_ok();
    if !found {
        eprintln!("SKIPPED: no image was made: there is no mke2fs");
    }
    found
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn debugfs(image: &Path, command: &str) -> String {
    let output = Command::new("/usr/sbin/debugfs").arg("-R").arg(command).arg(image).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a file of an image holds.
pub(crate) fn content(image: &Path, name: &str) -> String {
    let output =
        Command::new("/usr/sbin/debugfs").arg("-R").arg(format!("cat \"{name}\"")).arg(image).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn is_there(image: &Path, name: &str) -> bool {
    !debugfs(image, &format!("stat \"{name}\"")).contains("File not found")
}

/// Mode, owner and group of a file of an image.
pub(crate) fn owned(image: &Path, name: &str) -> (String, u32, u32) {
    let stat = debugfs(image, &format!("stat \"{name}\""));
    let after = |word: &str| {
        let at = stat.find(word).unwrap_or_else(|| panic!("{name}: {stat}")) + word.len();
        stat[at..].split_whitespace().next().unwrap().to_owned()
    };
    (after("Mode:"), after("User:").parse().unwrap(), after("Group:").parse().unwrap())
}

/// A layer being written.
#[derive(Default)]
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    /// Any entry, however wrong.
    pub(crate) fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        // Not as the library would do it: it refuses what is to be refused by us.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes(), |_| ())
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"", |_| ())
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"", |_| ())
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"", |_| ())
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }
}

/// How layers are compressed.
#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => gzip(bytes),
        Packing::Zstd => {
            // Two frames with a note between them, as tools that fetch layers in parts write them.
            let (one, other) = bytes.split_at(bytes.len() / 2);
            let frame =
                |part: &[u8]| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest);
            let note = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
            [frame(one), note.clone(), frame(other), note].concat()
        }
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A container image: pieces by digest, and the digest of what leads to them.
#[derive(Default, Clone)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Image {
    pub(crate) fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({ "mediaType": kind, "digest": digest, "size": bytes.len() });
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Adds an image for an architecture; gives the descriptor of its manifest.
    pub(crate) fn add(&mut self, arch: &str, layers: &[Layer], packing: Packing) -> Value {
        let diffs: Vec<_> = layers.iter().map(|layer| sha256(&layer.tar())).collect();
        let config = json!({
            "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diffs },
            "config": { "Env": ["HOSTILE=1"], "Entrypoint": ["/bin/x"] }
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar", pack(&layer.tar(), packing)))
            .collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().into_bytes());
        descriptor["platform"] = json!({ "os": "linux", "architecture": arch });
        descriptor
    }

    /// Adds an index; gives its descriptor.
    pub(crate) fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.blob(INDEX, index.to_string().into_bytes())
    }

    /// Writes a layout.
    pub(crate) fn write(&self, folder: &Path, manifests: &[Value]) -> String {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        for (name, bytes) in self.files(manifests) {
            fs::write(folder.join(name), bytes).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    }

    /// The files of a layout.
    pub(crate) fn files(&self, manifests: &[Value]) -> Vec<(String, Vec<u8>)> {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        files.extend(
            self.blobs.iter().map(|(digest, bytes)| (format!("blobs/{}", digest.replace(':', "/")), bytes.clone())),
        );
        files
    }
}

/// A layout with one image of these layers.
pub(crate) fn layout(folder: &Path, layers: &[Layer], packing: Packing) -> String {
    let mut image = Image::default();
    let manifest = image.add("amd64", layers, packing);
    image.write(&folder.join("layout"), &[manifest])
}

pub(crate) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A folder with programs of this machine and the libraries they need.
pub(crate) fn system(folder: &Path, programs: &[&str]) -> PathBuf {
    let root = folder.join("system");
    let put = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if !to.exists() {
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        }
    };
    for name in programs {
        let from = ["/bin", "/usr/bin", "/usr/sbin"]
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.exists());
        let from = from.unwrap();
        put(&from.canonicalize().unwrap(), &format!("bin/{name}"));
        let needs = Command::new("ldd").arg(&from).output().unwrap();
        for word in String::from_utf8_lossy(&needs.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            put(&Path::new(word).canonicalize().unwrap(), word);
        }
    }
    root
}

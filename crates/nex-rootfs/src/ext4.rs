//! The file system: made and read by the tools of e2fsprogs, which need neither root nor a mount.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::{CONTENTS, Contents, RootfsError, SMALLEST, file};

/// Identifier and seed of every image: what differs between two images is their files.
const UUID: &str = "6e657865-6e67-4e65-8f6f-726e61747300";

/// All features by name: what is left out would be as the machine that builds is configured. No journal: nobody writes.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,\
                        extra_isize,metadata_csum";

/// Room for the workload's own needs on top of the files, MiB. Little: guests write to a layer of their own.
const ROOM: u64 = 4;

/// Makes an image of a folder.
pub(crate) fn make(root: &Path, image: &Path, size_mib: Option<u64>) -> Result<(), RootfsError> {
    let Needed { mib: needed, inodes } = needed(root)?;
    let size = size_mib.unwrap_or(needed);
    if size < needed.saturating_sub(ROOM).max(SMALLEST) {
        return Err(RootfsError::TooSmall { needed, given: size });
    }
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-O", FEATURES, "-U", UUID, "-E"])
        .arg(format!("hash_seed={UUID},root_owner=0:0,lazy_itable_init=0,nodiscard"))
        // As many as there are files and some: the tool's own guess depends on the size and on its configuration.
        .args(["-I", "256", "-N"])
        .arg(inodes.to_string())
        .arg("-d")
        .arg(root)
        .arg(image)
        .arg(format!("{size}M"))
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("SOURCE_DATE_EPOCH", "1");
    run("mke2fs", &mut make)?;
    settle(root, image)
}

/// What the files take.
struct Needed {
    mib: u64,
    inodes: u64,
}

fn needed(root: &Path) -> Result<Needed, RootfsError> {
    /// Bytes and files below.
    fn below(path: &Path) -> io::Result<(u64, u64)> {
        let meta = path.symlink_metadata()?;
        if !meta.is_dir() {
            return Ok((meta.len().div_ceil(4096) * 4096, 1));
        }
        let (mut sum, mut count, mut names) = (0, 1, 0);
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            names += 16 + entry.file_name().len() as u64;
            let (more, files) = below(&entry.path())?;
            (sum, count) = (sum + more, count + files);
        }
        Ok((sum + (2 * names).div_ceil(4096).max(1) * 4096, count))
    }
    let (sum, count) = below(root).map_err(file("cannot read", root))?;
    let inodes = count + count / 8 + 64;
    // Inodes, bitmaps and extent trees.
    let total = sum + sum / 32 + inodes * 256;
    Ok(Needed { mib: (total.div_ceil(1 << 20) + ROOM + 4).max(SMALLEST), inodes })
}

/// Gives every file to root and to the same moment: the tool takes over who staged it, and when.
fn settle(root: &Path, image: &Path) -> Result<(), RootfsError> {
    let mut commands = String::new();
    set("/", &mut commands);
    list(root, "", &mut commands).map_err(file("cannot read", root))?;
    let script = image.with_extension("settled");
    fs::write(&script, commands).map_err(file("cannot write", &script))?;
    let mut debugfs = Command::new("debugfs");
    let output = run("debugfs", debugfs.arg("-w").arg("-f").arg(&script).arg(image))?;
    // The tool ends well whatever becomes of its commands; what it complains of it writes beside its version.
    let complaint =
        String::from_utf8_lossy(&output.stderr).lines().find(|line| !line.starts_with("debugfs ")).map(str::to_owned);
    match complaint {
        Some(reason) => Err(RootfsError::ToolFailed { tool: "debugfs", reason }),
        None => Ok(()),
    }
}

fn list(path: &Path, name: &str, commands: &mut String) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        set(&name, commands);
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &name, commands)?;
        }
    }
    Ok(())
}

fn set(name: &str, commands: &mut String) {
    for (field, value) in [("uid", "0"), ("gid", "0"), ("atime", "@1"), ("ctime", "@1"), ("crtime", "@1")] {
        // Writing to a string cannot fail.
        let _ = writeln!(commands, "set_inode_field \"{name}\" {field} {value}");
    }
}

/// What an image says of itself.
///
/// # Errors
/// [`RootfsError::NotOurs`] when it says nothing, or is no image.
pub fn contents(image: &Path) -> Result<Contents, RootfsError> {
    fs::File::open(image).map_err(file("cannot read", image))?;
    let not_ours = |reason: String| RootfsError::NotOurs { path: image.to_owned(), reason };
    let mut debugfs = Command::new("debugfs");
    let output = run("debugfs", debugfs.arg("-R").arg(format!("cat /{CONTENTS}")).arg(image))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| not_ours(format!("it has no /{CONTENTS} ({})", last_line(&output.stderr))))
}

fn run(tool: &'static str, command: &mut Command) -> Result<Output, RootfsError> {
    let output = command.stdin(Stdio::null()).output();
    // Where root's programs are not on the path.
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut again = Command::new(Path::new("/usr/sbin").join(tool));
            again.args(command.get_args()).stdin(Stdio::null());
            again.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            again.output()
        }
        other => other,
    };
    let output = output.map_err(|_| RootfsError::Tool(tool))?;
    if !output.status.success() {
        return Err(RootfsError::ToolFailed { tool, reason: last_line(&output.stderr) });
    }
    Ok(output)
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it does not say why").to_owned()
}

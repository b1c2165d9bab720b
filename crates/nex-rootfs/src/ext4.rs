//! The file system: made and read by the tools of e2fsprogs, which need neither root nor a mount.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::file;
use crate::tree::{Attributes, Tree};
use crate::{CONTENTS, Contents, RootfsError, SMALLEST};

/// Identifier and seed of every image: what differs between two images is their files.
const UUID: &str = "6e657865-6e67-4e65-8f6f-726e61747300";

/// All features by name: what is left out would be as the machine that builds is configured. No journal: nobody writes.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,\
                        extra_isize,metadata_csum";

/// Room for the workload's own needs on top of the files, MiB. Little: guests write to a layer of their own.
const ROOM: u64 = 4;

/// The inode of the root; of every ext4.
const ROOT: u64 = 2;

/// Makes an image of the staging folder.
pub(crate) fn make(tree: &Tree, image: &Path, size_mib: Option<u64>) -> Result<(), RootfsError> {
    let Needed { mib: needed, inodes } = needed(tree)?;
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
        .arg(tree.root())
        .arg(image)
        .arg(format!("{size}M"));
    run("mke2fs", &mut make)?;
    settle(tree, image)
}

/// What the files take.
struct Needed {
    mib: u64,
    inodes: u64,
}

fn needed(tree: &Tree) -> Result<Needed, RootfsError> {
    let (mut sum, mut count) = (0, 0);
    let mut seen = HashSet::new();
    for (path, meta) in tree.walk()? {
        // Each name takes room in its folder; a file with several has its bytes once.
        sum += 2 * (16 + path.file_name().unwrap_or_default().len() as u64);
        if meta.is_dir() {
            sum += 4096;
        } else if meta.nlink() == 1 || seen.insert(meta.ino()) {
            sum += meta.len().div_ceil(4096) * 4096;
        }
        count += 1;
    }
    let inodes = count + count / 8 + 64;
    // Inodes, bitmaps and extent trees.
    let total = sum + sum / 32 + inodes * 256;
    Ok(Needed { mib: (total.div_ceil(1 << 20) + ROOM + 4).max(SMALLEST), inodes })
}

/// Gives every file its owner and mode, and all of them the same moment: the tool takes over who staged them, and when.
fn settle(tree: &Tree, image: &Path) -> Result<(), RootfsError> {
    let numbers = numbers(image)?;
    let mut commands = String::new();
    for (path, meta) in tree.walk()? {
        let Attributes { uid, gid, mode } = tree.attributes(&path);
        let name = path.strip_prefix(tree.root()).unwrap_or(&path);
        let number = numbers.get(name).ok_or_else(|| RootfsError::ToolFailed {
            tool: "mke2fs",
            reason: format!("there is no {name:?} in what it made"),
        })?;
        let mut set = |field: &str, value: &str| {
            // Writing into a string does not fail.
            let _ = writeln!(commands, "set_inode_field <{number}> {field} {value}");
        };
        set("uid", &uid.to_string());
        set("gid", &gid.to_string());
        if let Some(mode) = mode {
            let kind = meta.permissions().mode() & !0o7777;
            set("mode", &format!("0{:o}", kind | mode));
        }
        for field in ["atime", "ctime", "crtime"] {
            set(field, "@1");
        }
    }
    script(image, &commands).map(drop)
}

/// The inode of every path of an image, below its root.
///
/// Names are read from debugfs and never told to it. It takes its script in pieces of a fixed length and gives a piece that
/// begins with `!` to a shell: with the names of a hostile base in it, the base would choose what is run.
fn numbers(image: &Path) -> Result<HashMap<PathBuf, u64>, RootfsError> {
    let mut found = HashMap::from([(PathBuf::new(), ROOT)]);
    let mut folders = vec![(PathBuf::new(), ROOT)];
    // A level of folders at a time; how many there are is bounded by `tree::DEEPEST`.
    while !folders.is_empty() {
        let commands: String = folders.iter().map(|(_, number)| format!("ls -p <{number}>\n")).collect();
        let output = script(image, &commands)?;
        let mut listed = std::mem::take(&mut folders).into_iter();
        let mut here = None;
        for line in output.stdout.split(|byte| *byte == b'\n') {
            // Before what a command says the tool repeats the command; what is said of files begins with a slash.
            if line.starts_with(b"debugfs: ") {
                here = listed.next();
                continue;
            }
            let Some(((folder, _), Listed { number, is_folder, name })) = here.as_ref().zip(listed_file(line)) else {
                continue;
            };
            let path = folder.join(name);
            if is_folder {
                folders.push((path.clone(), number));
            }
            found.insert(path, number);
        }
    }
    Ok(found)
}

/// A line of a folder's list.
struct Listed<'a> {
    number: u64,
    is_folder: bool,
    name: &'a OsStr,
}

/// `/inode/mode/owner/group/name/length/`; none for what is no file, and for the folder itself and the one around it.
fn listed_file(line: &[u8]) -> Option<Listed<'_>> {
    let mut parts = line.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    let number = std::str::from_utf8(parts.next()?).ok()?.parse().ok().filter(|number| *number != 0)?;
    let is_folder = parts.next()?.starts_with(b"04");
    let name = parts.nth(2).filter(|name| !matches!(*name, b"" | b"." | b".."))?;
    Some(Listed { number, is_folder, name: OsStr::from_bytes(name) })
}

/// Has debugfs do what the lines say. They are of numbers and words of ours: nothing of the base may get into them.
fn script(image: &Path, commands: &str) -> Result<Output, RootfsError> {
    let script = image.with_extension("script");
    fs::write(&script, commands).map_err(file("cannot write", &script))?;
    let mut debugfs = Command::new("debugfs");
    let output = run("debugfs", debugfs.arg("-w").arg("-f").arg(&script).arg(image))?;
    // The tool ends well whatever becomes of its commands.
    match first_complaint(&output.stderr) {
        complaint if complaint.is_empty() => Ok(output),
        reason => Err(RootfsError::ToolFailed { tool: "debugfs", reason }),
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
        .map_err(|_| not_ours(format!("it has no /{CONTENTS} ({})", first_complaint(&output.stderr))))
}

fn run(tool: &'static str, command: &mut Command) -> Result<Output, RootfsError> {
    // When an image was last written is in it, too.
    command.env("E2FSPROGS_FAKE_TIME", "1").env("SOURCE_DATE_EPOCH", "1");
    // No pager of the builder's is to show lists of files.
    command.env("DEBUGFS_PAGER", "__none__");
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

/// What debugfs complains of first; it writes its version beside it.
fn first_complaint(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().find(|line| !line.starts_with("debugfs ")).unwrap_or_default().to_owned()
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it does not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_name_is_in_what_debugfs_is_told_to_do() {
        if Command::new("/usr/sbin/debugfs").arg("-V").output().is_err() {
            eprintln!("SKIPPED: no image was made: there is no debugfs");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::create(&folder.path().join("root")).unwrap();
        let quotes = "\"".repeat(250);
        let names = [
            format!("{quotes}/{quotes}/{quotes}/\n!touch pwned;#").replace('\n', "\""),
            "!touch pwned".to_owned(),
            "debugfs: ls -p <2>".to_owned(),
            "<2>".to_owned(),
            " a \" uid 5 \\".to_owned(),
        ];
        for name in &names {
            tree.write(name, b"x", 0o644).unwrap();
            let path = tree.root().join(name);
            tree.mark(&path, Attributes { uid: 77, gid: 78, mode: None });
        }
        let image = folder.path().join("image");
        make(&tree, &image, None).unwrap();
        let told = fs::read_to_string(image.with_extension("script")).unwrap();
        let ours = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || " _<>@".contains(c);
        for line in told.lines() {
            assert!(line.starts_with("set_inode_field <") && line.len() < 80 && line.chars().all(ours), "{line}");
        }
        let numbers = numbers(&image).unwrap();
        for name in &names {
            let number = numbers.get(Path::new(name)).unwrap();
            let stat = Command::new("/usr/sbin/debugfs").arg("-R").arg(format!("stat <{number}>")).arg(&image).output();
            let stat = String::from_utf8(stat.unwrap().stdout).unwrap();
            assert!(stat.contains("User:    77   Group:    78"), "{name}: {stat}");
        }
    }

    #[test]
    fn lists_of_files_are_read() {
        let read = |line: &str| listed_file(line.as_bytes()).map(|file| (file.number, file.is_folder));
        assert_eq!(read("/12/040755/0/0/a b//"), Some((12, true)));
        assert_eq!(read("/13/100644/0/0/debugfs: x/2/"), Some((13, false)));
        for none in ["/2/040755/0/0/.//", "/2/040755/0/0/..//", "/0/000000/0/0/x/0/", "", "/x", "debugfs: ls -p <2>"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}

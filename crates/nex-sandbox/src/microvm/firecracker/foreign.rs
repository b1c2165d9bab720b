//! User ids that the host has given to its users for user namespaces (`/etc/subuid`, `/etc/subgid`; see subuid(5)). A machine
//! with such an id would share it with containers of that user: either could end, trace and read the other. Reads only.

use std::fmt;

/// Ids of machines that somebody else has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The file that gives them.
    file: &'static str,
    /// To whom.
    name: String,
    first: u64,
    last: u64,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gives {} to {} to {}", self.file, self.first, self.last, self.name)
    }
}

/// What of the host's files overlaps this range of ids.
pub fn given_ids(first: u32, count: u32) -> Vec<Given> {
    // A host without the file gives nothing away.
    let read = |file| overlaps(file, &std::fs::read_to_string(file).unwrap_or_default(), first, count);
    ["/etc/subuid", "/etc/subgid"].into_iter().flat_map(read).collect()
}

/// The lines `name:first:count` that overlap the range.
fn overlaps(file: &'static str, text: &str, first: u32, count: u32) -> Vec<Given> {
    let (ours, end) = (u64::from(first), u64::from(first) + u64::from(count));
    let given = text.lines().filter_map(|line| {
        let mut fields = line.trim().splitn(3, ':');
        let name = fields.next()?.to_owned();
        let first: u64 = fields.next()?.trim().parse().ok()?;
        let count: u64 = fields.next()?.trim().parse().ok()?;
        let last = first.saturating_add(count.checked_sub(1)?);
        (first < end && last >= ours).then_some(Given { file, name, first, last })
    });
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_share_an_id_are_found_and_neighbours_are_not() {
        let text = "alice:100000:65536\n# a comment\nbob:1899999000:1001\n\ncarol:1900004096:10\ndave:1900004095:1\nbroken:x:1\n\
                    nobody:1900000000:0\nall:0:4294967295\n";
        let found = overlaps("/etc/subuid", text, 1_900_000_000, 4096);
        let names: Vec<&str> = found.iter().map(|given| given.name.as_str()).collect();
        assert_eq!(names, ["bob", "dave", "all"]);
        assert_eq!(found[0].to_string(), "/etc/subuid gives 1899999000 to 1900000000 to bob");
        assert!(overlaps("/etc/subuid", "", 1, 4096).is_empty());
    }
}

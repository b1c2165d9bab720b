//! What `logs` and `events` have in common: reading a feed to its end, and times for people.

use anyhow::Result;
use nex_client::feed::{Feed, Item};
use nex_client::{Client, ClientError};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::args::FeedArgs;

/// Shows the items of a feed, `show` one after the other, until it ends or as many were shown as were asked for. `show`
/// tells whether it did show the item. A subject that may be missing is named in `dispensable`: that this user may not
/// read it is told and no more.
pub(super) async fn each(
    client: &Client,
    domain: Option<&str>,
    subjects: Vec<String>,
    dispensable: &str,
    args: &FeedArgs,
    mut show: impl FnMut(&Item) -> Result<bool>,
) -> Result<()> {
    let mut feed: Feed = client.feed(domain, subjects, args.reach()).await?;
    let mut left = args.count;
    while left != Some(0) {
        let item = match feed.next().await {
            Ok(Some(item)) => item,
            Ok(None) => break,
            Err(ClientError::Denied { subject, reason }) if subject.starts_with(dispensable) => {
                tracing::warn!(subject, reason, "this user does not see the nodes' own events");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if show(&item)? {
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}

/// A time as RFC 3339 has it, in UTC, to the millisecond.
pub(super) fn clock(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time.to_offset(time::UtcOffset::UTC).format(form).unwrap_or_default()
}

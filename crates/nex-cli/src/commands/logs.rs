//! `nex logs`: the output of workloads, line by line.
//!
//! Nodes send each line on `$NEX.logs.<namespace>.<node>.<workload id>.<workload name>`. Those of Go Nex send some with
//! name and id the other way round, and 0.3.0-rc1 leaves out the name: all are read, by looking at both places.

use anyhow::Result;
use nex_client::feed::Item;
use nex_protocol::log::{Entry, Level};
use serde::Serialize;

use super::session::Session;
use super::{feed, node_reference};
use crate::args::{GlobalArgs, LogsArgs};
use crate::output;

/// A line as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    time: String,
    namespace: String,
    node_id: String,
    workload_id: String,
    workload_name: String,
    level: Level,
    text: String,
}

pub(super) async fn run(global: &GlobalArgs, args: &LogsArgs) -> Result<()> {
    let session = Session::open(global).await?;
    let client = &session.client;
    let node = match &args.node {
        Some(node) => node_reference::resolve(client, node).await?,
        None => "*".to_owned(),
    };
    let subject = format!("$NEX.logs.{}.{node}.>", client.namespace());
    // No name stands for the workload's in a subject: which place it is in depends on the node. So all are read here.
    feed::each(client, session.jsdomain.as_deref(), vec![subject], "-", &args.feed, |item| {
        let Some(line) = read(item).filter(|line| wanted(line, args)) else { return Ok(false) };
        output::line(if args.feed.json { serde_json::to_string(&line)? } else { shown(&line) })?;
        Ok(true)
    })
    .await
}

fn read(item: &Item) -> Option<Line> {
    let mut tokens = item.subject.strip_prefix("$NEX.logs.")?.split('.');
    let (namespace, node, first, second) = (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next());
    // What is no entry is a line all the same.
    let entry = serde_json::from_slice(&item.body).unwrap_or_else(|_| Entry {
        text: String::from_utf8_lossy(&item.body).into_owned(),
        level: Level::Info,
        id: String::new(),
    });
    let (id, name) = match second {
        Some(second) if !entry.id.is_empty() && second == entry.id => (second, first),
        other => (first, other.unwrap_or_default()),
    };
    Some(Line {
        time: feed::clock(item.time),
        namespace: namespace.to_owned(),
        node_id: node.to_owned(),
        workload_id: id.to_owned(),
        workload_name: name.to_owned(),
        level: entry.level,
        text: entry.text,
    })
}

fn wanted(line: &Line, args: &LogsArgs) -> bool {
    let is = |asked: &Option<String>, found: &str| asked.as_ref().is_none_or(|asked| asked == found);
    line.level >= args.level && is(&args.workload_name, &line.workload_name) && is(&args.workload_id, &line.workload_id)
}

fn shown(line: &Line) -> String {
    let level = match line.level {
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    let workload = if line.workload_name.is_empty() { &line.workload_id } else { &line.workload_name };
    let text = if output::to_terminal() { output::shown(&line.text) } else { line.text.clone() };
    format!("{} {level:<5} {}  {text}", line.time, output::shown(workload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use time::OffsetDateTime;

    fn line(subject: &str, body: &str) -> Option<Line> {
        let time = OffsetDateTime::from_unix_timestamp(1_720_000_000).unwrap();
        read(&Item { subject: subject.to_owned(), time, body: body.to_owned().into() })
    }

    #[test]
    fn the_workload_is_found_in_either_order_and_without_a_name() {
        let body = r#"{"text":"hi","level":"WARN","id":"id1"}"#;
        for (subject, name) in [
            ("$NEX.logs.shop.N1.id1.cart", "cart"),
            ("$NEX.logs.shop.N1.cart.id1", "cart"),
            ("$NEX.logs.shop.N1.id1", ""),
        ] {
            let line = line(subject, body).unwrap();
            assert_eq!((line.workload_id.as_str(), line.workload_name.as_str()), ("id1", name), "{subject}");
            assert_eq!((line.namespace.as_str(), line.node_id.as_str()), ("shop", "N1"));
        }
        assert_eq!(line("$NEX.logs.shop", body), None);
    }

    #[test]
    fn what_is_no_entry_is_shown_as_it_is() {
        let line = line("$NEX.logs.system.N1.stdout", "plain").unwrap();
        assert_eq!((line.level, line.text.as_str()), (Level::Info, "plain"));
    }

    #[test]
    fn filters_leave_out_what_is_less_severe_or_of_others() {
        let line = line("$NEX.logs.shop.N1.id1.cart", r#"{"text":"hi","level":"WARN","id":"id1"}"#).unwrap();
        for (flags, expected) in [
            ("", true),
            (" --level warn", true),
            (" --level ERROR", false),
            (" --workload_name cart --workload_id id1", true),
            (" --workload_name other", false),
            (" --workload-id other", false),
        ] {
            let Command::Logs(args) = Cli::parse_from(format!("nex logs{flags}").split(' ')).command else { panic!() };
            assert_eq!(wanted(&line, &args), expected, "{flags}");
        }
    }
}

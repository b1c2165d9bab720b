//! Limits of a workload, as people write them: half a processor, 64 MiB, two seconds.

use std::time::Duration;

use clap::Args;
use nex_protocol::control::limits::WorkloadLimits;

use super::duration;

/// What a workload may take.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Processors it may use, such as 0.5 or 500m
    #[arg(long, value_name = "NUMBER", value_parser = cpu)]
    cpu: Option<u64>,
    /// Memory it may use, such as 64MiB or 1GiB (a number alone is MiB)
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Agents of a function that may run at a time
    #[arg(long = "max_instances", alias = "max-instances", value_name = "NUMBER",
          value_parser = clap::value_parser!(u64).range(1..))]
    max_instances: Option<u64>,
    /// Time one call of a function may take, such as 500ms
    #[arg(long = "call_timeout", alias = "call-timeout", value_name = "DURATION", value_parser = duration::parse)]
    call_timeout: Option<Duration>,
    /// Calls that one agent of a function runs at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    concurrency: Option<u64>,
    /// Time without a call after which a function's agents are let go, such as 10m; 0 keeps them
    #[arg(long = "idle_timeout", alias = "idle-timeout", value_name = "DURATION", value_parser = duration_or_zero)]
    idle_timeout: Option<Duration>,
}

impl LimitArgs {
    /// The limits as they are sent.
    pub(crate) fn limits(&self) -> WorkloadLimits {
        WorkloadLimits {
            cpu_millis: self.cpu,
            memory_mib: self.memory,
            max_instances: self.max_instances,
            // At least one: the wire knows no smaller unit, and nothing would mean "no time".
            timeout_ms: self.call_timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)),
            concurrency: self.concurrency,
            idle_timeout_ms: self.idle_timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Whether a limit was given that only functions have.
    pub(crate) fn of_functions(&self) -> bool {
        self.max_instances.is_some()
            || self.call_timeout.is_some()
            || self.concurrency.is_some()
            || self.idle_timeout.is_some()
    }
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}

/// Thousandths of a processor.
fn cpu(text: &str) -> Result<u64, String> {
    let invalid = || format!("'{text}' is no number of processors: write 0.5, 2 or 500m");
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse().map_err(|_| invalid())?,
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
            if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid());
            }
            let whole: u64 = whole.parse().map_err(|_| invalid())?;
            let part: u64 = format!("{part:0<3}").parse().map_err(|_| invalid())?;
            whole.checked_mul(1000).and_then(|whole| whole.checked_add(part)).ok_or_else(invalid)?
        }
    };
    if millis == 0 { Err("a workload needs more than no processor".to_owned()) } else { Ok(millis) }
}

/// MiB.
fn memory(text: &str) -> Result<u64, String> {
    let invalid = || format!("'{text}' is no size: write 64MiB, 1GiB or a number of MiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mi" | "mib" => 1,
        "g" | "gi" | "gib" => 1024,
        _ => return Err(invalid()),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    match number.checked_mul(factor) {
        Some(0) => Err("a workload needs more than no memory".to_owned()),
        Some(mib) => Ok(mib),
        None => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_whole_parts_or_thousandths() {
        for (text, millis) in [("1", 1000), ("0.5", 500), ("1.25", 1250), ("250m", 250), ("0.001", 1)] {
            assert_eq!(cpu(text), Ok(millis), "{text}");
        }
        for text in ["", "0", "0m", "-1", "1.", ".5x", "0.0001", "m", "1,5", "99999999999999999999"] {
            assert!(cpu(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_in_mib_unless_they_say_otherwise() {
        for (text, mib) in [("64", 64), ("64MiB", 64), ("64m", 64), ("2GiB", 2048), ("1g", 1024)] {
            assert_eq!(memory(text), Ok(mib), "{text}");
        }
        for text in ["", "0", "MiB", "64KB", "64MB", "1.5GiB", "-1", "99999999999999999999"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }
}

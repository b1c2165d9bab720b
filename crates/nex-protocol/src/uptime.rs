//! Durations as Go Nex prints them: `1y2d3h4m5s`, beginning at the largest unit that is not zero.

use std::time::Duration;

/// `[y]y[d]d[h]h[m]m[s]s`; a year has 365 days.
pub fn format(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let parts = [
        (seconds / 31_536_000, 'y'),
        (seconds / 86_400 % 365, 'd'),
        (seconds / 3_600 % 24, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    parts.iter().skip(first).map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// Accumulated run time of a function: `<n>ns` under 1 µs, `<n>ms` under 1 s (with its fraction, which Go Nex cuts
/// off), else as [`format()`].
pub fn runtime(total: Duration) -> String {
    if total < Duration::from_micros(1) {
        format!("{}ns", total.as_nanos())
    } else if total < Duration::from_secs(1) {
        format!("{:.3}ms", total.as_secs_f64() * 1000.0)
    } else {
        format(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_the_largest_unit_that_is_not_zero() {
        for (seconds, text) in
            [(0, "0s"), (5, "5s"), (245, "4m5s"), (527, "8m47s"), (3_600, "1h0m0s"), (31_719_845, "1y2d3h4m5s")]
        {
            assert_eq!(format(Duration::from_secs(seconds)), text);
        }
    }
}

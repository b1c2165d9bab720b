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
        let micros = total.as_micros();
        format!("{}.{:03}ms", micros / 1000, micros % 1000)
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

    #[test]
    fn a_runtime_has_three_places_of_milliseconds_and_other_units_below_and_above() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "0.001ms"),
            (1_893_000, "1.893ms"),
            (340_000_000, "340.000ms"),
            (999_999_999, "999.999ms"),
            (1_000_000_000, "1s"),
            (245_000_000_000, "4m5s"),
        ] {
            assert_eq!(runtime(Duration::from_nanos(nanos)), text);
        }
    }
}

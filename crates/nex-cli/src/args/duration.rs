//! Durations as Go writes them: `500ms`, `2s`, `1m30s`.

use std::time::Duration;

/// Parses a duration that is longer than nothing.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("'{text}' is no duration: write 500ms, 2s or 1m30s");
    let mut rest = text;
    let mut seconds = 0.0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        seconds += number.parse::<f64>().map_err(|_| invalid())? * unit;
        rest = tail;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("a duration must be longer than nothing".to_owned()),
        Err(_) => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_go_are_read() {
        for (text, ms) in
            [("500ms", 500), ("2s", 2000), ("1m", 60_000), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse("5µs"), Ok(Duration::from_micros(5)));
    }

    #[test]
    fn what_is_no_duration_is_told() {
        for text in ["", "5", "s", "-1s", "1d", "1.2.3s", "0s", "ms5", "1e400h", "9999999999999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

//! Durations as people write them in a spec: `720h`, `1h30m`, `90s`.

/// The pattern of a duration in the schema: hours, minutes, seconds, each with at most six digits.
pub const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$";

/// Parses a duration such as `720h`, `1h30m` or `90s`; whole seconds. `None` when the text is not of [`PATTERN`] or is zero.
#[must_use]
pub fn parse_duration(text: &str) -> Option<jiff::SignedDuration> {
    let mut rest = text;
    let mut seconds: i64 = 0;
    for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((digits, after)) = rest.split_once(unit) {
            if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_digit())
            {
                return None;
            }
            seconds += digits.parse::<i64>().ok()? * factor;
            rest = after;
        }
    }
    (rest.is_empty() && seconds > 0).then(|| jiff::SignedDuration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let secs = |t: &str| parse_duration(t).map(|d| d.as_secs());
        assert_eq!(secs("720h"), Some(2_592_000));
        assert_eq!(secs("1h30m"), Some(5400));
        assert_eq!(secs("90s"), Some(90));
        for bad in ["", "0s", "1d", "5", "h", "1m1h", "-1h", "1234567h", "1.5h"] {
            assert_eq!(secs(bad), None, "{bad}");
        }
    }
}

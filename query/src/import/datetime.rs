//! Recognises RFC 3339 instants, to tell dates from other strings.

/// Microseconds from 1970-01-01T00:00:00Z to the instant that `text` names; none where it is not RFC 3339
/// (section 5.6, with `T` or a space). Digits below a microsecond are dropped; a leap second counts as the
/// next second.
pub(super) fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, len: usize| -> Option<i64> {
        let digits = bytes.get(from..from + len)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, accepted: &[u8]| bytes.get(at).is_some_and(|byte| accepted.contains(byte));
    let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let day_max =
        days_from_civil(year + month / 12, month % 12 + 1, 1) - days_from_civil(year, month.max(1), 1);
    if !(1..=12).contains(&month) || day < 1 || day > day_max || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if is(at, b".") {
        let len = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let kept = len.min(6);
        micros = digits(at + 1, kept).filter(|_| len > 0)? * 10_i64.pow(6 - kept as u32);
        at += 1 + len;
    }
    let offset = if is(at, b"Zz") {
        at += 1;
        0
    } else {
        let sign = if is(at, b"+") { 1 } else { -1 };
        let (hours, minutes) = (digits(at + 1, 2)?, digits(at + 4, 2)?);
        if !is(at, b"+-") || !is(at + 3, b":") || hours > 23 || minutes > 59 {
            return None;
        }
        at += 6;
        sign * (hours * 60 + minutes)
    };
    let seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute - offset) * 60 + second;
    (at == bytes.len()).then_some(seconds * 1_000_000 + micros)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; the year is at least 0, the month 1 to 12.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Counted in years that start in March, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Days before a month, from March: 0, 31, 61, 92, ...
    let month_days = (month * 153 + 2) / 5;
    let days_to_march_of_1970 = 719_468;
    year * 365 + leap_days + month_days + day - 1 - days_to_march_of_1970
}

#[cfg(test)]
mod tests {
    use super::parse_rfc3339;

    #[test]
    fn instants() {
        let known = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01 00:00:01.5z", 1_500_000),
            ("2000-02-29T12:00:00Z", 951_825_600_000_000),
            ("2026-03-01T00:00:00+01:00", 1_772_319_600_000_000),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("9999-12-31T23:59:60Z", 253_402_300_800_000_000),
        ];
        for (text, micros) in known {
            assert_eq!(parse_rfc3339(text), Some(micros), "{text}");
        }
    }

    #[test]
    fn other_strings() {
        let bad = [
            "",
            "2024",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00Zx",
            "2024-01-01T00:00:00+1:00",
            "2024-01-01T00:00:00*01:00",
            "2024/01/01T00:00:00Z",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00+\u{E9}1:00",
        ];
        for text in bad {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}

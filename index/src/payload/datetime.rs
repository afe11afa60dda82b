//! Instants as text: RFC 3339 to microseconds since 1970-01-01T00:00:00Z and back.
//!
//! Used once, at the door; everywhere else an instant is an `i64`. Covers the years 0000 to 9999 of the
//! proleptic Gregorian calendar, as RFC 3339 does. It is no calendar library: no local time zones, no
//! arithmetic.

/// Microseconds of a second.
const SECOND_US: i64 = 1_000_000;
/// Seconds of a day; leap seconds are not counted, as in Unix time.
const DAY_S: i64 = 86_400;
/// 0000-01-01T00:00:00Z.
const FIRST_US: i64 = days_from_civil(0, 1, 1) * DAY_S * SECOND_US;
/// The last microsecond of the year 9999.
const LAST_US: i64 = days_from_civil(10_000, 1, 1) * DAY_S * SECOND_US - 1;

/// Microseconds since 1970-01-01T00:00:00Z of an RFC 3339 date-time such as `2026-02-28T09:30:00.25+01:00`.
///
/// The offset (`Z` or `±hh:mm`) is required. `t`, `z` and a space instead of `T` are accepted. Digits of the
/// fraction beyond microseconds are cut off. A leap second (`23:59:60` in UTC) is the first second of the
/// next day. None for anything else, a date without a time included, and for instants that fall outside the
/// years 0000 to 9999 in UTC.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    mark(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    mark(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    mark(&mut rest, b"Tt ")?;
    let hour = digits(&mut rest, 2)?;
    mark(&mut rest, b":")?;
    let minute = digits(&mut rest, 2)?;
    mark(&mut rest, b":")?;
    let second = digits(&mut rest, 2)?;
    let fraction_us = if rest.first() == Some(&b'.') { fraction(&mut rest)? } else { 0 };
    let offset_s = offset(&mut rest)?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range || !rest.is_empty() {
        return None;
    }
    let utc_s = days_from_civil(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - offset_s;
    if second == 60 && utc_s.rem_euclid(DAY_S) != 0 {
        return None;
    }
    let utc_us = utc_s * SECOND_US + fraction_us;
    (FIRST_US..=LAST_US).contains(&utc_us).then_some(utc_us)
}

/// An instant as RFC 3339 text in UTC, with a fraction of six digits unless it is zero.
///
/// `us` is microseconds since 1970-01-01T00:00:00Z. None outside the years 0000 to 9999.
pub fn format(us: i64) -> Option<String> {
    if !(FIRST_US..=LAST_US).contains(&us) {
        return None;
    }
    let (seconds, fraction_us) = (us.div_euclid(SECOND_US), us.rem_euclid(SECOND_US));
    let (days, of_day) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction_us != 0 {
        text.push_str(&format!(".{fraction_us:06}"));
    }
    text.push('Z');
    Some(text)
}

/// Exactly `count` digits as a number.
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

/// One byte out of `allowed`.
fn mark(rest: &mut &[u8], allowed: &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    allowed.contains(first).then_some(*first)
}

/// A point and at least one digit, as microseconds rounded down.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    mark(rest, b".")?;
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, tail) = rest.split_at(count);
    *rest = tail;
    if count == 0 {
        return None;
    }
    Some((0..6).fold(0, |us, at| us * 10 + digits.get(at).map_or(0, |byte| i64::from(byte - b'0'))))
}

/// `Z` or `±hh:mm`, as seconds east of UTC.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let sign = match mark(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hour = digits(rest, 2)?;
    mark(rest, b":")?;
    let minute = digits(rest, 2)?;
    (hour < 24 && minute < 60).then_some(sign * (hour * 3600 + minute * 60))
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date. Years begin in March here, so that a leap day is the last of its year; 400
/// years are 146,097 days, and 719,468 days lie between 0000-03-01 and 1970-01-01.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let march_year = if month <= 2 { year - 1 } else { year };
    let era = march_year.div_euclid(400);
    let year_of_era = march_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let known = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600_000_000),
            ("2026-02-28T09:30:00.25+01:00", 1_772_267_400_250_000),
            ("1985-04-12T23:20:50.52Z", 482_196_050_520_000),
            ("1996-12-19T16:39:57-08:00", 851_042_397_000_000),
            ("1990-12-31T23:59:60Z", 662_688_000_000_000),
            ("1990-12-31T15:59:60-08:00", 662_688_000_000_000),
            ("1937-01-01T12:00:27.87+00:20", -1_041_337_172_130_000),
            ("2038-01-19t03:14:07z", 2_147_483_647_000_000),
            ("2038-01-19 03:14:07-00:00", 2_147_483_647_000_000),
            ("2038-01-19T03:14:07.1234569Z", 2_147_483_647_123_456),
        ];
        for (text, us) in known {
            assert_eq!(parse_rfc3339(text), Some(us), "{text}");
        }
        assert_eq!(format(1_772_267_400_250_000).as_deref(), Some("2026-02-28T08:30:00.250000Z"));
        assert_eq!(format(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(format(FIRST_US).as_deref(), Some("0000-01-01T00:00:00Z"));
        assert_eq!(format(LAST_US).as_deref(), Some("9999-12-31T23:59:59.999999Z"));
        assert_eq!(format(LAST_US + 1), None);
        assert_eq!(format(i64::MIN), None);
    }

    #[test]
    fn refused_texts() {
        let refused = [
            "",
            "2026",
            "2026-02-28",
            "2026-02-28T09:30:00",
            "2026-02-28T09:30Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00Z ",
            " 2026-01-01T00:00:00Z",
            "+026-01-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "２０２６-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:60Z",
        ];
        for text in refused {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_day_and_its_neighbours_agree_with_a_walk_through_the_calendar() {
        let (mut year, mut month, mut day) = (0, 1, 1);
        let mut us = FIRST_US;
        while us <= LAST_US {
            assert_eq!(parse_rfc3339(&format!("{year:04}-{month:02}-{day:02}T00:00:00Z")), Some(us));
            assert_eq!(format(us), Some(format!("{year:04}-{month:02}-{day:02}T00:00:00Z")));
            us += DAY_S * SECOND_US;
            day += 1;
            if day > days_of_month(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn what_is_formatted_is_parsed() {
        let step = (LAST_US - FIRST_US) / 99_991;
        for n in 0..99_991 {
            let us = FIRST_US + n * step;
            assert_eq!(parse_rfc3339(&format(us).unwrap()), Some(us));
        }
    }

    #[test]
    fn cuts_of_a_good_text_are_refused_without_a_panic() {
        let text = "2026-02-28T09:30:00.25+01:00";
        for end in 0..text.len() {
            assert_eq!(parse_rfc3339(&text[..end]), None);
        }
    }
}

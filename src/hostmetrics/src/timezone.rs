//! The local time zone's name and offset at a moment: `$TZ`, else `/etc/localtime`, else UTC.
//!
//! Reads TZif files (RFC 9636), version 2 and later with the rule at their end, which slim files need for every year.

use std::path::{Path, PathBuf};

const ZONES: &str = "/usr/share/zoneinfo";
const HEADER: usize = 44;

/// What clocks show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) name: String,
    pub(crate) offset_seconds: i64,
}

/// The zone of this host at `now` (seconds since 1970).
pub(crate) fn local(now: i64) -> Zone {
    let utc = || Zone { name: "UTC".to_owned(), offset_seconds: 0 };
    let path = match std::env::var("TZ") {
        Err(_) => PathBuf::from("/etc/localtime"),
        Ok(name) => match name.strip_prefix(':').unwrap_or(&name) {
            "" => return utc(),
            name => Path::new(ZONES).join(name),
        },
    };
    std::fs::read(path).ok().and_then(|bytes| at(&bytes, now)).unwrap_or_else(utc)
}

/// Six counts of a TZif header: isut, isstd, leap, time, type, character.
fn counts(bytes: &[u8]) -> Option<[usize; 6]> {
    let header = bytes.get(..HEADER).filter(|header| header.starts_with(b"TZif"))?;
    let mut counts = [0; 6];
    for (count, word) in counts.iter_mut().zip(header[20..].chunks_exact(4)) {
        *count = usize::try_from(u32::from_be_bytes(word.try_into().ok()?)).ok()?;
    }
    Some(counts)
}

/// The zone at `now` by a TZif file.
fn at(bytes: &[u8], now: i64) -> Option<Zone> {
    let first = counts(bytes)?;
    // Version 1 has times of four bytes; later ones repeat everything with eight.
    let (bytes, counts, width) = if bytes[4] == 0 {
        (&bytes[HEADER..], first, 4)
    } else {
        let [isut, isstd, leap, time, types, chars] = first;
        let skip = HEADER + time * 5 + types * 6 + chars + leap * 8 + isstd + isut;
        let second = bytes.get(skip..)?;
        (second.get(HEADER..)?, self::counts(second)?, 8)
    };
    let [isut, isstd, leap, time, types, chars] = counts;
    let times = bytes.get(..time * width)?;
    let indices = bytes.get(time * width..time * (width + 1))?;
    let table = bytes.get(time * (width + 1)..)?;
    let names = table.get(types * 6..types * 6 + chars)?;
    let rule = table.get(types * 6 + chars + leap * (width + 4) + isstd + isut..);

    let moment = |word: &[u8]| match width {
        4 => word.try_into().ok().map(|word| i64::from(i32::from_be_bytes(word))),
        _ => word.try_into().ok().map(i64::from_be_bytes),
    };
    let passed = times.chunks_exact(width).filter_map(moment).take_while(|moment| *moment <= now).count();
    if passed == time
        && let Some(rule) = rule.and_then(|rule| std::str::from_utf8(rule).ok()).map(|rule| rule.trim_matches('\n'))
        && !rule.is_empty()
    {
        return by_rule(rule, now);
    }
    let index = if passed == 0 { 0 } else { usize::from(*indices.get(passed - 1)?) };
    let kind = table.get(index * 6..index * 6 + 6)?;
    let offset = i64::from(i32::from_be_bytes(kind[..4].try_into().ok()?));
    let name = names.get(usize::from(kind[5])..)?.split(|byte| *byte == 0).next()?;
    Some(Zone { name: String::from_utf8_lossy(name).into_owned(), offset_seconds: offset })
}

/// A POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`.
fn by_rule(rule: &str, now: i64) -> Option<Zone> {
    let (zones, changes) = rule.split_once(',').map_or((rule, None), |(zones, changes)| (zones, Some(changes)));
    let (name, rest) = zone_name(zones)?;
    let (west, rest) = clock(rest)?;
    let standard = Zone { name, offset_seconds: -west };
    if rest.is_empty() {
        return Some(standard);
    }
    let (name, rest) = zone_name(rest)?;
    let offset = if rest.is_empty() { standard.offset_seconds + 3600 } else { -clock(rest)?.0 };
    let summer = Zone { name, offset_seconds: offset };
    let (begin, end) = changes?.split_once(',')?;
    let year = year_of(now + standard.offset_seconds);
    let begin = change(begin, year)? - standard.offset_seconds;
    let end = change(end, year)? - summer.offset_seconds;
    let in_summer = if begin < end { (begin..end).contains(&now) } else { !(end..begin).contains(&now) };
    Some(if in_summer { summer } else { standard })
}

/// Letters, or anything in `<…>`.
fn zone_name(text: &str) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('<') {
        Some(quoted) => quoted.split_once('>')?,
        None => text.split_at(text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len())),
    };
    (!name.is_empty()).then(|| (name.to_owned(), rest))
}

/// `[+-]hh[:mm[:ss]]` in seconds, and the rest.
fn clock(text: &str) -> Option<(i64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !"+-:".contains(c)).unwrap_or(text.len());
    let (clock, rest) = text.split_at(end);
    let (sign, digits) = clock.strip_prefix('-').map_or((1, clock.trim_start_matches('+')), |digits| (-1, digits));
    let (mut seconds, mut unit) = (0, 3600);
    for part in digits.split(':') {
        seconds += part.parse::<i64>().ok()? * unit;
        unit /= 60;
    }
    Some((sign * seconds, rest))
}

/// When a change is in `year`, in seconds since 1970 by the clock that ends then.
fn change(text: &str, year: i64) -> Option<i64> {
    let (date, time) = text.split_once('/').map_or((text, None), |(date, time)| (date, Some(time)));
    let time = time.map_or(Some(7200), |time| clock(time).map(|(seconds, _)| seconds))?;
    let first = days_before(year);
    let leap = days_before(year + 1) - first == 366;
    let day = if let Some(julian) = date.strip_prefix('J') {
        let day: i64 = julian.parse().ok()?;
        first + day - 1 + i64::from(leap && day >= 60)
    } else if let Some(rule) = date.strip_prefix('M') {
        let mut parts = rule.split('.').map(str::parse::<i64>);
        let (month, week, weekday) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let month = usize::try_from(month - 1).ok()?;
        let start = first + lengths.get(..month)?.iter().sum::<i64>();
        // 1970-01-01 was a Thursday, the fourth day counted from Sunday as 0.
        let day = start + (weekday - (start + 4)).rem_euclid(7) + (week - 1) * 7;
        if day >= start + lengths.get(month)? { day - 7 } else { day }
    } else {
        first + date.parse::<i64>().ok()?
    };
    Some(day * 86400 + time)
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    365 * (year - 1970) + (past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400)) - 477
}

fn year_of(seconds: i64) -> i64 {
    let day = seconds.div_euclid(86400);
    let guess = 1970 + day.div_euclid(366);
    (guess..).find(|year| days_before(year + 1) > day).unwrap_or(guess)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_agree_with_the_calendar() {
        assert_eq!((days_before(1970), days_before(2000), year_of(0), year_of(951_868_799)), (0, 10957, 1970, 2000));
        let cases = [
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_774_745_999, "CET", 3600), // 2026-03-29 00:59:59 UTC
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_774_746_000, "CEST", 7200), // a second later
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_792_889_999, "CEST", 7200), // 2026-10-25 00:59:59 UTC
            ("CET-1CEST,M3.5.0,M10.5.0/3", 1_792_890_000, "CET", 3600),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 1_767_225_600, "AEDT", 39600), // January, the south
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 1_782_864_000, "AEST", 36000), // July
            ("<+0530>-5:30", 0, "+0530", 19800),
            ("UTC0", 0, "UTC", 0),
        ];
        for (rule, now, name, offset_seconds) in cases {
            assert_eq!(by_rule(rule, now), Some(Zone { name: name.into(), offset_seconds }), "{rule} at {now}");
        }
    }

    /// A file of version 2 with one transition and a rule; before, at and after it.
    #[test]
    fn files_are_read() {
        let header = |version: u8, counts: [u32; 6]| {
            let mut bytes = b"TZif".to_vec();
            bytes.push(version);
            bytes.extend([0; 15]);
            counts.iter().for_each(|count| bytes.extend(count.to_be_bytes()));
            bytes
        };
        let mut file = header(b'2', [0, 0, 0, 0, 1, 1]);
        file.extend([0; 7]);
        file.extend(header(b'2', [0, 0, 0, 2, 2, 8]));
        file.extend(1000i64.to_be_bytes());
        file.extend(2000i64.to_be_bytes());
        file.extend([1, 0]);
        file.extend(3600i32.to_be_bytes());
        file.extend([0, 0]);
        file.extend(7200i32.to_be_bytes());
        file.extend([1, 4]);
        file.extend(b"ONE\0TWO\0\nRUL-3\n");
        let zone = |now| at(&file, now).map(|zone| (zone.name, zone.offset_seconds));
        assert_eq!(zone(0), Some(("ONE".into(), 3600)));
        assert_eq!(zone(1500), Some(("TWO".into(), 7200)));
        assert_eq!(zone(2000), Some(("RUL".into(), 10800)));
        assert_eq!(at(b"TZif", 0), None);
    }
}

//! systemd's `OnCalendar=` words as cron fields: `daily`, `Mon..Fri *-*-* 09:00`, `*-*-01 03:00:00 UTC`,
//! `*:0/15`. The forms for dates and times that people write; not taken are `~` (days from a month's end)
//! and fractions of a second.

use crate::suggest::did_you_mean;

/// Seven cron fields in which day and weekday must both match.
pub(super) struct Calendar {
    pub fields: String,
    pub zone: Option<String>,
}

const WORDS: [(&str, &str); 10] = [
    ("secondly", "* * * * * * *"),
    ("minutely", "0 * * * * * *"),
    ("hourly", "0 0 * * * * *"),
    ("daily", "0 0 0 * * * *"),
    ("weekly", "0 0 0 * * MON *"),
    ("monthly", "0 0 0 1 * * *"),
    ("quarterly", "0 0 0 1 1,4,7,10 * *"),
    ("semiannually", "0 0 0 1 1,7 * *"),
    ("yearly", "0 0 0 1 1 * *"),
    ("annually", "0 0 0 1 1 * *"),
];

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

pub(super) fn to_cron(expression: &str) -> Result<Calendar, String> {
    let mut words: Vec<&str> = expression.split_whitespace().collect();
    let zone =
        words.pop_if(|last| last.contains('/') && last.starts_with(|c: char| c.is_alphabetic()) || *last == "UTC");
    let zone = zone.map(str::to_owned);
    if let [word] = words.as_slice()
        && word.starts_with(|c: char| c == '@' || c.is_alphabetic())
        && weekdays(word).is_none()
    {
        let name = word.trim_start_matches('@').to_lowercase();
        let found = WORDS.iter().find(|(known, _)| *known == name);
        return match found {
            Some((_, fields)) => Ok(Calendar { fields: (*fields).to_owned(), zone }),
            None => {
                Err(format!("{word:?} is no calendar word; {}", did_you_mean(&name, WORDS.map(|(known, _)| known))))
            }
        };
    }
    let (mut days, mut date, mut time) = ("*".to_owned(), None, None);
    for (index, word) in words.iter().enumerate() {
        if word.contains(':') && time.is_none() {
            time = Some(time_fields(word)?);
        } else if let Some(found) = weekdays(word)
            && index == 0
        {
            days = found;
        } else if word.contains('-') && date.is_none() && time.is_none() {
            date = Some(date_fields(word)?);
        } else {
            return Err(format!(
                "{word:?} is no weekday, date or time here; write it like \"Mon..Fri *-*-* 03:00\", or cron with 5 fields"
            ));
        }
    }
    let (year, month, day) = date.unwrap_or_else(|| ("*".to_owned(), "*".to_owned(), "*".to_owned()));
    let time = time.unwrap_or_else(|| "0 0 0".to_owned());
    Ok(Calendar { fields: format!("{time} {day} {month} {days} {year}"), zone })
}

/// `Mon`, `Mon..Fri`, `Sat,Sunday` as cron writes them; `None` where it is not made of weekdays.
fn weekdays(word: &str) -> Option<String> {
    let one = |name: &str| {
        let name = name.to_lowercase();
        let day = DAYS.iter().find(|day| name.len() >= 3 && (**day == name || day[..3] == name))?;
        Some(day[..3].to_uppercase())
    };
    let items: Option<Vec<String>> = word
        .split(',')
        .map(|item| match item.split_once("..") {
            Some((from, to)) => Some(format!("{}-{}", one(from)?, one(to)?)),
            None => one(item),
        })
        .collect();
    Some(items?.join(","))
}

/// `year-month-day` or `month-day`, as (year, month, day).
fn date_fields(word: &str) -> Result<(String, String, String), String> {
    let parts: Vec<&str> = word.split('-').collect();
    let (year, month, day) = match parts.as_slice() {
        [year, month, day] => (*year, *month, *day),
        [month, day] => ("*", *month, *day),
        _ => return Err(format!("{word:?} is not a date; write year-month-day like *-*-01")),
    };
    Ok((field(year, "year", 2200)?, field(month, "month", 12)?, field(day, "day of month", 31)?))
}

/// `hour:minute[:second]` as cron's first three fields.
fn time_fields(word: &str) -> Result<String, String> {
    let parts: Vec<&str> = word.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, "0"),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return Err(format!("{word:?} is not a time of day; write hour:minute or hour:minute:second")),
    };
    Ok(format!("{} {} {}", field(second, "second", 59)?, field(minute, "minute", 59)?, field(hour, "hour", 23)?))
}

/// One part with `*`, lists, `a..b` and `a/step`.
fn field(text: &str, name: &str, max: u32) -> Result<String, String> {
    let number = |text: &str| {
        let number = text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        number.filter(|number| *number <= max).map(|number| number.to_string())
    };
    let item = |item: &str| {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (item, None),
        };
        let range = match (range.split_once(".."), step.is_some()) {
            (Some((from, to)), _) => format!("{}-{}", number(from)?, number(to)?),
            (None, _) if range == "*" => "*".to_owned(),
            (None, true) => format!("{}-{max}", number(range)?),
            (None, false) => number(range)?,
        };
        Some(step.map_or(range.clone(), |step| format!("{range}/{step}")))
    };
    let items: Option<Vec<String>> = text.split(',').map(item).collect();
    match items {
        Some(items) => Ok(items.join(",")),
        None => Err(format!("{text:?} is not a valid {name} up to {max}; write *, 5, 1..5, 1,15 or */2")),
    }
}

//! Schedules: when a cron or calendar expression fires, and what to do about times that passed.
//!
//! Two notations, told apart by their number of words: cron with five to seven fields
//! (`[second] minute hour day month weekday [year]`), and systemd's calendar words (`daily`,
//! `Mon..Fri *-*-* 09:00`). Times are wall times in the schedule's own zone, exact to the second.
//!
//! **Clock changes.** A schedule with one fixed time of day (`30 2 * * *`, `daily`) fires once on each of its
//! days: a time that the clock skips fires at the first moment after the gap, one that happens twice fires the
//! first time only. A schedule with a repeated hour or minute (`*/15 * * * *`, `0 * * * *`) follows real time:
//! skipped times do not fire, repeated ones fire twice.
//!
//! Nothing here reads a clock.

mod calendar;
mod due;
#[cfg(test)]
mod tests;

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, CronParserBuilder};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

pub use due::{Clock, Due, MISSED_RUNS_MAX, Missed, Overlap, ScheduleState, due, is_set_back};

/// Longer expressions are accidents.
const EXPRESSION_BYTES_MAX: usize = 256;
/// Schedules end here: what a clock says beyond it is not believed.
const YEAR_4000_MS: i64 = 64_060_588_800_000;
const FIELDS: [&str; 7] = ["second", "minute", "hour", "day of month", "month", "day of week", "year"];
const FIELD_EXAMPLES: [&str; 7] =
    ["0-59", "0-59 or */15", "0-23 or 9-17", "1-31 or L", "1-12 or JAN", "0-7 or MON-FRI", "2026"];

/// A checked schedule in its time zone.
#[derive(Clone)]
pub struct CronSchedule {
    expression: String,
    cron: Cron,
    zone: TimeZone,
}

/// An expression or a time zone that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule {expression:?}: {problem}")]
pub struct CronError {
    /// What was given, shortened if it is very long.
    pub expression: String,
    /// The field, what is wrong with it, and the mend.
    pub problem: String,
}

impl CronError {
    fn new(expression: &str, problem: impl Into<String>) -> CronError {
        CronError { expression: expression.chars().take(EXPRESSION_BYTES_MAX).collect(), problem: problem.into() }
    }
}

impl CronSchedule {
    /// Parses an expression. `timezone` is an IANA name (`Europe/Berlin`, `UTC`); without one the host's zone.
    ///
    /// # Errors
    /// Names the field and the mend; also for expressions that never fire (30 February).
    pub fn parse(expression: &str, timezone: Option<&str>) -> Result<CronSchedule, CronError> {
        let error = |problem: String| CronError::new(expression, problem);
        if expression.len() > EXPRESSION_BYTES_MAX {
            return Err(error(format!("it has {} bytes, at most {EXPRESSION_BYTES_MAX} are taken", expression.len())));
        }
        let words = expression.split_whitespace().count();
        let (cron, own_zone) = match words {
            0 => return Err(error("it is empty; write it like \"0 3 * * *\" or daily".to_owned())),
            1..5 => {
                let calendar = calendar::to_cron(expression).map_err(error)?;
                // Day and weekday both hold in a calendar; in cron either does.
                (parse_fields(&calendar.fields, CronParser::builder().dom_and_dow(true)).map_err(error)?, calendar.zone)
            }
            5..8 => (parse_fields(expression, CronParser::builder()).map_err(error)?, None),
            _ => return Err(error(format!("it has {words} fields, cron has 5 to 7 ({})", FIELDS.join(", ")))),
        };
        let zone = match (own_zone.as_deref(), timezone) {
            (Some(own), Some(given)) if own != given => {
                return Err(error(format!("it names the time zone {own:?}, but {given:?} was given too; keep one")));
            }
            (None, None) => TimeZone::system(),
            (Some(name), _) | (None, Some(name)) => time_zone(name).map_err(error)?,
        };
        let schedule = CronSchedule { expression: expression.trim().to_owned(), cron, zone };
        // The end of a century without leap day included, four years after it bring every date.
        let year_2000_ms = 946_684_800_000;
        // Dates are the same everywhere: what UTC never sees no zone does, and in one with many long gaps the search would begin
        // anew behind each.
        let in_utc = CronSchedule { zone: TimeZone::UTC, ..schedule.clone() };
        if in_utc.next_after(year_2000_ms).is_none() || schedule.next_after(year_2000_ms).is_none() {
            return Err(error("it never fires: no such date comes; look at day, month and year".to_owned()));
        }
        Ok(schedule)
    }

    /// The first time after `wall_ms` at which it fires, both in milliseconds since 1970; `None` where it
    /// never fires again. Schedules begin in 1970 and end with the year 4000.
    pub fn next_after(&self, wall_ms: i64) -> Option<i64> {
        if wall_ms > YEAR_4000_MS {
            return None;
        }
        // Rounded down to the second, which is what the search counts in.
        let from = Timestamp::from_second(wall_ms.max(-1000).div_euclid(1000)).ok()?.to_zoned(self.zone.clone());
        match self.cron.find_next_occurrence(&from, false) {
            Ok(next) => Some(next.timestamp().as_millisecond()),
            Err(_) => self.next_after_long_gap(&from),
        }
    }

    /// The search gives up in a gap of more than two hours: a zone that crosses the date line skips a day.
    /// It goes on from the end of the gap.
    fn next_after_long_gap(&self, from: &Zoned) -> Option<i64> {
        /// Two clock changes a year for 200 years.
        const TRANSITIONS_MAX: usize = 400;
        let mut offset = from.offset();
        for change in self.zone.following(from.timestamp()).take(TRANSITIONS_MAX) {
            let jumped = change.offset().seconds() - offset.seconds();
            offset = change.offset();
            if jumped > 7200
                && let Ok(next) = self.cron.find_next_occurrence(&change.timestamp().to_zoned(self.zone.clone()), true)
            {
                return Some(next.timestamp().as_millisecond());
            }
        }
        None
    }

    /// The expression as given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The zone's IANA name, if it has one.
    pub fn time_zone_name(&self) -> Option<&str> {
        self.zone.iana_name()
    }

    /// The zone, for showing times as the schedule sees them.
    pub fn time_zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl fmt::Debug for CronSchedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CronSchedule({:?}, {:?})", self.expression, self.zone.iana_name())
    }
}

fn time_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| {
        let mend = "write a name like Europe/Berlin or UTC";
        match TimeZone::get("Europe/Berlin") {
            Ok(_) => format!("{name:?} is not a time zone; {mend}"),
            Err(_) => format!("{name:?} is not a time zone known here; {mend}, and install tzdata"),
        }
    })
}

/// Parses five to seven cron fields; where that fails, finds the field at fault by trying each alone.
fn parse_fields(expression: &str, parser: CronParserBuilder) -> Result<Cron, String> {
    let parser = parser.build();
    let cause = match parser.parse(expression) {
        Ok(cron) => return Ok(cron),
        Err(cause) => cause,
    };
    let given: Vec<&str> = expression.split_whitespace().collect();
    // Five fields begin with the minute.
    let first = if given.len() == 5 { 1 } else { 0 };
    for (index, text) in given.iter().enumerate() {
        let alone: Vec<&str> = (0..given.len()).map(|other| if other == index { *text } else { "*" }).collect();
        if parser.parse(&alone.join(" ")).is_err() {
            let field = first + index;
            return Err(format!("{text:?} is not a valid {}; write {}", FIELDS[field], FIELD_EXAMPLES[field]));
        }
    }
    Err(cause.to_string())
}

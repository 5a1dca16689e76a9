//! Figures of finished jobs.

use super::known::check_pool;
use super::{no_range, times, zoned_now};
use crate::api::StatsView;
use crate::http::answers::{Invalid, Read};
use crate::http::extract::{Numbers, Params, blocking, in_time};
use crate::http::{App, Fail};
use crate::stats::{By, Range, Tally};
use crate::store::{EndedFilter, StoreError};
use crate::suggest::did_you_mean;
use axum::Json;
use axum::extract::State;
use ci_runner_core::time::WallTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};
use serde::Deserialize;
use utoipa::IntoParams;

/// Range when none is asked for.
const DAYS: i64 = 7;
/// Rows when no limit is asked for, and at most.
const ROWS: usize = 50;
const ROWS_MAX: usize = 1_000;

/// Which finished jobs are counted, and how.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatsParams {
    /// Finished at or after: RFC 3339, a local time or date, or an age such as `24h`; 7 days ago.
    since: Option<String>,
    /// Finished before; now.
    until: Option<String>,
    /// What the rows are: `name`, `pool` or `day`.
    by: Option<String>,
    /// Exact name, or a beginning followed by `*`.
    name: Option<String>,
    /// Pool it ran in.
    pool: Option<String>,
    /// Time zone of the days, as `Europe/Berlin`; UTC.
    timezone: Option<String>,
    /// Rows, 1 to 1000; 50.
    limit: Option<usize>,
}

impl Numbers for StatsParams {
    const NUMBERS: &'static [(&'static str, u64, u64)] = &[("limit", 1, ROWS_MAX as u64)];
}

/// How finished jobs went: success, waiting, running, cost, and limits that history suggests. Counts the newest 200000.
#[utoipa::path(get, path = "/stats", tag = "jobs", params(StatsParams),
    responses(Read, (status = 200, body = StatsView, description = "The figures"), (status = 400, response = Invalid)))]
pub(crate) async fn stats(
    State(app): State<App>,
    Params(params): Params<StatsParams>,
) -> Result<Json<StatsView>, Fail> {
    let asked = asked(params, &zoned_now())?;
    let pool = asked.filter.pool.clone();
    let reader = app.context.handle.reader.clone();
    let turn = app.figures.take().await?;
    let counted = blocking(move || {
        let _turn = turn;
        let mut tally = Tally::new(asked.by, asked.zone, asked.range);
        reader.each_ended(&asked.filter, &mut |job| tally.add(job))?;
        Ok::<_, StoreError>(tally.report(asked.rows))
    });
    let report = in_time(counted).await?;
    if let Some(pool) = pool.filter(|_| report.total.jobs == 0) {
        check_pool(&app.context.handle.settings.borrow(), &pool)?;
    }
    Ok(Json(report))
}

struct Asked {
    filter: EndedFilter,
    range: Range,
    by: By,
    zone: TimeZone,
    rows: usize,
}

fn asked(params: StatsParams, now: &Zoned) -> Result<Asked, Fail> {
    let (since, until) = times(params.since.as_deref(), params.until.as_deref(), now)?;
    let until_ms = until.map_or_else(|| now.timestamp().as_millisecond().saturating_add(1), |at| at.0);
    let week_ms = i64::try_from(SignedDuration::from_hours(24 * DAYS).as_millis()).unwrap_or(0);
    let since_ms = since.map_or_else(|| until_ms.saturating_sub(week_ms), |at| at.0);
    if since_ms >= until_ms {
        return Err(no_range());
    }
    let by = match params.by.as_deref() {
        None => By::Name,
        Some(word) => By::from_word(word)
            .ok_or_else(|| Fail::field("by", format!("{word:?} makes no rows; {}", did_you_mean(word, By::WORDS))))?,
    };
    let zone = match params.timezone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name).map_err(|_| {
            Fail::field("timezone", format!("there is no time zone {name:?}; write it as `Europe/Berlin` or `UTC`"))
        })?,
    };
    let rows = params.limit.unwrap_or(ROWS);
    if !(1..=ROWS_MAX).contains(&rows) {
        return Err(Fail::field("limit", format!("{rows}; between 1 and {ROWS_MAX}")));
    }
    let range = Range { since_ms, until_ms };
    let filter = EndedFilter {
        since: Some(WallTime(since_ms)),
        until: Some(WallTime(until_ms)),
        name: params.name,
        pool: params.pool,
    };
    Ok(Asked { filter, range, by, zone, rows })
}

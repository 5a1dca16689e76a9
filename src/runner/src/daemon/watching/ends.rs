//! Ends of jobs: from the cursor on, to whom they are told.

use super::words::end_event;
use super::{Shared, WatchSettings, queue_max};
use crate::api::SELFTEST_NAME;
use crate::config::JobFilter;
use crate::daemon::clock::{Clock, wall};
use crate::daemon::handle::Handle;
use crate::fail;
use crate::http::job_view;
use crate::notify::{Batch, Cursor, Event, Outbox, OutboxError};
use crate::store::{EndMark, JobRow};
use anyhow::Result;
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// Ends that are looked at in one go.
const ENDS_PER_LOOK: usize = 2_000;
/// Facts of one turn of the loop may carry times that are not in their order: so far back is looked at again. Milliseconds.
const OVERLAP_MS: i64 = 100;

/// How far the ends of jobs were looked at.
pub(super) struct Ends {
    store_id: String,
    cursor: Cursor,
    /// Those behind the cursor that were looked at.
    handled: BTreeMap<JobId, Instant>,
}

impl Ends {
    pub(super) fn resume(outbox: &Outbox, store_id: String) -> Result<Self, OutboxError> {
        Ok(Self { store_id, cursor: outbox.cursor()?, handled: BTreeMap::new() })
    }

    /// Puts all ends that somebody is to be told of into the outbox.
    pub(super) fn tell(
        &mut self,
        handle: &Handle,
        settings: &WatchSettings,
        shared: &Shared,
        clock: &Clock,
    ) -> Result<()> {
        if settings.notifiers.is_empty() {
            // Whoever is configured later is not told of what was before.
            if self.cursor.take().is_some() {
                shared.outbox.set_cursor(None)?;
            }
            return Ok(());
        }
        let Some(mut cursor) = self.cursor else {
            let now = clock.now().engine;
            shared.outbox.set_cursor(Some(now))?;
            self.cursor = Some(now);
            return Ok(());
        };
        loop {
            let from = Instant(cursor.0.saturating_sub(OVERLAP_MS));
            self.handled.retain(|_, at| *at >= from);
            let most = ENDS_PER_LOOK + self.handled.len();
            let marks = handle.reader.ends_since(from, most)?;
            let is_last = marks.len() < most;
            let new: Vec<&EndMark> = marks.iter().filter(|mark| !self.handled.contains_key(&mark.id)).collect();
            let Some(last) = new.iter().map(|mark| mark.at).max() else { return Ok(()) };
            let mut batch = Batch { cursor: Some(cursor.max(last)), ..Batch::default() };
            for mark in &new {
                batch.deliveries.extend(self.deliveries(mark, handle, settings, &shared.source.host)?);
            }
            if !batch.deliveries.is_empty() {
                if fail::is_control(fail::MOVES_CURSOR_EARLY) {
                    // So far that not even the overlap finds them again.
                    shared.outbox.set_cursor(batch.cursor.map(|at| Instant(at.0 + OVERLAP_MS + 1)))?;
                    fail::point(fail::MOVES_CURSOR_EARLY);
                }
                fail::point(fail::BEFORE_NOTICES);
            }
            let dropped = shared.outbox.commit(&batch, &queue_max(settings), wall().0)?;
            if !batch.deliveries.is_empty() {
                fail::point(fail::AFTER_NOTICES);
            }
            if !dropped.is_empty() {
                let names: BTreeSet<&String> = dropped.iter().collect();
                log::error!("{} notices did not fit into the queues of {names:?} and are dropped", dropped.len());
            }
            self.handled.extend(new.iter().map(|mark| (mark.id, mark.at)));
            cursor = cursor.max(last);
            self.cursor = Some(cursor);
            if is_last {
                return Ok(());
            }
        }
    }

    fn deliveries(
        &self,
        mark: &EndMark,
        handle: &Handle,
        settings: &WatchSettings,
        host: &str,
    ) -> Result<Vec<(String, Event)>> {
        let wants = |filter: &JobFilter| wants(filter, mark);
        if !mark.may_notify && !settings.notifiers.values().any(|config| wants(&config.jobs)) {
            return Ok(Vec::new());
        }
        let Some(row) = handle.reader.job(mark.id)? else { return Ok(Vec::new()) };
        let asked = |name: &String, filter: &JobFilter| {
            row.spec.work.notify.contains(name) || (wants(filter) && has_label(filter, &row))
        };
        let told = settings.notifiers.iter().filter(|(name, config)| asked(name, &config.jobs));
        let told: Vec<String> = told.map(|(name, _)| name.clone()).collect();
        for gone in row.spec.work.notify.iter().filter(|name| !settings.notifiers.contains_key(*name)) {
            let job = mark.id;
            log::warn!(job = job.get(); "job {job} wanted notifier {gone} to be told, which is configured no more");
        }
        let at_ms = row.finished.unwrap_or_else(wall).0;
        let event = end_event(job_view(row, None, wall()), at_ms, &self.store_id, host);
        Ok(told.into_iter().map(|name| (name, event.clone())).collect())
    }
}

/// What can be said without reading the job.
fn wants(filter: &JobFilter, mark: &EndMark) -> bool {
    let outcome = Outcome::WORDS.get(mark.outcome).copied().unwrap_or_default();
    let name_fits = |asked: &String| match (asked.strip_suffix('*'), mark.name.as_deref()) {
        (Some(begin), Some(name)) => name.starts_with(begin),
        (None, Some(name)) => name == asked,
        (_, None) => false,
    };
    let on_purpose = mark.name.as_deref() == Some(SELFTEST_NAME);
    !on_purpose
        && filter.outcomes.iter().any(|asked| asked == outcome)
        && (filter.names.is_empty() || filter.names.iter().any(name_fits))
        && (filter.pools.is_empty() || filter.pools.iter().any(|asked| Some(asked.as_str()) == mark.pool.as_deref()))
}

fn has_label(filter: &JobFilter, row: &JobRow) -> bool {
    let asked = |label: &String| row.spec.terms.labels.iter().any(|known| known.as_str() == label);
    filter.labels.is_empty() || filter.labels.iter().any(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(outcome: usize, name: Option<&str>, pool: Option<&str>) -> EndMark {
        let id = JobId::new(1).unwrap();
        let text = |text: Option<&str>| text.map(str::to_owned);
        EndMark { id, at: Instant(0), outcome, name: text(name), pool: text(pool), may_notify: false }
    }

    #[test]
    fn filters_are_all_fulfilled_or_nobody_is_told() {
        let filter = |outcomes: &[&str], names: &[&str], pools: &[&str]| {
            let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            JobFilter { outcomes: list(outcomes), names: list(names), pools: list(pools), labels: Vec::new() }
        };
        let failed = || mark(1, Some("build-x"), Some("gpu"));
        for (filter, mark, told) in [
            (filter(&[], &[], &[]), failed(), false),
            (filter(&["failed"], &[], &[]), failed(), true),
            (filter(&["failed"], &[], &[]), mark(0, None, None), false),
            (filter(&["failed"], &["build*"], &["gpu"]), failed(), true),
            (filter(&["failed"], &["build"], &[]), failed(), false),
            (filter(&["failed"], &["*"], &[]), mark(1, None, None), false),
            (filter(&["failed"], &[], &["default"]), failed(), false),
            (filter(&["failed"], &[], &[]), mark(1, Some(SELFTEST_NAME), None), false),
        ] {
            assert_eq!(wants(&filter, &mark), told, "{filter:?} {mark:?}");
        }
    }
}

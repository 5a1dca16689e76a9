//! Finds jobs whose logs are to be followed: those that run, and those that start later.
//!
//! The event stream tells that a job started; what it is, is asked. The stream is opened before the list is read, so nothing
//! falls between. When the stream breaks or has a gap, the list is read again, and of the jobs that ended meanwhile the newest
//! [`ENDED_MAX`] are looked at.

use super::super::client::{Client, ClientError, with_query};
use super::super::list::unix_ms;
use super::super::watch::{Backoff, News, Watch, job, pause_in_crowd};
use super::tail::Begin;
use crate::api::{JobList, JobView};
use std::collections::HashSet;
use std::time::Duration;

/// Of the jobs that began and ended while nobody was connected, so many are looked at: those with the highest numbers.
const ENDED_MAX: usize = 1_000;
/// Jobs asked for at once.
const PAGE: usize = 500;
/// How long one waits for an event.
const WAIT: Duration = Duration::from_secs(5);
/// Jobs that were looked at are remembered; beyond this they are looked at again.
const SEEN_MAX: usize = 200_000;

/// Which jobs.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Exact, or a beginning followed by `*`.
    pub name: Option<String>,
    /// Pool it names or ran in.
    pub pool: Option<String>,
    /// Label it requires.
    pub label: Option<String>,
    /// Group.
    pub group: Option<String>,
    /// These; empty: any.
    pub ids: Vec<u64>,
}

impl Filter {
    /// As the daemon decides it for lists.
    pub fn matches(&self, job: &JobView) -> bool {
        let name = |wanted: &String| {
            let name = job.name.as_deref().unwrap_or_default();
            match wanted.strip_suffix('*') {
                Some(beginning) => job.name.is_some() && name.starts_with(beginning),
                None => job.name.as_ref() == Some(wanted),
            }
        };
        self.name.as_ref().is_none_or(name)
            && self.pool.as_ref().is_none_or(|pool| job.pool.as_ref() == Some(pool))
            && self.label.as_ref().is_none_or(|label| job.labels.contains(label))
            && self.group.as_ref().is_none_or(|group| job.group.as_ref().is_some_and(|parts| parts.name == *group))
            && (self.ids.is_empty() || self.ids.contains(&job.id))
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let named = [("name", &self.name), ("pool", &self.pool), ("label", &self.label), ("group", &self.group)];
        named.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// A job whose log is to be followed. It may come twice.
    Job(Box<JobView>, Begin),
    /// The daemon is away; it is waited for.
    Away,
    /// It is back.
    Back,
    /// There is no going on, for this reason.
    Failed(ClientError),
}

/// Looks for jobs.
pub struct Discovery<'a> {
    /// The way to the daemon.
    pub client: &'a Client,
    /// Which jobs.
    pub filter: Filter,
    /// Lines of those that run at the beginning; None: all.
    pub tail: Option<u64>,
    /// Gets what is found; false: enough.
    pub tell: &'a mut dyn FnMut(Found) -> bool,
}

impl Discovery<'_> {
    /// Until `tell` says that it is enough.
    pub fn run(mut self) {
        let mut backoff = Backoff::default();
        let (mut away, mut seen) = (false, HashSet::new());
        let mut ended_since: Option<i64> = None;
        loop {
            let connected_at = jiff::Timestamp::now().as_millisecond();
            let opened = Watch::open_if_place(self.client, &self.filter.ids)
                .and_then(|watch| Ok((watch, self.read_lists(ended_since)?)));
            match opened {
                Ok((_, false)) => return,
                Ok((watch, true)) => {
                    if std::mem::take(&mut away) && !(self.tell)(Found::Back) {
                        return;
                    }
                    backoff = Backoff::default();
                    ended_since = Some(connected_at);
                    let Some(watch) = watch else {
                        pause_in_crowd(None);
                        continue;
                    };
                    match self.listen(watch, connected_at, &mut seen) {
                        Ok(Some(heard)) => ended_since = Some(heard),
                        Ok(None) => return,
                        Err(error) if error.is_passing() => {}
                        Err(error) => {
                            (self.tell)(Found::Failed(error));
                            return;
                        }
                    }
                }
                Err(error) if error.is_passing() => {
                    if !away && !error.is_busy() {
                        away = true;
                        if !(self.tell)(Found::Away) {
                            return;
                        }
                    }
                    backoff.pause(None);
                }
                Err(error) => {
                    (self.tell)(Found::Failed(error));
                    return;
                }
            }
        }
    }

    /// Tells of every job that runs now and, where `ended_since` is given, of those that ended since. False: enough.
    fn read_lists(&mut self, ended_since: Option<i64>) -> Result<bool, ClientError> {
        let begin = if ended_since.is_none() { Begin::Latest(self.tail) } else { Begin::First };
        let running = self.list("starting,running,stopping", usize::MAX)?;
        let ended = match ended_since {
            Some(since) => {
                let ended = self.list("finished", ENDED_MAX)?;
                let at = |job: &JobView| job.finished_at.as_deref().and_then(unix_ms);
                ended.into_iter().filter(|job| at(job).is_some_and(|at| at >= since)).collect()
            }
            None => Vec::new(),
        };
        Ok(running.into_iter().chain(ended).all(|job| self.offer(job, begin)))
    }

    fn list(&self, state: &str, limit: usize) -> Result<Vec<JobView>, ClientError> {
        let mut jobs: Vec<JobView> = Vec::new();
        let mut cursor = None;
        loop {
            let mut pairs = self.filter.pairs();
            pairs.extend([("state", state.to_owned()), ("limit", PAGE.min(limit - jobs.len()).to_string())]);
            pairs.extend(cursor.map(|cursor: u64| ("cursor", cursor.to_string())));
            let page: JobList = self.client.get(&with_query("/api/v1/jobs", &pairs))?;
            cursor = page.next_cursor;
            jobs.extend(page.jobs);
            if cursor.is_none() || jobs.len() >= limit {
                return Ok(jobs);
            }
        }
    }

    /// False: enough.
    fn offer(&mut self, job: JobView, begin: Begin) -> bool {
        // One that was never tried has no output.
        let has_log = job.state != "queued" && (job.attempt_count > 0 || job.state != "finished");
        !has_log || !self.filter.matches(&job) || (self.tell)(Found::Job(Box::new(job), begin))
    }

    /// Listens until the stream breaks or has a gap: up to when all was certainly heard. What comes late was there earlier, so only
    /// silence proves anything. None: enough.
    fn listen(
        &mut self,
        mut watch: Watch,
        connected_at: i64,
        seen: &mut HashSet<u64>,
    ) -> Result<Option<i64>, ClientError> {
        let mut heard = connected_at;
        loop {
            let asked_at = jiff::Timestamp::now().as_millisecond();
            let Ok(news) = watch.next(WAIT) else { return Ok(Some(heard)) };
            match news {
                News::Gap => return Ok(Some(heard)),
                News::Silence => heard = asked_at,
                News::Job(event) if event.state == "queued" || seen.contains(&event.id) => {}
                News::Job(event) => {
                    match job(self.client, event.id) {
                        // Its claim was given back: it starts another time.
                        Ok(job) if job.state == "queued" => continue,
                        Ok(job) => {
                            if !self.offer(job, Begin::First) {
                                return Ok(None);
                            }
                        }
                        // Removed meanwhile.
                        Err(error) if error.status() == Some(404) => {}
                        Err(error) if error.is_passing() => return Ok(Some(heard)),
                        Err(error) => return Err(error),
                    }
                    if seen.len() >= SEEN_MAX {
                        seen.clear();
                    }
                    seen.insert(event.id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, JobView};
    use crate::api::GroupParts;

    #[test]
    fn a_filter_is_that_of_lists() {
        let group = GroupParts { name: "g".to_owned(), limit: None, policy: None };
        let job = JobView {
            id: 7,
            name: Some("build-a".to_owned()),
            pool: Some("p".to_owned()),
            labels: vec!["os=linux".to_owned()],
            group: Some(group),
            ..JobView::default()
        };
        let text = |text: &str| Some(text.to_owned());
        for (filter, wanted) in [
            (Filter::default(), true),
            (Filter { name: text("build*"), ..Filter::default() }, true),
            (Filter { name: text("build"), ..Filter::default() }, false),
            (Filter { name: text("build-a"), pool: text("p"), ..Filter::default() }, true),
            (Filter { pool: text("q"), ..Filter::default() }, false),
            (Filter { label: text("os=linux"), group: text("g"), ..Filter::default() }, true),
            (Filter { label: text("os"), ..Filter::default() }, false),
            (Filter { ids: vec![7, 8], ..Filter::default() }, true),
            (Filter { ids: vec![8], ..Filter::default() }, false),
        ] {
            assert_eq!(filter.matches(&job), wanted, "{filter:?}");
        }
        assert!(!Filter { name: text("*"), ..Filter::default() }.matches(&JobView::default()), "it has no name");
    }
}

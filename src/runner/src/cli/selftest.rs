//! `selftest`: proves a running service with real jobs. Each check says ok, skipped, or FAILED and why; the exit code is 1
//! when one failed. Jobs carry one correlation id, and what is open of them at the end is cancelled. Jobs that failed on purpose
//! stay in the figures, which is said at the end.

use super::client::{Request, with_query};
use super::context::{Context, print};
use super::fail::{EXIT_DONE, EXIT_ERROR, Ended, Failure};
use super::list::unix_ms;
use super::wait::until_finished;
use crate::api::{JobList, JobRequest, JobView, SELFTEST_NAME, StatusView, SubmittedMany};
use crate::quantity::DurationField;
use crate::style::{dim, state_style};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};

/// A check that takes longer has failed; a busy queue is told apart by where its jobs stand.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `selftest`.
#[derive(Args, Debug)]
pub struct SelftestArgs {
    /// Only these checks
    #[arg(value_name = "CHECK", value_enum)]
    checks: Vec<Check>,
}

/// What can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// Jobs are queued, found by the same key, run and finish as they should
    Queue,
    /// Output is kept byte for byte, standard error among it
    Logging,
    /// Failures are tried again, and only as often as allowed
    Retry,
    /// Jobs run at the same time
    Parallel,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Queue => "queue",
            Check::Logging => "logging",
            Check::Retry => "retry",
            Check::Parallel => "parallel",
        }
    }

    /// Jobs that fail on purpose.
    fn failing(self) -> u32 {
        match self {
            Check::Queue | Check::Retry => 2,
            Check::Logging | Check::Parallel => 0,
        }
    }
}

enum Verdict {
    Good(String),
    Skipped(String),
    Bad(String),
}

type Checked = Result<Verdict, Failure>;

/// Runs the checks.
pub fn selftest(context: &Context<'_>, args: SelftestArgs) -> Ended {
    let checks = if args.checks.is_empty() { Check::value_variants().to_vec() } else { args.checks };
    let test = Test { context, correlation: format!("selftest-{}", uuid::Uuid::now_v7()) };
    // Without a daemon nothing was tested: that is exit 2, not a failed check.
    let status: StatusView = context.client.get("/api/v1/status")?;
    if let Some(pause) = &status.paused {
        let why = if pause.reason.is_empty() { String::new() } else { format!(" ({})", pause.reason) };
        let text = format!("the host is paused by {}{why}; `ci-runner resume` first", pause.by);
        return Err(Failure::Temporary(text));
    }
    let look = context.look();
    let mut good = true;
    let mut told = Vec::new();
    let failing: u32 = checks.iter().map(|check| check.failing()).sum();
    for check in checks {
        let verdict = match test.check(check, &status) {
            Ok(verdict) => verdict,
            Err(failure) => Verdict::Bad(failure.to_string()),
        };
        let (word, style, text) = match &verdict {
            Verdict::Good(text) => ("ok", state_style("succeeded"), text),
            Verdict::Skipped(text) => ("skipped", dim(), text),
            Verdict::Bad(text) => ("FAILED", state_style("failed"), text),
        };
        good &= !matches!(verdict, Verdict::Bad(_));
        told.push(json!({ "check": check.name(), "result": word.to_lowercase(), "text": text }));
        if !context.is_json() {
            print(&format!("{:<9} {}  {text}\n", check.name(), look.paint(style, &format!("{word:<7}"))))?;
        }
    }
    test.clean_up();
    if context.is_json() {
        context.print_json(&told)?;
    }
    if failing > 0 {
        context.note(&format!(
            "{failing} of these jobs were to fail: `stats` and the metrics count them ({SELFTEST_NAME:?}), watches and notifiers do not"
        ));
    }
    Ok(if good { EXIT_DONE } else { EXIT_ERROR.into() })
}

struct Test<'a> {
    context: &'a Context<'a>,
    correlation: String,
}

impl Test<'_> {
    fn check(&self, check: Check, status: &StatusView) -> Checked {
        match check {
            Check::Queue => self.queue(),
            Check::Logging => self.logging(),
            Check::Retry => self.retry(),
            Check::Parallel => self.parallel(status),
        }
    }

    fn job(&self, shell: &str) -> JobRequest {
        JobRequest {
            shell: Some(shell.to_owned()),
            name: Some(SELFTEST_NAME.to_owned()),
            correlation: Some(self.correlation.clone()),
            timeout: Some(DurationField(CHECK_TIMEOUT)),
            retry: Some(0),
            ..JobRequest::default()
        }
    }

    fn submit(&self, jobs: &[JobRequest]) -> Result<Vec<u64>, Failure> {
        let submitted: SubmittedMany = self.context.client.post("/api/v1/jobs", &jobs)?;
        Ok(submitted.ids)
    }

    fn finished(&self, ids: &[u64]) -> Result<Vec<JobView>, Failure> {
        let deadline = Some(Instant::now() + CHECK_TIMEOUT);
        let finished = until_finished(self.context, ids, deadline, &|_| Ok(EXIT_DONE));
        let mut finished = finished.map_err(|failure| match failure {
            Failure::Temporary(text) => {
                let id = ids.first().copied().unwrap_or_default();
                Failure::Temporary(format!("{text} after {} s; `ci-runner why {id}`", CHECK_TIMEOUT.as_secs()))
            }
            other => other,
        })?;
        Ok(ids.iter().filter_map(|id| finished.remove(id)).collect())
    }

    fn queue(&self) -> Checked {
        let mut keyed = self.job("exit 0");
        keyed.key = Some(self.correlation.clone());
        let jobs = [keyed.clone(), self.job("exit 5"), self.job("kill -KILL $$")];
        let ids = self.submit(&jobs)?;
        if !ids.is_sorted() || ids.len() != jobs.len() {
            return Ok(Verdict::Bad(format!("three jobs got the ids {ids:?}")));
        }
        let again = self.submit(&[keyed])?;
        if again.first() != ids.first() {
            return Ok(Verdict::Bad(format!("the same key made a second job: {ids:?} and {again:?}")));
        }
        let jobs = self.finished(&ids)?;
        let ends: Vec<_> =
            jobs.iter().map(|job| (job.outcome.as_deref().unwrap_or("none"), job.exit_code, job.signal)).collect();
        Ok(match ends.as_slice() {
            [("succeeded", Some(0), _), ("failed", Some(5), _), ("failed", _, Some(9))] => {
                Verdict::Good(format!("jobs {} to {} ended as they should", ids[0], ids[2]))
            }
            other => Verdict::Bad(format!("exit 0, exit 5 and SIGKILL were recorded as {other:?}")),
        })
    }

    fn logging(&self) -> Checked {
        // Two streams in one order, a byte that is no UTF-8, no line end at the end.
        let ids = self.submit(&[self.job(r"echo one; echo two >&2; printf 'bytes \377\000 end'")])?;
        self.finished(&ids)?;
        let mut log = Vec::new();
        let mut response = self.context.client.stream(&format!("/api/v1/jobs/{}/log", ids[0]))?;
        if let Err(error) = (&mut response.body).take(1024 * 1024).read_to_end(&mut log) {
            return Ok(Verdict::Bad(format!("the log of job {} broke off: {error}", ids[0])));
        }
        let expected = b"one\ntwo\nbytes \xff\0 end";
        Ok(match log == expected {
            true => Verdict::Good(format!("the log of job {} has every byte", ids[0])),
            false => Verdict::Bad(format!("the log of job {} is {:?}", ids[0], String::from_utf8_lossy(&log))),
        })
    }

    fn retry(&self) -> Checked {
        let retried = |shell: &str| JobRequest {
            retry: Some(2),
            retry_delay: Some(DurationField(Duration::from_millis(100))),
            ..self.job(shell)
        };
        let ids =
            self.submit(&[retried("test \"$CI_RUNNER_ATTEMPT\" -ge 2"), retried("exit 1"), retried("exit 64")])?;
        let jobs = self.finished(&ids)?;
        let ends: Vec<_> =
            jobs.iter().map(|job| (job.outcome.as_deref().unwrap_or("none"), job.attempt_count)).collect();
        Ok(match ends.as_slice() {
            [("succeeded", 2), ("failed", 3), ("failed", 1)] => {
                Verdict::Good("2 attempts until success, 3 where allowed, 1 for a usage error".to_owned())
            }
            other => Verdict::Bad(format!("outcomes and attempts were {other:?}")),
        })
    }

    fn parallel(&self, status: &StatusView) -> Checked {
        if status.slots.total < 2 {
            return Ok(Verdict::Skipped("there is one slot only".to_owned()));
        }
        let ids = self.submit(&[self.job("sleep 1"), self.job("sleep 1")])?;
        let jobs = self.finished(&ids)?;
        let spans: Vec<(i64, i64)> = jobs
            .iter()
            .filter_map(|job| Some((unix_ms(job.started_at.as_deref()?)?, unix_ms(job.finished_at.as_deref()?)?)))
            .collect();
        let [(start_a, end_a), (start_b, end_b)] = spans[..] else {
            return Ok(Verdict::Bad(format!("jobs {ids:?} have no times")));
        };
        let together = end_a.min(end_b) - start_a.max(start_b);
        Ok(match together > 0 {
            true => Verdict::Good(format!("two jobs ran at the same time for {together} ms")),
            false if status.slots.used + 1 >= status.slots.total => {
                Verdict::Skipped("other jobs use the slots; try again when there are two free ones".to_owned())
            }
            false => Verdict::Bad(format!("jobs {} and {} ran one after the other", ids[0], ids[1])),
        })
    }

    /// Cancels what is still open. What fails here was told before.
    fn clean_up(&self) {
        let pairs = [("correlation", self.correlation.clone()), ("limit", "100".to_owned())];
        let Ok(page) = self.context.client.get::<JobList>(&with_query("/api/v1/jobs", &pairs)) else {
            return;
        };
        let open: Vec<u64> = page.jobs.iter().filter(|job| job.state != "finished").map(|job| job.id).collect();
        if !open.is_empty() {
            let body = serde_json::to_vec(&json!({ "ids": open })).ok();
            let request = Request { method: "POST", path: "/api/v1/jobs/cancel", body, ..Request::default() };
            let _ = self.context.client.call::<Value>(&request);
        }
    }
}

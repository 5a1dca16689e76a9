//! Reading submissions. What is made of one is much larger than its body where the jobs are small, and lives until the loop has
//! answered: so much of it only is let in at once.

use super::zoned_now;
use crate::api::JobRequest;
use crate::daemon::handle::{IdempotencyKey, NewJob, Submitter};
use crate::http::extract::{Body, blocking, in_time, share};
use crate::http::{App, BODY_BYTES_SMALL, Fail, JOBS_MAX, SUBMISSIONS_BYTES_MAX};
use crate::request::{ReadFault, body_hash, new_job_of, read_job, read_jobs, shape};
use crate::trace;
use axum::http::{HeaderMap, HeaderValue};
use ci_runner_core::id::JobId;
use ci_runner_core::policy::Settings;
use jiff::Zoned;
use std::time::Duration;

/// What a job takes beside its texts, from its reading to its answer.
const JOB_BYTES: usize = 2_560;
/// What takes less waits for nobody: a hundred jobs.
const UNCOUNTED_BYTES_MAX: usize = 512 * 1024;
/// What is larger waits for its share so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A parsed submission.
struct Submission {
    jobs: Vec<NewJob>,
    key: Option<IdempotencyKey>,
    many: bool,
}

/// What became of a submission.
pub(super) struct Queued {
    pub ids: Vec<JobId>,
    /// Of one job, without an idempotency key.
    pub correlation: Option<HeaderValue>,
    pub many: bool,
}

/// Reads a submission and queues it.
pub(super) async fn queue(app: &App, body: Body, said: Said, submitter: Submitter) -> Result<Queued, Fail> {
    let settings = app.context.handle.settings.borrow().clone();
    let is_small = body.bytes.len() <= BODY_BYTES_SMALL;
    let weighed = move || Ok::<_, Fail>((weight(&body.bytes), body));
    let (weight, body) = if is_small { weighed()? } else { blocking(weighed).await? };
    if is_small && weight <= UNCOUNTED_BYTES_MAX {
        let submission = parse(&body.bytes, said, &settings, &zoned_now())?;
        return in_time(submit(app, submission, submitter)).await;
    }
    let share = share(&app.submission_kib, weight.min(SUBMISSIONS_BYTES_MAX), PATIENCE).await?;
    let app = app.clone();
    // On its own: its jobs do not go with a client that went away, and so the share must not.
    let work = tokio::spawn(async move {
        let _share = share;
        let submission = blocking(move || parse(&body.bytes, said, &settings, &zoned_now())).await?;
        submit(&app, submission, submitter).await
    });
    in_time(async { work.await.map_err(|error| Fail::internal("finish the work", &error))? }).await
}

async fn submit(app: &App, submission: Submission, submitter: Submitter) -> Result<Queued, Fail> {
    let Submission { jobs, key, many } = submission;
    // With a key it may be an earlier job that is answered.
    let one = jobs.first().filter(|job| !many && key.is_none() && job.key.is_none());
    let correlation = one.and_then(|job| HeaderValue::from_str(&job.spec.correlation).ok());
    let submitted = app.context.handle.submit(jobs, key, submitter).await;
    let ids = submitted.map_err(|refusal| Fail::of_refusal(refusal, many))?;
    Ok(Queued { ids, correlation, many })
}

/// At most what a submission takes until it is answered: each job is an object, and not each object is one; a short word takes
/// several times its own length.
fn weight(json: &[u8]) -> usize {
    json.len() * 4 + shape(json).objects.min(JOBS_MAX) * JOB_BYTES
}

/// What the request's headers say of its jobs.
pub(super) struct Said {
    pub key: Option<String>,
    pub correlation: Option<String>,
}

/// The correlation id that the request's headers give; a header that is not valid, or there twice, is ignored.
pub(super) fn correlation(headers: &HeaderMap) -> Option<String> {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    only("traceparent").and_then(trace::trace_of).or_else(|| only("x-request-id").and_then(trace::request_id))
}

fn parse(json: &[u8], said: Said, settings: &Settings, now: &Zoned) -> Result<Submission, Fail> {
    let many = json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let requests = if many { read_jobs(json, JOBS_MAX)? } else { vec![read_job(json)?] };
    if requests.is_empty() {
        return Err(Fail::field("", "the array is empty; give at least one job"));
    }
    let Said { key, correlation } = said;
    let key = key.map(|key| IdempotencyKey { key, body: body_hash(&requests), body_before: None });
    let made = |(index, request): (usize, JobRequest)| {
        let at = |fault| ReadFault { index: many.then_some(index), fault };
        new_job_of(request, correlation.as_deref(), settings, now).map_err(at)
    };
    let jobs = requests.into_iter().enumerate().map(made).collect::<Result<Vec<_>, _>>()?;
    Ok(Submission { jobs, key, many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::BODY_BYTES_MAX;

    /// Whoever asked for more than there is would wait in vain for ever.
    #[test]
    fn the_heaviest_body_is_let_in_when_it_is_alone() {
        let heaviest = weight(&vec![b'{'; BODY_BYTES_MAX]);
        assert!(heaviest > SUBMISSIONS_BYTES_MAX / 2 && heaviest <= SUBMISSIONS_BYTES_MAX, "{heaviest}");
        assert_eq!(weight(b"[{},{}]") - weight(b"[0,0 ]"), 2 * JOB_BYTES + 4);
        let hundred = format!("[{}]", vec![r#"{"shell":"make test"}"#; 100].join(","));
        assert!(weight(hundred.as_bytes()) <= UNCOUNTED_BYTES_MAX, "a hundred small jobs wait for nobody");
    }
}

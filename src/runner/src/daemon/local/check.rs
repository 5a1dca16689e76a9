//! Which jobs `run` takes, and which of them wait: what could never come to its end is refused before anything runs.
//!
//! `run` ends with its jobs. So nobody can release one, no key is ever seen again, no other job has an id, and the one pool
//! has no labels.

use super::super::handle::NewJob;
use crate::api::JobRequest;
use crate::quantity::{show_duration, show_local, show_relative};
use crate::request::new_job;
use ci_runner_core::job::{Fault, Terms};
use ci_runner_core::policy::Settings;
use jiff::Zoned;
use std::time::Duration;

/// A job that cannot be run, and which.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct BadJob {
    /// Its place in the plan.
    pub index: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// Makes the jobs whole.
///
/// # Errors
/// The first that `run` cannot run.
pub(super) fn plan(jobs: Vec<JobRequest>, settings: &Settings, now: &Zoned) -> Result<Vec<NewJob>, BadJob> {
    let plan = |(index, job): (usize, JobRequest)| {
        refuse(&job).and_then(|()| new_job(job, settings, now)).map_err(|fault| BadJob { index, fault })
    };
    jobs.into_iter().enumerate().map(plan).collect()
}

fn refuse(job: &JobRequest) -> Result<(), Fault> {
    let faults = [
        ("hold", job.hold, "`run` ends with its jobs: nobody could release it"),
        ("key", job.key.is_some(), "`run` keeps nothing by which a second call could be known"),
        ("after", !job.after.is_empty(), "`run` knows no other jobs"),
        ("notify", !job.notify.is_empty(), "`run` tells nobody but you"),
        ("labels", !job.labels.is_empty(), "`run` has one pool, and that has no labels"),
    ];
    match faults.into_iter().find(|(_, given, _)| *given) {
        Some((field, _, why)) => {
            let why = format!("{why}; leave it out, or queue the job with `ci-runner add`");
            Err(Fault { field: field.to_owned(), why })
        }
        None => Ok(()),
    }
}

/// The jobs that do not start at once because they were told so, and until when.
pub(super) fn waits(jobs: &[NewJob], now: &Zoned) -> Vec<(usize, String)> {
    let of = |(index, job): (usize, &NewJob)| Some((index, wait(&job.spec.terms, now)?));
    jobs.iter().enumerate().filter_map(of).collect()
}

fn wait(terms: &Terms, now: &Zoned) -> Option<String> {
    let now_ms = now.timestamp().as_millisecond();
    if let Some(at) = terms.at.filter(|at| at.0 > now_ms) {
        let shown = show_local(at.0, now.time_zone());
        return Some(format!("not before {shown} ({})", show_relative(at.0, now_ms)));
    }
    let delay_ms = terms.delay_ms.filter(|delay_ms| *delay_ms > 0)?;
    Some(format!("starts in {}", show_duration(Duration::from_millis(delay_ms))))
}

#[cfg(test)]
mod tests {
    use super::super::super::settings::local_settings;
    use super::*;
    use crate::request::read_job;

    fn planned(json: &str) -> Result<Vec<NewJob>, BadJob> {
        let good = r#"{"command":["true"]}"#;
        let jobs = [good, json].map(|json| read_job(json.as_bytes()).unwrap());
        plan(jobs.to_vec(), &local_settings(2), &"2026-11-21T10:00:00[UTC]".parse().unwrap())
    }

    #[test]
    fn what_could_never_end_is_refused() {
        for (more, part) in [
            (r#""hold":true"#, "hold: `run` ends with its jobs: nobody could release it; leave it out"),
            (r#""key":"k""#, "key: `run` keeps nothing"),
            (r#""after":[1]"#, "after: `run` knows no other jobs"),
            (r#""labels":["gpu"]"#, "labels: `run` has one pool, and that has no labels"),
            (r#""pool":"nope""#, "pool: there is no pool \"nope\"; there is default"),
        ] {
            let bad = planned(&format!(r#"{{"command":["true"],{more}}}"#)).map(|_| ()).unwrap_err();
            assert_eq!(bad.index, 1);
            assert!(bad.to_string().starts_with(part), "{bad}");
        }
    }

    #[test]
    fn what_waits_says_until_when() {
        let now: Zoned = "2026-11-21T10:00:00[UTC]".parse().unwrap();
        let waits = |more: &str| {
            let jobs = planned(&format!(r#"{{"command":["true"]{more}}}"#)).map_err(|bad| bad.to_string()).unwrap();
            waits(&jobs, &now).pop()
        };
        let told = |text: &str| Some((1, text.to_owned()));
        assert_eq!(waits(r#","in":"10m""#), told("starts in 10m 00s"));
        assert_eq!(waits(r#","at":"2026-11-22T03:00:00Z""#), told("not before 2026-11-22 03:00:00 (in 17h)"));
        assert_eq!(waits(r#","at":"2026-11-20T03:00:00Z""#), None);
        assert_eq!(waits(r#","in":0"#), None);
        assert_eq!(waits(""), None);
    }
}

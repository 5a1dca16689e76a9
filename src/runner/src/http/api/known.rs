//! Nothing was found of something: a slip in its name is told, so that it does not look like a queue without work.

use crate::http::extract::{blocking, in_time};
use crate::http::{App, Fail};
use crate::store::{JobFilter, Reader};
use crate::suggest::{did_you_mean, nearest};
use ci_runner_core::policy::Settings;

/// Nothing was found of a pool. One that the configuration had once has jobs to show for it.
///
/// # Errors
/// There is no such pool.
pub(super) fn check_pool(settings: &Settings, pool: &str) -> Result<(), Fail> {
    let known: Vec<&str> = settings.pools.iter().map(|pool| pool.name.as_str()).collect();
    if known.contains(&pool) {
        return Ok(());
    }
    let hint = did_you_mean(pool, known.iter().copied());
    Err(Fail::field("pool", format!("there is no pool {pool:?}, and no such job; {hint}")))
}

/// A search in the logs of a pool, before it begins: an answer that has begun cannot be taken back.
///
/// # Errors
/// There is no such pool, and no job that was in one of that name.
pub(super) fn check_pool_of_logs(reader: &dyn Reader, settings: &Settings, pool: &str) -> Result<(), Fail> {
    let of_pool = JobFilter { pool: Some(pool.to_owned()), ..JobFilter::all(1) };
    match check_pool(settings, pool) {
        Err(_) if !reader.jobs(&of_pool)?.is_empty() => Ok(()),
        known => known,
    }
}

/// Nothing was found of a group. It is known from the configuration, or from any job that names it, finished ones too.
///
/// # Errors
/// Nobody knows it.
pub(super) async fn check_group(app: &App, group: String) -> Result<(), Fail> {
    let handle = &app.context.handle;
    let mut known: Vec<String> = handle.settings.borrow().groups.iter().map(|group| group.name.clone()).collect();
    known.extend(handle.fresh_snapshot().await.groups.iter().map(|group| group.name.clone()));
    if known.contains(&group) {
        return Ok(());
    }
    let (reader, filter) = (handle.reader.clone(), JobFilter { group: Some(group.clone()), ..JobFilter::all(1) });
    if !in_time(blocking(move || reader.jobs(&filter))).await?.is_empty() {
        return Ok(());
    }
    let hint = match nearest(&group, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "`ci-runner groups` lists those of open jobs".to_owned(),
    };
    Err(Fail::field(
        "group",
        format!("there is no group {group:?}: neither a job nor the configuration names it; {hint}"),
    ))
}

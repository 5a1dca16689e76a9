//! Checks what a job may use at most: each limit by itself, then against the pools and the host.

use super::check::fault;
use super::{Fault, Terms};
use crate::labels::missing;
use crate::limits::{
    CPU_MILLI_MAX, CPU_MILLI_MIN, Limits, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, PIDS_MAX, Resource, words,
};
use crate::outcome::AttemptResult;
use crate::policy::{Pool, Settings};
use crate::retry::{OOM_FACTOR_MAX, OOM_FACTOR_MIN, RetryPolicy};

/// The range of one limit, in its unit.
const fn range(resource: Resource) -> (u64, u64) {
    match resource {
        Resource::Memory => (MEMORY_BYTES_MIN, MEMORY_BYTES_MAX),
        Resource::Cpu => (CPU_MILLI_MIN as u64, CPU_MILLI_MAX as u64),
        Resource::Pids => (1, PIDS_MAX as u64),
    }
}

/// What is wrong with limits whatever the host has: the limit's name, and the words.
pub fn out_of_range(limits: &Limits) -> Option<(Resource, String)> {
    Resource::ALL.into_iter().find_map(|resource| {
        let asked = limits.get(resource)?;
        let (least, most) = range(resource);
        let example = match resource {
            Resource::Memory => "512M",
            Resource::Cpu => "1.5",
            Resource::Pids => "100",
        };
        (!(least..=most).contains(&asked)).then(|| {
            let [asked, least, most] = [asked, least, most].map(|value| words(resource, value));
            (resource, format!("{asked} is out of range; between {least} and {most}, as in {example}"))
        })
    })
}

pub(super) fn check(terms: &Terms, settings: &Settings) -> Result<(), Fault> {
    check_growth(&terms.retry)?;
    let limits = &terms.limits;
    if let Some((resource, why)) = out_of_range(limits) {
        return fault(resource.word(), why);
    }
    let by_name = |pool: &&Pool| terms.pool.as_ref().map_or(!pool.named_only, |name| *name == pool.name);
    let candidates = settings.pools.iter().filter(by_name);
    let mut candidates = candidates.filter(|pool| missing(&terms.labels, &pool.labels).is_empty()).peekable();
    if candidates.peek().is_some() {
        let mut refused: Option<(&Pool, Resource)> = None;
        for pool in candidates {
            match limits.beyond(&pool.maxima) {
                None => return check_budget(limits, settings),
                Some(resource) => refused = refused.or(Some((pool, resource))),
            }
        }
        if let Some((pool, resource)) = refused {
            let asked = words(resource, limits.get(resource).unwrap_or(0));
            let most = words(resource, pool.maxima.get(resource).unwrap_or(0));
            let why = format!("{asked} is more than the pool {:?} allows, {most}; ask for less", pool.name);
            return fault(resource.word(), why);
        }
    }
    check_budget(limits, settings)
}

fn check_budget(limits: &Limits, settings: &Settings) -> Result<(), Fault> {
    for (resource, budget) in
        [(Resource::Memory, settings.budget.memory_bytes), (Resource::Cpu, settings.budget.cpu_milli)]
    {
        if let Some((asked, budget)) = limits.get(resource).zip(budget).filter(|(asked, budget)| asked > budget) {
            let (asked, budget) = (words(resource, asked), words(resource, budget));
            return fault(
                resource.word(),
                format!("{asked} is more than this host has for jobs, {budget}; ask for less, or see [admission]"),
            );
        }
    }
    Ok(())
}

fn check_growth(retry: &RetryPolicy) -> Result<(), Fault> {
    let Some(factor) = retry.oom_factor else { return Ok(()) };
    let field = "oom_memory_factor";
    if !(OOM_FACTOR_MIN..=OOM_FACTOR_MAX).contains(&factor) {
        return fault(field, format!("{} is out of range; between 1.01 and 10, as in 2", words_of_factor(factor)));
    }
    if !retry.allows(&AttemptResult::OomKilled) {
        return fault(field, "does nothing unless `oom` is among retry_on; add it there");
    }
    Ok(())
}

fn words_of_factor(hundredths: u16) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Budget;
    use crate::retry::{Pattern, Rule};

    fn terms(limits: Limits) -> Terms {
        Terms {
            pool: None,
            labels: Vec::new(),
            priority: 0,
            retry: Settings::default().retry,
            group: None,
            after: Vec::new(),
            at: None,
            delay_ms: None,
            expires: None,
            hold: false,
            limits,
        }
    }

    fn limits(memory_bytes: u64, cpu_milli: u32, pids: u32) -> Limits {
        Limits { memory_bytes: Some(memory_bytes), cpu_milli: Some(cpu_milli), pids: Some(pids) }
    }

    fn settings() -> Settings {
        let pool = |name: &str, maxima| Pool { maxima, ..Pool::new(name, 1, Vec::new()) };
        let maxima = Limits { memory_bytes: Some(1 << 30), cpu_milli: Some(2_000), pids: Some(100) };
        let pools = vec![pool("small", maxima), pool("large", Limits { memory_bytes: Some(8 << 30), ..maxima })];
        Settings { pools, ..Settings::default() }
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_named_with_its_range() {
        for (limits, field, word) in [
            (limits(0, 1_000, 1), "memory", "between 4M"),
            (limits(MEMORY_BYTES_MAX + 1, 1_000, 1), "memory", "out of range"),
            (limits(1 << 30, 0, 1), "cpu", "0.01"),
            (limits(1 << 30, CPU_MILLI_MAX + 1, 1), "cpu", "4096"),
            (limits(1 << 30, 1_000, 0), "pids", "between 1 "),
            (limits(1 << 30, 1_000, PIDS_MAX + 1), "pids", "4194304"),
        ] {
            let fault = check(&terms(limits), &Settings::default()).expect_err("refused");
            assert!(fault.field == field && fault.why.contains(word), "{fault}");
        }
        assert_eq!(check(&terms(limits(MEMORY_BYTES_MIN, CPU_MILLI_MIN, 1)), &Settings::default()), Ok(()));
    }

    #[test]
    fn more_than_every_pool_allows_is_refused_and_the_pool_named() {
        let settings = settings();
        assert_eq!(check(&terms(limits(2 << 30, 1_000, 1)), &settings), Ok(()), "the large pool takes it");
        let mut named = terms(limits(2 << 30, 1_000, 1));
        named.pool = Some("small".into());
        let fault = check(&named, &settings).expect_err("refused");
        assert!(fault.field == "memory" && fault.why.contains("\"small\" allows, 1G"), "{fault}");
        let fault = check(&terms(limits(1 << 30, 3_000, 1)), &settings).expect_err("refused");
        assert!(fault.field == "cpu" && fault.why.contains("3 is more"), "{fault}");
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        let budget = Budget { memory_bytes: Some(4 << 30), cpu_milli: Some(2_000) };
        let settings = Settings { budget, ..Settings::default() };
        let fault = check(&terms(limits(5 << 30, 1_000, 1)), &settings).expect_err("refused");
        assert!(fault.field == "memory" && fault.why.contains("this host has for jobs, 4G"), "{fault}");
        let fault = check(&terms(limits(1 << 30, 2_500, 1)), &settings).expect_err("refused");
        assert!(fault.field == "cpu" && fault.why.contains("2.5 is more"), "{fault}");
    }

    #[test]
    fn growth_needs_a_rule_that_tries_again() {
        let mut terms = terms(Limits::NONE);
        terms.retry.oom_factor = Some(200);
        let fault = check(&terms, &Settings::default()).expect_err("refused");
        assert!(fault.field == "oom_memory_factor" && fault.why.contains("retry_on"), "{fault}");
        terms.retry.rules.insert(0, Rule { pattern: Pattern::Oom, retry: true });
        assert_eq!(check(&terms, &Settings::default()), Ok(()));
        terms.retry.oom_factor = Some(100);
        assert!(check(&terms, &Settings::default()).expect_err("refused").why.contains("1.00 is out of range"));
    }
}

//! Filters and cursors, against an oracle that looks at every row.

use super::history::World;
use super::*;

/// What one condition demands of one row, said as plainly as can be.
fn oracle(filter: &JobFilter, row: &JobRow) -> bool {
    let labels: Vec<&str> = row.spec.terms.labels.iter().map(Label::as_str).collect();
    let pools: Vec<&String> = row.spec.terms.pool.iter().chain(&row.ran_in).collect();
    let conditions = [
        filter.phases.is_empty() || filter.phases.contains(&row.phase),
        filter.outcomes.is_empty()
            || row.outcome.as_ref().is_some_and(|is| filter.outcomes.contains(&is.word().to_owned())),
        match (&filter.name, &row.spec.name) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(asked), Some(name)) => match asked.split_once('*') {
                Some((prefix, _)) => name.starts_with(prefix),
                None => asked == name,
            },
        },
        filter.pool.as_ref().is_none_or(|asked| pools.contains(&asked)),
        filter.label.as_ref().is_none_or(|asked| labels.contains(&asked.as_str())),
        filter
            .group
            .as_ref()
            .is_none_or(|asked| row.spec.terms.group.as_ref().is_some_and(|group| group.name == *asked)),
        filter.correlation.as_ref().is_none_or(|asked| row.spec.correlation == *asked),
        !filter.tried || row.attempt > 0,
        filter.since.is_none_or(|since| row.submitted >= since),
        filter.until.is_none_or(|until| row.submitted < until),
    ];
    conditions.into_iter().all(|holds| holds)
}

fn random_filter(world: &mut World, rows: &[JobRow]) -> JobFilter {
    let dice = &mut world.dice;
    let mut filter = JobFilter::all(usize::try_from(1 + dice.below(40)).unwrap());
    filter.ascending = dice.rarely(2);
    for _ in 0..dice.below(4) {
        match dice.below(11) {
            0 => filter.phases.push(*dice.pick(&Phase::ALL)),
            1 => filter.phases.extend([Phase::Finished, *dice.pick(&Phase::ALL)]),
            2 => filter.outcomes.push((*dice.pick(&Outcome::WORDS)).to_owned()),
            3 => filter.name = Some((*dice.pick(&["build", "bu*", "*", "build*", "\u{10ffff}*", "nobody"])).to_owned()),
            4 => filter.pool = Some((*dice.pick(&["default", "gpu", "tree", "none"])).to_owned()),
            5 => filter.label = Some((*dice.pick(&["gpu", "arch=arm64", "arch"])).to_owned()),
            6 => filter.group = Some((*dice.pick(&["g1", "g2", "g9"])).to_owned()),
            9 => filter.tried = true,
            7 => filter.correlation = Some(dice.pick(rows).spec.correlation.clone()),
            8 => filter.since = Some(WallTime(dice.pick(rows).submitted.0 + i64::try_from(dice.below(3)).unwrap() - 1)),
            _ => filter.until = Some(WallTime(dice.pick(rows).submitted.0 + i64::try_from(dice.below(3)).unwrap() - 1)),
        }
    }
    filter
}

#[test]
fn filters_and_cursors_agree_with_a_look_at_every_row() {
    for seed in 100..103 {
        let mut world = World::new(seed);
        for _ in 0..500 {
            // The date is set now and then; lists by time must not care.
            if world.dice.rarely(50) {
                world.now.wall =
                    WallTime(world.now.wall.0 + i64::try_from(world.dice.below(2_000_000)).unwrap() - 1_000_000);
            }
            world.step();
        }
        world.commit();
        let rows = world.subjects[0].reader.jobs(&JobFilter::all(usize::MAX)).unwrap();
        for _ in 0..150 {
            let mut filter = random_filter(&mut world, &rows);
            let mut expected: Vec<u64> =
                rows.iter().filter(|row| oracle(&filter, row)).map(|row| row.id.get()).collect();
            if filter.ascending {
                expected.reverse();
            }
            for subject in &world.subjects {
                filter.cursor = None;
                let mut found = Vec::new();
                loop {
                    let page = subject.reader.jobs(&filter).unwrap();
                    found.extend(page.iter().map(|row| row.id.get()));
                    match page.last() {
                        Some(last) if page.len() == filter.limit => filter.cursor = Some(last.id),
                        Some(_) | None => break,
                    }
                }
                assert_eq!(found, expected, "{filter:?}");
            }
        }
    }
}

#[test]
fn finished_jobs_are_given_the_last_first_with_their_figures() {
    for seed in 200..203 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.commit();
        let rows = world.subjects[0].reader.jobs(&JobFilter::all(usize::MAX)).unwrap();
        let times: Vec<WallTime> = rows.iter().filter_map(|row| row.finished).collect();
        let middle = times.get(times.len() / 2).copied();
        let filters = [
            EndedFilter::default(),
            EndedFilter { since: middle, ..EndedFilter::default() },
            EndedFilter { until: middle, name: Some("bu*".into()), ..EndedFilter::default() },
            EndedFilter { name: Some("build".into()), pool: Some("gpu".into()), ..EndedFilter::default() },
        ];
        for filter in &filters {
            let mut lists = Vec::new();
            for subject in &world.subjects {
                lists.push(ended(subject.reader.as_ref(), filter));
            }
            let expected = rows.iter().filter(|row| {
                row.finished.is_some_and(|at| {
                    filter.since.is_none_or(|since| at >= since) && filter.until.is_none_or(|until| at < until)
                }) && filter.name.as_deref().is_none_or(|name| {
                    row.spec.name.as_deref().is_some_and(|is| is == name || name == "bu*" && is.starts_with("bu"))
                }) && filter
                    .pool
                    .as_ref()
                    .is_none_or(|pool| row.spec.terms.pool.as_ref().or(row.ran_in.as_ref()) == Some(pool))
            });
            assert_eq!(lists[0].len(), expected.count(), "{filter:?}");
            assert!(lists.iter().all(|list| *list == lists[0]), "the stores differ on {filter:?}: {lists:#?}");
        }
    }
}

#[test]
fn ends_are_given_from_a_time_on_in_their_order() {
    for seed in 300..303 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.commit();
        let reader = |at: usize| world.subjects[at].reader.as_ref();
        let all = reader(0).ends_since(Instant(i64::MIN), usize::MAX).unwrap();
        let rows = reader(0).jobs(&JobFilter::all(usize::MAX)).unwrap();
        assert_eq!(all.len(), rows.iter().filter(|row| row.finished.is_some()).count());
        assert!(all.is_sorted_by_key(|mark| (mark.at, mark.id)) && !all.is_empty());
        for mark in &all {
            let row = reader(0).job(mark.id).unwrap().unwrap();
            assert_eq!(mark.may_notify, !row.spec.work.notify.is_empty());
            assert_eq!(Some(Outcome::WORDS[mark.outcome]), row.outcome.as_ref().map(Outcome::word));
        }
        for from in [all[0].at, all[all.len() / 2].at, all[all.len() - 1].at, Instant(i64::MAX)] {
            let expected: Vec<_> = all.iter().filter(|mark| mark.at >= from).cloned().collect();
            for at in 0..world.subjects.len() {
                assert_eq!(reader(at).ends_since(from, usize::MAX).unwrap(), expected);
                assert_eq!(reader(at).ends_since(from, 2).unwrap(), expected[..expected.len().min(2)]);
            }
        }
    }
}

/// Each job as text; times fall.
fn ended(reader: &dyn Reader, filter: &EndedFilter) -> Vec<String> {
    let (mut list, mut last) = (Vec::new(), i64::MAX);
    let mut each = |job: EndedJob<'_>| {
        assert!(job.finished.0 <= last, "out of order");
        last = job.finished.0;
        list.push(format!("{job:?}"));
        true
    };
    reader.each_ended(filter, &mut each).unwrap();
    list
}

//! Whoever asks for many sets of labels or limits takes no room from plain jobs.

use super::*;

fn labelled(number: usize) -> Terms {
    let labels = vec![Label::parse(&format!("l{number}")).expect("label")];
    Terms { labels, ..spec().terms }
}

#[test]
fn new_sets_of_one_submission_count_together() {
    let bench = Bench::new(1);
    let mut new = NewClasses::default();
    let taken = |number: &usize| bench.record.has_room_for_class(&labelled(*number), &mut new);
    assert_eq!((0..CLASSES_MAX + 10).filter(taken).count(), CLASSES_MAX);
    assert!(bench.record.has_room_for_class(&labelled(7), &mut new), "one of them");
    assert!(bench.record.has_room_for_class(&spec().terms, &mut new), "a plain job");
}

#[test]
fn plain_jobs_and_sets_in_use_are_always_let_in() {
    let mut bench = Bench::new(1);
    for number in 0..CLASSES_MAX {
        bench.submit(|spec| spec.terms.labels = labelled(number).labels);
    }
    let has_room = |terms: &Terms| bench.record.has_room_for_class(terms, &mut NewClasses::default());
    let pool = Some("default".to_owned());
    let limits = Limits { memory_bytes: Some(1), ..Limits::NONE };
    assert!(has_room(&spec().terms) && has_room(&Terms { pool, ..spec().terms }) && has_room(&labelled(5)));
    assert!(!has_room(&labelled(CLASSES_MAX)) && !has_room(&Terms { limits, ..spec().terms }));
}

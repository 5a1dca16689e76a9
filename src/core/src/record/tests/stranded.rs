//! Jobs that no pool can take hold up nobody.

use super::*;
use proptest::prelude::*;

/// A member of the group of two that only pool `name` may take.
fn member(name: &str) -> impl FnOnce(&mut JobSpec) + use<> {
    let name = name.to_owned();
    move |spec| {
        in_group(2, GroupPolicy::Queue)(spec);
        spec.terms.pool = Some(name);
    }
}

/// Settings with these pools, with room for everybody.
fn pools(names: &[&str]) -> Settings {
    let pool = |name: &&str| Pool::new(name, 64, Vec::new());
    Settings { pools: names.iter().map(pool).collect(), ..Settings::default() }
}

/// First in, first out used to mean that the whole group waited for a pool that nobody had.
#[test]
fn a_job_that_no_pool_takes_does_not_hold_up_its_group() {
    let mut bench = Bench::new(8);
    bench.record.configure(pools(&["a"]));
    for name in ["nowhere", "a", "nowhere", "a", "a"] {
        bench.submit(member(name));
    }
    assert_eq!(bench.turn(), [2, 4], "in their order, up to the limit");
    let why = bench.record.explain(job(1)).expect("open");
    assert!(matches!(&why[..], [Reason::NoPool { pool: Some(name), .. }] if name == "nowhere"), "{why:?}");
    let why = bench.record.explain(job(5)).expect("open");
    assert!(matches!(&why[..], [Reason::Group { ahead: 0, .. }]), "{why:?}");
    bench.record.configure(pools(&["a", "nowhere"]));
    bench.end(2, 0);
    assert_eq!(bench.turn(), [1], "with its pool it is the oldest again");
    bench.record.configure(pools(&["nowhere"]));
    bench.end(4, 0);
    assert_eq!(bench.turn(), [3], "without a pool the youngest is passed over");
}

/// The group was said to be full while nobody held it.
#[test]
fn whoever_waits_behind_a_job_that_waits_for_its_pool_is_told_of_it() {
    let one = |name: &str| Pool::new(name, 1, Vec::new());
    let mut bench = Bench::new(0);
    bench.record.configure(Settings { pools: vec![one("default"), one("big")], ..Settings::default() });
    bench.submit(|spec| spec.terms.pool = Some("big".into()));
    bench.submit(|spec| {
        in_group(1, GroupPolicy::Queue)(spec);
        spec.terms.pool = Some("big".into());
    });
    bench.submit(in_group(1, GroupPolicy::Queue));
    assert_eq!(bench.turn(), [1]);
    let why = bench.record.explain(job(3)).expect("open");
    let [Reason::Group { holders, ahead: 1, first: Some((first, Some(waits))), .. }] = &why[..] else {
        panic!("{why:?}");
    };
    assert_eq!((holders.len(), *first), (0, job(2)));
    assert!(matches!(&**waits, Reason::NoSlot { pools } if pools[0].0 == "big"), "{waits:?}");
    bench.end(1, 0);
    assert_eq!(bench.turn(), [2]);
    let why = bench.record.explain(job(3)).expect("open");
    assert!(matches!(&why[..], [Reason::Group { ahead: 0, first: None, .. }, ..]), "{why:?}");
}

#[derive(Clone, Debug)]
enum Do {
    Submit(usize),
    End(u64),
    Hold(u64),
    Release(u64),
    Configure(Vec<bool>),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn anything() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => (0..NAMES.len()).prop_map(Do::Submit),
        3 => (1u64..40).prop_map(Do::End),
        1 => (1u64..40).prop_map(Do::Hold),
        1 => (1u64..40).prop_map(Do::Release),
        2 => prop::collection::vec(any::<bool>(), NAMES.len()).prop_map(Do::Configure),
    ]
}

proptest! {
    /// Whatever pools come and go: the limit holds, nobody who could go is left while there is room, and nobody is overtaken
    /// in the group by a younger one who could go as well.
    #[test]
    fn a_group_goes_on_in_order_with_whoever_can(steps in prop::collection::vec(anything(), 1..60)) {
        let mut bench = Bench::new(1);
        let mut live = vec![true; NAMES.len()];
        bench.record.configure(pools(&NAMES));
        let mut placed: BTreeMap<JobId, usize> = BTreeMap::new();
        for step in steps {
            match step {
                Do::Submit(name) => { placed.insert(bench.submit(member(NAMES[name])), name); }
                Do::End(id) if bench.record.lease(job(id)).is_some() => bench.end(id, 0),
                Do::Hold(id) if bench.record.phase(job(id)).is_some() => {
                    bench.wish(id, Wish::Hold { by: "me".into(), reason: String::new() });
                }
                Do::Release(id) if bench.record.phase(job(id)).is_some() => bench.wish(id, Wish::Run),
                Do::Configure(wanted) => {
                    let names: Vec<&str> = NAMES.iter().zip(&wanted).filter(|(_, on)| **on).map(|(name, _)| *name).collect();
                    bench.record.configure(pools(&names));
                    live = wanted;
                }
                Do::End(_) | Do::Hold(_) | Do::Release(_) => {}
            }
            let could = |record: &Record, id: &JobId, name: &usize| {
                record.phase(*id) == Some(Phase::Queued) && record.wish(*id) == Some(&Wish::Run) && live[*name]
            };
            let before: Vec<JobId> =
                placed.iter().filter(|(id, name)| could(&bench.record, id, name)).map(|(id, _)| *id).collect();
            let held = bench.record.leases().count();
            let claimed: Vec<JobId> = bench.turn().into_iter().map(job).collect();
            prop_assert_eq!(&claimed[..], &before[..before.len().min(2usize.saturating_sub(held))]);
        }
    }
}

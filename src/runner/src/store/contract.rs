//! One suite for both stores.

use super::memory::MemoryStore;
use super::sqlite::SqliteStore;
use super::*;

#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = SqliteStore::open(dir.path()).unwrap();
    let loaded = store.load(&mut |_| PoolId(0), &mut |_| ()).unwrap();
    println!("{loaded:?}");
    store
        .commit(&[Write::Clock { base: ClockBase { boot_id: "x".into(), offset_ms: 3 }, now: Now::default() }], &[])
        .unwrap();
    println!("{:?} {:?}", reader.check().unwrap(), reader.totals().unwrap());
    println!("{:?}", reader.jobs(&JobFilter::all(10)).unwrap());
    reader.backup(&dir.path().join("b")).unwrap();
    let held = SqliteStore::open(dir.path()).err().unwrap();
    println!("{held}");
    drop((store, reader));
    let _ = SqliteStore::open(dir.path()).unwrap();
    let _ = MemoryStore::new();
}

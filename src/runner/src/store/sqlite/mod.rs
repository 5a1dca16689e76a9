//! The store on disk: one SQLite database in the state directory, written by one connection.
//!
//! `open` takes the directory and looks for damage, `migrate` knows the schema, `write` applies batches, `load` tells what
//! is open, `read` and `list` answer everybody else on connections of their own, `codec`, `ends` and `retry_text` know how a value
//! looks in a column, `gc`, `check`, `backup` and `restore` are what their names say.
//!
//! A commit is one immediate transaction in WAL mode with `synchronous=FULL`: it is on stable storage when it returns, and
//! an error means that nothing of it is there.

mod aside;
mod backup;
mod beside_store;
mod check;
mod checkpoint;
mod codec;
mod ends;
mod finished;
mod gc;
mod lineage;
mod list;
mod load;
mod migrate;
mod open;
mod own_files;
mod pending;
mod place;
mod read;
mod restore;
mod retry_text;
mod schedule;
mod submit;
mod write;

use crate::store::{Claimed, CollectLimits, Loaded, Store, StoreError, Write};
pub use beside_store::refuse_root_in_anothers;
use checkpoint::Checkpointer;
use ci_runner_core::change::OpenJob;
use ci_runner_core::id::{JobId, PoolId};
use ci_runner_core::time::{ClockBase, Now};
use lineage::Lineage;
use open::{Found, Lock};
use own_files::OwnFiles;
use place::{Fault, Place};
pub use read::SqliteReader;
pub use restore::{JobFiles, RestoreReport, restore};
use rusqlite::{Connection, MAIN_DB, Transaction, TransactionBehavior};
use std::path::Path;
use std::sync::Arc;

/// The last daemon ended in order.
const NOT_RUNNING: &str = "UPDATE meta SET running = 0";

/// The writing side. Holds the state directory until it is dropped.
pub struct SqliteStore {
    // Dropped in this order: the lock is given back when nothing is open any more.
    checkpointer: Checkpointer,
    conn: Connection,
    place: Arc<Place>,
    unclean: bool,
    own: OwnFiles,
    /// The start was counted, and nothing was kept since: whoever gives up now ends in order.
    untouched: bool,
    _lock: Lock,
}

impl Drop for SqliteStore {
    /// A daemon that cannot start (its port is taken) leaves the store as an orderly stop does, unless the stop before was none.
    fn drop(&mut self) {
        if self.untouched && !self.unclean {
            let ended = self.transact("end a start in order", |transaction| Ok(transaction.execute(NOT_RUNNING, [])?));
            // Otherwise the next start looks at the database once more than it must.
            drop(ended.and_then(|_| self.checkpoint("end a start in order")));
        }
    }
}

impl SqliteStore {
    /// Takes the state directory and opens its database; makes what is missing where nothing was.
    pub fn open(dir: &Path) -> Result<(Self, SqliteReader), StoreError> {
        open::check_sqlite()?;
        let mut lock = Lock::take(dir)?;
        let place = Arc::new(Place::new(dir));
        pending::settle(&place, &mut lock)?;
        let log = match open::look(&place, &lock)? {
            Found::Nothing => {
                open::create(&place)?;
                false
            }
            Found::Database { log } => log,
        };
        let (conn, store_id, unclean) = Self::connect(&place, log, lock.store_id.as_deref())
            .map_err(|fault| place.error("open the database", fault))?;
        let checkpointer = Checkpointer::start(&place).map_err(|fault| place.error("open the database", fault))?;
        lock.write(&dir.join("lock"), Some(&store_id))?;
        let reader = SqliteReader::new(Arc::clone(&place));
        let own = OwnFiles::of(&place)?;
        Ok((Self { checkpointer, conn, place, own, unclean, untouched: false, _lock: lock }, reader))
    }

    /// This start gets a number above `seen`, the highest that a spawner knows of this store; tells it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn outnumber(&mut self, seen: u64) -> Result<u64, StoreError> {
        self.transact("count the start", |transaction| {
            transaction.execute("UPDATE meta SET generation = max(generation, ?1 + 1)", [codec::int(seen)])?;
            Ok(())
        })?;
        self.checkpoint("count the start")?;
        Ok(seen + 1)
    }

    fn connect(place: &Place, log: bool, locked: Option<&str>) -> Result<(Connection, String, bool), Fault> {
        let probe = open::reader(&place.db)?;
        migrate::version(&probe, &place.db, migrate::known(), false)?;
        // What cannot be read of it is told below.
        if let (Some(locked), Ok(line)) = (locked, Lineage::read(&probe))
            && !line.has(locked)
        {
            let (path, locked) = (place.db.display().to_string(), locked.to_owned());
            return Err(Fault::Store(StoreError::Foreign { path, found: line.store_id, locked }));
        }
        drop(probe);
        let mut conn = open::writer(place)?;
        migrate::migrate(&mut conn, &place.db, migrate::MIGRATIONS, false)?;
        let (store_id, unclean) = load::was_running(&conn)?;
        if unclean && !log {
            let what = "its write-ahead log is missing although the last daemon did not end in order";
            return Err(Fault::Damaged(format!("{what}: acknowledged jobs would be lost")));
        }
        Ok((conn, store_id, unclean))
    }

    /// One transaction: all of `work` or nothing of it.
    fn transact<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.own.are_there(&self.place)?;
        let done = self.try_transact(work);
        self.checkpointer.after_commit(&self.conn);
        done.map_err(|fault| self.place.error(doing, fault))
    }

    fn try_transact<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        if !self.conn.is_autocommit() {
            // An earlier transaction failed and could not be rolled back then, for example on a full disk.
            self.conn.execute_batch("ROLLBACK")?;
        }
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Moves what is in the log into the database, as far as no reader stands in the way.
    fn checkpoint(&mut self, doing: &'static str) -> Result<(), StoreError> {
        let moved = self.conn.wal_checkpoint_v2(Some(MAIN_DB), rusqlite::wal::CheckpointMode::PASSIVE);
        match moved {
            Ok(_) => Ok(()),
            // The thread is at it.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(()),
            Err(error) => match self.place.error(doing, error) {
                // It is safe in the log, and can be moved when there is space.
                StoreError::Full => Ok(()),
                error => Err(error),
            },
        }
    }

    fn tell(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        let told = load::open_jobs(&self.conn, pool_id, each).and_then(|()| load::loaded(&self.conn, self.unclean));
        told.map_err(|fault| self.place.error("load the open jobs", fault))
    }
}

impl Store for SqliteStore {
    fn load(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.transact("count the start", |transaction| {
            transaction.execute("UPDATE meta SET generation = generation + 1, running = 1", [])?;
            Ok(())
        })?;
        // Into the database itself: it must know that it needs its log even when the log is gone.
        self.checkpoint("count the start")?;
        self.untouched = true;
        self.tell(pool_id, each)
    }

    fn reread(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.tell(pool_id, each)
    }

    fn commit(&mut self, batch: &[Write], pools: &[String]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.untouched = false;
        self.transact("keep a batch", |transaction| write::Batch::apply(transaction, batch, pools))
    }

    fn claimed(&mut self, id: JobId) -> Result<Option<Claimed>, StoreError> {
        load::claimed(&self.conn, id).map_err(|fault| self.place.error("read a job", fault))
    }

    fn collect(&mut self, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, StoreError> {
        self.untouched = false;
        self.transact("remove finished jobs", |transaction| gc::collect(transaction, limits, most))
    }

    fn close(&mut self, base: &ClockBase, now: Now) -> Result<(), StoreError> {
        self.untouched = false;
        let clock = [Write::Clock { base: base.clone(), now }];
        self.transact("close", |transaction| {
            write::Batch::apply(transaction, &clock, &[])?;
            transaction.execute(NOT_RUNNING, [])?;
            Ok(())
        })?;
        self.checkpoint("close")
    }
}

//! Why a store does not do what it is asked to.

/// What went wrong. The text says what we were doing, with path; the source is in the chain.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or a quota, is full; nothing of the batch was kept.
    #[error("the disk of the state directory is full")]
    Full,
    /// Another daemon holds the state directory.
    #[error("{path} is in use by the daemon with process id {pid}")]
    Held {
        /// State directory.
        path: String,
        /// The holder, `?` when unknown.
        pid: String,
    },
    /// Root would work in a directory of another user.
    #[error(
        "{path} belongs to user {uid}: root would follow links in it, and leave files there that its owner cannot open"
    )]
    Anothers {
        /// The directory.
        path: String,
        /// Whose it is.
        uid: u32,
    },
    /// Root would work where others can put links.
    #[error(
        "{path} can be written by others (its mode is {mode:o}): root would follow their links in it; `chmod go-w` it, or restore as the \
         user of the daemon"
    )]
    OpenToOthers {
        /// The directory.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// Somebody put a database where another was.
    #[error(
        "{path} is of store {found}, and the logs and secrets here are of store {locked}, which it does not come from: move it elsewhere \
         and give it to `ci-runner restore`, which keeps them apart"
    )]
    Foreign {
        /// Database file.
        path: String,
        /// Its store.
        found: String,
        /// The store that was opened here last.
        locked: String,
    },
    /// A newer version wrote it.
    #[error(
        "{path} was written by a newer ci-runner (schema {found}, this one knows up to {known}); install that version or restore a backup"
    )]
    Newer {
        /// Database file.
        path: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It is not where it was opened any more.
    #[error(
        "{path} was removed or replaced while the daemon has it open; put it back, or stop the daemon and restore a backup"
    )]
    Gone {
        /// The file.
        path: String,
    },
    /// It is damaged.
    #[error("{path} is damaged: {what}; restore a backup with `ci-runner restore`, while no daemon runs")]
    Damaged {
        /// Database file.
        path: String,
        /// What was found.
        what: String,
    },
    /// A directory or file that cannot be made or written.
    #[error("cannot {doing} {path}")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite said no.
    #[error("the database refused to {doing}")]
    Sqlite {
        /// What we were doing.
        doing: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The linked SQLite has a bug that can lose commits.
    #[error("SQLite {found} is linked; versions before {needed} can lose commits, so this program must be built anew")]
    TooOld {
        /// Linked version.
        found: String,
        /// Oldest that will do.
        needed: &'static str,
    },
    /// A row that this version cannot read.
    #[error("the database holds a {what} that this version cannot read")]
    Row {
        /// Which.
        what: String,
    },
}

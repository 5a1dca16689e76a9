//! Concurrency groups: at most `limit` jobs of a group hold it at once.

/// Longest group name.
pub const GROUP_NAME_BYTES_MAX: usize = 128;
/// Largest limit.
pub const GROUP_LIMIT_MAX: u32 = 10_000;

/// What happens to the others when a job joins a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupPolicy {
    /// First in, first out.
    #[default]
    Queue,
    /// Only the newest waiting job is kept, and counts from its submission, also while it waits for its time or for other
    /// jobs; one whose dependency has failed already takes nobody's place; older ones in the queue are superseded, and so is one that was running when the
    /// newer came and would have to be tried again.
    Latest,
    /// As `Latest`, and running ones are stopped.
    Cancel,
}

impl GroupPolicy {
    /// The word in JSON, on the command line and in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Latest => "latest",
            Self::Cancel => "cancel",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Queue, Self::Latest, Self::Cancel].into_iter().find(|policy| policy.word() == word)
    }
}

/// A job's membership as it asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupSpec {
    /// Name, 1 to [`GROUP_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Limit, 1 to [`GROUP_LIMIT_MAX`]; None: the configuration's, the group's present one, or 1.
    pub limit: Option<u32>,
    /// What happens to the others.
    pub policy: GroupPolicy,
}

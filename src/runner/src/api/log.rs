//! Lines of logs, and what a search in logs answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A line, or a part of a very long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineView {
    /// Where in the log it begins, bytes.
    pub offset: u64,
    /// Where the next one begins: the cursor to go on.
    pub next: u64,
    /// When its first byte was written.
    pub at: String,
    /// The line without its newline, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// True for bytes that go on with the line before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
    /// True where no newline follows: more of the line comes, or the log ends here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// A line that matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundView {
    /// Job.
    pub job: u64,
    /// Attempt.
    pub attempt: u32,
    /// The job's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The line.
    #[serde(flatten)]
    pub line: LineView,
}

/// The last line of an answer that is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SearchedView {
    /// What was searched.
    pub searched: Searched,
}

/// What was searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Searched {
    /// Logs.
    pub logs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lines found.
    pub lines: u64,
    /// Logs that were there and have been removed.
    pub removed: u64,
    /// Logs that could not be read, or not to their end.
    pub unreadable: u64,
    /// The limit was reached, or there were more jobs than are looked at: there may be more lines.
    pub more: bool,
}

/// A line of the answer to a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SearchLine {
    /// A line that matches.
    Found(FoundView),
    /// The end.
    Searched(SearchedView),
}

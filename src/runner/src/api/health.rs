//! What the health routes say.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One part of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComponentView {
    /// `ok`, `degraded` or `failing`.
    pub status: String,
    /// Why it is not `ok`, for programs: one word that stays the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ComponentView {
    /// As it should be.
    pub fn ok() -> Self {
        Self { status: "ok".to_owned(), reason: None, detail: None }
    }

    /// It works, but worse than it could.
    pub fn degraded(reason: &str, detail: impl Into<String>) -> Self {
        Self { status: "degraded".to_owned(), reason: Some(reason.to_owned()), detail: Some(detail.into()) }
    }

    /// It does not work.
    pub fn failing(reason: &str, detail: impl Into<String>) -> Self {
        Self { status: "failing".to_owned(), ..Self::degraded(reason, detail) }
    }

    /// Whether it is as it should be.
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }
}

/// Health.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// `ok`, `degraded`, `stopping` or `dead`.
    pub status: String,
    /// Program version.
    pub version: String,
    /// The loop that decides.
    #[serde(rename = "loop")]
    pub engine: ComponentView,
    /// Where the truth is kept.
    pub store: ComponentView,
    /// What runs attempts.
    pub executor: ComponentView,
    /// All parts by name: `loop`, `store`, `spawners`, `executors`, `disk`, `metrics`, `clock`, `watches`, `notifiers`.
    pub components: BTreeMap<String, ComponentView>,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

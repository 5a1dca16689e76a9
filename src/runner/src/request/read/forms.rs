//! The form and the limits of each field, in the words of a refusal: what may stand there, where something else does.

use ci_runner_core::group::GROUP_LIMIT_MAX;
use ci_runner_core::job::{AFTER_MAX, LOG_BYTES_MAX, LOG_BYTES_MIN, NOTIFY_MAX, PRIORITY_MAX};
use ci_runner_core::labels::LABELS_MAX;
use ci_runner_core::limits::PIDS_MAX;
use ci_runner_core::retry::RETRIES_MAX;

/// What a field takes, wherever it stands; None: one that is not known here, or is looked at more closely.
pub(super) fn of(field: &str) -> Option<String> {
    Some(match field {
        "command" => "give a list of words, as in [\"make\", \"test\"]; a text for a shell is `shell`".to_owned(),
        "labels" => format!("give a list of texts, as in [\"gpu\", \"arch=arm64\"], at most {LABELS_MAX}"),
        "notify" => format!("give a list of names of notifiers, as in [\"ops\"], at most {NOTIFY_MAX}"),
        "after" => format!("give a list, as in [3, \"4:always\"], at most {AFTER_MAX}"),
        "ids" => "give a list of job ids, as in [7, 8]".to_owned(),
        "retry_on" => "give a list of rules, as in [\"exit:2\", \"lost\"], or a text, as in \"exit:2,lost\"".to_owned(),
        "retry" => format!("give a whole number from 0 to {RETRIES_MAX}"),
        "priority" => format!("give a whole number from {} to {PRIORITY_MAX}", -PRIORITY_MAX),
        "pids" => format!("give a whole number from 1 to {PIDS_MAX}"),
        "cpu" => "give a number of cores between 0.01 and 4096, as in 1.5".to_owned(),
        "oom_memory_factor" => "give a number from 1.01 to 10, as in 2".to_owned(),
        "memory" => "give bytes or a text, as in \"512M\", between 4M and 1024T".to_owned(),
        "log_max" => {
            format!("give bytes or a text, as in \"64M\", between {LOG_BYTES_MIN} and {LOG_BYTES_MAX} bytes")
        }
        "timeout" | "soft_timeout" | "retry_delay" | "in" | "expires" => {
            "give seconds, as in 1800, or a text, as in \"30m\"; at most 100 years".to_owned()
        }
        "hold" | "all" => "give true or false".to_owned(),
        "job" => "give an object, as in {\"command\": [\"make\", \"test\"]}".to_owned(),
        "shell" | "name" | "pool" | "profile" | "dir" | "caller_dir" | "backoff" | "at" | "key" | "correlation"
        | "calendar" | "timezone" | "overlap" | "missed" | "reason" | "path" => {
            "give a text: write it in quotes".to_owned()
        }
        _ => return None,
    })
}

/// The same of a key of `group` or of an entry of `after`.
pub(super) fn inner(key: &str) -> String {
    match key {
        "id" => "give a job id, as in 3".to_owned(),
        "on" => "give \"success\", \"failure\" or \"always\"".to_owned(),
        "policy" => "give \"queue\", \"latest\" or \"cancel\"".to_owned(),
        "limit" => format!("give a whole number from 1 to {GROUP_LIMIT_MAX}"),
        _ => "give a text: write it in quotes".to_owned(),
    }
}

//! `[watch]` and `[notifiers.NAME]` as text that is read back.

use super::Config;
use super::show::{line, list, quoted};
use super::watching::{NotifierConfig, NotifierKind, SecretPlace};
use crate::quantity::exact_duration;
use std::path::Path;
use std::time::Duration;

/// Both tables.
pub(super) fn show(config: &Config, text: &mut String) {
    let watch = &config.watch;
    let rules = &watch.rules;
    let duration = |duration: Duration| quoted(&exact_duration(duration));
    let limit = |ms: Option<u64>| ms.map_or_else(|| quoted("unlimited"), |ms| duration(Duration::from_millis(ms)));
    let factor = |hundredths: Option<u64>| {
        let hundredths = hundredths.unwrap_or(0);
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    };
    line(text, "\n[watch]");
    for (key, value) in [
        ("every", duration(watch.every)),
        ("window", duration(watch.window)),
        ("history", duration(watch.history)),
        ("calm", duration(watch.calm)),
        ("stuck_factor", factor(rules.stuck_factor)),
        ("stuck_after", limit(rules.stuck_after_ms)),
        ("slow_factor", factor(rules.slow_factor)),
        ("failure_rate_max", factor(rules.failure_rate_max)),
        ("failure_jobs_min", rules.failure_jobs_min.to_string()),
        ("queue_age_max", limit(rules.queue_age_max_ms)),
        ("flapping_changes_max", rules.flapping_changes_max.unwrap_or(0).to_string()),
    ] {
        line(text, &format!("{key} = {value}"));
    }
    for (name, notifier) in &config.notifiers {
        show_notifier(name, notifier, text);
    }
}

fn show_notifier(name: &str, notifier: &NotifierConfig, text: &mut String) {
    let NotifierConfig { kind, watches, jobs, timeout, rate_max, tries_max, queue_max } = notifier;
    let path = |path: &Path| quoted(&path.to_string_lossy());
    line(text, &format!("\n[notifiers.{}]\nkind = {}", quoted(name), quoted(kind.word())));
    match kind {
        NotifierKind::Command { argv } => line(text, &format!("command = {}", list(argv))),
        NotifierKind::Http { url, secret, ca_file } => {
            line(text, &format!("url = {}", quoted(url)));
            match secret {
                Some(SecretPlace::File(file)) => line(text, &format!("secret_file = {}", path(file))),
                Some(SecretPlace::Credential(name)) => line(text, &format!("secret_credential = {}", quoted(name))),
                None => {}
            }
            if let Some(file) = ca_file {
                line(text, &format!("ca_file = {}", path(file)));
            }
        }
        NotifierKind::Email { to, from, sendmail } => {
            line(text, &format!("to = {}\nsendmail = {}", list(to), list(sendmail)));
            if let Some(from) = from {
                line(text, &format!("from = {}", quoted(from)));
            }
        }
    }
    let watches: Vec<String> = watches.iter().map(|watch| watch.word().to_owned()).collect();
    for (key, words) in [
        ("watches", &watches),
        ("outcomes", &jobs.outcomes),
        ("names", &jobs.names),
        ("pools", &jobs.pools),
        ("labels", &jobs.labels),
    ] {
        if !words.is_empty() {
            line(text, &format!("{key} = {}", list(words)));
        }
    }
    line(text, &format!("timeout = {}", quoted(&exact_duration(*timeout))));
    line(text, &format!("rate_max = {rate_max}\ntries_max = {tries_max}\nqueue_max = {queue_max}"));
}

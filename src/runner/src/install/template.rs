//! The files that the program carries, as they are rendered from the NixOS module, and what becomes of them on another
//! distribution. Every difference is made here and has its reason beside it; a test compares the result with the units that
//! the NixOS tests' machines get.

use super::plan::Desired;
use std::path::Path;

type Templates = &'static [(&'static str, &'static str)];

/// Path on the installed system, and the text rendered for it.
static UNITS: Templates = include!(concat!(env!("OUT_DIR"), "/templates.rs"));
/// The same where native jobs have a user each, for one slot.
static SLOTS: Templates = include!(concat!(env!("OUT_DIR"), "/templates-slots.rs"));

/// How many slots have users: at most so many, as in the NixOS module. System users have numbers below 1000, all services together.
pub const SLOT_USERS_MAX: u32 = 400;
/// The user of the slot that the templates have.
const SLOT_USER: &str = "ci-runner-job-0";
/// The number of slots in their settings.
const SLOTS_LINE: &str = "max_parallel_jobs = 1";

/// Stands in the templates for the directory that has `bin`.
const PREFIX: &str = "@prefix@";
/// The comment that the renderer puts above each text ends with an empty line.
const HEADER: &str = "# Generated from nix/modules";

/// Those for so many slots with users; 0: jobs are units.
fn templates(slot_users: u32) -> Templates {
    if slot_users == 0 { UNITS } else { SLOTS }
}

/// The units among the templates, by name, with their installed text.
pub fn units(prefix: &Path, slot_users: u32) -> Vec<(String, String)> {
    let files = templates(slot_users).iter().filter_map(|(path, raw)| {
        let name = path.strip_prefix("/etc/systemd/system/")?;
        Some((name.to_owned(), text(path, raw, prefix)))
    });
    files.collect()
}

/// All files but programs and their pages.
pub fn files(prefix: &Path, slot_users: u32) -> Vec<Desired> {
    let file = |(path, raw): &(&str, &str)| {
        Desired::text(&installed_path(path), slots(path, text(path, raw, prefix), slot_users))
    };
    templates(slot_users).iter().map(file).collect()
}

/// What the templates say of one slot, for so many.
fn slots(path: &str, text: String, slot_users: u32) -> String {
    let users = || (0..slot_users).map(|number| format!("ci-runner-job-{number}"));
    match path {
        _ if slot_users == 0 => text,
        "/etc/ci-runner/config.toml" => text.replace(SLOTS_LINE, &format!("max_parallel_jobs = {slot_users}")),
        "/etc/ci-runner/jobs.json" => {
            let quoted: Vec<String> = users().map(|name| format!("\"{name}\"")).collect();
            text.replace(&format!("\"{SLOT_USER}\""), &quoted.join(","))
        }
        "/etc/sysusers.d/nixos.conf" => {
            let lines = text.lines().flat_map(|line| match line.contains(SLOT_USER) {
                true => users().map(|name| line.replace(SLOT_USER, &name)).collect(),
                false => vec![line.to_owned()],
            });
            lines.map(|line| format!("{line}\n")).collect()
        }
        _ => text,
    }
}

/// Users and directories have files of their own name: `nixos.conf` is NixOS'.
fn installed_path(path: &str) -> String {
    path.replace("/nixos.conf", "/ci-runner.conf")
}

/// What is written at `path`.
fn text(path: &str, raw: &str, prefix: &Path) -> String {
    let body = match raw.strip_prefix(HEADER).and_then(|_| raw.split_once("\n\n")) {
        Some((_, body)) => body,
        None => raw,
    };
    // A trigger compares two systems while NixOS switches from one to the other; `install` compares the files themselves.
    let kept =
        body.lines().filter(|line| !line.starts_with("X-Reload-Triggers=") && !line.starts_with("X-Restart-Triggers="));
    let body: String = kept.map(|line| format!("{line}\n")).collect();
    format!("{}{}", comment(path), body.replace(PREFIX, &prefix.display().to_string()))
}

/// What a person who opens the file should know.
fn comment(path: &str) -> String {
    let advice = match path {
        path if path.starts_with("/etc/systemd/system/") => {
            "Changes belong in a drop-in (`systemctl edit`), which an upgrade leaves alone."
        }
        "/etc/ci-runner/config.toml" => {
            "Change it as you like: `ci-runner config check FILE`, then `systemctl reload ci-runner`. Keys: docs/reference/configuration.md."
        }
        "/etc/ci-runner/policy.json" => {
            "Root's word on what the daemon may have started. After a change: `systemctl reload ci-runner-spawner`."
        }
        "/etc/ci-runner/jobs.json" => {
            "Root's word on the users of native jobs. After a change: `systemctl reload ci-runner-jobs`."
        }
        _ => "Made for the service's user, group and directories.",
    };
    format!("# Written by `ci-runner install --systemd`. {advice}\n")
}

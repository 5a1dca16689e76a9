//! The files that the program carries, as they are rendered from the NixOS module, and what becomes of them on another
//! distribution. Every difference is made here and has its reason beside it; a test compares the result with the units that
//! the NixOS tests' machines get.

use super::Jobs;
use super::plan::Desired;
use std::path::Path;

type Templates = &'static [(&'static str, &'static str)];

/// Path on the installed system, and the text rendered for it.
static UNITS: Templates = include!(concat!(env!("OUT_DIR"), "/templates.rs"));
/// The same where native jobs have a user each, for one slot.
static SLOTS: Templates = include!(concat!(env!("OUT_DIR"), "/templates-slots.rs"));

/// The same with units and native jobs, for one slot of the pool `native`.
static BOTH: Templates = include!(concat!(env!("OUT_DIR"), "/templates-both.rs"));

/// How many slots have users: at most so many, as in the NixOS module. System users have numbers below 1000, all services together.
pub const SLOT_USERS_MAX: u32 = 400;

/// Stands in the templates for the directory that has `bin`.
const PREFIX: &str = "@prefix@";
/// The comment that the renderer puts above each text ends with an empty line.
const HEADER: &str = "# Generated from nix/modules";

fn templates(jobs: Jobs) -> Templates {
    match jobs {
        Jobs::Units => UNITS,
        Jobs::Native(_) => SLOTS,
        Jobs::Both(_) => BOTH,
    }
}

/// The units among the templates, by name, with their installed text.
pub fn units(prefix: &Path, jobs: Jobs) -> Vec<(String, String)> {
    let files = templates(jobs).iter().filter_map(|(path, raw)| {
        let name = path.strip_prefix("/etc/systemd/system/")?;
        Some((name.to_owned(), text(path, raw, prefix)))
    });
    files.collect()
}

/// All files but programs and their pages.
pub fn files(prefix: &Path, jobs: Jobs) -> Vec<Desired> {
    let file =
        |(path, raw): &(&str, &str)| Desired::text(&installed_path(path), slots(path, text(path, raw, prefix), jobs));
    templates(jobs).iter().map(file).collect()
}

/// What the templates say of one slot, for so many.
fn slots(path: &str, text: String, jobs: Jobs) -> String {
    let (one, number_of) = match jobs {
        Jobs::Units => return text,
        Jobs::Native(_) => (Jobs::Native(1), "max_parallel_jobs = "),
        Jobs::Both(_) => (Jobs::Both(1), ", slots = "),
    };
    let one: String = one.users().collect();
    match path {
        "/etc/ci-runner/config.toml" => {
            text.replace(&format!("{number_of}1"), &format!("{number_of}{}", jobs.slot_users()))
        }
        "/etc/ci-runner/jobs.json" => {
            let quoted: Vec<String> = jobs.users().map(|name| format!("\"{name}\"")).collect();
            text.replace(&format!("\"{one}\""), &quoted.join(","))
        }
        "/etc/sysusers.d/nixos.conf" => {
            let lines = text.lines().flat_map(|line| match line.contains(&one) {
                true => jobs.users().map(|name| line.replace(&one, &name)).collect(),
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

//! The files that the program carries, as they are rendered from the NixOS module, and what becomes of them on another
//! distribution. Every difference is made here and has its reason beside it; a test compares the result with the units that
//! the NixOS tests' machines get.

use super::plan::Desired;
use std::path::Path;

/// Path on the installed system, and the text rendered for it.
static TEMPLATES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// Stands in the templates for the directory that has `bin`.
const PREFIX: &str = "@prefix@";
/// The comment that the renderer puts above each text ends with an empty line.
const HEADER: &str = "# Generated from nix/modules";

/// The units among the templates, by name, with their installed text.
pub fn units(prefix: &Path) -> Vec<(String, String)> {
    let files = TEMPLATES.iter().filter_map(|(path, raw)| {
        let name = path.strip_prefix("/etc/systemd/system/")?;
        Some((name.to_owned(), text(path, raw, prefix)))
    });
    files.collect()
}

/// All files but programs and their pages.
pub fn files(prefix: &Path) -> Vec<Desired> {
    let file = |(path, raw): &(&str, &str)| Desired::text(&installed_path(path), text(path, raw, prefix));
    TEMPLATES.iter().map(file).collect()
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
        _ => "Made for the service's user, group and directories.",
    };
    format!("# Written by `ci-runner install --systemd`. {advice}\n")
}

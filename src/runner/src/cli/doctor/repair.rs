//! `doctor --repair`: what is done before the look, as findings. What can be repaired is in [`crate::install::repair`].

use super::Finding;
use super::Grade;
use crate::config::Config;
use crate::install::manifest::Manifest;
use crate::install::repair::{self, Repair};
use crate::install::{Jobs, Place, services};
use std::path::PathBuf;

/// Repairs the installed service where there is one and we are root, and the directories of our own.
pub(super) fn repair(config: Option<&Config>) -> Vec<Finding> {
    let mut repairs: Vec<Repair> = Vec::new();
    if let Some(config) = config {
        repairs.extend([&config.state_dir, &config.runtime_dir].into_iter().filter_map(|dir| repair::private(dir)));
    }
    let mut findings = Vec::new();
    if rustix::process::geteuid().is_root() && services::is_booted() {
        let mut place = Place { root: PathBuf::from("/"), prefix: PathBuf::new(), jobs: Jobs::Units };
        match Manifest::read(&place) {
            Ok(Some(ours)) => {
                place.prefix = ours.prefix.clone();
                place.jobs = ours.jobs();
                match repair::service(&place, &ours) {
                    Ok(done) => repairs.extend(done),
                    Err(error) => findings.push(failed("the installed service", &error.to_string())),
                }
            }
            Ok(None) => {}
            Err(error) => findings.push(failed("the installed service", &error.to_string())),
        }
    }
    findings.extend(repairs.into_iter().map(|repair| match repair.failed {
        None => Finding { grade: Grade::Repaired, check: "repair", text: repair.what, matters: None, mend: None },
        Some(why) => failed(&repair.what, &why),
    }));
    if findings.is_empty() {
        findings.push(Finding::ok("repair", "nothing that can be repaired was wrong"));
    }
    findings
}

fn failed(what: &str, why: &str) -> Finding {
    Finding::fail("repair", format!("{what}: {why}"), "do it by hand, or `ci-runner install --systemd` anew")
}

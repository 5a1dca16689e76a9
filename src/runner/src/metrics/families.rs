//! One text out of several: the host's series and those of each pool, which are kept apart so that a pool can go.
//!
//! Only what our own recorders render is read here: text format 0.0.4, the head of a family (`# HELP`, `# TYPE`) before its
//! samples. The format wants all samples of a family together, under one head.

use std::collections::BTreeMap;

/// Families by name: head and samples.
#[derive(Default)]
pub(super) struct Families(BTreeMap<String, (String, String)>);

impl Families {
    /// Adds the families of a text. The head that came first stays.
    pub fn add(&mut self, text: &str) {
        let mut name = "";
        let mut had_head = false;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let head = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
            if let Some(of) = head.and_then(|head| head.split(' ').next()) {
                if of != name {
                    name = of;
                    had_head = self.0.contains_key(name);
                }
                if had_head {
                    continue;
                }
            }
            let (heads, samples) = self.0.entry(name.to_owned()).or_default();
            let part = if head.is_some() { heads } else { samples };
            part.push_str(line);
            part.push('\n');
        }
    }

    /// All of them, by name.
    pub fn text(self) -> String {
        self.0.into_values().map(|(head, samples)| format!("{head}{samples}\n")).collect()
    }
}

//! The list of differences in `docs/reference/metrics.md`, read as data, and what was found, held against it.

use std::collections::BTreeSet;
use std::path::Path;

/// How a series differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    OnlyHere,
    OnlyThere,
    Value,
}

struct Row {
    pattern: String,
    kind: Kind,
    seen_in: Vec<String>,
}

/// The table.
pub struct Differences(Vec<Row>);

impl Differences {
    pub fn read() -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        let text = std::fs::read_to_string(page).unwrap();
        let (_, section) = text.split_once("### Differences from node_exporter").expect("the section has its name");
        let rows = section.lines().filter(|line| line.starts_with("| `")).map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [pattern, kind, seen_in, reason] = cells[..] else { panic!("four cells are needed: {line}") };
            assert!(!reason.is_empty(), "a reason is needed: {line}");
            let kind = match kind {
                "only here" => Kind::OnlyHere,
                "only there" => Kind::OnlyThere,
                "value" => Kind::Value,
                other => panic!("unknown difference '{other}'"),
            };
            let seen_in = seen_in.split(' ').map(str::to_owned).collect();
            Row { pattern: pattern.trim_matches('`').to_owned(), kind, seen_in }
        });
        let rows: Vec<Row> = rows.collect();
        assert!(rows.len() > 5, "the table was not found");
        Self(rows)
    }

    /// Whether a difference is listed.
    pub fn lists(&self, place: &str, key: &str, kind: Kind) -> bool {
        self.0.iter().any(|row| row.fits(place, key, kind))
    }

    /// Fails for what is not listed, and for rows of `place` that nothing fits.
    pub fn judge(&self, place: &str, found: &BTreeSet<(String, Kind)>) {
        let unlisted: Vec<_> = found.iter().filter(|(key, kind)| !self.lists(place, key, *kind)).collect();
        assert!(
            unlisted.is_empty(),
            "{place}: differences that docs/reference/metrics.md does not list: {unlisted:#?}"
        );
        let stale = self.0.iter().filter(|row| row.seen_in.iter().any(|one| one == place));
        let stale = stale.filter(|row| !found.iter().any(|(key, kind)| row.fits(place, key, *kind)));
        let stale: Vec<_> = stale.map(|row| (&row.pattern, row.kind)).collect();
        assert!(stale.is_empty(), "{place}: rows of docs/reference/metrics.md without a difference: {stale:#?}");
    }
}

impl Row {
    fn fits(&self, place: &str, key: &str, kind: Kind) -> bool {
        self.kind == kind && self.seen_in.iter().any(|one| one == place) && glob(&self.pattern, key)
    }
}

/// `*` is any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| glob(rest, &text[at..]))
}

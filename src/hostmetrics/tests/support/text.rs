//! A scrape as data: lines as they were written, so that names, labels, escaping and numbers are compared as text.

use std::collections::BTreeMap;

/// One scrape.
pub struct Scrape {
    /// Value by series (name and labels as written).
    pub series: BTreeMap<String, String>,
    /// `# HELP` and `# TYPE` by family.
    pub heads: BTreeMap<String, Vec<String>>,
    /// Series in the order of the text.
    pub order: Vec<String>,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let (mut series, mut heads, mut order) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new(), Vec::new());
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# ") {
                let name = head.split(' ').nth(1).unwrap().to_owned();
                heads.entry(name).or_default().push(line.to_owned());
            } else {
                let (key, value) = line.rsplit_once(' ').unwrap();
                assert!(series.insert(key.to_owned(), value.to_owned()).is_none(), "twice: {key}");
                order.push(key.to_owned());
            }
        }
        Self { series, heads, order }
    }

    /// The family of a series.
    pub fn family<'a>(&self, key: &'a str) -> &'a str {
        let name = key.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        base.filter(|base| self.heads.contains_key(*base)).unwrap_or(name)
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        self.series.get(key).map(|value| value.parse().unwrap())
    }

    pub fn is_counter(&self, key: &str) -> bool {
        self.heads[self.family(key)].iter().any(|line| line.starts_with("# TYPE ") && line.ends_with(" counter"))
    }
}

//! What the comparisons share: trees from text, the real node_exporter, scrapes as data, and the list of differences.

pub mod differences;
pub mod peer;
pub mod text;
pub mod tree;

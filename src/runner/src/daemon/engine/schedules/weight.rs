//! How much a run of a schedule takes, in the commit and in the memory of the loop.

use crate::request::shape;

/// What a text of its own takes beside its bytes: a short word in a command has fourteen times its length.
const TEXT_BYTES: usize = 56;

/// What is made of a job's JSON: its bytes, and what each of its texts takes.
pub(super) fn weight(request: &str) -> usize {
    request.len() + shape(request.as_bytes()).texts * TEXT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_words_weigh_more_than_their_length() {
        assert_eq!(weight(r#"{"shell":"a"}"#), 13 + 2 * TEXT_BYTES);
        assert_eq!(weight("{}"), 2);
    }
}

//! Replaces secrets by `***` in a stream, wherever the stream is cut.
//!
//! One Aho-Corasick automaton over all forms of all secrets (see `forms`) runs over the stream and keeps its state from
//! chunk to chunk. A byte is covered when any occurrence of any form covers it, overlapping and nested ones included;
//! each longest run of covered bytes becomes one `***`. That is a property of the whole stream, so every way to cut it
//! into chunks gives the same output; the tests compare with a search over the whole buffer.
//!
//! **What is held back.** The automaton's state stands for the longest end of the stream which begins some form. Only
//! those bytes can still become covered, so only they are held back, and of them not the ones already covered. There is
//! deliberately no time limit: letting a beginning go because the rest is late would leak a secret that is written in
//! two parts. A prompt which happens to end with the beginning of a form shows up to that point until more output, or
//! the end, decides. The end of a form is never longer held back than the form is long.
//!
//! **What is not masked**: a secret the job has transformed in any other way (reversed, hex, compressed, encrypted,
//! encoded twice, wrapped at other columns than 64 and 76, with bytes of its own in between). Masking protects from
//! accidents, not from a job that wants to tell.
//!
//! **Speed.** Between beginnings of forms the automaton stays in its start state, and `skip` jumps over text in which no
//! form can begin. By measuring (`examples/masker_throughput.rs`) the automaton is the contiguous NFA: behind the jumps the
//! DFA is no faster, also not on adversarial text, where it misses the cache; it is twenty times larger and takes five
//! times as long to build, which counts for a process per job.

mod forms;
mod skip;

use std::collections::VecDeque;
use std::ops::Range;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

#[cfg(test)]
pub(in crate::joblog) use forms::of_all as forms_of;
pub use forms::{SECRET_BYTES_MIN, SECRETS_BYTES_MAX, SecretError, check_secrets};
use skip::Skip;

/// Stands for each run of covered bytes.
const REPLACEMENT: &[u8] = b"***";
/// Input is handled in pieces of this size, which bounds the list of covered ranges.
const PIECE_BYTES: usize = 64 * 1024;

/// The automaton runs so many bytes before it is seen whether jumping is possible again, …
const STEPS_MIN: usize = 16;
/// … and twice as many each time it is not, up to so many: text made of beginnings of forms shall not cost twice.
const STEPS_MAX: usize = 1024;

/// Masks one stream. No `Debug`: it holds secrets.
pub struct Masker {
    nfa: NFA,
    start: StateID,
    /// Length of the text that each state stands for, sorted by state.
    depths: Box<[(StateID, u32)]>,
    skip: Skip,
    state: StateID,
    /// Bytes of the stream seen so far; positions below are counted from its beginning.
    seen: u64,
    /// The last bytes seen, not yet let go.
    held: VecDeque<u8>,
    /// Covered bytes not yet let go: sorted, apart from each other.
    covered: VecDeque<Range<u64>>,
    /// The byte before the held ones was covered.
    in_run: bool,
}

impl Masker {
    /// A masker for these secrets, as (name, value); None when there are none. Names appear in errors, values nowhere.
    pub fn new<'a>(
        secrets: impl IntoIterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Option<Self>, SecretError> {
        check_secrets(secrets.clone())?;
        let forms = forms::of_all(secrets);
        if forms.is_empty() {
            return Ok(None);
        }
        let nfa = NFA::builder()
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(&forms)
            .map_err(|_| SecretError::TooComplex)?;
        let start = nfa.start_state(Anchored::No).map_err(|_| SecretError::TooComplex)?;
        let depths = depths(&nfa, start, &forms);
        let skip = Skip::new(&forms);
        Ok(Some(Self {
            nfa,
            start,
            depths,
            skip,
            state: start,
            seen: 0,
            held: VecDeque::new(),
            covered: VecDeque::new(),
            in_run: false,
        }))
    }

    /// Takes the next bytes of the stream and appends to `out` what may be shown.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        for piece in input.chunks(PIECE_BYTES) {
            self.scan(piece);
            self.release(piece, out);
        }
    }

    /// The stream has ended: nothing held back can become a secret any more. The masker is as new afterwards.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.state = self.start;
        self.release(&[], out);
        self.in_run = false;
    }

    /// Bytes held back now.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Memory of automaton and tables, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.nfa.memory_usage() + size_of_val(&*self.depths) + self.skip.memory_bytes()
    }

    /// Runs the automaton over a piece and notes what is covered. `seen` stays.
    fn scan(&mut self, piece: &[u8]) {
        let mut at = 0;
        let mut steps = STEPS_MIN;
        while at < piece.len() {
            if self.state == self.start {
                at = self.skip.to_candidate(piece, at);
                steps = STEPS_MIN;
            }
            at = self.walk(piece, at, steps);
            match self.back_to_start(piece, at) {
                Some(candidate) => {
                    at = candidate;
                    self.state = self.start;
                    steps = STEPS_MIN;
                }
                None => steps = (steps * 2).min(STEPS_MAX),
            }
        }
    }

    /// Up to so many steps of the automaton, or until it is in its start state; tells how far it came.
    #[inline]
    fn walk(&mut self, piece: &[u8], from: usize, steps: usize) -> usize {
        let (start, mut state, mut at) = (self.start, self.state, from);
        for &byte in piece[from..].iter().take(steps) {
            state = self.nfa.next_state(Anchored::No, state, byte);
            at += 1;
            if state == start {
                break;
            }
            if self.nfa.is_match(state) {
                self.cover(state, self.seen + at as u64);
            }
        }
        self.state = state;
        at
    }

    /// A text of nothing but first bytes of forms would never lead to the start state again. But when the state stands
    /// for the last few bytes only, and no form can begin with them, the next candidate is as good a place to start.
    /// It is fewer than [`STEPS_MIN`] bytes back at most, so the scan makes progress, and fewer than the shortest form has
    /// (else these bytes would have been a candidate), so nothing is found twice.
    #[inline]
    fn back_to_start(&self, piece: &[u8], at: usize) -> Option<usize> {
        if self.state == self.start {
            return None;
        }
        let depth = usize::try_from(self.depth(self.state)).ok().filter(|&depth| depth <= STEPS_MIN)?;
        let begin = at.checked_sub(depth)?;
        let candidate = self.skip.to_candidate(piece, begin);
        (candidate > begin && candidate < piece.len()).then_some(candidate)
    }

    /// Forms end at `end`: the longest covers all of them. The automaton lists it first.
    fn cover(&mut self, state: StateID, end: u64) {
        let length = self.nfa.pattern_len(self.nfa.match_pattern(state, 0));
        let mut start = end - length as u64;
        while let Some(last) = self.covered.back()
            && last.end >= start
        {
            start = start.min(last.start);
            self.covered.pop_back();
        }
        self.covered.push_back(start..end);
    }

    /// Lets go what no form can cover any more. `piece` follows the held bytes.
    fn release(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let from = self.seen - self.held.len() as u64;
        self.seen += piece.len() as u64;
        let depth = if self.state == self.start { 0 } else { self.depth(self.state) };
        // The state may stand for bytes that are covered and were let go already.
        let mut until = (self.seen - depth).max(from);
        let mut at = from;
        loop {
            match self.covered.front().map(|range| (range.start, range.end)) {
                // Already shown as part of a run: `start` can lie before `from`, never behind a byte not covered.
                Some((start, end)) if start <= at && start <= until => {
                    if !self.in_run {
                        out.extend_from_slice(REPLACEMENT);
                        self.in_run = true;
                    }
                    at = at.max(end);
                    until = until.max(end);
                    self.covered.pop_front();
                }
                next => {
                    let to = next.map_or(until, |(start, _)| start.min(until));
                    if to == at {
                        break;
                    }
                    self.copy(piece, from, at..to, out);
                    self.in_run = false;
                    at = to;
                }
            }
        }
        self.hold(piece, (at - from) as usize);
    }

    fn copy(&self, piece: &[u8], from: u64, range: Range<u64>, out: &mut Vec<u8>) {
        let (start, end) = ((range.start - from) as usize, (range.end - from) as usize);
        let held = self.held.len();
        if start < held {
            out.extend(self.held.range(start..end.min(held)));
        }
        if end > held {
            out.extend_from_slice(&piece[start.max(held) - held..end - held]);
        }
    }

    /// The first `gone` of held and piece are done with; the rest is held.
    fn hold(&mut self, piece: &[u8], gone: usize) {
        let held = self.held.len();
        if gone >= held {
            self.held.clear();
            self.held.extend(&piece[gone - held..]);
        } else {
            self.held.drain(..gone);
            self.held.extend(piece);
        }
    }

    fn depth(&self, state: StateID) -> u64 {
        let found = self.depths.binary_search_by_key(&state, |&(state, _)| state);
        // Every state is the one some form's beginning leads to.
        found.map_or(0, |index| u64::from(self.depths[index].1))
    }
}

/// In an Aho-Corasick automaton the state after the first n bytes of a pattern stands for just these n bytes.
fn depths(nfa: &NFA, start: StateID, forms: &[Vec<u8>]) -> Box<[(StateID, u32)]> {
    let mut depths = Vec::new();
    for form in forms {
        let mut state = start;
        for (&byte, depth) in form.iter().zip(1_u32..) {
            state = nfa.next_state(Anchored::No, state, byte);
            depths.push((state, depth));
        }
    }
    depths.sort_unstable();
    depths.dedup();
    depths.into_boxed_slice()
}

//! Makes a job's output harmless for a terminal.
//!
//! A terminal obeys what is written to it: output of a job could set the title, write the clipboard, move the cursor and
//! overwrite what stands there, or make text read otherwise than it is. What comes out of here does none of this:
//!
//! | in | out |
//! |---|---|
//! | text, tab, newline | as it is |
//! | colours: `ESC [ digits ; : m` (SGR), at most [`SGR_BYTES_MAX`] | as they are; a reset at the end if one is needed |
//! | carriage returns before a newline | nothing |
//! | other carriage returns (progress bars) | newline: each state is shown, none overwrites another |
//! | other escape sequences: OSC (title, clipboard, links), DCS, APC, PM, SOS, cursor movement, modes, … | nothing |
//! | other control characters, DEL | `^G`, `^?` |
//! | C1 controls (U+0080 to U+009F), bidirectional overrides, embeddings and isolates, tag characters | U+FFFD |
//! | bytes that are not UTF-8, 8-bit C1 forms among them | U+FFFD for each longest beginning of a character |
//!
//! A string sequence (OSC and the like) ends at its terminator, at a newline, or after [`STRING_BYTES_MAX`]: what never
//! ends hides one line at most. The state is a few bytes; any way to cut the stream gives the same output.

/// A longer colour sequence is dropped.
const SGR_BYTES_MAX: usize = 64;
/// After so many bytes without an end a control sequence is taken for text again.
const SEQUENCE_BYTES_MAX: usize = 256;
/// After so many bytes without an end a string sequence is taken for text again: room for a picture, not for a log.
const STRING_BYTES_MAX: usize = 64 * 1024;

const ESC: u8 = 0x1b;
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
const RESET: &[u8] = b"\x1b[0m";

/// What the stream was in the middle of.
#[derive(Clone, Debug, Default)]
pub struct Defuse {
    mode: Mode,
    /// Carriage returns came, and it is open whether a newline follows.
    returned: bool,
    /// Colours are on.
    coloured: bool,
}

#[derive(Clone, Debug, Default)]
enum Mode {
    #[default]
    Ground,
    /// In a character: its bytes so far, and how many it has.
    Utf8 { bytes: [u8; 4], have: usize, need: usize },
    /// Behind ESC and any intermediate bytes; how many.
    Escape { bytes: usize },
    /// Behind `ESC [`: what may still be a colour, and the number of all bytes.
    Control { sgr: Option<Vec<u8>>, bytes: usize },
    /// In a string; `escaped`: its last byte was ESC.
    String { escaped: bool, bytes: usize },
}

/// Defuses the next bytes of a stream.
pub fn defuse(state: &mut Defuse, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len() + 8);
    for &byte in input {
        state.step(byte, &mut out);
    }
    out
}

impl Defuse {
    /// The stream has ended, or pauses: what is left of it, and back to the terminal's own colours.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.settle_return(None, &mut out);
        if matches!(self.mode, Mode::Utf8 { .. }) {
            out.extend_from_slice(REPLACEMENT);
        }
        if self.coloured {
            out.extend_from_slice(RESET);
        }
        *self = Self::default();
        out
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        match std::mem::take(&mut self.mode) {
            Mode::Ground => self.ground(byte, out),
            Mode::Utf8 { bytes, have, need } => self.utf8(byte, bytes, have, need, out),
            Mode::Escape { bytes } => self.escape(byte, bytes + 1, out),
            Mode::Control { sgr, bytes } => self.control(byte, sgr, bytes + 1, out),
            Mode::String { escaped, bytes } => self.string(byte, escaped, bytes + 1, out),
        }
    }

    fn ground(&mut self, byte: u8, out: &mut Vec<u8>) {
        // Escape sequences show nothing: they do not decide what a carriage return was.
        if byte != ESC {
            self.settle_return(Some(byte), out);
        }
        match byte {
            b'\n' | b'\t' | b' '..=b'~' => out.push(byte),
            b'\r' => self.returned = true,
            ESC => self.mode = Mode::Escape { bytes: 0 },
            0x00..0x20 | 0x7f => out.extend_from_slice(&[b'^', byte ^ 0x40]),
            _ => match width(byte) {
                Some(need) => self.mode = Mode::Utf8 { bytes: [byte, 0, 0, 0], have: 1, need },
                None => out.extend_from_slice(REPLACEMENT),
            },
        }
    }

    fn settle_return(&mut self, next: Option<u8>, out: &mut Vec<u8>) {
        if self.returned && next != Some(b'\r') {
            self.returned = false;
            if next != Some(b'\n') {
                out.push(b'\n');
            }
        }
    }

    fn utf8(&mut self, byte: u8, mut bytes: [u8; 4], have: usize, need: usize, out: &mut Vec<u8>) {
        if !continues(&bytes[..have], byte) {
            out.extend_from_slice(REPLACEMENT);
            return self.ground(byte, out);
        }
        bytes[have] = byte;
        if have + 1 < need {
            self.mode = Mode::Utf8 { bytes, have: have + 1, need };
            return;
        }
        let char = std::str::from_utf8(&bytes[..need]).ok().and_then(|text| text.chars().next());
        match char {
            Some(char) if !misleads(char) => out.extend_from_slice(&bytes[..need]),
            _ => out.extend_from_slice(REPLACEMENT),
        }
    }

    fn escape(&mut self, byte: u8, bytes: usize, out: &mut Vec<u8>) {
        match byte {
            b'[' if bytes == 1 => self.mode = Mode::Control { sgr: Some(Vec::new()), bytes: 0 },
            b']' | b'P' | b'X' | b'^' | b'_' if bytes == 1 => self.mode = Mode::String { escaped: false, bytes: 0 },
            b' '..=b'/' if bytes < SEQUENCE_BYTES_MAX => self.mode = Mode::Escape { bytes },
            // The last byte of a short sequence.
            b'0'..=b'~' => {}
            _ => self.ground(byte, out),
        }
    }

    fn control(&mut self, byte: u8, sgr: Option<Vec<u8>>, bytes: usize, out: &mut Vec<u8>) {
        match byte {
            b' '..=b'?' if bytes < SEQUENCE_BYTES_MAX => {
                let sgr = sgr.filter(|so_far| {
                    matches!(byte, b'0'..=b'9' | b';' | b':') && so_far.len() + b"\x1b[m".len() < SGR_BYTES_MAX
                });
                let sgr = sgr.map(|mut so_far| {
                    so_far.push(byte);
                    so_far
                });
                self.mode = Mode::Control { sgr, bytes };
            }
            b'm' => {
                if let Some(colours) = sgr {
                    out.extend_from_slice(b"\x1b[");
                    out.extend_from_slice(&colours);
                    out.push(b'm');
                    self.coloured = !colours.iter().all(|digit| *digit == b'0');
                }
            }
            b'@'..=b'~' => {}
            _ => self.ground(byte, out),
        }
    }

    fn string(&mut self, byte: u8, escaped: bool, bytes: usize, out: &mut Vec<u8>) {
        match byte {
            // BEL, CAN, SUB.
            0x07 | 0x18 | 0x1a => {}
            b'\\' if escaped => {}
            b'\n' => self.ground(byte, out),
            // Another sequence begins, as in a terminal.
            _ if escaped => {
                self.mode = Mode::Escape { bytes: 0 };
                self.step(byte, out);
            }
            _ if bytes >= STRING_BYTES_MAX => self.ground(byte, out),
            _ => self.mode = Mode::String { escaped: byte == ESC, bytes },
        }
    }
}

/// Length of the character a byte begins (Unicode standard, table 3-7).
fn width(first: u8) -> Option<usize> {
    match first {
        0xc2..=0xdf => Some(2),
        0xe0..=0xef => Some(3),
        0xf0..=0xf4 => Some(4),
        _ => None,
    }
}

fn continues(so_far: &[u8], byte: u8) -> bool {
    match so_far {
        [0xe0] => (0xa0..=0xbf).contains(&byte),
        [0xed] => (0x80..=0x9f).contains(&byte),
        [0xf0] => (0x90..=0xbf).contains(&byte),
        [0xf4] => (0x80..=0x8f).contains(&byte),
        _ => (0x80..=0xbf).contains(&byte),
    }
}

/// C1 controls, and what makes text read otherwise than it is (CVE-2021-42574), or hides it.
fn misleads(char: char) -> bool {
    matches!(
        char,
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}'
    )
}

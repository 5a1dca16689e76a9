//! The forms in which a secret is looked for, and which values can be secrets at all.
//!
//! Looked for are the whole value without newlines at its ends, and each of its lines without surrounding spaces, if at
//! least [`SECRET_BYTES_MIN`] long and not one character repeated:
//!
//! - as they are, the whole also with CRLF for LF, as a terminal's line discipline makes it;
//! - base64, standard and URL-safe, with and without padding, alone, followed by a newline (`echo "$S" | base64`), or
//!   anywhere inside a longer encoded text: at each of the three alignments the characters that depend on the secret
//!   only. Beside them one character on either side may show up to four bits of the secret. The whole also as the lines
//!   of `base64` and `openssl base64` (76 and 64 columns), when the encoded text begins with it;
//! - percent-encoded, with the sets of unencoded characters of RFC 3986, Python's `quote`, JavaScript's
//!   `encodeURIComponent` and `encodeURI`, HTML forms; upper and lower hex digits; `%20` and `+` for space;
//! - inside a JSON string: only what must be escaped, also `\/`, also `<`, `>`, `&`, `'`, `+` as `\u00XX`, also everything
//!   beyond ASCII as `\uXXXX`, hex digits in both cases;
//! - quoted for a shell: within single quotes (both ways to write a single quote), within double quotes, with
//!   backslashes (`printf %q`), and within `$'…'`.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A shorter value is refused as a secret: it would turn up by chance in ordinary output, which masking it would garble
/// and by that betray the value; with 6 bytes its base64 forms still have 7 characters.
pub const SECRET_BYTES_MIN: usize = 6;
/// All values of an attempt together: the automaton takes up to half a KiB for each byte of them.
pub const SECRETS_BYTES_MAX: usize = 64 * 1024;
/// Columns after which `base64` and `openssl base64` break lines.
const WRAP_COLUMNS: [usize; 2] = [76, 64];
/// Shorter forms are dropped: the last, short line of a wrapped text, for example.
const FORM_BYTES_MIN: usize = SECRET_BYTES_MIN;

/// Why a value cannot be a secret. Names are told, values never.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Shorter than [`SECRET_BYTES_MIN`] without surrounding spaces.
    #[error(
        "secret {name:?} has {bytes} bytes, the minimum is {SECRET_BYTES_MIN}: a shorter one cannot be masked without \
         garbling ordinary output; use a longer value, or pass it as --env if it is no secret"
    )]
    TooShort {
        /// Name of the secret.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// One character, repeated.
    #[error("secret {name:?} is one character repeated, which cannot be masked sensibly; use another value")]
    Uniform {
        /// Name of the secret.
        name: String,
    },
    /// More than [`SECRETS_BYTES_MAX`].
    #[error("the secrets have {bytes} bytes together, the maximum is {SECRETS_BYTES_MAX}; secret {name:?} exceeds it")]
    TooLarge {
        /// The first secret which does not fit.
        name: String,
        /// Size of all up to this one.
        bytes: usize,
    },
    /// The automaton has a limit of its own, which the limit on bytes keeps far away.
    #[error("the secrets have too many forms to be masked; use fewer or shorter ones")]
    TooComplex,
}

/// Whether these (name, value) pairs can be masked; cheap, for the one who accepts them.
pub fn check_secrets<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), SecretError> {
    let mut total = 0_usize;
    for (name, value) in secrets {
        let trimmed = value.trim_ascii();
        total = total.saturating_add(value.len());
        if trimmed.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort { name: name.to_owned(), bytes: trimmed.len() });
        }
        if is_uniform(trimmed) {
            return Err(SecretError::Uniform { name: name.to_owned() });
        }
        if total > SECRETS_BYTES_MAX {
            return Err(SecretError::TooLarge { name: name.to_owned(), bytes: total });
        }
    }
    Ok(())
}

fn is_uniform(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[0] == pair[1])
}

/// Every form of every secret, each once.
pub(in crate::joblog) fn of_all<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<Vec<u8>> {
    let mut forms = BTreeSet::new();
    for (_, value) in secrets {
        let whole = trim_newlines(value);
        let lines: Vec<&[u8]> = whole.split(|&byte| byte == b'\n').map(trim_newlines).collect();
        forms.insert(whole.to_vec());
        forms.insert(lines.join(&b"\r\n"[..]));
        forms.insert(lines.join(&b"\n"[..]));
        add_base64(whole, &mut forms);
        add_wrapped_base64(whole, &mut forms);
        let mut pieces: Vec<&[u8]> = lines.into_iter().map(<[u8]>::trim_ascii).collect();
        let has_more = pieces.iter().any(|line| !is_maskable(line));
        pieces.retain(|line| is_maskable(line));
        // Written otherwise than in base64, a value shows its lines one by one, which are looked for anyway.
        if has_more {
            pieces.push(whole);
        }
        for piece in pieces {
            forms.insert(piece.to_vec());
            add_base64(piece, &mut forms);
            add_percent(piece, &mut forms);
            add_json(piece, &mut forms);
            add_shell(piece, &mut forms);
        }
    }
    forms.retain(|form| form.len() >= FORM_BYTES_MIN);
    forms.into_iter().collect()
}

fn is_maskable(line: &[u8]) -> bool {
    line.len() >= SECRET_BYTES_MIN && !is_uniform(line)
}

fn trim_newlines(mut bytes: &[u8]) -> &[u8] {
    while let [b'\n' | b'\r', rest @ ..] | [rest @ .., b'\n' | b'\r'] = bytes {
        bytes = rest;
    }
    bytes
}

fn add_base64(piece: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    let with_newline = [piece, b"\n"].concat();
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for bytes in [piece, &with_newline] {
            for before in 0..3 {
                // The bytes before shift the secret by 8 or 16 bits, so its first whole character is the 2nd or 3rd.
                let text = engine.encode([&[0_u8; 2][..before], bytes].concat()).into_bytes();
                let first = [0, 2, 3][before];
                let bits = (before + bytes.len()) * 8;
                forms.insert(text[first..bits / 6].to_vec());
                forms.insert(text[first..].to_vec());
                forms.insert(padded(&text[first..], text.len()));
            }
        }
    }
}

fn padded(text: &[u8], length: usize) -> Vec<u8> {
    [text, &b"=="[..(4 - length % 4) % 4]].concat()
}

/// As the tools that break lines write a file: these encode standard base64 only.
fn add_wrapped_base64(whole: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for bytes in [whole, &[whole, b"\n"].concat()] {
        let text = STANDARD_NO_PAD.encode(bytes).into_bytes();
        let text = padded(&text, text.len());
        for columns in WRAP_COLUMNS.into_iter().filter(|&columns| columns < text.len()) {
            let lines: Vec<&[u8]> = text.chunks(columns).collect();
            forms.extend(lines.iter().map(|line| line.to_vec()));
            // The last line alone can be too short to be a form.
            forms.extend(lines.last_chunk::<2>().map(|last| last.join(&b'\n')));
        }
    }
}

fn add_percent(piece: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    const UNENCODED: [&[u8]; 5] = [b"-._~", b"-._~/", b"-_.!~*'()", b"-_.!~*'();/?:@&=+$,#", b"*-._"];
    for unencoded in UNENCODED {
        for hex in [UPPER, LOWER] {
            for space in [&b"%20"[..], b"+"] {
                let mut form = Vec::with_capacity(piece.len() * 3);
                for &byte in piece {
                    if byte.is_ascii_alphanumeric() || unencoded.contains(&byte) {
                        form.push(byte);
                    } else if byte == b' ' {
                        form.extend_from_slice(space);
                    } else {
                        form.push(b'%');
                        form.extend(digits(hex, u32::from(byte), 2));
                    }
                }
                forms.insert(form);
            }
        }
    }
}

const UPPER: &[u8; 16] = b"0123456789ABCDEF";
const LOWER: &[u8; 16] = b"0123456789abcdef";

fn digits(hex: &'static [u8; 16], number: u32, count: u32) -> impl Iterator<Item = u8> {
    (0..count).rev().map(move |place| hex[(number >> (4 * place)) as usize & 15])
}

/// JSON is text: a secret that is not UTF-8 has no such form.
fn add_json(piece: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    let Ok(text) = std::str::from_utf8(piece) else { return };
    for encoder in JSON_ENCODERS {
        let mut form = Vec::with_capacity(piece.len() * 2);
        text.chars().for_each(|char| encoder.push(char, &mut form));
        forms.insert(form);
    }
}

const fn json(as_hex: &'static str, ascii_only: bool, slash: &'static str, hex: &'static [u8; 16]) -> Json {
    Json { as_hex, ascii_only, slash, hex }
}

/// What encoders in use write; most texts come out alike from all of them.
const JSON_ENCODERS: [Json; 10] = [
    json("", false, "/", LOWER),        // JavaScript, jq, serde_json, Ruby
    json("", false, "\\/", LOWER),      // PHP without escaped Unicode, json-c
    json("", true, "/", LOWER),         // Python
    json("", true, "\\/", LOWER),       // PHP
    json("", true, "/", UPPER),         // Jackson
    json("<>&", false, "/", LOWER),     // Go, Rails
    json("<>&", false, "/", UPPER),     // Django
    json("<>&='", false, "/", LOWER),   // Gson
    json("<>&'\"", true, "\\/", UPPER), // PHP for HTML
    json("<>&'\"+`", true, "/", UPPER), // .NET
];

struct Json {
    as_hex: &'static str,
    ascii_only: bool,
    slash: &'static str,
    hex: &'static [u8; 16],
}

impl Json {
    fn push(&self, char: char, form: &mut Vec<u8>) {
        let plain: &[u8] = match char {
            _ if self.as_hex.contains(char) => return self.push_hex(char, form),
            '"' => b"\\\"",
            '\\' => b"\\\\",
            '\n' => b"\\n",
            '\r' => b"\\r",
            '\t' => b"\\t",
            '\u{8}' => b"\\b",
            '\u{c}' => b"\\f",
            '/' => self.slash.as_bytes(),
            '\0'..='\u{1f}' => return self.push_hex(char, form),
            // Python and Go's encoder in its HTML mode write these so.
            '\u{7f}'.. if self.ascii_only => return self.push_hex(char, form),
            '\u{2028}' | '\u{2029}' if !self.as_hex.is_empty() => return self.push_hex(char, form),
            _ => {
                form.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                return;
            }
        };
        form.extend_from_slice(plain);
    }

    fn push_hex(&self, char: char, form: &mut Vec<u8>) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            form.extend_from_slice(b"\\u");
            form.extend(digits(self.hex, u32::from(*unit), 4));
        }
    }
}

fn add_shell(piece: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    let replaced = |replace: &dyn Fn(u8, &mut Vec<u8>)| {
        let mut form = Vec::with_capacity(piece.len() * 2);
        piece.iter().for_each(|&byte| replace(byte, &mut form));
        form
    };
    for quote in [&br"'\''"[..], br#"'"'"'"#] {
        forms.insert(replaced(&|byte, form| match byte {
            b'\'' => form.extend_from_slice(quote),
            _ => form.push(byte),
        }));
    }
    for special in [&b"\"\\$`"[..], b"\"\\$`!", b" \t\"\\$`!'&|;<>()[]{}*?#~^,"] {
        forms.insert(replaced(&|byte, form| {
            if special.contains(&byte) {
                form.push(b'\\');
            }
            form.push(byte);
        }));
    }
    for word_begins in [false, true] {
        for tilde in [false, true] {
            forms.insert(as_bash_quotes(piece, word_begins, tilde));
        }
    }
    for octal in [false, true] {
        forms.insert(replaced(&|byte, form| push_ansi_c(byte, octal, form)));
    }
}

/// As bash's `printf %q` writes: `#` is quoted as the first character of a word only, `~` there and behind `:` and `=` (by old
/// versions nowhere). The piece is a word of its own, or stands inside of one.
fn as_bash_quotes(piece: &[u8], word_begins: bool, tilde: bool) -> Vec<u8> {
    let mut form = Vec::with_capacity(piece.len() * 2);
    let mut before = None;
    for &byte in piece {
        let first = word_begins && before.is_none();
        let quoted = match byte {
            b'#' => first,
            b'~' => tilde && (first || matches!(before, Some(b':' | b'='))),
            _ => b" \t\"\\$`!'&|;<>()[]{}*?^,".contains(&byte),
        };
        if quoted {
            form.push(b'\\');
        }
        form.push(byte);
        before = Some(byte);
    }
    form
}

/// As bash writes within `$'…'`.
fn push_ansi_c(byte: u8, octal: bool, form: &mut Vec<u8>) {
    let letter = match byte {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x07 => b'a',
        0x08 => b'b',
        0x0b => b'v',
        0x0c => b'f',
        0x1b => b'E',
        b'\'' | b'\\' => byte,
        0x00..0x20 | 0x7f => return form.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        0x80.. if octal => return form.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        _ => return form.push(byte),
    };
    form.extend_from_slice(&[b'\\', letter]);
}

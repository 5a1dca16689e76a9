//! Jumps over text in which no form can begin (Wu and Manber, "A fast algorithm for multi-pattern searching", 1994).
//!
//! All forms are at least `window` long. For a window of the text the last three bytes tell how far the next place is
//! where a form could begin: the least distance of these bytes from the end of a form's first `window` bytes, or, when no
//! form has them there, the whole window less two. Different blocks may share a slot of the table; the least wins,
//! so a collision costs time, never a match.

/// Three bytes tell apart enough with hundreds of forms; two are too common in text.
const BLOCK_BYTES: usize = 3;
/// A longer window brings little: the distance grows, but so does the number of blocks in the table.
const WINDOW_BYTES_MAX: usize = 32;
/// log2 of the slots: 32 KiB stay in the first-level cache.
const SLOT_BITS: u32 = 15;

/// Where forms can begin.
pub(super) struct Skip {
    window: usize,
    /// Slot of the window's last three bytes: how far to go; 0: a form may begin here.
    distances: Box<[u8]>,
    /// Bit set, slot of the window's first four bytes: some form begins so.
    beginnings: Box<[u64]>,
}

impl Skip {
    /// `forms` is not empty and each has at least four bytes.
    pub fn new(forms: &[Vec<u8>]) -> Self {
        let window = forms.iter().map(Vec::len).min().unwrap_or(0).min(WINDOW_BYTES_MAX);
        let farthest = window.saturating_sub(BLOCK_BYTES - 1);
        let mut distances = vec![farthest as u8; 1 << SLOT_BITS].into_boxed_slice();
        let mut beginnings = vec![0_u64; (1 << SLOT_BITS) / 64].into_boxed_slice();
        for form in forms {
            for end in BLOCK_BYTES + 1..=window {
                let slot = block_slot(four(form, end - 4));
                distances[slot] = distances[slot].min((window - end) as u8);
            }
            // The first block has no byte before it, which the slot does not depend on.
            let first = block_slot(u32::from_le_bytes([0, form[0], form[1], form[2]]));
            distances[first] = distances[first].min((window - BLOCK_BYTES) as u8);
            let slot = beginning_slot(four(form, 0));
            beginnings[slot / 64] |= 1 << (slot % 64);
        }
        Self { window, distances, beginnings }
    }

    /// The first place from `at` on where a form may begin, which is any place too near to the end to tell.
    #[inline]
    pub fn to_candidate(&self, text: &[u8], mut at: usize) -> usize {
        while let Some(window) = text.get(at..at + self.window) {
            let distance = self.distances[block_slot(four(window, self.window - 4))];
            if distance == 0 {
                let slot = beginning_slot(four(window, 0));
                if self.beginnings[slot / 64] & (1 << (slot % 64)) != 0 {
                    return at;
                }
                at += 1;
            } else {
                at += usize::from(distance);
            }
        }
        at
    }

    /// Memory of the tables, bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.distances) + size_of_val(&*self.beginnings)
    }
}

#[inline(always)]
fn four(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Of the last three of four bytes.
#[inline(always)]
fn block_slot(four: u32) -> usize {
    ((four >> 8).wrapping_mul(0x9E37_79B1) >> (32 - SLOT_BITS)) as usize
}

#[inline(always)]
fn beginning_slot(four: u32) -> usize {
    (four.wrapping_mul(0x9E37_79B1) >> (32 - SLOT_BITS)) as usize
}

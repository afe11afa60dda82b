//! What the build of a segment leaves in memory: the segment is opened with it instead of reading the file
//! again that was just written.
//!
//! It is kept where the memory budget has room for it, and is what reading would give, bit for bit.

use crate::dense::flat::FlatBuilder;
use crate::dense::signs::Codes;
use crate::dense::ssd::Built;

/// What is left of the dense fields.
#[derive(Default)]
pub(super) struct Warm {
    /// Bytes that may be kept yet.
    room_bytes: u64,
    fields: Vec<(usize, WarmField)>,
}

/// Vectors of a field, and what was made of them.
pub(super) struct WarmField {
    pub(super) vectors: FlatBuilder,
    pub(super) cells: Option<Built>,
    pub(super) signs: Option<Codes>,
}

impl WarmField {
    fn bytes(&self) -> u64 {
        let cells = self.cells.as_ref().map_or(0, Built::memory_bytes);
        let signs = self.signs.as_ref().map_or(0, Codes::memory_bytes);
        (self.vectors.memory_bytes() + cells + signs) as u64
    }
}

impl Warm {
    /// Nothing; at most so many bytes are going to be kept.
    pub(super) fn with_room(room_bytes: u64) -> Self {
        Self { room_bytes, fields: Vec::new() }
    }

    /// Keeps what is left of a field, where there is room.
    pub(super) fn keep(&mut self, field: usize, warm: WarmField) {
        if let Some(room_bytes) = self.room_bytes.checked_sub(warm.bytes()) {
            self.room_bytes = room_bytes;
            self.fields.push((field, warm));
        }
    }

    /// What is left of a field.
    pub(super) fn take(&mut self, field: usize) -> Option<WarmField> {
        let at = self.fields.iter().position(|(kept, _)| *kept == field)?;
        Some(self.fields.swap_remove(at).1)
    }
}

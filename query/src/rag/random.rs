//! Random texts for the tests of this folder, from a printed seed.

/// A small generator (splitmix64): good enough to vary tests, the same on every machine.
#[derive(Clone)]
pub(crate) struct Random(u64);

/// What random texts are made of: words, odd spaces, line breaks, scripts, combining marks, emoji, markdown.
const PIECES: [&str; 72] = [
    "a",
    "the",
    "The",
    "RETURN",
    "policy",
    "don't",
    "I'LL",
    "'s",
    "x'",
    "antidisestablishmentarianism",
    " ",
    " ",
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\u{A0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    ". ",
    ", ",
    "! ",
    "?",
    "/",
    "//",
    "/\n",
    "!\n/",
    "...",
    "1",
    "23",
    "4567",
    "3.14",
    "\u{663}\u{664}",
    "\u{B2}",
    "\u{2160}",
    "\u{24B6}",
    "\u{4E2D}\u{6587}",
    "\u{3002}",
    "\u{65E5}\u{672C}\u{8A9E}",
    "\u{440}\u{443}\u{441}\u{441}\u{43A}\u{438}\u{439}",
    "\u{E9}t\u{E9}",
    "e\u{301}",
    "\u{301}",
    "\u{1C5}",
    "\u{2B0}",
    "\u{1F600}",
    "\u{1F469}\u{200D}\u{1F4BB}",
    "\u{1F1E9}\u{1F1EA}",
    "\u{200B}",
    "\u{FEFF}",
    "\u{5E9}",
    "\u{644}\u{627}",
    "# ",
    "\n## Head\n",
    "\n- ",
    "\n* ",
    "\n1. ",
    "```\n",
    "`code`",
    "| a | b |\n|---|---|\n",
    "> ",
    "<|endoftext|>",
    "**bold**",
];

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed of this run, to be printed by the assertions; `SPANDREL_TEST_SEED` replays one.
    pub(crate) fn new_seed() -> u64 {
        use std::hash::{BuildHasher, RandomState};
        let given = std::env::var("SPANDREL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        given.unwrap_or_else(|| RandomState::new().hash_one(0))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A number in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Puts the elements in any order.
    pub(crate) fn shuffle<T>(&mut self, elements: &mut [T]) {
        for at in (1..elements.len()).rev() {
            elements.swap(at, self.below(at + 1));
        }
    }

    /// A text of up to about `bytes_max` bytes; some texts use few kinds of pieces.
    pub(crate) fn text(&mut self, bytes_max: usize) -> String {
        let bytes = self.below(bytes_max + 1);
        let kinds = if self.below(3) == 0 { 1 + self.below(4) } else { PIECES.len() };
        let first = self.below(PIECES.len());
        let mut text = String::with_capacity(bytes + 32);
        while text.len() < bytes {
            let piece = if self.below(40) == 0 {
                char::from_u32(self.below(0x11_0000) as u32).map(String::from)
            } else {
                Some(PIECES[(first + self.below(kinds)) % PIECES.len()].to_owned())
            };
            text.push_str(piece.as_deref().unwrap_or(" "));
        }
        text
    }
}

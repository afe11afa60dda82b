//! Which codes are measured: every family at several sizes, product codes at half a bit, a bit and two bits a
//! dimension.

use spandrel_index::quant::{
    Axes, Full, Pq4, Pq8, Projection, Quantizer, Rabitq, Scalar, Search, Staged, Training,
};
use spandrel_index::simd::Kernels;

use super::judge::{Figures, Set, judge};

/// Most pieces of a code of 16 words.
const PIECES_MAX: usize = 256;
/// Widest pieces of principal axes under 16 words, as in the dense index: the axes of least variance are left
/// out.
const WIDTH_MAX: usize = 3;
/// Of rotations and first words.
const SEED: u64 = 1;

/// Words a piece and how they are learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pieces {
    pieces: usize,
    axes: Axes,
    balanced: bool,
}

/// The axes of a first stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// The first coordinates.
    Prefix,
    /// Those of most variance.
    Principal,
    /// The lowest frequencies.
    Fourier,
}

/// A code to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Code {
    /// The vectors themselves.
    F32,
    /// Halves.
    F16,
    /// A byte a dimension, by the ranges of vectors.
    BytesByVector,
    /// A byte a dimension, by the ranges of dimensions.
    BytesByDimension,
    /// Bits a dimension, and how they are found.
    Rabitq(u32, Search),
    /// 16 words a piece.
    Pq4(Pieces),
    /// 256 words a piece.
    Pq8(Pieces),
    /// So many dimensions of a stage, in f32.
    Staged(Stage, usize),
    /// The same, a byte each.
    StagedBytes(Stage, usize),
}

/// All codes for vectors of `dim` dimensions.
pub fn all(dim: usize) -> Vec<Code> {
    let mut codes = vec![Code::F32, Code::F16, Code::BytesByVector, Code::BytesByDimension];
    codes.extend((1..=8).map(|bits| Code::Rabitq(bits, Search::Fast)));
    codes.extend([2, 4].map(|bits| Code::Rabitq(bits, Search::Sweep)));
    let plain = |pieces, axes| Pieces { pieces, axes, balanced: false };
    let balanced = |pieces, axes| Pieces { pieces, axes, balanced: true };
    for bytes in [dim / 16, dim / 8, dim / 4].map(|bytes| bytes.max(1)) {
        codes.extend([Axes::Given, Axes::Principal, Axes::Learned].map(|axes| Code::Pq8(plain(bytes, axes))));
        let pieces = (2 * bytes).next_multiple_of(4);
        if pieces <= PIECES_MAX {
            codes.extend(
                [Axes::Given, Axes::Principal, Axes::Learned].map(|axes| Code::Pq4(plain(pieces, axes))),
            );
        }
        if bytes <= dim / 8 {
            codes.push(Code::Pq8(balanced(bytes, Axes::Given)));
            codes.extend([Axes::Given, Axes::Principal].map(|axes| Code::Pq4(balanced(pieces, axes))));
        }
    }
    // What the dense index has taken, or might.
    codes.extend([48, 64, 96].map(|pieces| Code::Pq4(plain(pieces, Axes::Principal))));
    for dims in [dim / 8, dim / 4, dim / 2].map(|dims| dims.max(1)) {
        codes
            .extend([Stage::Prefix, Stage::Principal, Stage::Fourier].map(|stage| Code::Staged(stage, dims)));
        codes.push(Code::StagedBytes(Stage::Principal, dims));
    }
    let mut unique = Vec::new();
    codes.into_iter().for_each(|code| {
        if !unique.contains(&code) {
            unique.push(code);
        }
    });
    unique
}

impl Code {
    /// What it is called.
    pub fn name(&self) -> String {
        match self {
            Self::F32 => "f32".into(),
            Self::F16 => "f16".into(),
            Self::BytesByVector => "sq8 by vector".into(),
            Self::BytesByDimension => "sq8 by dimension".into(),
            Self::Rabitq(bits, Search::Fast) => format!("rabitq {bits}"),
            Self::Rabitq(bits, Search::Sweep) => format!("rabitq {bits} sweep"),
            Self::Pq4(pieces) => format!("pq4 {}", pieces.name()),
            Self::Pq8(pieces) => format!("pq8 {}", pieces.name()),
            Self::Staged(stage, dims) => format!("{} {dims} f32", stage.name()),
            Self::StagedBytes(stage, dims) => format!("{} {dims} sq8", stage.name()),
        }
    }

    /// Makes it, writes the set with it and reads it back.
    pub fn measure(&self, set: &Set, threads: usize) -> Vec<Figures> {
        let (dim, kernels) = (set.dim, Kernels::best());
        let training =
            |pieces: &Pieces| Training { threads, seed: SEED, rounds: 15, balanced: pieces.balanced };
        match *self {
            Self::F32 => judge(self, set, &[false], || Full::<f32>::new(dim, kernels)),
            Self::F16 => judge(self, set, &[false], || Full::<half::f16>::new(dim, kernels)),
            Self::BytesByVector => judge(self, set, &[false, true], || Scalar::by_vector(dim, kernels)),
            Self::BytesByDimension => {
                judge(self, set, &[false, true], || Scalar::by_dimension(set.rows(), kernels))
            }
            Self::Rabitq(bits, search) => {
                judge(self, set, &[true], || Rabitq::new(dim, bits, search, SEED, kernels))
            }
            Self::Pq4(pieces) => {
                let width = dim.div_ceil(pieces.pieces);
                let width = if pieces.axes == Axes::Principal { width.min(WIDTH_MAX) } else { width };
                let shape = (pieces.pieces, width);
                judge(self, set, &[false, true], || {
                    Pq4::train(set.rows(), shape, pieces.axes, training(&pieces), kernels)
                })
            }
            Self::Pq8(pieces) => {
                let shape = (pieces.pieces, dim.div_ceil(pieces.pieces));
                judge(self, set, &[false, true], || {
                    Pq8::train(set.rows(), shape, pieces.axes, training(&pieces), kernels)
                })
            }
            Self::Staged(stage, dims) => judge(self, set, &[false, true], || {
                Staged::new(stage.projection(set, dims), Full::<f32>::new(dims, kernels))
            }),
            Self::StagedBytes(stage, dims) => judge(self, set, &[false, true], || {
                Staged::new(stage.projection(set, dims), Scalar::by_vector(dims, kernels))
            }),
        }
    }
}

impl Pieces {
    fn name(&self) -> String {
        let axes = match self.axes {
            Axes::Given => "given",
            Axes::Principal => "principal",
            Axes::Learned => "learned",
        };
        format!("{axes}{} x{}", if self.balanced { " balanced" } else { "" }, self.pieces)
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Principal => "principal",
            Self::Fourier => "fourier",
        }
    }

    fn projection(self, set: &Set, dims: usize) -> Projection {
        let kernels = Kernels::best();
        match self {
            Self::Prefix => Projection::prefix(set.dim, dims, kernels),
            Self::Principal => Projection::principal(set.sample(), dims, kernels),
            Self::Fourier => Projection::fourier(set.dim, dims, kernels),
        }
    }
}

/// Bytes a vector, without factors.
pub fn code_bytes<Q: Quantizer>(quantizer: &Q) -> f64 {
    quantizer.block_bytes() as f64 / spandrel_index::quant::BLOCK_ROWS as f64
}

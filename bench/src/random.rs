//! Random numbers of benches: the engine's generator, with what only they draw.

pub use spandrel_index::random::Random;

/// What else is drawn.
pub trait Draw {
    /// The generator of one of many streams.
    #[must_use]
    fn jump(self, stream: usize) -> Self;

    /// Normal, of variance 1 (Box and Muller, 1958).
    fn normal(&mut self) -> f32;
}

impl Draw for Random {
    fn jump(mut self, stream: usize) -> Self {
        let seed = self.next();
        Self(seed ^ Self(stream as u64).next())
    }

    fn normal(&mut self) -> f32 {
        let mut uniform = || ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        (radius * angle.cos()) as f32
    }
}

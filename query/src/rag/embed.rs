//! The seam where text becomes vectors. No model is bundled: an embedder is the caller's component.

use std::time::Instant;

use crate::error::Result;

/// What a text is embedded for; some models treat the two differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedPurpose {
    /// A stored passage.
    Passage,
    /// A question.
    Query,
}

/// Turns texts into dense vectors.
pub trait Embedder: Send + Sync {
    /// One vector for each text, in order, all of [`Embedder::dim`] finite elements. Nobody waits for it
    /// after `deadline`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when it may succeed later,
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline), else what is wrong.
    fn embed(
        &self,
        texts: &[&str],
        purpose: EmbedPurpose,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>>;

    /// Elements of a vector, where the embedder knows it before its first answer.
    fn dim(&self) -> Option<usize>;

    /// A name for logs and messages, for example the model's.
    fn name(&self) -> &str;
}

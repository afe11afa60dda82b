//! Evidence where a corpus says everything several times: what diversity, leaving out copies after the search
//! and leaving them out at ingest are worth.
//!
//! Every passage gets none to four copies, by chance, with up to 20 % of its words replaced, left out or
//! followed by another, and vectors near that of the passage: no embedder runs. A copy has the evidence of
//! its passage. The copies are planted; that they are like those of a crawl is not claimed.

use serde_json::json;
use spandrel::{PostStage, RetrieveResponse};

use super::bootstrap::difference;
use super::corpus::{Corpus, search};
use super::evidence::questions;
use super::judge::Evidence;
use super::questions::{Document, Question, Set};
use super::selectors::{Selector, all, baseline};
use crate::dataset::Matrix;
use crate::dedup::corpus::{RATES, changed, vocabulary};
use crate::random::Random;
use crate::report::{self, Goal, Row};
use crate::{Result, report::median};

/// Most copies of a passage.
const COPIES_MAX: usize = 4;
/// What separates the key of a passage from the number of a copy.
const MARK: char = '~';
/// How far the vector of a copy is from its passage's, for a share of 20 % of changed words, in its length.
const DISTANCE: f32 = 0.3;
/// From which similarity on copies are left out.
const SIMILARITY: f64 = 0.5;

/// A set with copies of its passages.
fn with_copies(set: &Set, random: &mut Random) -> Set {
    let words = vocabulary(set.documents.iter().map(|document| document.text.as_str()));
    let (mut documents, mut data) = (Vec::new(), Vec::new());
    for (at, document) in set.documents.iter().enumerate() {
        let vector = set.vectors.row(at);
        let copy = |key: String, text: String| Document { key, title: document.title.clone(), text };
        documents.push(copy(document.key.clone(), document.text.clone()));
        data.extend_from_slice(vector);
        for number in 1..=random.below(COPIES_MAX + 1) {
            let rate = RATES[random.below(RATES.len())];
            let text = changed(&document.text, rate, &words, random);
            documents.push(copy(format!("{}{MARK}{number}", document.key), text));
            data.extend(near(vector, DISTANCE * rate as f32 / 0.2, random));
        }
    }
    // Copies come in any order.
    let mut order: Vec<usize> = (0..documents.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
    let dim = set.vectors.dim;
    let mut slots: Vec<Option<Document>> = documents.into_iter().map(Some).collect();
    Set {
        name: set.name.clone(),
        is_multi_hop: set.is_multi_hop,
        documents: order.iter().filter_map(|at| slots[*at].take()).collect(),
        vectors: Matrix {
            dim,
            data: order.iter().flat_map(|at| data[at * dim..(at + 1) * dim].iter().copied()).collect(),
        },
        questions: set.questions.iter().map(Question::clone).collect(),
        question_vectors: Matrix { dim: set.question_vectors.dim, data: set.question_vectors.data.clone() },
    }
}

/// A vector of the same length at about this distance.
fn near(vector: &[f32], distance: f32, random: &mut Random) -> Vec<f32> {
    let length = |vector: &[f32]| vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let unit = |random: &mut Random| (random.next() >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
    let noise: Vec<f32> = vector.iter().map(|_| unit(random)).collect();
    let scale = distance * length(vector) / length(&noise).max(1e-9);
    let moved: Vec<f32> = vector.iter().zip(&noise).map(|(x, noise)| x + scale * noise).collect();
    let scale = length(vector) / length(&moved).max(1e-9);
    moved.iter().map(|x| x * scale).collect()
}

/// Judges a context in which a copy stands for its passage.
fn recall(evidence: &Evidence, response: &RetrieveResponse) -> f64 {
    let mut chunks: Vec<_> = response.chunks.iter().filter_map(|chunk| chunk.hit.row.chunk.clone()).collect();
    for chunk in &mut chunks {
        if let Some((key, _)) = chunk.document.rsplit_once(MARK) {
            chunk.document = key.to_owned();
        }
        // Chunks are whole passages.
        chunk.span = 0..u64::MAX >> 1;
    }
    evidence.recall_of(chunks.iter())
}

/// A way of choosing, with copies left out before it or not, of one corpus or the other.
struct Way {
    name: String,
    selector: Selector,
    dedup: bool,
    cleaned: bool,
}

fn ways() -> Vec<Way> {
    let way = |selector: Selector, (dedup, cleaned): (bool, bool), end: &str| Way {
        name: format!("{}{end}", selector.name),
        selector,
        dedup,
        cleaned,
    };
    let mut ways: Vec<Way> = all().into_iter().map(|one| way(one, (false, false), "")).collect();
    ways.retain(|way| !matches!(way.selector.name, "top_k stop" | "document order"));
    let both =
        || all().into_iter().filter(|one| matches!(one.name, "top_k skip" | "submodular evidence" | "auto"));
    ways.extend(both().map(|one| way(one, (true, false), ", dedup stage")));
    ways.extend(both().map(|one| way(one, (false, true), ", dedup at ingest")));
    ways
}

/// The table of some sets.
///
/// # Errors
/// The database cannot be written, or a question fails.
pub fn table(
    sets: &[&Set],
    (k, budgets, half): (usize, &[usize], Option<usize>),
) -> Result<(Vec<Row>, Vec<Goal>)> {
    let mut random = Random(0x5eed_0030);
    let redundant: Vec<Set> = sets.iter().map(|set| with_copies(set, &mut random)).collect();
    let redundant: Vec<&Set> = redundant.iter().collect();
    let corpus = Corpus::store(&redundant, (0, 0), |set| set.name.clone())?;
    let cleaned = Corpus::store_without_copies(&redundant, (0, 0), Some(SIMILARITY), |set| set.name.clone())?;
    for set in &redundant {
        let rows = |corpus: &Corpus| corpus.collection.count(&set.name, None);
        println!("{}: {} passages with copies, {} without", set.name, rows(&corpus)?, rows(&cleaned)?);
    }
    let questions = questions(&redundant, &corpus, half);
    let ask = |way: &Way, budget: usize| -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut recalls, mut times_us) = (Vec::new(), Vec::new());
        for (set, question, evidence) in &questions {
            let mut request = way.selector.request(search(set, question, set.name.clone(), k), budget);
            if way.dedup {
                request.post.push(PostStage::Dedup { near: Some(SIMILARITY as f32), shingle_words: 5 });
            }
            let collection = if way.cleaned { &cleaned.collection } else { &corpus.collection };
            let started = std::time::Instant::now();
            let response = collection.retrieve(&request)?;
            times_us.push(started.elapsed().as_secs_f64() * 1e6);
            recalls.push(recall(evidence, &response));
        }
        Ok((recalls, times_us))
    };
    let plain = Way { name: String::new(), selector: baseline(), dedup: false, cleaned: false };
    let mut rows = Vec::new();
    for budget in budgets {
        let (base, _) = ask(&plain, *budget)?;
        for way in ways() {
            let (recalls, times_us) = ask(&way, *budget)?;
            let more = difference(&recalls, &base);
            rows.push(report::row(json!({
                "set": "with copies",
                "budget": budget,
                "selector": way.name,
                "questions": recalls.len(),
                "recall": recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
                "more": more.mean,
                "low": more.low,
                "high": more.high,
                "p50_us": median(&times_us),
            }))?);
        }
    }
    Ok((rows, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_copies_are_as_near_as_asked() {
        let mut random = Random(1);
        let vector: Vec<f32> = (0..384).map(|x| (x as f32 * 0.7).sin()).collect();
        for distance in [0.0, 0.1, 0.3] {
            let copy = near(&vector, distance, &mut random);
            let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            let apart: Vec<f32> = vector.iter().zip(&copy).map(|(a, b)| a - b).collect();
            assert!((square(&copy) / square(&vector) - 1.0).abs() < 1e-4);
            assert!(((square(&apart) / square(&vector)).sqrt() - distance).abs() < 0.02);
        }
    }
}

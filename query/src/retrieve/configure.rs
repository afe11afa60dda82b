//! Which way of choosing suits a query: what CORAG calls the configuration agent.
//!
//! CORAG (Wang et al., 2024) trains a network over embeddings to choose a reranker and parameters for each
//! query. Here a few plain features of the query and its candidates say what each way of choosing is expected
//! to gain over rank order, by a linear model each; the one that is expected to gain most is taken, and rank
//! order where none is. Chunks that help each other help questions whose terms no single chunk covers; where
//! one does, rank order is hard to beat.
//!
//! The model is data, not code: `spandrel-bench rag --show fit` fits it by ridge regression on judged
//! questions and reports, on questions it has not seen, what it gains over the best fixed choice.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::select::Method;
use crate::select::mix::Weights;
use crate::select::pool::Pool;

/// Names of the features, in their order.
pub const FEATURES: [&str; 8] = [
    "aspects: terms of the question that the pool has",
    "covered by one: most that one candidate covers of the aspects",
    "covered by the first: what the best ranked one covers",
    "lead: relevance of the first less that of the second",
    "level: mean relevance of the pool",
    "references: mean over the ten best ranked of the clearest reference to others",
    "room: candidates of mean length that fit the budget, logarithm",
    "documents: different ones among the ten best ranked",
];

/// What a query and its candidates look like.
pub fn features(pool: &Pool, budget_tokens: u32) -> [f64; FEATURES.len()] {
    let n = pool.len();
    let covers = |at: u16| -> f64 {
        let parts = pool.cover(at).iter().zip(&pool.aspects().weights);
        parts.map(|(cover, weight)| f64::from(cover * weight)).sum()
    };
    let relevance = |at: usize| pool.items().get(at).map_or(0.0, |item| f64::from(item.relevance));
    let best = n.min(10);
    let clearest =
        |at: u16| pool.refers(at).iter().map(|(_, strength)| f64::from(*strength)).fold(0.0, f64::max);
    let tokens: f64 = pool.items().iter().map(|item| f64::from(item.tokens)).sum();
    let room = f64::from(budget_tokens) * n as f64 / tokens.max(1.0);
    let mut documents: Vec<u32> = pool.items()[..best].iter().map(|item| item.document).collect();
    documents.sort_unstable();
    documents.dedup();
    [
        pool.aspects().weights.len() as f64,
        (0..n as u16).map(covers).fold(0.0, f64::max),
        if n > 0 { covers(0) } else { 0.0 },
        relevance(0) - relevance(1),
        (0..n).map(relevance).sum::<f64>() / n.max(1) as f64,
        (0..best as u16).map(clearest).sum::<f64>() / best.max(1) as f64,
        room.max(0.1).ln(),
        documents.len() as f64,
    ]
}

/// A way of choosing and what it is expected to gain over rank order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What reports call it.
    pub name: String,
    /// How chunks are chosen.
    pub method: Method,
    /// What sets are worth.
    pub weights: Weights,
    /// The gain where all features are at their mean.
    pub intercept: f64,
    /// What a feature that is one deviation above its mean adds.
    pub coefficients: Vec<f64>,
}

/// Ways of choosing with what each is good for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Of each feature over the questions that it was fitted on.
    pub means: Vec<f64>,
    /// Their standard deviations.
    pub deviations: Vec<f64>,
    /// Gain in recall that has to be expected for anything but rank order.
    pub margin: f64,
    /// The ways.
    pub choices: Vec<Choice>,
}

impl Model {
    /// Reads a model.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is not one, or of other features.
    pub fn read(json: &str) -> Result<Self> {
        let model: Self = serde_json::from_str(json)
            .map_err(|error| Error::invalid(format!("no selection model: {error}")))?;
        let lengths = [model.means.len(), model.deviations.len()];
        let mut all = lengths.into_iter().chain(model.choices.iter().map(|choice| choice.coefficients.len()));
        match all.all(|length| length == FEATURES.len()) {
            true => Ok(model),
            false => Err(Error::invalid(format!("a selection model is of {} features", FEATURES.len()))),
        }
    }

    /// The model that comes with the engine.
    pub fn fitted() -> &'static Self {
        static FITTED: LazyLock<Model> = LazyLock::new(|| {
            Model::read(include_str!("configure.json")).expect("the model that is part of the program is one")
        });
        &FITTED
    }

    /// The choice for a query with these features; none: rank order.
    pub fn choose(&self, features: &[f64]) -> Option<&Choice> {
        let expected = |choice: &Choice| {
            let parts =
                features.iter().zip(self.means.iter().zip(&self.deviations)).zip(&choice.coefficients);
            let part = |((value, (mean, deviation)), coefficient): ((&f64, (&f64, &f64)), &f64)| {
                coefficient * ((value - mean) / deviation.max(1e-9)).clamp(-3.0, 3.0)
            };
            choice.intercept + parts.map(part).sum::<f64>()
        };
        let gains = self.choices.iter().map(|choice| (choice, expected(choice)));
        let best = gains.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.filter(|(_, gain)| *gain > self.margin).map(|(choice, _)| choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::pool::Item;

    #[test]
    fn the_fitted_model_is_one_and_chooses_by_features() {
        let fitted = Model::fitted();
        assert!(
            !fitted.choices.is_empty() && fitted.choices.iter().all(|choice| choice.method.check().is_ok())
        );
        let mut model = fitted.clone();
        model.choices.truncate(1);
        model.margin = 0.0;
        (model.choices[0].intercept, model.choices[0].coefficients) = (0.0, vec![0.0; FEATURES.len()]);
        model.choices[0].coefficients[1] = -1.0;
        let mut features = model.means.clone();
        features[1] -= model.deviations[1];
        assert!(model.choose(&features).is_some(), "no chunk covers much");
        features[1] += 2.0 * model.deviations[1];
        assert!(model.choose(&features).is_none(), "one covers it all");
        assert!(Model::read("{}").is_err());
        model.means.pop();
        assert!(Model::read(&serde_json::to_string(&model).unwrap()).is_err());
    }

    #[test]
    fn features_are_finite_for_any_pool() {
        for pool in [Pool::default(), Pool::new(vec![Item::default(); 3])] {
            assert!(features(&pool, 0).iter().all(|value| value.is_finite()));
        }
    }
}

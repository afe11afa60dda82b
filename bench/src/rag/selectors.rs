//! The ways of choosing that are compared.

use spandrel::select::mcts::MctsParams;
use spandrel::select::topk::Overflow;
use spandrel::{Assemble, Method, Order, RetrieveRequest, SearchRequest, Select, Weights};

/// One way of choosing.
#[derive(Clone)]
pub struct Selector {
    pub name: &'static str,
    pub select: Select,
    pub order: Order,
}

impl Selector {
    fn new(name: &'static str, method: Method) -> Self {
        let select = Select { method: Some(method), ..Select::default() };
        Self { name, select, order: Order::Score }
    }

    fn weighted(name: &'static str, method: Method, weights: Weights) -> Self {
        let mut selector = Self::new(name, method);
        selector.select.weights = Some(weights);
        selector
    }

    /// The request for a search and a budget.
    pub fn request(&self, search: SearchRequest, budget_tokens: usize) -> RetrieveRequest {
        RetrieveRequest {
            select: self.select.clone(),
            assemble: Assemble { order: self.order, ..Assemble::default() },
            ..RetrieveRequest::new(search, budget_tokens)
        }
    }
}

/// What everybody does: rank order, what does not fit left out.
pub fn baseline() -> Selector {
    Selector::new("top_k skip", Method::TopK { overflow: Overflow::Skip })
}

/// Chosen by the query and its candidates.
fn auto() -> Selector {
    let select = Select { auto: true, ..Select::default() };
    Selector { name: "auto", select, order: Order::Score }
}

/// All that are compared, the baseline first.
pub fn all() -> Vec<Selector> {
    let greedy = Method::Submodular { swaps: false };
    let swaps = Method::Submodular { swaps: true };
    let relevance = Weights { length: 0.6, sharpness: 2.0, ..Weights::default() };
    let facility = Weights { facility: 1.0, ..relevance };
    let aspects = Weights { references: 0.0, ..Weights::EVIDENCE };
    let mut order = baseline();
    (order.name, order.order) = ("document order", Order::Document);
    vec![
        baseline(),
        Selector::new("top_k stop", Method::TopK { overflow: Overflow::Stop }),
        order,
        Selector::new("mmr 0.7", Method::Mmr { lambda: 0.7 }),
        Selector::new("dpp 3", Method::Dpp { quality: 3.0 }),
        Selector::new("adagres", Method::Adagres { redundancy: None }),
        Selector::weighted("submodular relevance", swaps, relevance),
        Selector::weighted("submodular facility", swaps, facility),
        Selector::weighted("submodular aspects", swaps, aspects),
        Selector::weighted("greedy evidence", greedy, Weights::EVIDENCE),
        Selector::weighted("submodular evidence", swaps, Weights::EVIDENCE),
        Selector::weighted("mcts evidence", Method::Mcts(MctsParams::default()), Weights::EVIDENCE),
        auto(),
        Selector::weighted("exact evidence", Method::Exact { nodes_max: 2_000 }, Weights::EVIDENCE),
    ]
}

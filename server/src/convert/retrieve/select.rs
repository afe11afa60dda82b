//! How chunks are chosen, between wire and engine.

use std::time::Duration;

use spandrel::select::NODES_DEFAULT;
use spandrel::select::mcts::MctsParams;
use spandrel::select::topk::Overflow;
use spandrel::{Method, Select, Weights};
use spandrel_proto::v1 as pb;

use super::named;
use crate::convert::{Result, count, required, size, unknown};

/// How chunks are chosen.
pub(super) fn select_from_wire(select: pb::Select) -> Result<Select> {
    let method = select.method.map(method_from_wire).transpose().map_err(|error| error.within("method"))?;
    Ok(Select {
        method,
        auto: select.auto,
        context_scorer: select.context_scorer,
        weights: select.weights.map(weights_from_wire),
        vector_field: named(select.vector_field),
        reserve_tokens: size(select.reserve_tokens),
        overhead_tokens: size(select.overhead_tokens),
        chunks_max: size(select.chunks_max),
        must_include: select.must_include,
        exclude: select.exclude,
        fill: select.fill,
        seed: select.seed,
        evaluations_max: select.evaluations_max.unwrap_or(Select::default().evaluations_max),
        time_max: select.time_max_us.map(Duration::from_micros),
    })
}

/// How chunks are chosen, for the wire. A time of less than a microsecond is one.
pub(super) fn select_to_wire(select: Select) -> pb::Select {
    let whole_us = |time: Duration| u64::try_from(time.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
    pb::Select {
        method: select.method.map(|method| pb::SelectMethod { method: Some(method_to_wire(method)) }),
        auto: select.auto,
        context_scorer: select.context_scorer,
        weights: select.weights.map(weights_to_wire),
        vector_field: select.vector_field.unwrap_or_default(),
        reserve_tokens: count(select.reserve_tokens),
        overhead_tokens: count(select.overhead_tokens),
        chunks_max: count(select.chunks_max),
        must_include: select.must_include,
        exclude: select.exclude,
        fill: select.fill,
        seed: select.seed,
        evaluations_max: Some(select.evaluations_max),
        time_max_us: select.time_max.map(whole_us),
    }
}

fn method_from_wire(method: pb::SelectMethod) -> Result<Method> {
    use pb::select_method::Method as Wire;
    Ok(match required(method.method, "method")? {
        Wire::TopK(top_k) => Method::TopK {
            overflow: match pb::Overflow::try_from(top_k.overflow) {
                Ok(pb::Overflow::Unspecified | pb::Overflow::Skip) => Overflow::Skip,
                Ok(pb::Overflow::Stop) => Overflow::Stop,
                Err(_) => return Err(unknown("top_k.overflow", top_k.overflow)),
            },
        },
        Wire::Mmr(mmr) => Method::Mmr { lambda: required(mmr.lambda, "mmr.lambda")? },
        Wire::Dpp(dpp) => Method::Dpp { quality: required(dpp.quality, "dpp.quality")? },
        Wire::Adagres(adagres) => Method::Adagres { redundancy: adagres.redundancy },
        Wire::Submodular(greedy) => Method::Submodular { swaps: greedy.swaps.unwrap_or(true) },
        Wire::Mcts(mcts) => {
            let default = MctsParams::default();
            Method::Mcts(MctsParams {
                exploration: mcts.exploration.unwrap_or(default.exploration),
                budget_weight: mcts.budget_weight,
                batch: mcts.batch.map_or(default.batch, size),
            })
        }
        Wire::Exact(exact) => Method::Exact { nodes_max: exact.nodes_max.unwrap_or(NODES_DEFAULT) },
    })
}

fn method_to_wire(method: Method) -> pb::select_method::Method {
    use pb::select_method::Method as Wire;
    match method {
        Method::TopK { overflow } => {
            let overflow = match overflow {
                Overflow::Skip => pb::Overflow::Skip,
                Overflow::Stop => pb::Overflow::Stop,
            };
            Wire::TopK(pb::TopKMethod { overflow: overflow.into() })
        }
        Method::Mmr { lambda } => Wire::Mmr(pb::MmrMethod { lambda: Some(lambda) }),
        Method::Dpp { quality } => Wire::Dpp(pb::DppMethod { quality: Some(quality) }),
        Method::Adagres { redundancy } => Wire::Adagres(pb::AdagresMethod { redundancy }),
        Method::Submodular { swaps } => Wire::Submodular(pb::SubmodularMethod { swaps: Some(swaps) }),
        Method::Mcts(params) => Wire::Mcts(pb::MctsMethod {
            exploration: Some(params.exploration),
            budget_weight: params.budget_weight,
            batch: Some(count(params.batch)),
        }),
        Method::Exact { nodes_max } => Wire::Exact(pb::ExactMethod { nodes_max: Some(nodes_max) }),
    }
}

fn weights_from_wire(weights: pb::Weights) -> Weights {
    let default = Weights::default();
    Weights {
        relevance: weights.relevance.unwrap_or(default.relevance),
        redundancy: weights.redundancy,
        facility: weights.facility,
        aspects: weights.aspects,
        references: weights.references,
        length: weights.length,
        sharpness: weights.sharpness.unwrap_or(default.sharpness),
    }
}

fn weights_to_wire(weights: Weights) -> pb::Weights {
    pb::Weights {
        relevance: Some(weights.relevance),
        redundancy: weights.redundancy,
        facility: weights.facility,
        aspects: weights.aspects,
        references: weights.references,
        length: weights.length,
        sharpness: Some(weights.sharpness),
    }
}

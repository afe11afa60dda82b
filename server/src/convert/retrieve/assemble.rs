//! How chunks are put together, and what is reused of their caches, between wire and engine.

use spandrel::{Assemble, KnownChunk, KvChunk, KvRequest, Order};
use spandrel_proto::v1 as pb;

use super::each;
use crate::convert::chunk_cache::{
    hash_from_wire, hash_to_wire, model_from_wire, model_to_wire, reusable_from_wire, reusable_to_wire,
};
use crate::convert::{Invalid, Result, count, required, size, unknown};

pub(super) fn assemble_from_wire(assemble: pb::Assemble) -> Result<Assemble> {
    let order = pb::Order::try_from(assemble.order).map_err(|_| unknown("order", assemble.order))?;
    Ok(Assemble {
        order: order_from_wire(order, assemble.tolerance)?,
        merge_adjacent: assemble.merge_adjacent,
        neighbours: size(assemble.neighbours),
        kv: assemble.kv.map(kv_from_wire).transpose().map_err(|error| error.within("kv"))?,
    })
}

pub(super) fn assemble_to_wire(assemble: Assemble) -> pb::Assemble {
    let (order, tolerance) = order_to_wire(assemble.order);
    pb::Assemble {
        order: order.into(),
        merge_adjacent: assemble.merge_adjacent,
        neighbours: count(assemble.neighbours),
        tolerance,
        kv: assemble.kv.map(kv_to_wire),
    }
}

/// An order with its tolerance; the default where it is not said.
pub(super) fn order_from_wire(order: pb::Order, tolerance: Option<f64>) -> Result<Order> {
    if tolerance.is_some() && order != pb::Order::CacheAware {
        return Err(Invalid::new("tolerance", "goes with ORDER_CACHE_AWARE only"));
    }
    Ok(match order {
        pb::Order::Unspecified => Order::default(),
        pb::Order::Score => Order::Score,
        pb::Order::Document => Order::Document,
        pb::Order::BestLast => Order::BestLast,
        pb::Order::Edges => Order::Edges,
        pb::Order::CacheAware => Order::CacheAware { tolerance: required(tolerance, "tolerance")? },
    })
}

pub(super) fn order_to_wire(order: Order) -> (pb::Order, Option<f64>) {
    match order {
        Order::Score => (pb::Order::Score, None),
        Order::Document => (pb::Order::Document, None),
        Order::BestLast => (pb::Order::BestLast, None),
        Order::Edges => (pb::Order::Edges, None),
        Order::CacheAware { tolerance } => (pb::Order::CacheAware, Some(tolerance)),
    }
}

fn kv_from_wire(kv: pb::KvRequest) -> Result<KvRequest> {
    let known = |chunk: pb::KnownChunk| {
        let content = hash_from_wire(&chunk.content, "content")?;
        Ok(KnownChunk { key: chunk.key, content, tokens: chunk.tokens })
    };
    Ok(KvRequest {
        model: model_from_wire(kv.model)?,
        block_tokens: kv.block_tokens,
        known: each(kv.known, "known", known)?,
    })
}

fn kv_to_wire(kv: KvRequest) -> pb::KvRequest {
    let known = |chunk: KnownChunk| pb::KnownChunk {
        key: chunk.key,
        content: hash_to_wire(chunk.content),
        tokens: chunk.tokens,
    };
    pb::KvRequest {
        model: Some(model_to_wire(kv.model)),
        block_tokens: kv.block_tokens,
        known: kv.known.into_iter().map(known).collect(),
    }
}

pub(super) fn kv_chunk_to_wire(chunk: KvChunk) -> pb::KvChunk {
    pb::KvChunk {
        content: hash_to_wire(chunk.content),
        tokens: chunk.tokens,
        reusable: Some(reusable_to_wire(chunk.reusable)),
    }
}

pub(super) fn kv_chunk_from_wire(chunk: pb::KvChunk) -> Result<KvChunk> {
    let reusable = reusable_from_wire(required(chunk.reusable, "reusable")?);
    Ok(KvChunk {
        content: hash_from_wire(&chunk.content, "content")?,
        tokens: chunk.tokens,
        reusable: reusable.map_err(|error| error.within("reusable"))?,
    })
}

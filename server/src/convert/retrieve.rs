//! Retrieves between wire and engine: the request here; its stages, its selection, its assembly and the
//! answer each in a file.
//!
//! What the wire leaves out is what [`RetrieveRequest::new`] has. Ranges are checked by the engine, which
//! names the part; what cannot be said in the engine's words is refused here, with its path.

mod answer;
mod assemble;
mod select;
mod stages;

#[cfg(test)]
mod tests;

use spandrel::request::K_MAX;
use spandrel::{AsIf, RetrieveRequest};
use spandrel_proto::v1 as pb;

use super::filter::{filter_from_wire, filter_to_wire};
use super::request::{route_from_wire, route_to_wire, search_from_wire, search_to_wire};
use super::{Result, count, required, size};
pub use answer::{response_from_wire, response_to_wire};
use assemble::{assemble_from_wire, assemble_to_wire};
use select::{select_from_wire, select_to_wire};
use stages::{level_from_wire, level_to_wire, stage_from_wire, stage_to_wire};

/// What stands between two chunks where the request does not say.
const SEPARATOR: &str = "\n\n";

/// A retrieve.
pub fn request_from_wire(request: pb::RetrieveRequest) -> Result<RetrieveRequest> {
    let search =
        search_from_wire(required(request.search, "search")?).map_err(|error| error.within("search"))?;
    let select = request.select.map(select_from_wire).transpose().map_err(|error| error.within("select"))?;
    let as_if = request.as_if.map(as_if_from_wire).transpose().map_err(|error| error.within("as_if"))?;
    Ok(RetrieveRequest {
        search,
        budget_tokens: size(request.budget_tokens),
        text_field: named(request.text_field),
        separator: request.separator.unwrap_or_else(|| SEPARATOR.to_owned()),
        tokenizer: named(request.tokenizer),
        question: request.question,
        needs: each(request.needs, "needs", route_from_wire)?,
        funnel: each(request.funnel, "funnel", level_from_wire)?,
        post: each(request.post, "post", stage_from_wire)?,
        survivors: size(request.survivors),
        // The limits say.
        depth_max: K_MAX,
        select: select.unwrap_or_default(),
        assemble: assemble_from_wire(request.assemble.unwrap_or_default())
            .map_err(|error| error.within("assemble"))?,
        as_if,
        dry_run: request.dry_run,
    })
}

/// A retrieve for the wire. Its search's timeout travels as `grpc-timeout`.
pub fn request_to_wire(collection: &str, request: RetrieveRequest) -> pb::RetrieveRequest {
    pb::RetrieveRequest {
        search: Some(search_to_wire(collection, request.search)),
        budget_tokens: count(request.budget_tokens),
        text_field: request.text_field.unwrap_or_default(),
        separator: Some(request.separator),
        tokenizer: request.tokenizer.unwrap_or_default(),
        question: request.question,
        needs: request.needs.into_iter().map(route_to_wire).collect(),
        funnel: request.funnel.into_iter().map(level_to_wire).collect(),
        post: request.post.into_iter().map(stage_to_wire).collect(),
        survivors: count(request.survivors),
        select: Some(select_to_wire(request.select)),
        assemble: Some(assemble_to_wire(request.assemble)),
        as_if: request.as_if.map(|as_if| pb::AsIf {
            filter: as_if.filter.map(filter_to_wire),
            share: Some(as_if.share),
            seed: as_if.seed,
        }),
        dry_run: request.dry_run,
    }
}

/// Reads each of a list; what is wrong is told with its place.
fn each<W, E>(list: Vec<W>, path: &str, read: impl Fn(W) -> Result<E>) -> Result<Vec<E>> {
    let one = |(at, one)| read(one).map_err(|error| error.within(format!("{path}[{at}]")));
    list.into_iter().enumerate().map(one).collect()
}

/// A name that is the default where it is empty.
fn named(name: String) -> Option<String> {
    Some(name).filter(|name| !name.is_empty())
}

fn as_if_from_wire(as_if: pb::AsIf) -> Result<AsIf> {
    Ok(AsIf {
        filter: as_if.filter.map(filter_from_wire).transpose().map_err(|error| error.within("filter"))?,
        share: as_if.share.unwrap_or(AsIf::default().share),
        seed: as_if.seed,
    })
}

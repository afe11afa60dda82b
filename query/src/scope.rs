//! Where a search looks: a segment that holds rows it may find, and which docs of it.

use std::sync::Arc;

use spandrel_index::allow::Allow;
use spandrel_index::dense::{Ask, SearchParams};
use spandrel_index::stop::Stop;
use spandrel_storage::{FieldId, TenantId};

use crate::error::Result;
use crate::filter::CheckedFilter;
use crate::filter_cache::Passing;
use crate::request::SearchRequest;
use crate::shared::Shared;
use crate::snapshot::View;

/// A segment that holds rows which the search may find.
pub(crate) struct Scope<'a> {
    pub view: &'a View,
    /// What passes the filter, where that rules something out.
    passing: Option<Arc<Passing>>,
    pub base: Allow<'a>,
    stop: &'a Stop,
}

impl<'a> Scope<'a> {
    /// What a tenant has in a segment; none where it has no rows there.
    ///
    /// # Errors
    /// Those of the filter.
    pub fn new(
        shared: &Shared,
        view: &'a View,
        (tenant, filter): (TenantId, Option<&CheckedFilter>),
        stop: &'a Stop,
    ) -> Result<Option<Self>> {
        let Some(base) = view.allow(tenant) else { return Ok(None) };
        let passing = filter.map(|filter| filter.passing(shared, view, tenant, &base.range)).transpose()?;
        // One that rules nothing out is none.
        let passing = passing.filter(|passing| !passing.docs.contains_range(base.range.clone()));
        Ok(Some(Self { view, passing, base, stop }))
    }

    /// The docs the search may find.
    pub fn allow(&self) -> Allow<'_> {
        let filter = self.passing.as_ref().map(|passing| &passing.docs);
        Allow { filter, stop: Some(self.stop), ..self.base.clone() }
    }

    /// Whether no doc passes the filter.
    pub fn is_empty(&self) -> bool {
        self.passing.as_ref().is_some_and(|passing| passing.docs.is_empty())
    }

    /// What the dense index of a field is asked for `k` results.
    pub fn ask<'b>(
        &'b self,
        (shared, request): (&Shared, &SearchRequest),
        (field, k): (FieldId, usize),
        allow: &'b Allow<'b>,
    ) -> Ask<'b> {
        let SearchRequest { recall, exact, rescore, .. } = *request;
        let View { segment, lessons, .. } = self.view;
        let params = SearchParams { recall, exact, rescore };
        let ask = Ask { rows: segment.rows(), allow, params, learned: lessons.of(field), gathered: None };
        let gathered = match (&self.passing, segment.dense(field)) {
            (Some(passing), Some(index)) if !exact => {
                shared.filters.gathered(passing, (field, index), (&ask, k))
            }
            _ => None,
        };
        Ask { gathered, ..ask }
    }
}

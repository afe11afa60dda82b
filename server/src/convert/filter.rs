//! Filters between wire and engine. Depth and size are bounded here too, before a tree is built: the engine's
//! own limits, checked while the wire's tree is walked, so that no request makes us build more than it may
//! use.

use spandrel::request::{FILTER_DEPTH_MAX, FILTER_TERMS_MAX};
use spandrel::{Filter, Value};
use spandrel_proto::v1 as pb;

use super::row::{scalar_from_wire, value_to_wire};
use super::{Invalid, Result, required};

/// A filter within the engine's limits of depth and size.
pub fn filter_from_wire(filter: pb::Filter) -> Result<Filter> {
    Reader { terms_left: FILTER_TERMS_MAX }.filter(filter, 1)
}

struct Reader {
    terms_left: usize,
}

impl Reader {
    fn filter(&mut self, filter: pb::Filter, depth: usize) -> Result<Filter> {
        use pb::filter::Condition;
        if depth > FILTER_DEPTH_MAX {
            return Err(Invalid::new("", format!("more than {FILTER_DEPTH_MAX} levels deep")));
        }
        self.spend(1)?;
        Ok(match required(filter.condition, "condition")? {
            Condition::AllOf(list) => Filter::And(self.list(list, "all_of", depth)?),
            Condition::AnyOf(list) => Filter::Or(self.list(list, "any_of", depth)?),
            Condition::Negate(inner) => {
                Filter::Not(Box::new(self.filter(*inner, depth + 1).map_err(|error| error.within("negate"))?))
            }
            Condition::Equals(equals) => Filter::Equals {
                value: scalar(equals.value, "equals.value")?
                    .ok_or_else(|| Invalid::new("equals.value", "is required"))?,
                field: equals.field,
            },
            Condition::OneOf(one_of) => self.one_of(one_of)?,
            Condition::Range(range) => Filter::Range {
                gt: scalar(range.gt, "range.gt")?,
                gte: scalar(range.gte, "range.gte")?,
                lt: scalar(range.lt, "range.lt")?,
                lte: scalar(range.lte, "range.lte")?,
                field: range.field,
            },
            Condition::Exists(exists) => Filter::Exists { field: exists.field },
            Condition::Prefix(prefix) => Filter::Prefix { field: prefix.field, prefix: prefix.prefix },
            Condition::TextMatch(text) => Filter::Match { field: text.field, text: text.text },
            Condition::Keys(keys) => {
                self.spend(keys.keys.len())?;
                Filter::Keys(keys.keys)
            }
            Condition::Labels(labels) => {
                self.spend(labels.labels.len())?;
                Filter::Labels(labels.labels)
            }
        })
    }

    fn list(&mut self, list: pb::FilterList, name: &str, depth: usize) -> Result<Vec<Filter>> {
        let one = |(at, filter)| {
            self.filter(filter, depth + 1).map_err(|error| error.within(format!("{name}.filters[{at}]")))
        };
        list.filters.into_iter().enumerate().map(one).collect()
    }

    fn one_of(&mut self, one_of: pb::OneOfCondition) -> Result<Filter> {
        self.spend(one_of.values.len())?;
        let one = |(at, value)| {
            scalar_from_wire(value).map_err(|error| error.within(format!("one_of.values[{at}]")))
        };
        let values = one_of.values.into_iter().enumerate().map(one).collect::<Result<_>>()?;
        Ok(Filter::In { field: one_of.field, values })
    }

    fn spend(&mut self, terms: usize) -> Result<()> {
        self.terms_left = self.terms_left.checked_sub(terms).ok_or_else(|| {
            Invalid::new("", format!("more than {FILTER_TERMS_MAX} conditions, values and keys together"))
        })?;
        Ok(())
    }
}

fn scalar(value: Option<pb::Value>, path: &str) -> Result<Option<Value>> {
    value.map(scalar_from_wire).transpose().map_err(|error| error.within(path))
}

/// A filter for the wire.
pub fn filter_to_wire(filter: Filter) -> pb::Filter {
    use pb::filter::Condition;
    let list =
        |filters: Vec<Filter>| pb::FilterList { filters: filters.into_iter().map(filter_to_wire).collect() };
    let condition = match filter {
        Filter::And(filters) => Condition::AllOf(list(filters)),
        Filter::Or(filters) => Condition::AnyOf(list(filters)),
        Filter::Not(inner) => Condition::Negate(Box::new(filter_to_wire(*inner))),
        Filter::Equals { field, value } => {
            Condition::Equals(pb::EqualsCondition { field, value: Some(value_to_wire(value)) })
        }
        Filter::In { field, values } => Condition::OneOf(pb::OneOfCondition {
            field,
            values: values.into_iter().map(value_to_wire).collect(),
        }),
        Filter::Range { field, gt, gte, lt, lte } => Condition::Range(pb::RangeCondition {
            field,
            gt: gt.map(value_to_wire),
            gte: gte.map(value_to_wire),
            lt: lt.map(value_to_wire),
            lte: lte.map(value_to_wire),
        }),
        Filter::Exists { field } => Condition::Exists(pb::ExistsCondition { field }),
        Filter::Prefix { field, prefix } => Condition::Prefix(pb::PrefixCondition { field, prefix }),
        Filter::Match { field, text } => Condition::TextMatch(pb::TextMatchCondition { field, text }),
        Filter::Keys(keys) => Condition::Keys(pb::KeysCondition { keys }),
        Filter::Labels(labels) => Condition::Labels(pb::LabelsCondition { labels }),
    };
    pb::Filter { condition: Some(condition) }
}

//! Random searches of a tenant, and what their answers must be.

use spandrel::{
    FieldValue, Fields, Filter, Fusion, Hit, Route, Row, SearchRequest, SearchResponse, Short, SparseVector,
    Value,
};

use super::crowd::{Bounds, Crowd, Member, body, has_word, number, payload};
use crate::rng::Rng;

/// Which rows may be found, by number.
type Rule = Box<dyn Fn(u64) -> bool>;

/// A search of a tenant, and what is known of its answer.
pub struct Ask<'a> {
    pub member: &'a Member,
    pub request: SearchRequest,
    rules: Vec<Rule>,
    /// Only rows with the label `pass` may be found.
    pass: bool,
}

impl<'a> Ask<'a> {
    pub fn random(rng: &mut Rng, crowd: &'a Crowd, member: &'a Member) -> Self {
        let request = SearchRequest {
            k: 1 + rng.below(8),
            offset: if rng.once_in(8) { rng.below(20) } else { 0 },
            recall: *rng.pick(&[0.95, 0.95, 0.5, 0.8, 0.99, 1.0]),
            exact: rng.once_in(8),
            rescore: !rng.once_in(8),
            fields: match rng.below(10) {
                0 => Fields::All,
                1 | 2 => Fields::Named(vec!["owner".into()]),
                _ => Fields::None,
            },
            explain: rng.once_in(50),
            ..SearchRequest::default().tenant(&*member.name)
        };
        let mut ask = Self { member, request, rules: Vec::new(), pass: false };
        ask.add_routes(rng, crowd);
        if rng.once_in(3) {
            ask.add_filter(rng, crowd);
        }
        if rng.once_in(5) {
            ask.add_labels(rng, crowd);
        }
        ask
    }

    /// Of one dense route, with little around it: these can be answered together.
    pub fn plain(rng: &mut Rng, crowd: &'a Crowd, member: &'a Member) -> Self {
        let route = Route::dense("v", crowd.query(rng));
        let request =
            SearchRequest { fields: Fields::None, ..SearchRequest::new(route).tenant(&*member.name) };
        let mut ask = Self { member, request: request.k(1 + rng.below(4)), rules: Vec::new(), pass: false };
        if rng.once_in(16) {
            ask.request.fields = Fields::Named(vec!["owner".into()]);
        }
        ask
    }

    /// With nothing but a filter, to count or scroll.
    pub fn filtered(rng: &mut Rng, crowd: &'a Crowd, member: &'a Member) -> Self {
        let mut ask = Self { member, request: SearchRequest::default(), rules: Vec::new(), pass: false };
        ask.add_filter(rng, crowd);
        ask
    }

    fn add_routes(&mut self, rng: &mut Rng, crowd: &Crowd) {
        let dense = Route::dense("v", crowd.query(rng));
        let word = rng.below(29) as u64;
        let (a, b) = (rng.below(31) as u64, rng.below(23) as u64);
        let sparse = Route::sparse(
            "terms",
            SparseVector { dims: vec![a as u32, 40 + b as u32], weights: vec![2.0, 1.0] },
        );
        match rng.below(12) {
            0 => {
                self.request.routes = vec![Route::text("body", format!("w{word}"))];
                self.rules.push(Box::new(move |n| has_word(n, word)));
            }
            1 => self.request.routes = vec![Route::text("body", format!("common w{word}"))],
            2 => {
                // A word of one tenant, which may be this one.
                let owner = if rng.once_in(2) { self.member } else { rng.pick(&crowd.members) };
                let own = owner.id == self.member.id;
                self.request.routes = vec![Route::text("body", format!("own{}", owner.id))];
                self.rules.push(Box::new(move |n| own && !n.is_multiple_of(2)));
            }
            3 => {
                self.request.routes = vec![sparse];
                self.rules.push(Box::new(move |n| n % 31 == a || n % 23 == b));
            }
            4 => self.request.routes = vec![dense, Route::text("body", format!("w{word} own3")).weight(0.5)],
            5 => {
                let own = format!("w{word} own{}", rng.below(300));
                self.request.routes = vec![Route::text("body", own), sparse, dense.weight(0.7)];
                self.request.fusion = Fusion::Weighted;
            }
            6 => {
                self.request.score_threshold = Some(-rng.unit().abs() * 4.0);
                self.request.routes = vec![dense];
            }
            _ => self.request.routes = vec![dense],
        }
    }

    fn add_filter(&mut self, rng: &mut Rng, crowd: &Crowd) {
        let other = rng.pick(&crowd.members);
        let own = other.id == self.member.id;
        let owner = |member: &Member| Filter::Equals { field: "owner".into(), value: (*member.name).into() };
        let class = rng.below(7) as u64;
        let of_class = Filter::Equals { field: "class".into(), value: (class as i64).into() };
        let from = 100 * rng.below(12) as u64;
        let later = Filter::Range {
            field: "n".into(),
            gt: None,
            gte: Some((from as i64).into()),
            lt: None,
            lte: None,
        };
        let (filter, rule): (Filter, Rule) = match rng.below(9) {
            0 => (of_class, Box::new(move |n| n % 7 == class)),
            1 => (later, Box::new(move |n| n >= from)),
            2 => (owner(self.member), Box::new(|_| true)),
            3 => (owner(other), Box::new(move |_| own)),
            4 => (Filter::Not(Box::new(owner(other))), Box::new(move |_| !own)),
            5 => {
                // Keys of all tenants, and of another one.
                let numbers: Vec<u64> = (0..20).map(|_| rng.below(1_500) as u64).collect();
                let keys = numbers.iter().map(|n| other.key(*n)).collect();
                let named = move |n: u64| numbers.contains(&n) && (own || n.is_multiple_of(2));
                (Filter::Keys(keys), Box::new(named))
            }
            6 => (Filter::Labels(vec![format!("only {}", other.id)]), Box::new(move |_| own)),
            7 => (Filter::Or(vec![of_class, owner(other)]), Box::new(move |n| n % 7 == class || own)),
            _ => {
                let not = Filter::Not(Box::new(of_class));
                (
                    Filter::And(vec![not, owner(self.member), later]),
                    Box::new(move |n| n % 7 != class && n >= from),
                )
            }
        };
        self.request.filter = Some(filter);
        self.rules.push(rule);
    }

    fn add_labels(&mut self, rng: &mut Rng, crowd: &Crowd) {
        let other = rng.pick(&crowd.members);
        let own = other.id == self.member.id;
        let team = rng.below(4) as u64;
        let (labels, rule): (Vec<String>, Rule) = match rng.below(5) {
            0 => (vec![], Box::new(|_| false)),
            1 => (vec![format!("only {}", other.id)], Box::new(move |_| own)),
            2 => {
                let labels = vec![format!("team {team}"), format!("only {}", other.id)];
                (labels, Box::new(move |n| own || n % 4 == team))
            }
            3 => {
                self.pass = true;
                (vec!["pass".into()], Box::new(|_| true))
            }
            _ => (vec![format!("team {team}"), "nobody's".into()], Box::new(move |n| n % 4 == team)),
        };
        self.request.labels = Some(labels);
        self.rules.push(rule);
    }

    /// Whether a row may be found.
    pub fn passes(&self, n: u64, bounds: &Bounds) -> bool {
        self.rules.iter().all(|rule| rule(n)) && (!self.pass || bounds.pass.contains(&n))
    }

    /// Checks an answer.
    pub fn check(&self, what: &str, crowd: &Crowd, answer: &SearchResponse, bounds: &Bounds) {
        let Self { request, member, .. } = self;
        let what = || format!("{what}: tenant {:?} ({}), {request:?}", member.name, member.id);
        assert!(answer.hits.len() <= request.k, "{}", what());
        assert_eq!(answer.short.is_some(), answer.hits.len() < request.k, "{}", what());
        assert!(answer.hits.is_sorted_by(|a, b| a.score >= b.score), "{}", what());
        for (at, hit) in answer.hits.iter().enumerate() {
            let n = check_row(&what, crowd, member, bounds, &hit.row, &request.fields);
            assert!(self.passes(n, bounds), "{}: row {n} does not pass", what());
            assert!(request.score_threshold.is_none_or(|least| hit.score >= least), "{}", what());
            let twice = answer.hits[..at].iter().any(|earlier| earlier.row.key == hit.row.key);
            assert!(!twice, "{}: row {n} came twice", what());
            self.check_score(&what, crowd, n, hit);
        }
        if answer.short == Some(Short::EmptyTenant) {
            assert!(bounds.sure.is_empty(), "{}: it has rows {:?}", what(), bounds.sure);
        }
        if self.pass || request.score_threshold.is_some() || answer.short == Some(Short::AccessLost) {
            return;
        }
        let sure = match self.rules.is_empty() {
            true => bounds.sure.end - bounds.sure.start,
            false => bounds.sure.clone().filter(|n| self.passes(*n, bounds)).count() as u64,
        };
        let least = (sure as usize).saturating_sub(request.offset).min(request.k);
        assert!(answer.hits.len() >= least, "{}: {} of {least} hits", what(), answer.hits.len());
    }

    /// The score of a dense route is that of the tenant's own vector: it would differ for another's.
    fn check_score(&self, what: &impl Fn() -> String, crowd: &Crowd, n: u64, hit: &Hit) {
        let Self { request, member, .. } = self;
        let [Route { query: spandrel::RouteQuery::Dense(query), .. }] = &request.routes[..] else { return };
        let vector = crowd.vector(member, n);
        let score = -query.iter().zip(&vector).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let off = if request.rescore { 1e-4 } else { 0.05 };
        assert!((hit.score - score).abs() < off, "{}: row {n} scores {} not {score}", what(), hit.score);
    }
}

/// Checks that a row is the tenant's, with the fields asked for, and was there; returns its number.
pub fn check_row(
    what: &impl Fn() -> String,
    crowd: &Crowd,
    member: &Member,
    bounds: &Bounds,
    row: &Row,
    fields: &Fields,
) -> u64 {
    let n = number(&row.key);
    assert_eq!(row.tenant, member.name, "{}", what());
    assert_eq!(row.key, member.key(n), "{}: a foreign row", what());
    assert!(bounds.maybe.contains(&n), "{}: row {n} is not among {:?}", what(), bounds.maybe);
    match fields {
        Fields::None => assert!(row.fields.is_empty(), "{}", what()),
        Fields::Named(_) => assert_eq!(payload(row, "owner"), &Value::from(&*member.name), "{}", what()),
        Fields::All => {
            let own = crowd.row(member, n);
            assert_eq!(row.fields, own.fields, "{}: fields of row {n}", what());
            // `pass` may have been granted on top.
            let granted = row.labels.difference(&own.labels).all(|label| label == "pass");
            assert!(granted && row.labels.is_superset(&own.labels), "{}: {:?}", what(), row.labels);
        }
        Fields::Default => {
            assert_eq!(row.fields["body"], FieldValue::Text(body(member, n)), "{}: row {n}", what());
            assert_eq!(payload(row, "owner"), &Value::from(&*member.name), "{}", what());
        }
    }
    n
}

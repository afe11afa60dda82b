//! Fewer than `k` rows are found only where fewer pass, however the filter has to do with the query: rows
//! that are nearest to it, or all others, or the farthest, or those beyond a line.

use spandrel::{
    Collection, Database, Durability, Fields, Filter, Metric, PayloadKind, Route, Row, Schema, SearchRequest,
    Settings,
};

use super::check;
use super::model::{ModelRow, Ranked, Rows, ranked, score};
use crate::rng::Rng;

const DIM: usize = 16;
const CLUSTERS: usize = 40;
const QUERIES: usize = 40_000;
/// Filters that a query is asked with.
const FILTERS: usize = 20;
/// Rows of the tenants; the first two have cells of their own.
const TENANTS: [(&str, usize); 3] = [("", 6_000), ("acme", 2_600), ("globex", 500)];

/// How a filter has to do with a query.
const KINDS: [&str; 7] = [
    "the nearest rows",
    "all but the nearest rows",
    "the farthest rows",
    "the nearest clusters",
    "all but the nearest clusters",
    "the farthest clusters",
    "beyond a line",
];

/// What the collection holds.
struct Data {
    centers: Vec<Vec<f32>>,
    tenants: Vec<Rows>,
    /// Of each row, by its order: its cluster, and the first element of its vector.
    places: Vec<(usize, f32)>,
}

impl Data {
    fn new(rng: &mut Rng) -> Self {
        let center =
            |rng: &mut Rng| -> Vec<f32> { rng.vector(DIM).iter().map(|x| (60.0 * x).round()).collect() };
        let tenants = TENANTS.iter().map(|_| Rows::new()).collect();
        Self { centers: (0..CLUSTERS).map(|_| center(rng)).collect(), tenants, places: Vec::new() }
    }

    fn near(&self, rng: &mut Rng, cluster: usize, spread: f32) -> Vec<f32> {
        self.centers[cluster].iter().map(|element| (element + spread * rng.unit()).round()).collect()
    }

    fn upsert(
        &mut self,
        rng: &mut Rng,
        collection: &Collection,
        tenant: usize,
        keys: std::ops::Range<usize>,
    ) {
        let mut out = Vec::new();
        for key in keys.map(|at| format!("k{at}")) {
            let cluster = rng.below(CLUSTERS);
            let vector = self.near(rng, cluster, 25.0);
            let row = Row::new(&*key).tenant(TENANTS[tenant].0).dense("v", vector.clone());
            out.push(row.payload("cluster", cluster as i64).payload("x", f64::from(vector[0])));
            let order = self.places.len() as u64;
            self.places.push((cluster, vector[0]));
            let (values, labels) = (Vec::new(), Default::default());
            self.tenants[tenant].insert(key, ModelRow { order, vector: Some(vector), values, labels });
        }
        collection.upsert(out).unwrap();
    }

    fn delete(&mut self, rng: &mut Rng, collection: &Collection, tenant: usize) {
        let rows = &mut self.tenants[tenant];
        let keys: Vec<String> = rows.keys().filter(|_| rng.once_in(8)).cloned().collect();
        collection.delete(TENANTS[tenant].0, &keys).unwrap();
        keys.iter().for_each(|key| drop(rows.remove(key)));
    }

    /// A filter of a kind for a query of a tenant whose rows are `ranked`, and which of them pass.
    fn filter<'r>(
        &self,
        rng: &mut Rng,
        kind: usize,
        query: &[f32],
        ranked: &'r [Ranked],
    ) -> (Filter, Vec<&'r Ranked>) {
        // Many keys are slow to look up.
        let most = if rng.once_in(40) { ranked.len() } else { 300 };
        let some = 1 + rng.below(most);
        let keys = |of: &[Ranked]| Filter::Keys(of.iter().map(|row| row.key.clone()).collect());
        let mut clusters: Vec<usize> = (0..CLUSTERS).collect();
        clusters.sort_by(|a, b| {
            let of = |at: usize| score(Metric::L2, query, &self.centers[at]);
            of(*b).total_cmp(&of(*a))
        });
        let within = |of: &[usize]| Filter::In {
            field: "cluster".into(),
            values: of.iter().map(|cluster| (*cluster as i64).into()).collect(),
        };
        let place = |row: &Ranked| self.places[row.order as usize];
        let those = |of: &[usize], are: bool| -> Vec<&'r Ranked> {
            ranked.iter().filter(|row| of.contains(&place(row).0) == are).collect()
        };
        let (nearest, few) = (&clusters[..1 + rng.below(30)], &clusters[CLUSTERS - 1 - rng.below(5)..]);
        let (near, far) = (&ranked[..some], &ranked[ranked.len() - some..]);
        match kind {
            0 => (keys(near), near.iter().collect()),
            1 => (Filter::Not(Box::new(keys(near))), ranked[some..].iter().collect()),
            2 => (keys(far), far.iter().collect()),
            3 => (within(nearest), those(nearest, true)),
            4 => (Filter::Not(Box::new(within(nearest))), those(nearest, false)),
            5 => (within(few), those(few, true)),
            _ => {
                // On the other side of the line than the query.
                let at = (60.0 * rng.unit()).round();
                let (bound, above) = (Some(f64::from(at).into()), query[0] < at);
                let (gt, lt) = if above { (bound, None) } else { (None, bound) };
                let filter = Filter::Range { field: "x".into(), gt, gte: None, lt, lte: None };
                let beyond = |x: f32| if above { x > at } else { x < at };
                (filter, ranked.iter().filter(|row| beyond(place(row).1)).collect())
            }
        }
    }
}

/// Of the queries of a kind: how many, those with `k` rows that pass and a recall of .95 asked for, and the
/// sum of what theirs was.
#[derive(Clone, Copy, Default)]
struct Seen {
    queries: usize,
    full: usize,
    recall: f64,
}

fn ask(rng: &mut Rng, data: &Data, collection: &Collection, seen: &mut [Seen], what: &str) {
    let tenant = [0, 0, 0, 1, 1, 2][rng.below(6)];
    let (cluster, spread) = (rng.below(CLUSTERS), *rng.pick(&[5.0, 25.0, 60.0, 200.0]));
    let query = data.near(rng, cluster, spread);
    let rows = &data.tenants[tenant];
    let ranked = ranked(rows, Metric::L2, &query, |_, _| true);
    for _ in 0..FILTERS {
        let kind = rng.below(KINDS.len());
        let (filter, pass) = data.filter(rng, kind, &query, &ranked);
        let most = *rng.pick(&[10, 10, 60, 300]);
        let request = SearchRequest {
            tenant: TENANTS[tenant].0.to_owned(),
            fields: Fields::None,
            k: 1 + rng.below(most),
            recall: *rng.pick(&[0.95, 0.95, 0.3, 0.7, 0.99]),
            ..SearchRequest::new(Route::dense("v", query.clone())).filter(filter)
        };
        let answer = collection.search(&request).unwrap();
        let what = format!("{what}, tenant '{}', {}", TENANTS[tenant].0, KINDS[kind]);
        let recall = check(&what, rows, &request, &answer, &pass);
        seen[kind].queries += 1;
        if pass.len() >= request.k && request.recall == 0.95 {
            seen[kind].full += 1;
            seen[kind].recall += recall;
        }
    }
}

#[test]
fn fewer_than_k_are_found_only_where_fewer_pass() {
    let mut rng = Rng::announced("few", 43);
    let mut data = Data::new(&mut rng);
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { durability: Durability::Buffered, ..Settings::default() };
    let database = Database::open(folder.path(), settings).unwrap();
    let schema = Schema::new()
        .dense("v", DIM as u32, Metric::L2)
        .payload("cluster", PayloadKind::Integer)
        .payload("x", PayloadKind::Float);
    let collection = database.create_collection("rows", schema).unwrap();
    for (tenant, (_, count)) in TENANTS.iter().enumerate() {
        data.upsert(&mut rng, &collection, tenant, 0..*count);
    }
    collection.optimize().unwrap();
    let mut seen = [Seen::default(); KINDS.len()];
    let half = QUERIES / FILTERS / 2;
    (0..half).for_each(|_| ask(&mut rng, &data, &collection, &mut seen, "after a merge"));
    for (tenant, (_, count)) in TENANTS.iter().enumerate() {
        data.delete(&mut rng, &collection, tenant);
        data.upsert(&mut rng, &collection, tenant, count - 100..count + 200);
    }
    (0..half).for_each(|_| ask(&mut rng, &data, &collection, &mut seen, "after changes"));
    for (Seen { queries, full, recall }, kind) in seen.iter().zip(KINDS) {
        let recall = recall / *full as f64;
        println!("{kind}: {queries} queries, recall {recall:.4} of {full} with k rows that pass");
        assert!(*full == 0 || recall >= 0.85, "{kind}: recall {recall} of {full} queries");
    }
    let full: usize = seen.iter().map(|seen| seen.full).sum();
    let recall = seen.iter().map(|seen| seen.recall).sum::<f64>() / full as f64;
    assert!(recall >= 0.9, "recall {recall} of {full} queries");
}

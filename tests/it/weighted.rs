//! Weighted fusion scores every candidate by every route, wherever its row lies: the same before and after
//! rows get cells.

use spandrel::{
    Database, Durability, Fusion, Metric, Route, Row, Schema, SearchRequest, SearchResponse, Settings,
    SparseVector,
};

use crate::rng::Rng;

const DIM: usize = 8;
/// What gets cells.
const ROWS: usize = 8_400;

#[test]
fn weighted_fusions_answer_the_same_when_rows_have_cells() {
    let mut rng = Rng::announced("weighted", 61);
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { durability: Durability::Buffered, ..Settings::default() };
    let database = Database::open(folder.path(), settings).unwrap();
    let schema = Schema::new().text("body").dense("v", DIM as u32, Metric::L2).sparse("terms");
    let collection = database.create_collection("rows", schema).unwrap();
    let sparse = |at: usize| SparseVector { dims: vec![at as u32 % 60], weights: vec![1.0] };
    let rows = (0..ROWS).map(|at| {
        let row = Row::new(format!("k{at}")).dense("v", rng.vector(DIM)).sparse("terms", sparse(at));
        row.text("body", format!("w{} w{}", at % 50, at % 31))
    });
    collection.upsert(rows.collect()).unwrap();
    let requests: Vec<SearchRequest> = (0..40)
        .map(|at| {
            let routes = vec![
                Route::dense("v", rng.vector(DIM)),
                if at % 2 == 0 {
                    Route::text("body", format!("w{at}"))
                } else {
                    Route::sparse("terms", sparse(at))
                },
            ];
            SearchRequest { routes, fusion: Fusion::Weighted, exact: true, ..SearchRequest::default() }
        })
        .collect();
    let answer = |request: &SearchRequest| -> SearchResponse {
        collection.search(request).unwrap_or_else(|error| panic!("{request:?}: {error}"))
    };
    let before: Vec<SearchResponse> = requests.iter().map(answer).collect();
    collection.optimize().unwrap();
    for (request, before) in requests.iter().zip(before) {
        assert_eq!(answer(request), before, "{request:?}");
    }
}

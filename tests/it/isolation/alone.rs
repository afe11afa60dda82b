//! A tenant's answers are those that it would get if it were alone, bit for bit: scores of vectors, of words
//! (whose statistics are the tenant's own), of sparse vectors and of fusions, counts, pages and contexts.

use std::sync::Arc;

use spandrel::{
    Collection, Database, Durability, Fields, Filter, RetrieveRequest, Row, ScrollRequest, SearchRequest,
    SearchResponse, Settings,
};

use super::ask::Ask;
use super::crowd::{Crowd, Member, schema};
use crate::rng::Rng;

const TENANTS: usize = 60;
/// The one that is asked has so many rows, and a neighbour more.
const SIZES: [u64; 6] = [2_600, 3_000, 900, 600, 500, 1_500];

/// A collection of its own, and one with all tenants.
struct Both {
    alone: Arc<Collection>,
    among: Arc<Collection>,
}

impl Both {
    fn each<T>(&self, act: impl Fn(&Collection) -> T) {
        act(&self.alone);
        act(&self.among);
    }

    /// Asks both; statistics of words count deleted rows until they are merged away, so that `words` asks for
    /// routes with words only where there are none.
    fn check(&self, rng: &mut Rng, crowd: &Crowd, member: &Member, words: bool, what: &str) {
        for _ in 0..200 {
            let mut ask = Ask::random(rng, crowd, member);
            let request = &mut ask.request;
            let has_words = request.routes.iter().any(|route| route.field == "body");
            (request.exact, request.explain) = (true, false);
            if has_words && !words {
                continue;
            }
            let what = || format!("{what}: {:?}", ask.request);
            let answers = [&self.alone, &self.among].map(|of| of.search(&ask.request).unwrap());
            assert_eq!(bits(&answers[0]), bits(&answers[1]), "{}", what());
            assert_eq!(answers[0], answers[1], "{}", what());
            let batch = [ask.request.clone(), ask.request.clone()];
            assert_eq!(self.among.search_batch(&batch).unwrap(), [answers[0].clone(), answers[0].clone()]);
            let retrieve = RetrieveRequest::new(SearchRequest { k: 5, ..ask.request.clone() }, 50);
            let contexts = [&self.alone, &self.among].map(|of| of.retrieve(&retrieve).unwrap());
            assert_eq!(contexts[0], contexts[1], "{}", what());
        }
        for _ in 0..20 {
            let filter = Ask::filtered(rng, crowd, member).request.filter;
            let count = |of: &Arc<Collection>| of.count(&member.name, filter.as_ref()).unwrap();
            assert_eq!(count(&self.alone), count(&self.among), "{what}: {filter:?}");
            let page = ScrollRequest {
                tenant: member.name.clone(),
                limit: 40,
                filter,
                fields: Fields::All,
                ..ScrollRequest::default()
            };
            assert_eq!(self.alone.scroll(&page).unwrap(), self.among.scroll(&page).unwrap(), "{what}");
        }
    }
}

fn bits(answer: &SearchResponse) -> Vec<(String, u32)> {
    answer.hits.iter().map(|hit| (hit.row.key.clone(), hit.score.to_bits())).collect()
}

/// The next rows of some tenants, those of one in order between those of the others.
fn mixed(rng: &mut Rng, crowd: &Crowd, most: u64) -> Vec<Row> {
    let mut queues: Vec<Vec<Row>> = crowd
        .members
        .iter()
        .map(|member| {
            let lacking = member.size.saturating_sub(member.rows()).min(most);
            let mut rows = member.next_rows(crowd, lacking);
            rows.reverse();
            rows
        })
        .filter(|rows| !rows.is_empty())
        .collect();
    let mut rows = Vec::new();
    while !queues.is_empty() {
        let at = rng.below(queues.len());
        rows.extend(queues[at].pop());
        if queues[at].is_empty() {
            queues.swap_remove(at);
        }
    }
    rows
}

#[test]
fn a_tenant_is_answered_as_if_it_were_alone() {
    let mut rng = Rng::announced("alone", 32);
    let crowd = Crowd::new(&mut rng, TENANTS, &SIZES);
    let member = &crowd.members[TENANTS - 5];
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let databases = folders.each_ref().map(|folder| {
        let settings = Settings { durability: Durability::Buffered, ..Settings::default() };
        Database::open(folder.path(), settings).unwrap()
    });
    let [alone, among] = databases.each_ref().map(|of| of.create_collection("rows", schema()).unwrap());
    let both = Both { alone, among };
    // All that it writes, and between it what others write, replace and delete.
    while member.rows() < member.size {
        let rows = mixed(&mut rng, &crowd, 400);
        let own: Vec<Row> = rows.iter().filter(|row| row.tenant == member.name).cloned().collect();
        both.alone.upsert(own).unwrap();
        both.among.upsert(rows).unwrap();
        crowd.members.iter().for_each(Member::wrote);
        for _ in 0..10 {
            let other = rng.pick(&crowd.members);
            if other.id != member.id {
                other.replace(&crowd, &both.among, &mut rng);
                other.shrink(&both.among, rng.below(5) as u64, rng.once_in(2));
            }
        }
        if rng.once_in(3) {
            both.among.flush().unwrap();
        }
        both.check(&mut rng, &crowd, member, true, "while it is written");
    }
    both.check(&mut rng, &crowd, member, true, "written");
    both.among.optimize().unwrap();
    both.check(&mut rng, &crowd, member, true, "the others are merged");
    both.alone.optimize().unwrap();
    both.check(&mut rng, &crowd, member, true, "both are merged");
    // Labels come and go in both; other tenants' in one.
    let keys: Vec<String> = (0..300).map(|at| member.key(at * 3)).collect();
    both.each(|of| of.grant(&member.name, &keys, &["pass".into()]).unwrap());
    let others: Vec<&Member> = crowd.members.iter().filter(|other| other.id != member.id).collect();
    for other in &others {
        other.grant(&both.among, 40);
        other.revoke(&both.among, 20);
    }
    both.check(&mut rng, &crowd, member, true, "some are labelled");
    // Its own are deleted, and others.
    let class = Filter::Equals { field: "class".into(), value: 3.into() };
    both.each(|of| of.delete_by_filter(&member.name, &class).unwrap());
    both.each(|of| of.delete(&member.name, &keys[..100]).unwrap());
    both.check(&mut rng, &crowd, member, false, "some are deleted");
    for other in others {
        both.among.drop_tenant(&other.name).unwrap();
    }
    both.check(&mut rng, &crowd, member, false, "the others are dropped");
    both.each(|of| of.optimize().unwrap());
    both.check(&mut rng, &crowd, member, false, "nothing is left of them");
    both.each(|of| of.verify().unwrap());
}

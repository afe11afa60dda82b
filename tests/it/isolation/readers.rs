//! Threads that ask: searches alone and in batches, and every other way of reading.

use spandrel::{Collection, Fields, RetrieveRequest, ScrollRequest};

use super::ask::{Ask, check_row};
use super::crowd::{Before, Crowd, Member};
use crate::rng::Rng;

/// Tenants that the searches of a batch are of.
const BATCH_MEMBERS: usize = 6;
const BATCH: usize = 96;

pub struct Reader<'a> {
    pub crowd: &'a Crowd,
    pub collection: &'a Collection,
    pub rng: Rng,
    pub name: String,
}

impl<'a> Reader<'a> {
    /// Asks some questions and checks the answers; returns how many.
    pub fn round(&mut self) -> u64 {
        let mut asked = self.batch() + self.batch();
        for _ in 0..16 {
            self.search();
        }
        asked += 16;
        asked
            + match self.rng.below(10) {
                0..3 => self.get(),
                3..6 => self.count(),
                6..9 => self.scroll(),
                _ => self.retrieve(),
            }
    }

    fn member(&mut self) -> &'a Member {
        // The large ones are few and at the end.
        let members = &self.crowd.members;
        match self.rng.once_in(6) {
            true => &members[members.len() - 1 - self.rng.below(24)],
            false => self.rng.pick(members),
        }
    }

    fn batch(&mut self) -> u64 {
        let members: Vec<(&Member, Before)> = (0..BATCH_MEMBERS)
            .map(|_| {
                let member = self.member();
                (member, member.before())
            })
            .collect();
        let (rng, crowd) = (&mut self.rng, self.crowd);
        let mut asks: Vec<(Before, Ask<'_>)> = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let (member, before) = *rng.pick(&members);
            let ask = match rng.once_in(8) {
                true => Ask::random(rng, crowd, member),
                false => Ask::plain(rng, crowd, member),
            };
            asks.push((before, ask));
        }
        let requests: Vec<_> = asks.iter().map(|(_, ask)| ask.request.clone()).collect();
        let answers = self.collection.search_batch(&requests).unwrap();
        assert_eq!(answers.len(), asks.len());
        for ((before, ask), answer) in asks.iter().zip(&answers) {
            let bounds = ask.member.bounds(*before);
            ask.check(&format!("{}, in a batch", self.name), self.crowd, answer, &bounds);
        }
        asks.len() as u64
    }

    fn search(&mut self) {
        let member = self.member();
        let ask = Ask::random(&mut self.rng, self.crowd, member);
        let before = member.before();
        let answer = self.collection.search(&ask.request).unwrap();
        ask.check(&self.name, self.crowd, &answer, &member.bounds(before));
    }

    fn get(&mut self) -> u64 {
        let (member, other) = (self.member(), self.member());
        let window = member.bounds(member.before()).maybe;
        let some = |rng: &mut Rng| window.start + rng.below((window.end - window.start) as usize + 20) as u64;
        let mut numbers: Vec<u64> = (0..6).map(|_| some(&mut self.rng)).collect();
        let mut keys: Vec<String> = numbers.iter().map(|n| member.key(*n)).collect();
        // Keys of another tenant: an even number's is one of this tenant, too.
        for n in (0..6).map(|_| some(&mut self.rng)) {
            let is_own = n.is_multiple_of(2) || other.id == member.id;
            numbers.push(if is_own { n } else { u64::MAX });
            keys.push(other.key(n));
        }
        let labels = [format!("only {}", other.id)];
        let labelled = self.rng.once_in(3);
        let before = member.before();
        let rows = match labelled {
            true => self.collection.get_labelled(&member.name, &keys, &labels, &Fields::All),
            false => self.collection.get(&member.name, &keys, &Fields::All),
        };
        let (rows, bounds) = (rows.unwrap(), member.bounds(before));
        let what = || format!("{}: get {keys:?} of {:?}, labelled {labelled}", self.name, member.name);
        for (n, row) in numbers.iter().zip(rows) {
            let may_see = !labelled || other.id == member.id;
            match row {
                Some(row) => {
                    let found = check_row(&what, self.crowd, member, &bounds, &row, &Fields::All);
                    assert!(found == *n && may_see, "{}: row {found}", what());
                }
                None => assert!(!may_see || !bounds.sure.contains(n), "{}: no row {n}", what()),
            }
        }
        1
    }

    fn count(&mut self) -> u64 {
        let member = self.member();
        let ask = Ask::filtered(&mut self.rng, self.crowd, member);
        let filter = ask.request.filter.as_ref().filter(|_| self.rng.once_in(2));
        let before = member.before();
        let count = self.collection.count(&member.name, filter).unwrap();
        let bounds = member.bounds(before);
        let passing = |rows: std::ops::Range<u64>| match filter {
            Some(_) => rows.filter(|n| ask.passes(*n, &bounds)).count() as u64,
            None => rows.end - rows.start,
        };
        let (least, most) = (passing(bounds.sure.clone()), passing(bounds.maybe.clone()));
        let what = || format!("{}: {count} rows of {:?}, {filter:?}", self.name, member.name);
        assert!((least..=most).contains(&count), "{}: not {least} to {most}", what());
        1
    }

    fn scroll(&mut self) -> u64 {
        let member = self.member();
        let ask = Ask::filtered(&mut self.rng, self.crowd, member);
        let filter = ask.request.filter.clone().filter(|_| self.rng.once_in(2));
        let fields = if self.rng.once_in(3) { Fields::All } else { Fields::Named(vec!["owner".into()]) };
        // Another tenant's key to begin after is as good as any.
        let after = self.rng.once_in(2).then(|| self.member().key(self.rng.below(1_500) as u64));
        let limit = 1 + self.rng.below(30);
        let request = ScrollRequest { tenant: member.name.clone(), after, limit, filter, fields };
        let before = member.before();
        let page = self.collection.scroll(&request).unwrap();
        let bounds = member.bounds(before);
        let what = || format!("{}: scroll {request:?}", self.name);
        for row in &page.rows {
            let n = check_row(&what, self.crowd, member, &bounds, row, &request.fields);
            assert!(request.filter.is_none() || ask.passes(n, &bounds), "{}: row {n}", what());
        }
        let keys: Vec<&str> = page.rows.iter().map(|row| &*row.key).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{}: {keys:?}", what());
        let after = request.after.as_deref();
        assert!(keys.first().is_none_or(|first| after.is_none_or(|after| after < *first)), "{}", what());
        if after.is_none() && request.filter.is_none() {
            let least = (bounds.sure.end - bounds.sure.start).min(request.limit as u64);
            assert!(keys.len() as u64 >= least, "{}: {} rows of {least}", what(), keys.len());
        }
        1
    }

    fn retrieve(&mut self) -> u64 {
        let member = self.member();
        let mut ask = Ask::random(&mut self.rng, self.crowd, member);
        ask.request.fields = Fields::Default;
        let before = member.before();
        let found = self.collection.retrieve(&RetrieveRequest::new(ask.request.clone(), 60)).unwrap();
        let bounds = member.bounds(before);
        let what = || format!("{}: retrieve {:?}", self.name, ask.request);
        let mut texts = Vec::new();
        for chunk in &found.chunks {
            let n = check_row(&what, self.crowd, member, &bounds, &chunk.hit.row, &Fields::Default);
            assert!(ask.passes(n, &bounds), "{}: row {n}", what());
            texts.push(super::crowd::body(member, n));
        }
        assert_eq!(found.context, texts.join("\n\n"), "{}", what());
        1
    }
}

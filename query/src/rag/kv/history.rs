//! How often chunks were asked for, whether they are kept or not, in bounded room.
//!
//! GDSF forgets what went, so a chunk that comes back is as new, and in little room all are. An estimate of
//! past uses helps more than any other change (as TinyLFU has it; Einziger, Friedman and Manes, 2017).
//! Departure: exact counts of hashes in sets of [`PLACES`], where a new one takes the place of the least, in
//! place of a sketch. All counts are halved after [`AGE`] times as many asks as there are places, so that
//! what was popular once fades. Cost: a few compares an ask, 16 bytes a place; halving is linear, and rare.

use serde::{Deserialize, Serialize};

/// Places of a set.
const PLACES: usize = 8;
/// Asks a place until counts are halved.
const AGE: u64 = 10;

/// A count that is kept, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Its place.
    pub place: usize,
    /// The hash that was asked for.
    pub hash: u64,
    /// How often; 1 or more.
    pub asks: u32,
}

/// Counts by hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Hashes and their counts; a count of 0 is an empty place.
    places: Vec<(u64, u32)>,
    /// Asks since counts were halved.
    asks: u64,
}

impl History {
    /// One of about so many counts; none is ever kept where that is 0.
    pub fn new(counts: usize) -> Self {
        Self { places: vec![(0, 0); counts.next_multiple_of(PLACES)], asks: 0 }
    }

    /// Counts an ask; how often it came, this one included.
    pub fn ask(&mut self, hash: u64) -> u64 {
        if self.places.is_empty() {
            return 1;
        }
        self.asks += 1;
        if self.asks > AGE * self.places.len() as u64 {
            self.places.iter_mut().for_each(|(_, count)| *count /= 2);
            self.asks = 0;
        }
        let sets = self.places.len() / PLACES;
        let set = ((u128::from(hash) * sets as u128) >> 64) as usize * PLACES;
        let set = &mut self.places[set..set + PLACES];
        if let Some((_, count)) = set.iter_mut().find(|(other, count)| *other == hash && *count > 0) {
            *count = count.saturating_add(1);
            return u64::from(*count);
        }
        if let Some(least) = set.iter_mut().min_by_key(|(_, count)| *count) {
            *least = (hash, 1);
        }
        1
    }

    /// All counts, and asks since they were halved.
    pub fn counts(&self) -> (Vec<Count>, u64) {
        let places = self.places.iter().enumerate().filter(|(_, (_, asks))| *asks > 0);
        (places.map(|(place, (hash, asks))| Count { place, hash: *hash, asks: *asks }).collect(), self.asks)
    }

    /// Takes counts back; those of another size are of no use and left out.
    pub fn restore(&mut self, counts: &[Count], asks: u64) {
        self.asks = asks;
        for count in counts {
            if let Some(place) = self.places.get_mut(count.place) {
                *place = (count.hash, count.asks);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! How much a tenant may hold and ask, so that one that is busy leaves room for the others.
//!
//! A quota is a tenant's own, or the collection's for all that have none. Rows and bytes are compared when
//! rows are written, under the write lock. Queries pass a gate before they wait for anything: a bucket of
//! tokens (one a query, as many as a second brings, at least one), and a count of those under way. What is
//! refused costs a lock and a hash, and says when to come back.
//!
//! Gates are kept for tenants that have queries under way or a bucket that is not full.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use spandrel_storage::TenantId;
use spandrel_storage::store::Commit;

use crate::check::check_tenant;
use crate::error::{Error, ErrorKind, Result};
use crate::shared::Shared;

/// The quota of this id is that of all tenants without one of their own.
const EVERY: TenantId = TenantId(u32::MAX);
/// Locks of the gates, by tenant.
const SHARDS: usize = 16;
/// Gates of a shard that are kept before those of idle tenants are looked for, at least.
const IDLE_MAX: usize = 64;

/// What a tenant may use; none of a limit is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u64>,
    /// Bytes of its rows as they are stored, vectors among them, before compression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// Queries a second, on average; as many may come at once. Each search of a batch is a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries_per_second: Option<f64>,
    /// Queries under way at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
}

impl Quota {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the limit.
    pub fn check(&self) -> Result<()> {
        let rate = |rate: f64| rate.is_finite() && rate > 0.0;
        if let Some(wrong) = self.queries_per_second.filter(|value| !rate(*value)) {
            return Err(Error::invalid(format!("queries_per_second is {wrong}; it is a number above 0")));
        }
        Ok(())
    }

    /// The bytes that the row store keeps of it.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::invalid(format!("the quota cannot be written: {error}")))
    }

    fn limits_queries(&self) -> bool {
        self.queries_per_second.is_some() || self.in_flight_max.is_some()
    }
}

/// What a tenant holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Held {
    pub rows: u64,
    pub bytes: u64,
}

impl Held {
    /// A key had a row of so many bytes, or none, and has another, or none.
    pub fn change(&mut self, old: Option<u32>, new: Option<u32>) {
        let count = |row: Option<u32>| u64::from(row.is_some());
        let bytes = |row: Option<u32>| u64::from(row.unwrap_or_default());
        self.rows = (self.rows + count(new)).saturating_sub(count(old));
        self.bytes = (self.bytes + bytes(new)).saturating_sub(bytes(old));
    }
}

/// The quotas of a collection.
#[derive(Default)]
pub(crate) struct Quotas {
    /// Whether there is any, so that nobody asks where there is none.
    any: AtomicBool,
    set: RwLock<Set>,
    gates: Arc<Gates>,
}

#[derive(Default)]
struct Set {
    every: Option<Quota>,
    own: HashMap<TenantId, Quota>,
}

#[derive(Default)]
struct Gates([Mutex<Shard>; SHARDS]);

#[derive(Default)]
struct Shard {
    gates: HashMap<TenantId, Gate>,
    /// Gates that were left when those of idle tenants were looked for.
    left: usize,
}

struct Gate {
    in_flight: u32,
    tokens: f64,
    /// When `tokens` was true.
    at: Instant,
    refused: u64,
}

/// Queries of a tenant that are under way, until this is dropped.
pub(crate) struct Permit {
    gates: Arc<Gates>,
    tenant: TenantId,
    queries: u32,
}

impl Permit {
    /// The queries do not take place: they have used up nothing.
    pub fn refund(self) {
        if let Some(gate) = self.gates.shard(self.tenant).lock().gates.get_mut(&self.tenant) {
            gate.tokens += f64::from(self.queries);
        }
    }
}

impl Quotas {
    /// From what the row store holds.
    pub fn new(entries: Vec<(TenantId, Vec<u8>)>) -> Result<Self> {
        let quotas = Self::default();
        for (tenant, json) in entries {
            let not_one = |error: &dyn std::fmt::Display| {
                Error::new(ErrorKind::Corrupt, format!("the quota of tenant {tenant} is not one: {error}"))
            };
            let quota: Quota = serde_json::from_slice(&json).map_err(|error| not_one(&error))?;
            quota.check().map_err(|error| not_one(&error))?;
            quotas.note(tenant, Some(quota));
        }
        Ok(quotas)
    }

    pub fn note(&self, tenant: TenantId, quota: Option<Quota>) {
        let mut set = self.set.write();
        match (tenant, quota) {
            (EVERY, quota) => set.every = quota,
            (tenant, Some(quota)) => drop(set.own.insert(tenant, quota)),
            (tenant, None) => drop(set.own.remove(&tenant)),
        }
        self.any.store(set.every.is_some() || !set.own.is_empty(), Ordering::Release);
    }

    /// A tenant's own is gone with it.
    pub fn forget(&self, tenant: TenantId) {
        self.note(tenant, None);
    }

    /// A tenant's own quota.
    pub fn own(&self, tenant: TenantId) -> Option<Quota> {
        self.set.read().own.get(&tenant).copied()
    }

    /// That of all tenants without one.
    pub fn every(&self) -> Option<Quota> {
        self.set.read().every
    }

    /// The quota that holds for a tenant, one that is new among them.
    pub fn of(&self, tenant: TenantId) -> Option<Quota> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let set = self.set.read();
        set.own.get(&tenant).copied().or(set.every)
    }

    /// Lets queries of a tenant pass, all or none; no permit is needed where nothing limits them.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`], with when to come back.
    pub fn admit(&self, tenant: TenantId, name: &str, queries: u32) -> Result<Option<Permit>> {
        let Some(quota) = self.of(tenant).filter(Quota::limits_queries) else { return Ok(None) };
        let now = Instant::now();
        let mut shard = self.gates.shard(tenant).lock();
        let Shard { gates, left } = &mut *shard;
        if gates.len() >= IDLE_MAX.max(2 * *left) && !gates.contains_key(&tenant) {
            let set = self.set.read();
            let rate = |id: &TenantId| set.own.get(id).or(set.every.as_ref())?.queries_per_second;
            gates.retain(|id, gate| {
                gate.in_flight > 0 || rate(id).is_some_and(|rate| !gate.is_full(rate, now))
            });
            *left = gates.len();
        }
        let full = quota.queries_per_second.map_or(0.0, capacity);
        let new = Gate { in_flight: 0, tokens: full, at: now, refused: 0 };
        let gate = gates.entry(tenant).or_insert(new);
        if let Err(error) = gate.pass(quota, now, name, queries) {
            gate.refused += u64::from(queries);
            return Err(error);
        }
        drop(shard);
        Ok(Some(Permit { gates: Arc::clone(&self.gates), tenant, queries }))
    }

    /// Queries of a tenant under way, and those refused lately, where a quota limits them.
    pub fn traffic(&self, tenant: TenantId) -> (u32, u64) {
        let shard = self.gates.shard(tenant).lock();
        shard.gates.get(&tenant).map_or((0, 0), |gate| (gate.in_flight, gate.refused))
    }

    /// Whether a tenant may come to hold so much more.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`], with the limit.
    pub fn check_held(&self, tenant: TenantId, name: &str, (before, after): (Held, Held)) -> Result<()> {
        let Some(quota) = self.of(tenant) else { return Ok(()) };
        for (what, limit, before, value, max) in [
            ("rows", "rows_max", before.rows, after.rows, quota.rows_max),
            ("bytes of rows", "bytes_max", before.bytes, after.bytes, quota.bytes_max),
        ] {
            if let Some(max) = max.filter(|max| value > *max && value > before) {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "tenant '{name}' would have {value} {what}, its quota is {max} ({limit}); delete rows, or \
                         raise the quota"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether a write of a tenant has to be measured.
    pub fn limits_rows(&self, tenant: TenantId) -> bool {
        self.of(tenant).is_some_and(|quota| quota.rows_max.is_some() || quota.bytes_max.is_some())
    }
}

/// Tokens that a bucket holds.
fn capacity(rate: f64) -> f64 {
    rate.max(1.0)
}

impl Gates {
    fn shard(&self, tenant: TenantId) -> &Mutex<Shard> {
        &self.0[tenant.0 as usize % SHARDS]
    }
}

impl Gate {
    fn is_full(&self, rate: f64, now: Instant) -> bool {
        self.filled(rate, now) >= capacity(rate)
    }

    fn filled(&self, rate: f64, now: Instant) -> f64 {
        (self.tokens + (now - self.at).as_secs_f64() * rate).min(capacity(rate))
    }

    fn pass(&mut self, quota: Quota, now: Instant, name: &str, queries: u32) -> Result<()> {
        let most = quota.queries_per_second.map_or(f64::INFINITY, capacity);
        let most = quota.in_flight_max.map_or(most, |max| most.min(f64::from(max)));
        if queries > 1 && f64::from(queries) > most {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "tenant '{name}' asks {queries} queries at once, its quota lets {} pass together; send fewer \
                     in a batch",
                    most.floor()
                ),
            ));
        }
        if let Some(max) = quota.in_flight_max.filter(|max| self.in_flight.saturating_add(queries) > *max) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "tenant '{name}' has {} queries under way, its quota is {max} (in_flight_max); wait for one of \
                     them",
                    self.in_flight
                ),
            ));
        }
        if let Some(rate) = quota.queries_per_second {
            (self.tokens, self.at) = (self.filled(rate, now), now);
            let wanted = f64::from(queries);
            if self.tokens < wanted {
                let wait = Duration::from_secs_f64(((wanted - self.tokens) / rate).min(86_400.0));
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "tenant '{name}' has used up its {rate} queries a second (queries_per_second); try again in \
                         {} ms",
                        wait.as_millis() + 1
                    ),
                ));
            }
            self.tokens -= wanted;
        }
        self.in_flight += queries;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gates.shard(self.tenant).lock().gates.get_mut(&self.tenant) {
            gate.in_flight -= self.queries;
        }
    }
}

/// Sets the quota of a tenant, which need not have rows yet, or takes it away; without a name, that of all
/// tenants that have none of their own.
///
/// # Errors
/// It is not sound, or cannot be made durable.
pub(crate) fn set(shared: &Shared, tenant: Option<&str>, quota: Option<Quota>) -> Result<()> {
    quota.iter().try_for_each(Quota::check)?;
    let mut commit = Commit { collection: shared.id, ..Commit::default() };
    // Names are given out under the write lock.
    let _writer = shared.writer.lock();
    shared.writable()?;
    let id = match tenant {
        None => EVERY,
        Some(name) => {
            check_tenant(name)?;
            match shared.tenants.get(name) {
                Some(id) => id,
                None if quota.is_none() => return Ok(()),
                None => {
                    commit.new_tenants.push((shared.tenants.next(), name.to_owned()));
                    shared.tenants.next()
                }
            }
        }
    };
    commit.quotas.push((id, quota.map_or_else(|| Ok(Vec::new()), |quota| quota.encode())?));
    shared.store.commit(&commit, shared.durability())?;
    shared.tenants.note(commit.new_tenants, &[], None, &[(id, quota)]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TenantId = TenantId(3);

    fn with(quota: Quota) -> Quotas {
        let quotas = Quotas::default();
        quotas.note(EVERY, Some(quota));
        quotas
    }

    #[test]
    fn as_many_as_a_second_brings_pass_at_once_and_no_more() {
        let quotas = with(Quota { queries_per_second: Some(5.0), ..Quota::default() });
        let passed = (0..20).filter(|_| quotas.admit(T, "t", 1).is_ok()).count();
        assert_eq!(passed, 5);
        let error = quotas.admit(T, "t", 1).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.message().contains("tenant 't' has used up its 5 queries a second"), "{error}");
        assert!(quotas.admit(TenantId(4), "u", 1).is_ok(), "another tenant has a bucket of its own");
        let now = Instant::now() + Duration::from_millis(500);
        let mut shard = quotas.gates.shard(T).lock();
        let gate = shard.gates.get_mut(&T).unwrap();
        assert!((gate.filled(5.0, now) - 2.5).abs() < 0.2, "half a second brings half of it");
        assert!(gate.is_full(5.0, now + Duration::from_secs(9)));
    }

    #[test]
    fn queries_under_way_are_counted_until_they_end() {
        let quotas = with(Quota { in_flight_max: Some(2), ..Quota::default() });
        let first = quotas.admit(T, "t", 1).unwrap();
        let second = quotas.admit(T, "t", 1).unwrap();
        assert!(quotas.admit(T, "t", 1).is_err());
        assert_eq!(quotas.traffic(T), (2, 1));
        drop(first);
        let third = quotas.admit(T, "t", 1).unwrap();
        assert!(quotas.admit(T, "t", 1).is_err());
        drop((second, third));
        assert_eq!(quotas.traffic(T).0, 0);
    }

    #[test]
    fn a_tenants_own_quota_goes_before_that_of_all() {
        let quotas = with(Quota { rows_max: Some(10), ..Quota::default() });
        let held = |rows| (Held { rows: rows - 1, bytes: 1 }, Held { rows, bytes: 1 });
        assert!(quotas.check_held(T, "t", held(10)).is_ok());
        let error = quotas.check_held(T, "t", held(11)).unwrap_err();
        assert!(error.message().contains("would have 11 rows, its quota is 10"), "{error}");
        assert!(quotas.check_held(T, "t", (held(11).1, held(11).1)).is_ok(), "no more than before");
        quotas.note(T, Some(Quota::default()));
        assert!(quotas.check_held(T, "t", held(11)).is_ok());
        assert!(quotas.admit(T, "t", 1).unwrap().is_none(), "nothing limits its queries");
        quotas.forget(T);
        assert!(quotas.check_held(T, "t", held(11)).is_err());
        assert!(Quota { queries_per_second: Some(0.0), ..Quota::default() }.check().is_err());
    }

    #[test]
    fn gates_of_idle_tenants_go() {
        let quotas = with(Quota { in_flight_max: Some(2), ..Quota::default() });
        for id in 0..10_000 {
            drop(quotas.admit(TenantId(id), "t", 1).unwrap());
        }
        let gates: usize = quotas.gates.0.iter().map(|shard| shard.lock().gates.len()).sum();
        assert!(gates <= SHARDS * (IDLE_MAX + 1), "{gates} gates");
    }

    #[test]
    fn of_a_batch_all_pass_or_none() {
        let quotas =
            with(Quota { queries_per_second: Some(5.0), in_flight_max: Some(4), ..Quota::default() });
        let told = |queries| quotas.admit(T, "t", queries).map(drop).unwrap_err().to_string();
        assert!(told(5).contains("asks 5 queries at once, its quota lets 4 pass"), "{}", told(5));
        drop(quotas.admit(T, "t", 3).unwrap());
        assert!(told(3).contains("try again in"), "what was refused has used up nothing: {}", told(3));
        let permit = quotas.admit(T, "t", 2).unwrap().unwrap();
        assert_eq!(quotas.traffic(T).0, 2);
        permit.refund();
        assert_eq!(quotas.traffic(T).0, 0);
        assert!(quotas.admit(T, "t", 2).is_ok());
    }
}

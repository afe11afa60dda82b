//! Who asks, and what may they do? Keys, the tenants they are bound to, and the access they give.
//!
//! A request becomes a [`Caller`] once, before it is queued or converted; services ask the caller, never the
//! request, whose rows they may touch. Nothing in a request can widen a caller. Not for transport security
//! (`serve::tls`).
//!
//! Cost: one hash-map look-up and one SHA-256 of 64 bytes a request, no lock held across it.

pub mod keyring;
pub mod keys;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spandrel::Filter;
use tonic::Status;

/// What a key allows; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Search, fetch, list, count.
    Read,
    /// Also upsert and delete.
    Write,
    /// Also drop tenants; with all tenants also quotas, collections, flush, statistics and backup.
    Admin,
}

impl Access {
    /// The word that flags and files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The tenants a key is bound to. In JSON: the text `*`, or a list of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TenantsJson", into = "TenantsJson")]
pub enum Tenants {
    /// Every tenant, those to come included.
    All,
    /// These; the empty name is the default tenant. Never empty.
    Only(BTreeSet<String>),
}

impl Tenants {
    /// Whether `tenant` is among them.
    pub fn contains(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(tenant),
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum TenantsJson {
    Star(String),
    Names(BTreeSet<String>),
}

impl TryFrom<TenantsJson> for Tenants {
    type Error = String;

    fn try_from(json: TenantsJson) -> Result<Self, String> {
        match json {
            TenantsJson::Star(star) if star == "*" => Ok(Self::All),
            TenantsJson::Star(other) => Err(format!("tenants is \"*\" or a list of names, not \"{other}\"")),
            TenantsJson::Names(names) if names.is_empty() => Err("tenants is an empty list".to_owned()),
            TenantsJson::Names(names) => Ok(Self::Only(names)),
        }
    }
}

impl From<Tenants> for TenantsJson {
    fn from(tenants: Tenants) -> Self {
        match tenants {
            Tenants::All => Self::Star("*".to_owned()),
            Tenants::Only(names) => Self::Names(names),
        }
    }
}

/// Whoever sent a request, proven by a key, or anybody where the server runs without keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Arc<CallerInner>);

#[derive(Debug)]
struct CallerInner {
    id: String,
    access: Access,
    tenants: Tenants,
    labels: Option<BTreeSet<String>>,
}

impl Caller {
    /// A caller with the rights of key `id`, who sees all rows of the tenants.
    pub fn new(id: impl Into<String>, access: Access, tenants: Tenants) -> Self {
        Self::with_labels(id, access, tenants, None)
    }

    /// As [`new`](Self::new); where there are `labels` the caller sees only rows with one of them.
    pub fn with_labels(
        id: impl Into<String>,
        access: Access,
        tenants: Tenants,
        labels: Option<BTreeSet<String>>,
    ) -> Self {
        Self(Arc::new(CallerInner { id: id.into(), access, tenants, labels }))
    }

    /// Anybody, on a server without keys: everything is allowed.
    pub fn anybody() -> Self {
        Self::new("", Access::Admin, Tenants::All)
    }

    /// The key's id, for logs; empty without keys.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The tenants that the caller may know of.
    pub fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    /// Whether the caller may know of this tenant.
    pub fn may_see(&self, tenant: &str) -> bool {
        self.0.tenants.contains(tenant)
    }

    /// The labels that a row has to have one of for a request on behalf of those `requested`; none: all rows
    /// may be seen.
    pub fn labels(&self, requested: Option<Vec<String>>) -> Option<Vec<String>> {
        match (&self.0.labels, requested) {
            (None, requested) => requested,
            (Some(own), None) => Some(own.iter().cloned().collect()),
            (Some(own), Some(requested)) => {
                Some(requested.into_iter().filter(|label| own.contains(label)).collect())
            }
        }
    }

    /// A filter that lets through what the caller may see of what `filter` does.
    pub fn filter(&self, filter: Option<Filter>) -> Option<Filter> {
        let Some(labels) = self.labels(None) else { return filter };
        Some(Filter::And(filter.into_iter().chain([Filter::Labels(labels)]).collect()))
    }

    /// Asks for `needed` access.
    ///
    /// # Errors
    /// PERMISSION_DENIED when the key has less.
    pub fn require(&self, needed: Access) -> Result<(), Status> {
        if self.0.access >= needed {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "this method needs {} access; key {} has {} access",
            needed.name(),
            self.0.id,
            self.0.access.name()
        )))
    }

    /// Asks for `needed` access to all tenants.
    ///
    /// # Errors
    /// PERMISSION_DENIED when the key has less, or is bound to some tenants.
    pub fn require_everywhere(&self, needed: Access) -> Result<(), Status> {
        self.require(needed)?;
        match self.0.tenants {
            Tenants::All => Ok(()),
            Tenants::Only(_) => Err(Status::permission_denied(format!(
                "this method concerns all tenants; key {} is bound to some",
                self.0.id
            ))),
        }
    }

    /// Asks for sight of all rows of the tenants.
    ///
    /// # Errors
    /// PERMISSION_DENIED when the key is bound to labels.
    pub fn require_all_rows(&self) -> Result<(), Status> {
        if self.0.labels.is_none() {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "this method concerns all rows of a tenant; key {} is bound to some access labels",
            self.0.id
        )))
    }

    /// Asks for a tenant by its exact name; the empty name is the default tenant.
    ///
    /// # Errors
    /// PERMISSION_DENIED when the key is not bound to it.
    pub fn require_tenant(&self, tenant: &str) -> Result<(), Status> {
        if self.may_see(tenant) {
            return Ok(());
        }
        Err(Status::permission_denied(format!("tenant: key {} is not bound to tenant '{tenant}'", self.0.id)))
    }

    /// The tenant that a request means by `requested`; see the head of `rows.proto`.
    ///
    /// # Errors
    /// PERMISSION_DENIED when the key is not bound to that tenant. The message does not tell whether the
    /// tenant exists.
    pub fn tenant(&self, requested: String) -> Result<String, Status> {
        match &self.0.tenants {
            Tenants::All => Ok(requested),
            Tenants::Only(names) if names.contains(&requested) => Ok(requested),
            Tenants::Only(names) if requested.is_empty() => match names.first() {
                Some(only) if names.len() == 1 => Ok(only.clone()),
                _ => Err(Status::permission_denied(format!(
                    "tenant: key {} is bound to several tenants; name one of them",
                    self.0.id
                ))),
            },
            Tenants::Only(_) => self.require_tenant(&requested).map(|()| requested),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(access: Access, names: &[&str]) -> Caller {
        Caller::new("k", access, Tenants::Only(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    /// Every kind of key against every kind of requested tenant.
    #[test]
    fn tenant_matrix() {
        let denied = None;
        let all = Caller::new("k", Access::Read, Tenants::All);
        let one = bound(Access::Read, &["acme"]);
        let two = bound(Access::Read, &["acme", "beta"]);
        let two_with_default = bound(Access::Read, &["", "acme"]);
        let cases: [(&Caller, &str, Option<&str>); 13] = [
            (&all, "", Some("")),
            (&all, "acme", Some("acme")),
            (&all, "*", Some("*")),
            (&one, "", Some("acme")),
            (&one, "acme", Some("acme")),
            (&one, "beta", denied),
            (&one, "*", denied),
            (&one, "ACME", denied),
            (&two, "", denied),
            (&two, "beta", Some("beta")),
            (&two, "gamma", denied),
            (&two_with_default, "", Some("")),
            (&two_with_default, "beta", denied),
        ];
        for (caller, requested, expected) in cases {
            let got = caller.tenant(requested.to_owned());
            match expected {
                Some(tenant) => assert_eq!(got.unwrap(), tenant, "{requested}"),
                None => assert_eq!(got.unwrap_err().code(), tonic::Code::PermissionDenied, "{requested}"),
            }
        }
        // An exact name never means another tenant.
        assert!(one.require_tenant("acme").is_ok());
        assert_eq!(one.require_tenant("").unwrap_err().code(), tonic::Code::PermissionDenied);
        assert!(two_with_default.require_tenant("").is_ok() && all.require_tenant("").is_ok());
    }

    /// What a key is bound to narrows what a request asks for, and nothing widens it.
    #[test]
    fn label_matrix() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = |labels: Option<&[&str]>| {
            let labels = labels.map(|labels| names(labels).into_iter().collect());
            Caller::with_labels("k", Access::Read, Tenants::All, labels)
        };
        let (all, two, none) = (key(None), key(Some(&["a", "b"])), key(Some(&[])));
        assert_eq!(all.labels(None), None);
        assert_eq!(all.labels(Some(names(&["x"]))), Some(names(&["x"])));
        assert_eq!(two.labels(None), Some(names(&["a", "b"])));
        assert_eq!(two.labels(Some(names(&["b", "c"]))), Some(names(&["b"])));
        assert_eq!(two.labels(Some(names(&["c"]))), Some(Vec::new()));
        assert_eq!(none.labels(Some(names(&["a"]))), Some(Vec::new()));
        let exists = Filter::Exists { field: "n".into() };
        assert_eq!(all.filter(None), None);
        assert_eq!(all.filter(Some(exists.clone())), Some(exists.clone()));
        let labels = Filter::Labels(names(&["a", "b"]));
        assert_eq!(two.filter(None), Some(Filter::And(vec![labels.clone()])));
        assert_eq!(two.filter(Some(exists.clone())), Some(Filter::And(vec![exists, labels])));
    }

    #[test]
    fn access_matrix() {
        let levels = [Access::Read, Access::Write, Access::Admin];
        for (has_at, has) in levels.into_iter().enumerate() {
            for (needs_at, needs) in levels.into_iter().enumerate() {
                let all = Caller::new("k", has, Tenants::All);
                let some = bound(has, &["acme"]);
                assert_eq!(all.require(needs).is_ok(), has_at >= needs_at);
                assert_eq!(some.require(needs).is_ok(), has_at >= needs_at);
                assert_eq!(all.require_everywhere(needs).is_ok(), has_at >= needs_at);
                assert!(some.require_everywhere(needs).is_err());
            }
        }
        assert!(Caller::anybody().require_everywhere(Access::Admin).is_ok());
    }

    #[test]
    fn tenants_read_a_star_or_a_list() {
        let all: Tenants = serde_json::from_str("\"*\"").unwrap();
        assert_eq!(all, Tenants::All);
        assert_eq!(serde_json::to_string(&all).unwrap(), "\"*\"");
        let some: Tenants = serde_json::from_str("[\"b\", \"a\", \"*\"]").unwrap();
        assert!(some.contains("*") && some.contains("a") && !some.contains("c"));
        assert!(serde_json::from_str::<Tenants>("[]").is_err());
        assert!(serde_json::from_str::<Tenants>("\"acme\"").is_err());
    }
}

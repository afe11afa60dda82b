//! The numbers that name things. All are assigned by the engine and never reused.

use serde::{Deserialize, Serialize};

/// Position of a row in a segment, shared by every index of that segment and by roaring filters.
pub type DocId = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Sequence number of the write that made a row, within its collection; 0 means "before every row".
    RowId(u64)
}
id! {
    /// A collection of the database.
    CollectionId(u32)
}
id! {
    /// A tenant of a collection: its name in the collection's tenant dictionary.
    TenantId(u32)
}
id! {
    /// An access label of a collection: its name in the collection's dictionary of labels.
    LabelId(u32)
}
id! {
    /// A field of a schema: its position in [`Schema::fields`](crate::Schema::fields).
    FieldId(u16)
}

/// Longest user key in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest tenant name in bytes; the empty name is the default tenant.
pub const TENANT_BYTES_MAX: usize = 256;
/// Longest name of a label in bytes.
pub const LABEL_BYTES_MAX: usize = 256;
/// Longest collection or field name in bytes.
pub const NAME_BYTES_MAX: usize = 128;

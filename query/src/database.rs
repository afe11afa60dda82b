//! A database: a folder of collections.

use std::path::Path;
use std::sync::Arc;

use spandrel_storage::Schema;

use crate::collection::Collection;
use crate::error::Result;
use crate::response::DatabaseStats;
use crate::settings::{Components, Settings};

/// A folder of collections, open in this process. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Database {}

impl Database {
    /// Opens the database in `path`, creating the folder if it is not there.
    pub fn open(path: impl AsRef<Path>, settings: Settings) -> Result<Self> {
        Self::open_with(path, settings, Components::default())
    }

    /// Opens a database with components.
    pub fn open_with(_path: impl AsRef<Path>, _settings: Settings, _components: Components) -> Result<Self> {
        unimplemented!()
    }

    /// Creates a collection.
    pub fn create_collection(&self, _name: &str, _schema: Schema) -> Result<Arc<Collection>> {
        unimplemented!()
    }

    /// The collection called `name`.
    pub fn collection(&self, _name: &str) -> Result<Arc<Collection>> {
        unimplemented!()
    }

    /// Names of all collections, sorted.
    pub fn collections(&self) -> Vec<String> {
        unimplemented!()
    }

    /// Drops a collection and gives its space back.
    pub fn drop_collection(&self, _name: &str) -> Result<()> {
        unimplemented!()
    }

    /// Sizes and states.
    pub fn stats(&self) -> Result<DatabaseStats> {
        unimplemented!()
    }

    /// Writes a consistent copy of everything acknowledged into `dir`, which must not exist or be empty.
    pub fn backup(&self, _dir: impl AsRef<Path>) -> Result<()> {
        unimplemented!()
    }

    /// Makes a database in `dir`, which must not exist or be empty, from a backup.
    pub fn restore(_backup: impl AsRef<Path>, _dir: impl AsRef<Path>) -> Result<()> {
        unimplemented!()
    }

    /// Builds all fresh rows into segments, syncs and closes. Other clones answer with an error from then on.
    pub fn close(&self) -> Result<()> {
        unimplemented!()
    }
}

//! `spandrel.v1.AdminService`.

use std::path::PathBuf;
use std::sync::Arc;

use spandrel_proto::v1 as pb;
use spandrel_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use super::{Backend, Task};
use crate::auth::Access;
use crate::call::Call;
use crate::convert::response::stats_to_wire;
use crate::status;

/// The service over a backend.
pub struct Admin(pub Arc<Backend>);

/// Longest name of a backup, in bytes.
const BACKUP_NAME_BYTES_MAX: usize = 128;

/// Whether `name` is one plain folder name: no separator, not hidden, neither `.` nor `..`.
fn is_plain(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    name.len() <= BACKUP_NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(ok)
}

fn flush(backend: &Task, name: &str) -> Result<(), Status> {
    if !name.is_empty() {
        return backend.collection(name)?.flush().map_err(status::from_engine);
    }
    for name in backend.database.collections() {
        // A collection that was dropped meanwhile has nothing to flush.
        if let Ok(collection) = backend.collection(&name) {
            collection.flush().map_err(status::from_engine)?;
        }
    }
    Ok(())
}

fn backup(backend: &Task, name: &str) -> Result<PathBuf, Status> {
    if !is_plain(name) {
        return Err(Status::invalid_argument(format!(
            "name: 1 to {BACKUP_NAME_BYTES_MAX} bytes of letters, digits, '_', '-' and '.', starting with a letter or digit"
        )));
    }
    let path = backend.backup_folder.join(name);
    if path.exists() {
        return Err(Status::already_exists(format!("name: there is a backup '{name}'; choose another name")));
    }
    std::fs::create_dir_all(&backend.backup_folder).map_err(|error| {
        Status::unavailable(format!("backup_dir {}: {error}", backend.backup_folder.display()))
    })?;
    backend.database.backup(&path).map_err(status::from_engine)?;
    tracing::info!(path = %path.display(), "backup made");
    Ok(path)
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn flush(&self, request: Request<pb::FlushRequest>) -> Result<Response<pb::FlushResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        let name = request.into_inner().collection;
        self.0.upkeep(&call, move |backend| flush(backend, &name)).await?;
        Ok(Response::new(pb::FlushResponse {}))
    }

    async fn stats(&self, request: Request<pb::StatsRequest>) -> Result<Response<pb::StatsResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        // Not behind a flush or a backup, which take their time.
        let stats =
            // Not behind a flush or a backup, which take their time.
            self.0.stats(&call, |backend| backend.database.stats().map_err(status::from_engine)).await?;
        Ok(Response::new(stats_to_wire(stats, env!("CARGO_PKG_VERSION"))))
    }

    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<pb::BackupResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        let name = request.into_inner().name;
        let path = self.0.upkeep(&call, move |backend| backup(backend, &name)).await?;
        Ok(Response::new(pb::BackupResponse { path: path.display().to_string() }))
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn a_backup_name_never_leaves_its_folder() {
        for good in ["a", "2026-10-02", "nightly_1.2", &"x".repeat(128)] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc",
            "a\\b",
            ".hidden",
            "-x",
            "a b",
            "a\0",
            "\u{e9}",
            &"x".repeat(129),
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}

//! `spandrel.v1.CollectionService`.

use std::sync::Arc;

use spandrel::{Collection, ErrorKind};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::collection_service_server::CollectionService;
use tonic::{Request, Response, Status};

use super::{Backend, Task};
use crate::auth::Access;
use crate::call::Call;
use crate::convert::Invalid;
use crate::convert::schema::{schema_from_wire, schema_to_wire};
use crate::status;

/// The service over a backend.
pub struct Collections(pub Arc<Backend>);

fn describe(collection: &Collection) -> pb::Collection {
    pb::Collection { name: collection.name().to_owned(), schema: Some(schema_to_wire(collection.schema())) }
}

fn create(
    backend: &Task,
    request: pb::CreateCollectionRequest,
) -> Result<pb::CreateCollectionResponse, Status> {
    let schema = request.schema.ok_or_else(|| Invalid::new("schema", "is required"))?;
    let schema = schema_from_wire(schema).map_err(|error| error.within("schema"))?;
    backend.limits.check_schema(&schema)?;
    match backend.database.create_collection(&request.name, schema.clone()) {
        Ok(collection) => {
            tracing::info!(collection = request.name, "collection created");
            warm_up(vec![Arc::clone(&collection)]);
            Ok(pb::CreateCollectionResponse { collection: Some(describe(&collection)), created: true })
        }
        Err(error) if error.kind() == ErrorKind::Conflict && request.if_not_exists => {
            let collection = backend.collection(&request.name)?;
            if *collection.schema() != schema {
                return Err(Status::already_exists(format!(
                    "collection '{}' exists with another schema",
                    request.name
                )));
            }
            Ok(pb::CreateCollectionResponse { collection: Some(describe(&collection)), created: false })
        }
        Err(error) => Err(status::from_engine(error)),
    }
}

/// Lets the first retrieve find the tokenizers loaded; nobody waits for it.
pub fn warm_up(collections: Vec<Arc<Collection>>) {
    let named = std::thread::Builder::new().name("spandrel-warm-up".into());
    if let Err(error) = named.spawn(move || collections.iter().for_each(|collection| collection.warm_up())) {
        tracing::debug!(%error, "the first retrieve will load the tokenizer");
    }
}

fn drop_one(
    backend: &Task,
    request: &pb::DropCollectionRequest,
) -> Result<pb::DropCollectionResponse, Status> {
    match backend.database.drop_collection(&request.name) {
        Ok(()) => {
            tracing::info!(collection = request.name, "collection dropped");
            Ok(pb::DropCollectionResponse { dropped: true })
        }
        Err(error) if error.kind() == ErrorKind::NotFound && request.if_exists => {
            Ok(pb::DropCollectionResponse { dropped: false })
        }
        Err(error) => Err(status::from_engine(error)),
    }
}

#[tonic::async_trait]
impl CollectionService for Collections {
    async fn create(
        &self,
        request: Request<pb::CreateCollectionRequest>,
    ) -> Result<Response<pb::CreateCollectionResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        let request = request.into_inner();
        self.0.admin(&call, move |backend| create(backend, request)).await.map(Response::new)
    }

    async fn get(
        &self,
        request: Request<pb::GetCollectionRequest>,
    ) -> Result<Response<pb::GetCollectionResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let name = request.into_inner().name;
        let collection = self.0.read(&call, move |backend| {
            if name.is_empty() {
                return Err(Status::invalid_argument("name: is required"));
            }
            Ok(describe(&backend.collection(&name)?))
        });
        Ok(Response::new(pb::GetCollectionResponse { collection: Some(collection.await?) }))
    }

    async fn list(
        &self,
        request: Request<pb::ListCollectionsRequest>,
    ) -> Result<Response<pb::ListCollectionsResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let collections = self.0.read(&call, |backend| {
            // A collection may be dropped between the two looks.
            let open = |name: String| backend.database.collection(&name).ok();
            Ok(backend
                .database
                .collections()
                .into_iter()
                .filter_map(open)
                .map(|one| describe(&one))
                .collect())
        });
        Ok(Response::new(pb::ListCollectionsResponse { collections: collections.await? }))
    }

    async fn drop(
        &self,
        request: Request<pb::DropCollectionRequest>,
    ) -> Result<Response<pb::DropCollectionResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        let request = request.into_inner();
        self.0.admin(&call, move |backend| drop_one(backend, &request)).await.map(Response::new)
    }
}

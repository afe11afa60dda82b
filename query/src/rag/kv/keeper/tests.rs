//! The catalogue of a database: what is dropped, what comes back, what is moved aside.

use super::super::descriptor::tests::variant;
use super::super::gdsf::Gdsf;
use super::*;
use crate::{Database, Row, Schema, Settings};

fn settings() -> Settings {
    Settings { chunk_caches: Some(KvSettings::default()), ..Settings::default() }
}

fn of(collection: &str, tenant: &str) -> Variant {
    Variant { scope: Scope::tenant(collection, tenant), ..variant(1, &[]) }
}

fn count(database: &Database, owner: Owner<'_>) -> u64 {
    database.chunk_caches().unwrap().stats(Some(owner)).descriptors
}

#[test]
fn descriptors_come_back_and_go_with_what_they_are_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let database = Database::open(&path, settings()).unwrap();
    for name in ["c", "d"] {
        let collection = database.create_collection(name, Schema::new().text("body")).unwrap();
        collection.upsert(vec![Row::new("k").tenant("a"), Row::new("k").tenant("b")]).unwrap();
    }
    let caches = database.chunk_caches().unwrap();
    for (collection, tenant) in [("c", "a"), ("c", "b"), ("d", "a"), ("d", "none")] {
        caches.put(of(collection, tenant)).unwrap();
    }
    let found = caches.list(&Scope::tenant("d", "a"), VariantId(0), 10);
    assert!(found.len() == 1 && found[0].1.created_us > 0);
    database.close().unwrap();
    assert_eq!(database.chunk_caches().err().unwrap().kind(), ErrorKind::Closed);
    drop(database);
    let database = Database::open(&path, settings()).unwrap();
    // No row is of the last tenant: nothing finds its chunks.
    assert_eq!(database.chunk_caches().unwrap().stats(None).descriptors, 3);
    database.collection("c").unwrap().drop_tenant("a").unwrap();
    assert_eq!((count(&database, ("c", "a")), count(&database, ("d", "a"))), (0, 1));
    database.drop_collection("d").unwrap();
    assert_eq!((count(&database, ("c", "b")), count(&database, ("d", "a"))), (1, 0));
    assert_eq!(database.chunk_caches().unwrap().take_notices(Some(("d", "a"))).len(), 1);
    // Saved at once: as if the process had died here.
    let bytes = fs::read(path.join(FILE)).unwrap();
    assert_eq!(ChunkCaches::<Gdsf>::load(&bytes, KvSettings::default()).unwrap().stats(None).descriptors, 1);
}

#[test]
fn a_lookup_ends_when_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let caches = ChunkCatalogue::open(folder.path(), &KvSettings::default()).unwrap();
    let id = caches.put(of("c", "a")).unwrap();
    let Variant { content, model, tokens, .. } = of("c", "a");
    let lookup = |stop| caches.lookup(&Scope::tenant("c", "a"), &model, &[Wanted { content, tokens }], &stop);
    let found = lookup(Stop::default()).unwrap();
    assert_eq!(found[0].best.as_ref().unwrap().1.id, id);
    assert_eq!(lookup(Stop::new(Some(Instant::now()), None)).unwrap_err().kind(), ErrorKind::Deadline);
}

#[test]
fn notices_come_back_until_they_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let forgotten = |database: &Database| {
        let caches = database.chunk_caches().unwrap();
        caches.put(of("c", "a")).unwrap();
        assert_eq!(caches.forget_chunk(("c", "a"), of("c", "a").content), 1);
    };
    let page =
        |database: &Database, after| database.chunk_caches().unwrap().notices(Some(("c", "a")), after, 9);
    let database = Database::open(&path, settings()).unwrap();
    let notes = database.create_collection("c", Schema::new().text("body")).unwrap();
    notes.upsert(vec![Row::new("k").tenant("a")]).unwrap();
    forgotten(&database);
    let first = page(&database, 0);
    assert_eq!((first.notices.len(), first.next, first.lost), (1, 1, false));
    database.close().unwrap();
    drop((notes, database));
    let database = Database::open(&path, settings()).unwrap();
    assert_eq!(page(&database, 0), first);
    forgotten(&database);
    // A number that was given after the last save, of a process that died.
    let second = page(&database, 50);
    assert_eq!((second.notices.len(), second.next > 1 << 32, second.lost), (1, true, false));
    assert_eq!(page(&database, second.next).notices, []);
}

#[test]
fn a_damaged_file_is_moved_aside_and_no_settings_mean_no_catalogue() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    drop(Database::open(&path, settings()).unwrap());
    assert!(!path.join(FILE).exists(), "nothing to save");
    fs::write(path.join(FILE), "no catalogue").unwrap();
    let database = Database::open(&path, settings()).unwrap();
    assert_eq!(database.chunk_caches().unwrap().stats(None), Stats::default());
    assert_eq!(fs::read_to_string(path.join(format!("{FILE}{ASIDE}"))).unwrap(), "no catalogue");
    drop(database);
    let database = Database::open(&path, Settings::default()).unwrap();
    assert_eq!(database.chunk_caches().err().unwrap().kind(), ErrorKind::Invalid);
    let nothing = KvSettings { descriptors_max: 0, ..KvSettings::default() };
    assert!(Settings { chunk_caches: Some(nothing), ..Settings::default() }.check().is_err());
}

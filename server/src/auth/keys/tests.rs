//! The keys file: what is made can be used, what is damaged is refused, what is revoked is gone.

use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.keys.json");
    (folder, path)
}

fn only(names: &[&str]) -> Tenants {
    Tenants::Only(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_key_proves_its_holder_and_nothing_else_does() {
    let (_folder, path) = folder();
    let (first, token) = create(&path, "ingest", Access::Write, only(&["acme"])).unwrap();
    let (second, other) = create(&path, "", Access::Admin, Tenants::All).unwrap();
    assert_ne!(token, other);
    assert_ne!(first.id, second.id);
    let keys = read(&path).unwrap().unwrap();
    assert_eq!(keys.len(), 2);
    let caller = keys.authenticate(&token).unwrap();
    assert_eq!(caller.id(), first.id);
    assert!(caller.require(Access::Write).is_ok() && caller.require(Access::Admin).is_err());
    assert!(keys.authenticate(&other).unwrap().require_everywhere(Access::Admin).is_ok());

    let secret = token.rsplit('_').next().unwrap().to_owned();
    let mut last_changed = token.clone();
    let last = if last_changed.pop() == Some('0') { '1' } else { '0' };
    last_changed.push(last);
    let wrong = [
        String::new(),
        "spd".to_owned(),
        "spd__".to_owned(),
        secret.clone(),
        format!("spd_{}_", first.id),
        format!("spd_{}_{secret}", second.id),
        format!("xyz_{}_{secret}", first.id),
        format!("spd_{}_{}", first.id, first.secret_sha256),
        format!("spd_000000000000_{secret}"),
        format!("{token}0"),
        last_changed,
        token.to_uppercase(),
        token[..token.len() - 1].to_owned(),
    ];
    for token in wrong {
        assert!(keys.authenticate(&token).is_none(), "{token}");
    }
}

#[test]
fn the_file_holds_no_secret_and_is_private() {
    let (_folder, path) = folder();
    let (_, token) = create(&path, "", Access::Read, Tenants::All).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(token.rsplit('_').next().unwrap()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_revoked_key_is_gone_and_the_file_stays() {
    let (_folder, path) = folder();
    let (record, token) = create(&path, "", Access::Read, Tenants::All).unwrap();
    assert_eq!(revoke(&path, &record.id).unwrap(), record);
    let keys = read(&path).unwrap().expect("an empty file lets nobody in");
    assert!(keys.is_empty() && keys.authenticate(&token).is_none());
    let again = revoke(&path, &record.id).unwrap_err();
    assert!(again.to_string().contains("no key"), "{again}");
}

#[test]
fn a_missing_file_is_not_an_empty_one() {
    let (_folder, path) = folder();
    assert!(read(&path).unwrap().is_none());
    assert!(list(&path).unwrap().is_empty());
}

#[test]
fn damage_is_told_with_the_file_and_the_place() {
    let (_folder, path) = folder();
    create(&path, "", Access::Read, only(&["acme"])).unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let id = list(&path).unwrap()[0].id.clone();
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "EOF"),
        ("not json".to_owned(), "expected"),
        (good[..good.len() / 2].to_owned(), "EOF"),
        (good.replace("\"version\": 1", "\"version\": 2"), "version 2, this build reads version 1"),
        (good.replace("\"acme\"", ""), "tenants"),
        (good.replace("\"read\"", "\"root\""), "root"),
        (good.replace("\"access\"", "\"acces\""), "acces"),
        (good.replace(&id, &id[1..]), "keys[0].id"),
        (good.replace(&list(&path).unwrap()[0].secret_sha256, "zz"), "keys[0].secret_sha256"),
    ];
    for (text, expected) in cases {
        std::fs::write(&path, text).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("data.keys.json is damaged"), "{error}");
        assert!(error.contains(expected), "{error} / {expected}");
        // Nothing is overwritten: a damaged file is somebody's keys.
        assert!(create(&path, "", Access::Read, Tenants::All).is_err());
    }
}

#[test]
fn two_operators_do_not_undo_each_other() {
    let (_folder, path) = folder();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| create(&path, "", Access::Read, Tenants::All).unwrap());
        }
    });
    assert_eq!(list(&path).unwrap().len(), 8);
}

#[test]
fn the_file_lies_beside_the_data() {
    assert_eq!(default_path(Path::new("/var/lib/x/data")), Path::new("/var/lib/x/data.keys.json"));
    assert_eq!(default_path(Path::new("data//")), Path::new("data.keys.json"));
}

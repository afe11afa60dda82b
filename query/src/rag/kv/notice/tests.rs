//! Pages of notices: none is given twice once it is done, none is lost in silence.

use super::*;

fn notice(tenant: &str) -> Notice {
    let variant =
        Variant { scope: Scope::tenant("c", tenant), uri: "kv://1".to_owned(), ..Variant::default() };
    Notice::of(7, &variant, Tier::Hbm, None)
}

fn sequences(page: &NoticePage) -> Vec<u64> {
    page.notices.iter().map(|notice| notice.sequence).collect()
}

#[test]
fn a_notice_waits_until_it_is_done() {
    let mut notices = Notices::default();
    ["a", "b", "a", "a", "b"].iter().for_each(|tenant| notices.add(notice(tenant)));
    let first = notices.page(Some(("c", "a")), 0, 2);
    assert_eq!((sequences(&first), first.next, first.more, first.lost), (vec![1, 3], 3, true, false));
    assert_eq!(notices.page(Some(("c", "a")), 0, 2), first, "an answer that got lost");
    let second = notices.page(Some(("c", "a")), first.next, 2);
    assert_eq!((sequences(&second), second.next, second.more), (vec![4], 4, false));
    let all = notices.page(None, 0, 9);
    assert_eq!((sequences(&all), all.next, all.more), (vec![2, 4, 5], 5, false));
    assert_eq!(notices.page(None, 2, 1).notices, all.notices[1..2]);
    let none = notices.page(Some(("c", "a")), 4, 9);
    assert_eq!((sequences(&none), none.next, none.more, none.lost), (vec![], 4, false, false));
    assert_eq!(notices.take(None).len(), 1);
    assert_eq!((notices.count, notices.waiting.len()), (0, 0));
}

#[test]
fn a_number_that_was_never_given_drops_nothing() {
    let mut notices = Notices::default();
    notices.add(notice("a"));
    let page = notices.page(Some(("c", "a")), 9, 9);
    assert_eq!((sequences(&page), page.next, page.lost), (vec![1], 1, true));
    let page = notices.page(Some(("c", "a")), page.next, 9);
    assert_eq!((sequences(&page), page.lost), (vec![], false));
    assert!(notices.page(Some(("c", "b")), 9, 9).lost, "without any notice, too");
    notices.skip();
    assert!(!notices.page(None, 9, 9).lost, "numbers of before a crash are known");
}

#[test]
fn what_found_no_room_is_told_to_whom_it_concerns() {
    let mut notices = Notices::default();
    (0..NOTICES_MAX).for_each(|_| notices.add(notice("a")));
    notices.add(notice("b"));
    assert_eq!((notices.count, notices.lost), (NOTICES_MAX, 1));
    assert!(!notices.page(Some(("c", "a")), 0, 1).lost, "none of its own");
    let page = notices.page(Some(("c", "b")), 0, 9);
    assert_eq!((sequences(&page), page.lost, page.next), (vec![], true, NOTICES_MAX as u64 + 1));
    assert_eq!(notices.page(Some(("c", "b")), 0, 9), page);
    assert!(!notices.page(Some(("c", "b")), page.next, 9).lost);
    let all = notices.page(None, 0, 1);
    assert!(all.lost && all.more && all.next == 1, "told with the first page, done with the last");
    assert!(notices.page(None, NOTICES_MAX as u64 + 1, 1).notices.is_empty());
    assert!(!notices.page(None, NOTICES_MAX as u64 + 1, 1).lost);
}

#[test]
fn what_was_saved_keeps_its_number() {
    let mut notices = Notices::default();
    notices.restore(Notice { sequence: 40, ..notice("a") });
    notices.restore(notice("a"));
    notices.add(notice("a"));
    assert_eq!(notices.iter().map(|notice| notice.sequence).collect::<Vec<_>>(), [40, 41, 42]);
}

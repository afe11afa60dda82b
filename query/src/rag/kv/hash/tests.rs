//! Examples of FIPS 180-4: names must stay what they are.

use super::*;

#[test]
fn the_published_examples_come_out() {
    let hex = |bytes: &[u8]| hash_bytes(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(b""), "e3b0c44298fc1c149afbf4c8996fb924");
    assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223");
    let long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    assert_eq!(hex(long), "248d6a61d20638b8e5c026930c3e6039");
    assert_eq!(hex(&vec![b'a'; 1_000_000]), "cdc76e5c9914fb9281a1c7e284d73e67");
}

//! Round trips of every kind of value, and bytes that no one wrote.

use super::*;

/// SplitMix64, seeded: the tests' only source of chance.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn text(&mut self, len_max: usize) -> String {
        let alphabet = ['a', 'Z', '0', ' ', '\0', '\n', 'é', '漢', '🦀'];
        (0..self.below(len_max + 1)).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    /// Any bit pattern: NaNs with payloads, infinities, negative zero.
    fn floats(&mut self, len_max: usize) -> Vec<f32> {
        (0..self.below(len_max + 1)).map(|_| f32::from_bits(self.next() as u32)).collect()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth < LIST_DEPTH_MAX { 6 } else { 5 }) {
            0 => Value::Bool(self.below(2) == 0),
            1 => Value::Integer(self.next() as i64),
            2 => Value::Float(f64::from_bits(self.next())),
            3 => Value::Float(-0.0),
            4 => Value::String(self.text(20)),
            _ => Value::List((0..self.below(5)).map(|_| self.value(depth + 1)).collect()),
        }
    }

    fn row(&mut self) -> StoredRow {
        let mut fields = Vec::new();
        for id in 0..FIELDS_MAX as u16 {
            if self.below(20) != 0 && !(id == 255 && self.below(2) == 0) {
                continue;
            }
            let value = match self.below(4) {
                0 => FieldValue::Dense(self.floats(40)),
                1 => {
                    let weights = self.floats(20);
                    let dims = weights.iter().map(|_| self.next() as u32).collect();
                    FieldValue::Sparse(SparseVector { dims, weights })
                }
                2 => FieldValue::Text(self.text(60)),
                _ => FieldValue::Payload(self.value(0)),
            };
            fields.push((FieldId(id), value));
        }
        let span = self.next()..self.next();
        let chunk = Chunk { document: self.text(12), span, tokens: self.next() as u32 };
        StoredRow {
            tenant: TenantId(self.next() as u32),
            key: self.text(30),
            replaces: (self.below(2) == 0).then(|| RowId(self.next().max(1))),
            chunk: (self.below(2) == 0).then_some(chunk),
            labels: (0..self.below(4)).map(|at| LabelId(10 * at as u32 + self.below(10) as u32)).collect(),
            fields,
        }
    }
}

fn decoded_row(bytes: &[u8], wanted: &FieldSet) -> StoredRow {
    match Record::decode(bytes, wanted).unwrap() {
        Record::Row(row) => row,
        other => panic!("not a row: {other:?}"),
    }
}

#[test]
fn rows_come_back_bit_for_bit() {
    let seed = 11;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    for _ in 0..500 {
        let row = chance.row();
        let bytes = row.encode();
        assert_eq!(bytes.len(), row.encoded_bytes());
        let back = decoded_row(&bytes, &FieldSet::ALL);
        // NaN is not equal to itself: bits are compared through the bytes.
        assert_eq!(back.encode(), bytes);
        assert_eq!((&back.key, &back.chunk, back.fields.len()), (&row.key, &row.chunk, row.fields.len()));
    }
}

#[test]
fn only_wanted_fields_are_decoded() {
    let seed = 12;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    for _ in 0..200 {
        let row = chance.row();
        let bytes = row.encode();
        assert!(decoded_row(&bytes, &FieldSet::NONE).fields.is_empty());
        let ids: Vec<FieldId> =
            row.fields.iter().map(|(id, _)| *id).filter(|_| chance.below(2) == 0).collect();
        let some = decoded_row(&bytes, &FieldSet::of(ids.iter().copied()));
        assert_eq!(some.fields.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        for id in ids {
            assert!(some.field(id).is_some());
        }
    }
    assert!(!FieldSet::ALL.contains(FieldId(256)));
}

#[test]
fn deletes_and_tenant_drops_come_back() {
    let delete = Record::Delete { tenant: TenantId(7), key: "k é".into(), replaces: RowId(u64::MAX) };
    let drop = Record::DropTenant { tenant: TenantId(u32::MAX) };
    let rows = vec![RowId(1), RowId(u64::MAX), RowId(5)];
    let label =
        |granted, rows| Record::Label { tenant: TenantId(3), label: LabelId(u32::MAX), granted, rows };
    for record in [delete, drop, label(true, rows), label(false, Vec::new())] {
        assert_eq!(Record::decode(&record.encode(), &FieldSet::ALL).unwrap(), record);
        assert!(row_tenant(&record.encode()).is_none());
    }
}

#[test]
fn replaces_and_tenant_are_set_after_encoding() {
    let mut row = StoredRow { tenant: TenantId(3), key: "a".into(), ..StoredRow::default() };
    let mut bytes = row.encode();
    for replaces in [Some(RowId(99)), None, Some(RowId(u64::MAX))] {
        set_replaces(&mut bytes, replaces);
        set_tenant(&mut bytes, TenantId(4));
        row.replaces = replaces;
        row.tenant = TenantId(4);
        assert_eq!(bytes, row.encode());
        assert_eq!(row_tenant(&bytes), Some(TenantId(4)));
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let seed = 13;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    for _ in 0..300 {
        let bytes = chance.row().encode();
        for _ in 0..20 {
            // A cut is always an error: every byte of a record is accounted for.
            let cut = chance.below(bytes.len());
            assert!(Record::decode(&bytes[..cut], &FieldSet::ALL).is_err());
            assert!(Record::decode(&bytes[..cut], &FieldSet::NONE).is_err());
            let mut flipped = bytes.clone();
            flipped[chance.below(bytes.len())] ^= 1 << chance.below(8);
            let _ = Record::decode(&flipped, &FieldSet::ALL);
            let mut longer = bytes.clone();
            longer.push(chance.next() as u8);
            assert!(Record::decode(&longer, &FieldSet::ALL).is_err());
        }
    }
    for _ in 0..20_000 {
        let mut noise: Vec<u8> = (0..chance.below(200)).map(|_| chance.next() as u8).collect();
        // Half of them get past the header, so that the noise reaches the fields.
        if chance.below(2) == 0 && noise.len() > HEADER_BYTES {
            noise[..4].copy_from_slice(&[FORMAT, 1 + chance.below(3) as u8, 0, 0]);
            noise[HEADER_BYTES..].iter_mut().for_each(|byte| *byte &= 7);
        }
        let _ = Record::decode(&noise, &FieldSet::ALL);
        let _ = row_tenant(&noise);
    }
}

#[test]
fn huge_lengths_do_not_allocate() {
    let mut bytes = StoredRow {
        fields: vec![(FieldId(0), FieldValue::Payload(Value::List(vec![])))],
        ..StoredRow::default()
    }
    .encode();
    let len = bytes.len();
    bytes[len - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Record::decode(&bytes, &FieldSet::ALL).is_err());
}

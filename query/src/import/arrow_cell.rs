//! Values of Arrow arrays as JSON values or vectors.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use serde_json::{Map, Number, Value};

/// Deepest nesting of lists and structs.
const DEPTH_MAX: usize = 16;

/// Whether values of this type are instants.
pub(super) fn is_instant(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

/// The value in row `row` of `array`; instants as integer microseconds since 1970, NaN and missing as null.
///
/// # Errors
/// When JSON has no such value, or this reader does not know the type.
pub(super) fn json(array: &dyn Array, row: usize) -> Result<Value, String> {
    nested(array, row, 0)
}

fn nested(array: &dyn Array, row: usize, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err(format!("values are nested more than {DEPTH_MAX} deep"));
    }
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let micros = |count: i64, per_unit: i64| {
        let micros = count.checked_mul(per_unit);
        micros.map(Value::from).ok_or_else(|| "the instant is out of range".to_owned())
    };
    match array.data_type() {
        DataType::Null => Ok(Value::Null),
        DataType::Boolean => Ok(array.as_boolean().value(row).into()),
        DataType::Int8 => Ok(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Ok(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Ok(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Ok(array.as_primitive::<Int64Type>().value(row).into()),
        DataType::UInt8 => Ok(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Ok(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Ok(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => Ok(array.as_primitive::<UInt64Type>().value(row).into()),
        DataType::Float16 => float(array.as_primitive::<Float16Type>().value(row).into()),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => {
            float(array.as_primitive::<Decimal128Type>().value(row) as f64 / 10f64.powi(i32::from(*scale)))
        }
        DataType::Utf8 => Ok(array.as_string::<i32>().value(row).into()),
        DataType::LargeUtf8 => Ok(array.as_string::<i64>().value(row).into()),
        DataType::Utf8View => Ok(array.as_string_view().value(row).into()),
        DataType::Timestamp(TimeUnit::Second, _) => {
            micros(array.as_primitive::<TimestampSecondType>().value(row), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            micros(array.as_primitive::<TimestampMillisecondType>().value(row), 1000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            micros(array.as_primitive::<TimestampMicrosecondType>().value(row), 1)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Ok(array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1000).into())
        }
        DataType::Date32 => micros(array.as_primitive::<Date32Type>().value(row).into(), 86_400_000_000),
        DataType::Date64 => micros(array.as_primitive::<Date64Type>().value(row), 1000),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let elements = elements(array, row).unwrap_or_else(|| array.slice(0, 0));
            (0..elements.len()).map(|at| nested(&elements, at, depth + 1)).collect()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let member = |(field, column): (&arrow_schema::FieldRef, &ArrayRef)| {
                Ok((field.name().clone(), nested(column, row, depth + 1)?))
            };
            Ok(Value::Object(fields.iter().zip(columns).map(member).collect::<Result<Map<_, _>, String>>()?))
        }
        other => Err(format!("columns of type {other} cannot be imported")),
    }
}

fn float(value: f64) -> Result<Value, String> {
    match Number::from_f64(value) {
        Some(number) => Ok(Value::Number(number)),
        None if value.is_nan() => Ok(Value::Null),
        None => Err("the value is infinite".to_owned()),
    }
}

/// The elements of a list; none for a type that is no list.
fn elements(array: &dyn Array, row: usize) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => Some(array.as_fixed_size_list().value(row)),
        _ => None,
    }
}

/// The vector in row `row` of a column of lists of floats; none where the value is missing.
///
/// # Errors
/// When the column holds no lists of numbers, or an element is missing.
pub(super) fn vector(array: &dyn Array, row: usize) -> Result<Option<Vec<f32>>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    let wrong = || format!("expected a list of numbers, found {}", array.data_type());
    let elements = elements(array, row).ok_or_else(wrong)?;
    if elements.null_count() > 0 {
        return Err("an element of the vector is missing".to_owned());
    }
    match elements.data_type() {
        DataType::Float32 => Ok(Some(elements.as_primitive::<Float32Type>().values().to_vec())),
        DataType::Float64 => Ok(Some(
            elements.as_primitive::<Float64Type>().values().iter().map(|&value| value as f32).collect(),
        )),
        DataType::Float16 => Ok(Some(
            elements.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f32()).collect(),
        )),
        _ => {
            let number = |at| json(&elements, at)?.as_f64().map(|value| value as f32).ok_or_else(wrong);
            (0..elements.len()).map(number).collect::<Result<Vec<_>, _>>().map(Some)
        }
    }
}

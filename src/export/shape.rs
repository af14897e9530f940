//! What a form's rows look like: said once, and told to Arrow, to dataset cards and to the tests.

use serde_json::{Value, json};

/// Type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int,
    Float,
    Flag,
    List(Box<Kind>),
    Struct(Vec<Column>),
}

/// A key and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column(pub &'static str, pub Kind);

impl Kind {
    pub(super) fn list(of: Kind) -> Kind {
        Kind::List(Box::new(of))
    }
}

/// The columns of the card's `features`, as Hugging Face `datasets` reads them in every version.
pub(super) fn features(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|Column(name, kind)| {
            let mut feature = feature(kind);
            if let Some(keys) = feature.as_object_mut() {
                keys.insert("name".into(), json!(name));
            }
            feature
        })
        .collect()
}

fn feature(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({"dtype": "string"}),
        Kind::Int => json!({"dtype": "int64"}),
        Kind::Float => json!({"dtype": "float64"}),
        Kind::Flag => json!({"dtype": "bool"}),
        Kind::Struct(columns) => json!({"struct": features(columns)}),
        Kind::List(of) => match of.as_ref() {
            Kind::Struct(columns) => json!({"list": features(columns)}),
            plain => json!({"list": feature(plain)["dtype"]}),
        },
    }
}

#[cfg(feature = "parquet")]
pub(super) mod arrow {
    use super::{Column, Kind};
    use arrow_schema::{DataType, Field, Fields, Schema};

    /// All nullable, as `datasets` and pandas write theirs; no value is null.
    pub(in crate::export) fn schema(columns: &[Column]) -> Schema {
        Schema::new(fields(columns))
    }

    fn fields(columns: &[Column]) -> Fields {
        columns.iter().map(|Column(name, kind)| Field::new(*name, data_type(kind), true)).collect()
    }

    fn data_type(kind: &Kind) -> DataType {
        match kind {
            Kind::Text => DataType::Utf8,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Flag => DataType::Boolean,
            Kind::List(of) => DataType::new_list(data_type(of), true),
            Kind::Struct(columns) => DataType::Struct(fields(columns)),
        }
    }
}

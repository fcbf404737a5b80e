//! What visitors that read JSON into a value have in common.

/// Expands to the methods of a `serde::de::Visitor` that take any JSON and return scalars as they are.
macro_rules! visit_scalars {
    () => {
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a JSON value")
        }

        fn visit_unit<E>(self) -> Result<serde_json::Value, E> {
            Ok(serde_json::Value::Null)
        }

        fn visit_bool<E>(self, value: bool) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_i64<E>(self, value: i64) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_f64<E>(self, value: f64) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_str<E>(self, value: &str) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }
    };
}
pub(crate) use visit_scalars;

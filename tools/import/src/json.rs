//! JSON objects as they are written, and where their parts stand in the text.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object as its pairs of key and value, duplicates included.
pub(crate) struct Pairs<K, V>(pub Vec<(K, V)>);

/// Where reading `json` stopped: the byte that an error of it is about, or its end where it ends too early.
pub(crate) fn position(json: &[u8], error: &serde_json::Error) -> u64 {
    if error.is_eof() {
        return json.len() as u64;
    }
    // Both count from 1, columns in bytes.
    let lines_before = error.line().saturating_sub(1);
    let line: usize = json.split_inclusive(|&byte| byte == b'\n').take(lines_before).map(<[u8]>::len).sum();
    line.saturating_add(error.column().saturating_sub(1)).min(json.len()) as u64
}

/// Where the last member of that path begins, with its key: `["weight_map", tensor]`. If `json`, which is an object,
/// has no such member, where the path ends.
pub(crate) fn place(json: &[u8], path: &[&str]) -> u64 {
    let (mut place, mut object) = (0, json);
    for name in path {
        let Ok(Pairs::<&RawValue, &RawValue>(members)) = serde_json::from_slice(object) else { break };
        let is_it = |key: &RawValue| serde_json::from_str::<String>(key.get()).is_ok_and(|key| key == **name);
        let Some((key, value)) = members.into_iter().rfind(|(key, _)| is_it(key)) else { break };
        // The key is a part of the text.
        place = key.get().as_ptr().addr().saturating_sub(json.as_ptr().addr());
        object = value.get().as_bytes();
    }
    place as u64
}

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Pairs<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<K, V>(PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for Members<K, V> {
            type Value = Pairs<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_member_of_a_path_is_found() {
        let json = br#"{"a": {"x": "}{\"", "y\u0020": 2, "x" :[{"x":0}]}, "b":"a" }"#;
        let find =
            |text: &str| json.windows(text.len()).position(|part| part == text.as_bytes()).unwrap() as u64;
        for (path, found) in [
            (&["a"][..], find("\"a\"")),
            (&["b"], find("\"b\"")),
            (&["a", "x"], find("\"x\" :")),
            (&["a", "y "], find("\"y\\u")),
            (&["a", "z"], find("\"a\"")),
            (&["b", "x"], find("\"b\"")),
            (&["c"], 0),
            (&[], 0),
        ] {
            assert_eq!(place(json, path), found, "{path:?}");
        }
        assert_eq!((place(b"{", &["a"]), place(b"", &["a"])), (0, 0));
    }

    #[test]
    fn lines_and_columns_are_bytes() {
        for (json, at) in [
            ("", 0),
            ("{", 1),
            ("{\"a\": \"b\",", 10),
            ("{\"a\": [1,", 5),
            ("x", 0),
            ("{\n \"a\": x}", 8),
            ("{\n\n\"\u{e9}\": x}", 9),
            ("{\"a\":\"b\"}\n\n  x", 13),
            ("{\"a\": 1, \"b\": 2}", 6),
        ] {
            let error = serde_json::from_str::<Pairs<String, String>>(json).map(drop).unwrap_err();
            assert_eq!(position(json.as_bytes(), &error), at, "{json}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn positions_are_within_the_text(json in "[{}\\[\\]\":,a-c0-9\\\\ \n\u{e9}]{0,40}", name in "[a-c]") {
            let len = json.len() as u64;
            if let Err(error) = serde_json::from_str::<Pairs<String, String>>(&json) {
                proptest::prop_assert!(position(json.as_bytes(), &error) <= len);
            }
            proptest::prop_assert!(place(json.as_bytes(), &[&name, &name]) <= len);
        }
    }
}

//! Whatever the bytes, importance vectors are refused or finite and not negative, as many as there are channels.
#![no_main]

use std::path::Path;

use ccq_import::Importance;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(importance) = Importance::from_bytes(Path::new("vectors"), bytes.to_vec()) else { return };
    assert_eq!(importance.unknown(importance.names()), [""; 0]);
    for name in importance.names() {
        for (experts, in_features) in [(1, 1), (1, 2), (1, 4), (2, 2), (3, 4)] {
            let Ok(Some(vectors)) = importance.get(name, experts, in_features) else { continue };
            for vector in (0..experts).map(|expert| vectors.of(expert)) {
                assert_eq!(vector.len(), in_features);
                assert!(vector.iter().all(|value| value.is_finite() && *value >= 0.0));
            }
        }
    }
});

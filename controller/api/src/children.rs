//! Names of the objects that Evercert makes: computed, never generated, so that a second attempt finds the first one's work.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The longest part of the owner's name that is kept for people to read.
const READABLE: usize = 40;

/// A hash of `parts` that is the same in every release and on every machine.
#[must_use]
pub fn stable_hash(parts: &[&str]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x6576_6572_6365_7274, 0x2e64_6576_2f76_3100);
    for part in parts {
        hasher.write(part.as_bytes());
        // A separator that no Kubernetes name holds keeps ("a", "bc") and ("ab", "c") apart.
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// `<name cut to 40>-<8 hex of a hash of namespace/name>-<role>`: a valid DNS label for every valid owner's name up to the
/// role's length of 13.
#[must_use]
pub fn child_name(namespace: &str, name: &str, role: &str) -> String {
    let readable: String = name
        .chars()
        .take(READABLE)
        .map(|c| if c == '.' { '-' } else { c })
        .collect();
    let readable = readable.trim_end_matches('-');
    let hash = stable_hash(&[namespace, name]) >> 32;
    format!("{readable}-{hash:08x}-{role}")
}

/// Name of a Certificate's companion Secret.
#[must_use]
pub fn companion_name(namespace: &str, certificate: &str) -> String {
    child_name(namespace, certificate, "companion")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_names_differ_by_namespace_and_by_what_was_cut_off() {
        let long = "a".repeat(60);
        let longer = "a".repeat(61);
        assert_ne!(companion_name("x", &long), companion_name("x", &longer));
        assert_ne!(companion_name("x", "site"), companion_name("y", "site"));
        assert!(companion_name("x", &longer).len() <= 63);
    }

    #[test]
    fn child_name_stays_the_same_over_releases() {
        assert_eq!(
            companion_name("shop", "www.example.com"),
            "www-example-com-c19ef2e6-companion"
        );
    }
}

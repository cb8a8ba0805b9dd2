//! Whose Secret it is (design §3).

use jiff::Timestamp;

use crate::facts::CertificateFacts;

/// A Certificate that names a Secret, as far as ownership goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// The Certificate's name.
    pub name: &'a str,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether an order is under way for it.
    pub has_order: bool,
}

/// Which of several Certificates of one namespace owns the Secret that all of them name: the annotated one, else the older. Of
/// two of the same second the one whose order is under way, since another one would be a second order; else the first by name.
#[must_use]
pub fn find_owner<'a>(claimants: &[Claimant<'a>], annotated: Option<&str>) -> Option<&'a str> {
    claimants
        .iter()
        .find(|c| Some(c.name) == annotated)
        .or_else(|| {
            claimants
                .iter()
                .min_by_key(|c| (c.created_at, !c.has_order, c.name))
        })
        .map(|c| c.name)
}

/// Whether an existing Secret is the Certificate's: its annotation names the Certificate, or its leaf is one that we stored.
#[must_use]
pub fn is_ours(
    certificate: &str,
    annotated: Option<&str>,
    leaf: Option<&str>,
    stored_leaf: Option<&str>,
) -> bool {
    annotated == Some(certificate) || (leaf.is_some() && leaf == stored_leaf)
}

/// Whether a leaf is a fallback: its mark holds; or, whatever became of its mark, it carries the name of a fallback, or is the
/// user's own certificate for that.
#[must_use]
pub fn is_fallback(
    leaf: &CertificateFacts,
    mark: Option<&str>,
    own: Option<&CertificateFacts>,
) -> bool {
    let own = own.map(|own| own.fingerprint.as_str());
    leaf.stands_in || [mark, own].contains(&Some(leaf.fingerprint.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{fallback, good};

    #[test]
    fn fallback_is_one_by_its_mark_or_by_its_name_and_a_mark_of_another_leaf_is_none() {
        let named = fallback();
        assert!(is_fallback(&named, None, None));
        assert!(is_fallback(&good(), Some(&good().fingerprint), None));
        assert!(is_fallback(&good(), None, Some(&good())));
        assert!(!is_fallback(
            &good(),
            Some(&named.fingerprint),
            Some(&named)
        ));
        assert!(!is_fallback(&good(), None, None));
    }

    fn claimant(name: &str, second: i64) -> Claimant<'_> {
        Claimant {
            name,
            created_at: Timestamp::from_second(second).unwrap(),
            has_order: false,
        }
    }

    #[test]
    fn the_annotated_certificate_owns_even_if_it_is_younger() {
        assert_eq!(
            find_owner(&[claimant("old", 1), claimant("young", 2)], Some("young")),
            Some("young")
        );
    }

    #[test]
    fn without_an_annotation_the_older_owns_then_the_first_by_name() {
        assert_eq!(
            find_owner(&[claimant("b", 2), claimant("c", 1)], None),
            Some("c")
        );
        assert_eq!(
            find_owner(&[claimant("b", 1), claimant("a", 1)], Some("gone")),
            Some("a")
        );
    }

    #[test]
    fn of_two_of_the_same_second_the_one_with_an_order_under_way_owns() {
        let ordering = |name, second| Claimant {
            has_order: true,
            ..claimant(name, second)
        };
        let owner = |claimants: &[Claimant<'static>], annotated| find_owner(claimants, annotated);
        assert_eq!(
            owner(&[claimant("a", 1), ordering("b", 1)], None),
            Some("b")
        );
        assert_eq!(
            owner(&[ordering("a", 1), ordering("b", 1)], None),
            Some("a")
        );
        assert_eq!(
            owner(&[claimant("a", 1), ordering("b", 2)], None),
            Some("a")
        );
        let claimants = [claimant("a", 1), ordering("b", 1)];
        assert_eq!(owner(&claimants, Some("a")), Some("a"));
    }

    #[test]
    fn a_secret_is_ours_by_its_annotation_or_by_a_leaf_that_we_stored() {
        assert!(is_ours("site", Some("site"), None, None));
        assert!(is_ours("site", None, Some("ab"), Some("ab")));
        assert!(!is_ours("site", None, None, None));
        assert!(!is_ours("site", Some("other"), Some("ab"), Some("cd")));
    }
}

//! The open challenges, as the controller writes them into one ConfigMap and the solver reads them (RFC 8555 §8.3).

use serde::Deserialize;

use crate::names::Identifier;

/// The longest token that is believed; real ones have 22 to 64 characters.
const TOKEN_CAP: usize = 256;
/// The longest key authorization: a token, a dot, and a SHA-256 thumbprint.
const KEY_AUTHORIZATION_CAP: usize = TOKEN_CAP + 1 + 43;

/// One challenge that the solver answers: whoever asks `host` for `token` gets the key authorization. It cannot be made
/// from a token outside of the RFC's alphabet, so a hostile CA has no way into a path or an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenChallenge {
    host: Identifier,
    token: String,
    key_authorization: String,
}

/// Why a challenge cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// RFC 8555 §8.3 allows the base64url alphabet only.
    #[error(
        "the challenge's token is not of the base64url alphabet, or empty, or longer than {TOKEN_CAP}"
    )]
    Token,
    /// RFC 8555 §8.1: token, dot, thumbprint.
    #[error("the key authorization is not the token, a dot and a thumbprint")]
    KeyAuthorization,
}

/// Why a text is no list of challenges.
#[derive(Debug, thiserror::Error)]
#[error("the list of open challenges is not a JSON list of {{host, token, keyAuthorization}}")]
pub struct ChallengeListError(#[from] serde_json::Error);

impl OpenChallenge {
    /// A challenge with its answer.
    ///
    /// # Errors
    /// [`ChallengeError`] when the token or the key authorization breaks the RFC.
    pub fn new(
        host: Identifier,
        token: &str,
        key_authorization: &str,
    ) -> Result<Self, ChallengeError> {
        if !is_token(token) {
            return Err(ChallengeError::Token);
        }
        let thumbprint = key_authorization
            .strip_prefix(token)
            .and_then(|rest| rest.strip_prefix('.'));
        if key_authorization.len() > KEY_AUTHORIZATION_CAP || !thumbprint.is_some_and(is_token) {
            return Err(ChallengeError::KeyAuthorization);
        }
        Ok(Self {
            host,
            token: token.to_owned(),
            key_authorization: key_authorization.to_owned(),
        })
    }

    /// The name that the CA asks.
    #[must_use]
    pub fn host(&self) -> &Identifier {
        &self.host
    }

    /// The last segment of the path that the CA asks for.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The answer's body.
    #[must_use]
    pub fn key_authorization(&self) -> &str {
        &self.key_authorization
    }
}

/// Whether `text` is of the alphabet of tokens (base64url without padding, RFC 8555 §8.3), not empty and not endless.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TOKEN_CAP
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Reads what [`serialize_challenges`] wrote. An entry that breaks the RFC is left out, so that it holds no other back.
///
/// # Errors
/// [`ChallengeListError`] when the text is not such a list at all.
pub fn parse_challenges(json: &str) -> Result<Vec<OpenChallenge>, ChallengeListError> {
    let entries: Vec<Entry> = serde_json::from_str(json)?;
    let parse = |e: &Entry| {
        OpenChallenge::new(
            Identifier::parse(&e.host).ok()?,
            &e.token,
            &e.key_authorization,
        )
        .ok()
    };
    Ok(entries.iter().filter_map(parse).collect())
}

/// The list as JSON, sorted and without doubles: the same set gives the same text, one challenge a line.
#[must_use]
pub fn serialize_challenges<'a>(challenges: impl IntoIterator<Item = &'a OpenChallenge>) -> String {
    let mut sorted: Vec<&OpenChallenge> = challenges.into_iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let lines: Vec<String> = sorted
        .iter()
        .map(|c| {
            serde_json::json!({ "host": c.host.as_str(), "token": c.token, "keyAuthorization": c.key_authorization }).to_string()
        })
        .collect();
    format!("[{}]", lines.join(",\n"))
}

/// An entry as it stands in JSON, not looked at yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    host: String,
    token: String,
    key_authorization: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(host: &str, token: &str) -> OpenChallenge {
        OpenChallenge::new(
            Identifier::parse(host).unwrap(),
            token,
            &format!("{token}.thumb-print_1"),
        )
        .unwrap()
    }

    #[test]
    fn a_list_is_read_back_as_it_was_written_and_its_order_does_not_matter() {
        let (a, b) = (challenge("a.example", "t1"), challenge("b.example", "t2"));
        let text = serialize_challenges([&b, &a, &b]);
        assert_eq!(text, serialize_challenges([&a, &b]));
        assert_eq!(parse_challenges(&text).unwrap(), [a, b]);
        assert_eq!(serialize_challenges([]), "[]");
    }

    #[test]
    fn the_written_form_is_what_a_solver_of_another_version_expects() {
        let text = serialize_challenges([&challenge("a.example", "t1")]);
        assert_eq!(
            text,
            r#"[{"host":"a.example","keyAuthorization":"t1.thumb-print_1","token":"t1"}]"#
        );
        let later =
            r#"[{"host":"a.example","token":"t1","keyAuthorization":"t1.thumb-print_1","new":{}}]"#;
        assert_eq!(
            parse_challenges(later).unwrap(),
            [challenge("a.example", "t1")]
        );
    }

    #[test]
    fn what_is_no_list_is_an_error_and_a_bad_entry_is_left_out() {
        for bad in ["", "{}", "[1]", r#"[{"host":"a.example"}]"#] {
            assert!(parse_challenges(bad).is_err(), "{bad}");
        }
        let mixed = r#"[{"host":"*","token":"t","keyAuthorization":"t.x"},
                        {"host":"a.example","token":"../x","keyAuthorization":"../x.y"},
                        {"host":"a.example","token":"t1","keyAuthorization":"t1.thumb-print_1"}]"#;
        assert_eq!(
            parse_challenges(mixed).unwrap(),
            [challenge("a.example", "t1")]
        );
    }

    #[test]
    fn tokens_outside_of_the_alphabet_never_become_a_challenge() {
        let host = || Identifier::parse("a.example").unwrap();
        for token in [
            "",
            "a/b",
            "a.b",
            "a=",
            "ü",
            "a b",
            "a\n",
            "%2e",
            &"a".repeat(257),
        ] {
            assert_eq!(
                OpenChallenge::new(host(), token, &format!("{token}.x")),
                Err(ChallengeError::Token),
                "{token:?}"
            );
        }
        for answer in [
            "t",
            "t.",
            "u.x",
            "t.x.y",
            "t.x\r\n",
            &format!("t.{}", "a".repeat(300)),
        ] {
            assert_eq!(
                OpenChallenge::new(host(), "t", answer),
                Err(ChallengeError::KeyAuthorization),
                "{answer:?}"
            );
        }
    }
}

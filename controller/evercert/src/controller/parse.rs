//! Values of the controller's options, from their words: each refusal says what to write.

use std::time::Duration;

use evercert_api::duration::parse_duration;
use evercert_core::forwarder::ForwarderShape;
use evercert_core::lease::LONGEST;

/// Renewals of a shorter one would be a load, and a busy machine would lose it.
const SHORTEST_CLAIM: Duration = Duration::from_secs(2);
/// Longer it would look as if it had been forgotten.
const LONGEST_PATIENCE: Duration = Duration::from_mins(1);

/// A CA revokes within a day what it has to.
const LONGEST_SPREAD: Duration = Duration::from_hours(24);

/// How long the solver stays when it has nothing to answer; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idle(pub(super) Option<Duration>);

pub(super) fn parse_idle(text: &str) -> Result<Idle, String> {
    if text == "always" {
        return Ok(Idle(None));
    }
    parse_duration(text)
        .and_then(|idle| Duration::try_from(idle).ok())
        .map(|idle| Idle(Some(idle)))
        .ok_or_else(|| {
            "write a duration above zero such as 90s, 10m or 1h30m, or always".to_owned()
        })
}

pub(super) fn parse_spread(text: &str) -> Result<Duration, String> {
    if text == "0s" {
        return Ok(Duration::ZERO);
    }
    parse_duration(text)
        .and_then(|spread| Duration::try_from(spread).ok())
        .filter(|spread| *spread <= LONGEST_SPREAD)
        .ok_or_else(|| {
            "write a duration of 24h at most such as 90s, 10m or 1h30m, or 0s for none".to_owned()
        })
}

pub(super) fn parse_patience(text: &str) -> Result<Duration, String> {
    if text == "0s" {
        return Ok(Duration::ZERO);
    }
    parse_duration(text)
        .and_then(|patience| Duration::try_from(patience).ok())
        .filter(|patience| *patience <= LONGEST_PATIENCE)
        .ok_or_else(|| "write whole seconds from 0s to 1m".to_owned())
}

/// As a Lease takes it (k8s.io/api/coordination/v1), in a header, too.
pub(super) fn parse_identity(text: &str) -> Result<String, String> {
    let is_good = (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if is_good {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 253 letters, digits and signs of ASCII, without a space".to_owned())
    }
}

/// As Kubernetes takes it: a label of DNS.
pub(super) fn parse_namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_good = (1..=63).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_good {
        Ok(name.to_owned())
    } else {
        Err("write the name of a namespace".to_owned())
    }
}

/// A key of an annotation, or all keys of a prefix.
pub(super) fn parse_annotation_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let name = key.strip_suffix("/*").unwrap_or(key);
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !name.is_empty() && name.chars().all(is_good) {
        Ok(key.to_owned())
    } else {
        Err("write the key of an annotation, or a prefix and /*".to_owned())
    }
}

pub(super) fn parse_forwarder(text: &str) -> Result<ForwarderShape, String> {
    let shape: ForwarderShape = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    shape.check()?;
    Ok(shape)
}

pub(super) fn parse_claim(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .and_then(|claim| Duration::try_from(claim).ok())
        .filter(|claim| (SHORTEST_CLAIM..=LONGEST).contains(claim))
        .ok_or_else(|| "write whole seconds from 2s to 1m".to_owned())
}

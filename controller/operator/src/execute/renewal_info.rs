//! Asks the CA when the certificate in place should be renewed (RFC 9773).

use evercert_api::Reason;
use evercert_core::observe::Observed;
use evercert_core::renewal::plan_renewal_after;
use evercert_core::renewal_info::{is_news, note_poll};
use evercert_core::report::Change;
use jiff::Timestamp;

use super::Outcome;
use super::signer::find_signer_in_place;
use crate::context::Context;
use crate::gather::Gathered;

/// One request, which changes nothing at the CA. What fails costs nothing: the own schedule goes on.
pub(super) async fn poll(gathered: &Gathered, context: &Context, now: Timestamp) -> Outcome {
    let o = &gathered.observed;
    let (Some(asked), Some(secret)) = (find_signer_in_place(gathered, context), o.issued_secret())
    else {
        return Outcome::waits();
    };
    let Ok(facts) = &secret.content else {
        return Outcome::waits();
    };
    let Some(id) = &facts.renewal_id else {
        return Outcome::waits();
    };
    let answer = asked.directory.renewal_info(id, now).await;
    let known = o.status.renewal_info.as_ref();
    let info = note_poll(known, id, facts.not_after, &answer, Timestamp::now());
    match &answer {
        Ok(said) if info.failure.is_none() => {
            let advised = Some((id.clone(), said.start));
            context.memory.update(&o.key, |e| e.advised = advised);
        }
        Ok(_) | Err(_) => {
            tracing::debug!(certificate = %o.key, why = ?info.failure, "no renewal information");
        }
    }
    let issued_at = secret.marks.issued_at;
    let before = plan_renewal_after(o, facts, issued_at).at;
    let mut told = o.status.clone();
    told.renewal_info = Some(info.clone());
    let told = Observed {
        status: told,
        ..o.clone()
    };
    let after = plan_renewal_after(&told, facts, issued_at).at;
    let pages = (
        known.and_then(|known| known.explanation_url.as_deref()),
        info.explanation_url.as_deref(),
    );
    let news = is_news(before, after, facts, pages).then(|| build_news(&told, after));
    let outcome = Outcome::changed(Change::Polled(info));
    match news {
        Some(text) => outcome.noted(false, Reason::RenewalAdvised, text),
        None => outcome,
    }
}

fn build_news(o: &Observed, at: Timestamp) -> String {
    let info = o.status.renewal_info.as_ref();
    let window = info.and_then(|info| info.window.as_ref());
    let between = window
        .map(|w| format!(" between {} and {}", w.start.0, w.end.0))
        .unwrap_or_default();
    let page = info
        .and_then(|info| info.explanation_url.as_deref())
        .map(|url| format!(": see {url}"))
        .unwrap_or_default();
    format!(
        "the CA asks for a renewal{between}, sooner than planned{page}. It is due at {}",
        evercert_core::need::whole(at)
    )
}

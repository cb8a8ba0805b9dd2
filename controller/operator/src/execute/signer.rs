//! Who is asked about a certificate that is there: the issuer that signed it, which need not be the one that signs the next.

use std::sync::Arc;

use evercert_acme::{Acme, Directory};
use evercert_core::observe;
use evercert_core::plan::Step;

use super::order::account;
use crate::context::Context;
use crate::gather::Gathered;
use crate::issuer::{IssuerId, Session, Signer};

/// An issuer that is ready, with its account.
pub(crate) struct Asked {
    /// Which one.
    pub(crate) id: IssuerId,
    /// Its session.
    pub(crate) session: Session,
    /// The account.
    pub(crate) acme: Arc<dyn Acme>,
    /// The CA.
    pub(crate) directory: Arc<Directory>,
}

/// The issuer of the certificate that `issuer` signed at `directory`.
pub(crate) fn find_signer(
    gathered: &Gathered,
    issuer: Option<&str>,
    directory: &str,
    context: &Context,
) -> Option<Asked> {
    let o = &gathered.observed;
    let observe::Signer::Ready(facts, _) = o.signer_of(issuer, directory) else {
        return None;
    };
    let (id, session) = if facts.id == gathered.issuer.to_string() {
        (gathered.issuer.clone(), gathered.session.clone())
    } else {
        let named = o.spec.issuer_refs();
        let id = named
            .map(|reference| IssuerId::of(reference, &o.key.namespace))
            .find(|id| id.to_string() == facts.id)?;
        let session = context.sessions.get(&id);
        (id, session)
    };
    let session = session?;
    let Signer::Acme { acme, directory } = &session.signer else {
        return None;
    };
    let (acme, directory) = (acme.clone(), directory.clone());
    Some(Asked {
        id,
        session,
        acme,
        directory,
    })
}

/// The issuer of the certificate in place.
pub(crate) fn find_signer_in_place(gathered: &Gathered, context: &Context) -> Option<Asked> {
    let marks = &gathered.observed.issued_secret()?.marks;
    let directory = marks.directory.as_deref()?;
    find_signer(gathered, marks.issuer.as_deref(), directory, context)
}

/// The directory that a step asks.
pub(super) fn find_directory(
    step: &Step,
    gathered: &Gathered,
    context: &Context,
) -> Option<String> {
    let asked = if *step == Step::PollRenewalInfo {
        find_signer_in_place(gathered, context)
    } else if *step == Step::Revoke {
        let noted = gathered.observed.companion.revocation.as_ref()?;
        find_signer(gathered, noted.issuer.as_deref(), &noted.directory, context)
    } else {
        return account(gathered).map(|(_, directory)| directory);
    };
    asked.map(|asked| asked.directory.url().to_owned())
}
